"""The environment `offload` once more: one world, event by event, in plain floats (simpy). Exact, slow, independent.

It shares nothing with the vectorised environment but what chance brings (`chance.Draws`): devices, radios and servers
are processes that wait for each other, a server's places are counted by who came and went, and nothing is summed ahead.

With `arrival_order` the servers take tasks in the order in which these really arrive. The rule of the design serves a
slot's tasks before the next slot's, even where an upload outlasts its slot; the difference is measured, not assumed.
"""

from collections.abc import Callable, Sequence
from typing import NamedTuple

import simpy
import torch

from coinfer.envs.exogenous import Draws, draw, load_edge
from coinfer.envs.reference.fifo_groups import Events, Turn
from coinfer.scenario.world import BlocksWorld, OffloadWorld
from coinfer.types import DEVICE, Outcome


class Task(NamedTuple):
    """What chance brought, as plain numbers. `number` is its place among the K tasks of the slot."""

    number: int
    device: int
    model: int
    device_class: int
    deadline_s: float
    device_factor: float
    server_factor: float
    link_bps: tuple[float, ...]


class Slot(NamedTuple):
    tasks: tuple[Task, ...]
    share: tuple[float, ...]


class Reported(NamedTuple):
    """What one slot looked like from outside when it began."""

    server_backlog_s: list[float]
    """[N] until each server is done."""
    server_room: list[float]
    """[N]"""


class Episode(NamedTuple):
    outcomes: list[dict[int, Outcome]]
    """For each slot, the plain outcome of each task by its number."""
    reported: list[Reported]
    """For each slot, as the servers are then; a stale observation holds an earlier one."""
    served: list[int]
    """[N] tasks that each server has done."""


Decide = Callable[[int, int], tuple[int, int]]
"""From the slot and the task's number to its option and server."""


def chance(world: OffloadWorld | BlocksWorld, seed: int) -> list[Slot]:
    """What chance brings in each slot of an episode, drawn as the vectorised environment draws it."""
    tables = load_edge(world, "cpu", torch.float64)
    seeds = torch.tensor([seed])
    return [plain(draw(tables, seeds, torch.tensor([slot]))) for slot in range(world.edge.slots)]


def run(world: OffloadWorld, slots: Sequence[Slot], decide: Decide, arrival_order: bool = False) -> Episode:
    """Serves an episode to the end of its last task."""
    return _Run(world, slots, decide, arrival_order).episode()


class _Run:
    def __init__(self, world: OffloadWorld, slots: Sequence[Slot], decide: Decide, arrival_order: bool):
        edge = world.edge
        self.world, self.slots, self.decide, self.arrival_order = world, slots, decide, arrival_order
        self.clock = simpy.Environment()
        self.processors = [simpy.Resource(self.clock) for _ in range(edge.devices)]
        self.radios = [simpy.Resource(self.clock) for _ in range(edge.devices)]
        self.servers = [simpy.Resource(self.clock) for _ in range(edge.servers)]
        self.turns: list[dict[int, Turn]] = [{} for _ in range(edge.servers)]
        self.inside = [0] * edge.servers
        self.served = [0] * edge.servers
        self.spent_j = [0.0] * edge.devices
        self.room: list[list[float]] = []
        self.ends: list[tuple[int, int, float]] = []
        self.outcomes: list[dict[int, Outcome]] = [{} for _ in slots]

    def episode(self) -> Episode:
        self.clock.process(self._arrivals())
        self.clock.run()
        reported = [
            Reported([self._backlog_s(server, number) for server in range(self.world.edge.servers)], room)
            for number, room in enumerate(self.room)
        ]
        return Episode(self.outcomes, reported, self.served)

    def _arrivals(self) -> Events:
        for number, slot in enumerate(self.slots):
            yield self.clock.timeout(max(0.0, number * self.world.edge.slot_s - self.clock.now))
            room = [
                self.world.edge.server_capacity[n] - self.inside[n] if slot.share[n] > 0 else 0.0
                for n in range(self.world.edge.servers)
            ]
            self.room.append(room)
            self._begin(number, slot, list(room))

    def _begin(self, number: int, slot: Slot, room: list[float]) -> None:
        """Decides on all tasks of the slot, then lets them go."""
        edge = self.world.edge
        left_j = [self._left_j(task) for task in slot.tasks]
        plans = []
        for task, limit_j in zip(slot.tasks, left_j, strict=True):
            option, server = self.decide(number, task.number)
            can, bits = self._feasible(task, option, server, limit_j)
            if can and bits > 0:
                can = room[server] >= 1
                room[server] -= 1
            plans.append((option, server if bits > 0 else DEVICE, True) if can else (None, DEVICE, False))
        senders = [sum(plan[1] == n for plan in plans) for n in range(edge.servers)]
        for n in range(edge.servers):
            self.inside[n] += senders[n]
            if not self.arrival_order:
                self.turns[n][number] = Turn(self.clock, self.servers[n], senders[n])
        for task, limit_j, (option, server, admitted) in zip(slot.tasks, left_j, plans, strict=True):
            self._send_off(number, slot, task, limit_j, option, server, admitted, senders)

    def _send_off(
        self,
        number: int,
        slot: Slot,
        task: Task,
        limit_j: float,
        option: int | None,
        server: int,
        admitted: bool,
        senders: list[int],
    ) -> None:
        edge, kind = self.world.edge, (task.model, task.device_class)
        if option is None:
            option = int(self.world.local_option[kind])
            if edge.drop_refused or self.world.option_device_j[(*kind, option)] > limit_j:
                self.outcomes[number][task.number] = lost(task)
                return
        device_s = self.world.option_device_s[(*kind, option)] * task.device_factor
        energy_j = self.world.option_device_j[(*kind, option)]
        airtime_s = server_s = 0.0
        if server != DEVICE:
            rate_bps = task.link_bps[server] / (senders[server] if edge.shared_bandwidth else 1)
            airtime_s = self.world.option_upload_bits[(*kind, option)] / rate_bps
            server_s = self.world.option_server_s[(*kind, option, server)] * task.server_factor / slot.share[server]
            energy_j += airtime_s * edge.transmit_power_w[task.device_class]
        self.spent_j[task.device] += energy_j
        accuracy = float(self.world.option_accuracy[(*kind, option)])
        self.clock.process(
            self._life(number, task, server, device_s, airtime_s, server_s, float(energy_j), accuracy, admitted)
        )

    def _life(
        self,
        number: int,
        task: Task,
        server: int,
        device_s: float,
        airtime_s: float,
        server_s: float,
        energy_j: float,
        accuracy: float,
        admitted: bool,
    ) -> Events:
        began_s = self.clock.now
        with self.processors[task.device].request() as turn:
            yield turn
            yield self.clock.timeout(device_s)
        computed_s = sent_s = finish_s = self.clock.now
        download_s = 0.0
        if server != DEVICE:
            with self.radios[task.device].request() as turn:
                yield turn
                yield self.clock.timeout(airtime_s)
            sent_s = self.clock.now
            if self.arrival_order:
                with self.servers[server].request() as turn:
                    yield turn
                    yield self.clock.timeout(server_s)
            else:
                yield self.turns[server][number].join(task.number, server_s)
            self._leave(server, number)
            finish_s = self.clock.now
            download_s = float(self.world.edge.download_s[server])
        latency_s = finish_s + download_s - began_s
        self.outcomes[number][task.number] = Outcome(
            device_s=computed_s - began_s,
            upload_s=sent_s - computed_s,
            queue_s=finish_s - sent_s - server_s,
            server_s=server_s,
            download_s=download_s,
            latency_s=latency_s,
            energy_j=energy_j,
            accuracy=accuracy,
            admitted=admitted,
            in_time=latency_s <= task.deadline_s,
        )

    def _leave(self, server: int, number: int) -> None:
        self.inside[server] -= 1
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
        """Whether the decision can be carried out, and the bits that it sends."""
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


def lost(task: Task) -> Outcome:
    """What a task that is given up costs."""
    return Outcome(0.0, 0.0, task.deadline_s, 0.0, 0.0, task.deadline_s, 0.0, 0.0, False, False)


def plain(draws: Draws) -> Slot:
    """Return the draws of one world in a slot as plain numbers."""
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
