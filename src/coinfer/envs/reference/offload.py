"""The environment `offload` a second time: one world, event by event, in plain floats (simpy).

It is exact, slow and independent. It shares only the random inputs (`exogenous.Draws`) with the vectorised environment.
Devices, radios and servers are processes that wait for each other, the places of a server are counted as tasks come and
go, and nothing is summed ahead.

Servers that batch or load (`reference.serving`) take tasks in the order of their arrival, and the times of an outcome
are what they came to in the end. With `arrival_order` the other servers take them in the order in which they really
arrive, too. The rule of the environment serves a slot's tasks before the next slot's, even if an upload outlasts its
slot; the difference is measured, not assumed.
"""

from collections.abc import Callable, Sequence
from typing import NamedTuple

import simpy
import torch

from coinfer.envs.exogenous import Draws, draw, load_edge
from coinfer.envs.reference.fifo_groups import Events, FifoGroup
from coinfer.envs.reference.serving import BatchingServer, Request
from coinfer.scenario.world import BlocksWorld, OffloadWorld
from coinfer.types import DEVICE, Outcome


class Task(NamedTuple):
    """The random inputs of one task as plain numbers. `number` is its place among the K tasks of the slot."""

    number: int
    device: int
    model: int
    device_class: int
    deadline_s: float
    device_factor: float
    server_factor: float
    link_bps: tuple[float, ...]


class Slot(NamedTuple):
    """The random inputs of one slot; `share` is the part of its speed that each server has."""

    tasks: tuple[Task, ...]
    share: tuple[float, ...]


class Job(NamedTuple):
    """The work of a task that is carried out."""

    task: Task
    server: int
    """`DEVICE` if nothing is sent."""
    device_s: float
    airtime_s: float
    server_s: float
    piece: int
    """What the server computes; any if nothing is sent or servers do not batch or load."""
    energy_j: float
    accuracy: float
    admitted: bool
    """False if the decision was refused and the device does everything."""


class ServerReport(NamedTuple):
    """State of the servers at the beginning of a slot."""

    server_backlog_s: list[float]
    """[N] until each server is done."""
    server_room: list[float]
    """[N]"""


class Episode(NamedTuple):
    """The results of one episode."""

    outcomes: list[dict[int, Outcome[float]]]
    """For each slot, the plain outcome of each task by its number."""
    reported: list[ServerReport]
    """For each slot, the servers at its beginning; a stale observation holds an earlier report."""
    served: list[int]
    """[N] tasks that each server has done."""


Decide = Callable[[int, int], tuple[int, int]]
"""From the slot and the task's number to its option and server."""


def draw_episode(world: OffloadWorld | BlocksWorld, seed: int) -> list[Slot]:
    """Return the random inputs of each slot of an episode, equal to those of the vectorised environment.

    Args:
        world: a compiled scenario.
        seed: of the episode.
    """
    tables = load_edge(world, "cpu", torch.float64)
    seeds = torch.tensor([seed])
    return [plain_slot(draw(tables, seeds, torch.tensor([slot]))) for slot in range(world.edge.slots)]


def run(world: OffloadWorld, slots: Sequence[Slot], decide: Decide, arrival_order: bool = False) -> Episode:
    """Serve an episode until its last task is done.

    Args:
        world: a compiled scenario.
        slots: random inputs of each slot, from `draw_episode`.
        decide: from the number of the slot and of the task to its option and server.
        arrival_order: serve tasks strictly in the order of their arrival, also across slots.

    Returns:
        Outcomes, the servers at the beginning of each slot, and the tasks that each server has done.
    """
    return _Run(world, slots, decide, arrival_order).episode()


class _Run:
    def __init__(self, world: OffloadWorld, slots: Sequence[Slot], decide: Decide, arrival_order: bool):
        edge = world.edge
        self.world, self.slots, self.decide, self.arrival_order = world, slots, decide, arrival_order
        self.clock = simpy.Environment()
        self.processors = [simpy.Resource(self.clock) for _ in range(edge.devices)]
        self.radios = [simpy.Resource(self.clock) for _ in range(edge.devices)]
        self.servers = [simpy.Resource(self.clock) for _ in range(edge.servers)]
        serving = world.serving
        self.batching = [BatchingServer(self.clock, serving, n) for n in range(edge.servers)] if serving else None
        self.groups: list[dict[int, FifoGroup]] = [{} for _ in range(edge.servers)]
        self.occupancy = [0] * edge.servers
        self.served = [0] * edge.servers
        self.spent_j = [0.0] * edge.devices
        self.room: list[list[float]] = []
        self.ends: list[tuple[int, int, float]] = []
        self.outcomes: list[dict[int, Outcome[float]]] = [{} for _ in slots]

    def episode(self) -> Episode:
        self.clock.process(self._arrivals())
        self.clock.run()
        reported = [
            ServerReport([self._backlog_s(server, number) for server in range(self.world.edge.servers)], room)
            for number, room in enumerate(self.room)
        ]
        return Episode(self.outcomes, reported, self.served)

    def _arrivals(self) -> Events:
        for number, slot in enumerate(self.slots):
            yield self.clock.timeout(max(0.0, number * self.world.edge.slot_s - self.clock.now))
            room = [
                self.world.edge.server_capacity[n] - self.occupancy[n] if slot.share[n] > 0 else 0.0
                for n in range(self.world.edge.servers)
            ]
            self.room.append(room)
            self._begin(number, slot, list(room))

    def _begin(self, number: int, slot: Slot, room: list[float]) -> None:
        """Decide on all tasks of the slot, then start them."""
        edge = self.world.edge
        left_j = [self._left_j(task) for task in slot.tasks]
        plans = []
        for task, limit_j in zip(slot.tasks, left_j, strict=True):
            option, server = self.decide(number, task.number)
            feasible, bits = self._feasible(task, option, server, limit_j)
            if feasible and bits > 0:
                feasible = room[server] >= 1
                room[server] -= 1
            plans.append((option, server if bits > 0 else DEVICE) if feasible else (None, DEVICE))
        senders = [sum(plan[1] == n for plan in plans) for n in range(edge.servers)]
        for n in range(edge.servers):
            self.occupancy[n] += senders[n]
            if not (self.arrival_order or self.batching):
                self.groups[n][number] = FifoGroup(self.clock, self.servers[n], senders[n])
        for task, limit_j, plan in zip(slot.tasks, left_j, plans, strict=True):
            job = self._job(slot, task, plan, limit_j, senders)
            if job is None:
                self.outcomes[number][task.number] = lost_outcome(task)
            else:
                self.spent_j[task.device] += job.energy_j
                self.clock.process(self._run_job(number, job))

    def _job(
        self, slot: Slot, task: Task, plan: tuple[int | None, int], limit_j: float, senders: list[int]
    ) -> Job | None:
        """Return what the task does; None if it is lost."""
        edge, kind = self.world.edge, (task.model, task.device_class)
        option, server = plan
        admitted = option is not None
        if option is None:
            option = int(self.world.local_option[kind])
            if edge.drop_refused or self.world.option_device_j[(*kind, option)] > limit_j:
                return None
        energy_j = self.world.option_device_j[(*kind, option)]
        airtime_s, server_s, piece = 0.0, 0.0, 0
        if server != DEVICE:
            rate_bps = task.link_bps[server] / (senders[server] if edge.shared_bandwidth else 1)
            airtime_s = self.world.option_upload_bits[(*kind, option)] / rate_bps
            server_s = self.world.option_server_s[(*kind, option, server)] * task.server_factor / slot.share[server]
            piece = int(self.world.serving.option_piece[(*kind, option)]) if self.world.serving else 0
            energy_j += airtime_s * edge.transmit_power_w[task.device_class]
        return Job(
            task=task,
            server=server,
            device_s=self.world.option_device_s[(*kind, option)] * task.device_factor,
            airtime_s=airtime_s,
            server_s=server_s,
            piece=piece,
            energy_j=float(energy_j),
            accuracy=float(self.world.option_accuracy[(*kind, option)]),
            admitted=admitted,
        )

    def _run_job(self, number: int, job: Job) -> Events:
        task, began_s = job.task, self.clock.now
        yield from self._use(self.processors[task.device], job.device_s)
        computed_s = sent_s = finish_s = self.clock.now
        download_s = 0.0
        if job.server != DEVICE:
            yield from self._use(self.radios[task.device], job.airtime_s)
            sent_s = self.clock.now
            if self.batching:
                deadline_s = began_s + task.deadline_s
                yield self.batching[job.server].ask(Request(self.clock, job.piece, job.server_s, deadline_s))
            elif self.arrival_order:
                yield from self._use(self.servers[job.server], job.server_s)
            else:
                yield self.groups[job.server][number].join(task.number, job.server_s)
            self._leave(job.server, number)
            finish_s = self.clock.now
            download_s = float(self.world.edge.download_s[job.server])
        latency_s, server_s = finish_s + download_s - began_s, min(job.server_s, finish_s - sent_s)
        self.outcomes[number][task.number] = Outcome(
            device_s=computed_s - began_s,
            upload_s=sent_s - computed_s,
            queue_s=finish_s - sent_s - server_s,
            server_s=server_s,
            download_s=download_s,
            latency_s=latency_s,
            energy_j=job.energy_j,
            accuracy=job.accuracy,
            admitted=job.admitted,
            in_time=latency_s <= task.deadline_s,
        )

    def _use(self, resource: simpy.Resource, service_s: float) -> Events:
        with resource.request() as request:
            yield request
            yield self.clock.timeout(service_s)

    def _leave(self, server: int, number: int) -> None:
        self.occupancy[server] -= 1
        self.served[server] += 1
        self.ends.append((server, number, self.clock.now))

    def _backlog_s(self, server: int, number: int) -> float:
        began_s = number * self.world.edge.slot_s
        return max(
            (end_s - began_s for n, slot, end_s in self.ends if n == server and slot < number and end_s > began_s),
            default=0.0,
        )

    def _left_j(self, task: Task) -> float:
        edge = self.world.edge
        battery_j = max(0.0, float(edge.battery_j[task.device_class]) - self.spent_j[task.device])
        return min(float(edge.task_energy_j[task.device_class]), battery_j)

    def _feasible(self, task: Task, option: int, server: int, limit_j: float) -> tuple[bool, float]:
        """Return whether the decision can be carried out, and the bits that it sends."""
        kind = (task.model, task.device_class)
        if not (0 <= option < self.world.options and self.world.option_mask[(*kind, option)]):
            return False, 0.0
        bits = float(self.world.option_upload_bits[(*kind, option)])
        energy_j = float(self.world.option_device_j[(*kind, option)])
        if bits > 0:
            if not (0 <= server < self.world.edge.servers and task.link_bps[server] > 0):
                return False, bits
            energy_j += self.world.edge.transmit_power_w[task.device_class] * bits / task.link_bps[server]
        return bool(energy_j <= limit_j), bits


def lost_outcome(task: Task) -> Outcome[float]:
    """Return the outcome of a task that is lost: it counts as waiting until its deadline.

    Args:
        task: with a finite or infinite deadline.
    """
    return Outcome(0.0, 0.0, task.deadline_s, 0.0, 0.0, task.deadline_s, 0.0, 0.0, False, False)


def plain_slot(draws: Draws) -> Slot:
    """Return the draws of a slot as plain numbers.

    Args:
        draws: of one world, B = 1.
    """
    many = draws.deadline_s.shape
    rows = zip(
        draws.device[0].tolist(),
        draws.model[0].tolist(),
        draws.device_class[0].tolist(),
        draws.deadline_s[0].tolist(),
        draws.device_factor.expand(many)[0].tolist(),
        draws.server_factor.expand(many)[0].tolist(),
        map(tuple, draws.link_bps[0].tolist()),
        strict=True,
    )
    present = draws.task_mask[0].tolist()
    tasks = tuple(Task(number, *row) for number, row in enumerate(rows) if present[number])
    return Slot(tasks, tuple(draws.share[0].tolist()))
