"""The environment `blocks` a second time: one world, event by event, in plain floats (simpy); see `reference.offload`.
The environment `blocks` a second time: one world, event by event, in plain floats (simpy); see `reference.offload`."""

from collections.abc import Callable, Sequence
from typing import NamedTuple

import simpy

from coinfer.envs.reference.fifo_groups import Events, FifoGroup
from coinfer.envs.reference.offload import Slot, Task, lost_outcome
from coinfer.scenario.world import BlocksWorld
from coinfer.types import DEVICE, Outcome

Decide = Callable[[int, int], Sequence[int]]
"""From the slot and the task's number to the places of its blocks: 0 is the device, n is server n."""

Queue = tuple[str, int]
"""Kind of resource (`processor`, `radio`, `server`) and its number."""


class Leg(NamedTuple):
    """Neighbouring blocks of a task in one place: a transfer, by radio or without waiting, then the use of a resource.
    Neighbouring blocks of a task in one place: a transfer, by radio or without waiting, then the use of a resource."""

    radio: Queue | None
    airtime_s: float
    free_s: float
    """Time of a transfer that does not wait: down, or between servers."""
    queue: Queue
    service_s: float
    later_s: tuple[float, ...]
    """Times of its blocks after the first, which wait for nothing."""


class Job(NamedTuple):
    """The work of a task that is carried out."""

    task: Task
    legs: list[Leg]
    answer_s: float
    energy_j: float
    accuracy: float
    admitted: bool
    deadline_s: float
    """Of the task."""
    block_deadline_s: float
    """Of each block, with transfer and waiting before it."""


def run(
    world: BlocksWorld, slots: Sequence[Slot], decide: Decide, arrival_order: bool = False
) -> list[dict[int, Outcome[float]]]:
    """Serve an episode until its last task is done.

    Args:
        world: a compiled scenario.
        slots: random inputs of each slot, from `offload.draw_episode`.
        decide: from the number of the slot and of the task to the places of its blocks.
        arrival_order: serve tasks strictly in the order of their arrival, also across slots; see `offload`.

    Returns:
        For each slot, the plain outcome of each task by its number.
    """
    return _Run(world, slots, decide, arrival_order).outcomes()


class _Run:
    def __init__(self, world: BlocksWorld, slots: Sequence[Slot], decide: Decide, arrival_order: bool):
        self.world, self.slots, self.decide, self.arrival_order = world, slots, decide, arrival_order
        self.clock = simpy.Environment()
        self.resources: dict[Queue, simpy.Resource] = {}
        self.groups: dict[tuple[int, Queue], FifoGroup] = {}
        self.spent_j = [0.0] * world.edge.devices
        self.by_slot: list[dict[int, Outcome[float]]] = [{} for _ in slots]

    def outcomes(self) -> list[dict[int, Outcome[float]]]:
        self.clock.process(self._arrivals())
        self.clock.run()
        return self.by_slot

    def _arrivals(self) -> Events:
        for number, slot in enumerate(self.slots):
            yield self.clock.timeout(max(0.0, number * self.world.edge.slot_s - self.clock.now))
            left_j = [self._left_j(task) for task in slot.tasks]
            plans = [self._plan(number, slot, task, limit_j) for task, limit_j in zip(slot.tasks, left_j, strict=True)]
            jobs = [self._job(slot, plans, i, left_j[i]) for i in range(len(plans))]
            self._announce(number, [job for job in jobs if job is not None])
            for task, job in zip(slot.tasks, jobs, strict=True):
                if job is None:
                    deadline_s = task.deadline_s * self._limited_blocks(task)
                    self.by_slot[number][task.number] = lost_outcome(task._replace(deadline_s=deadline_s))
                else:
                    self.spent_j[task.device] += job.energy_j
                    self.clock.process(self._run_job(number, job))

    def _plan(self, number: int, slot: Slot, task: Task, limit_j: float) -> list[int] | None:
        """Return the places of the task's blocks, `DEVICE` or a server; None if they are not feasible."""
        servers, blocks = self.world.edge.servers, int(self.world.block_mask[task.model].sum())
        places = [place - 1 for place in self.decide(number, task.number)][:blocks]
        if any(not DEVICE <= place < servers or (place >= 0 and slot.share[place] <= 0) for place in places):
            return None
        spends_j, previous = 0.0, DEVICE
        for block, place in enumerate(places):
            bits = self.world.block_input_bits[task.model, block]
            if place != previous and DEVICE in (place, previous):
                rate_bps = task.link_bps[max(place, previous)]
                if rate_bps <= 0:
                    return None
                if place >= 0:
                    spends_j += self.world.edge.transmit_power_w[task.device_class] * bits / rate_bps
            if place == DEVICE:
                spends_j += self.world.block_device_j[task.model, task.device_class, block]
            previous = place
        return places if spends_j <= limit_j else None

    def _job(self, slot: Slot, plans: list[list[int] | None], index: int, limit_j: float) -> Job | None:
        """Return what the task does; None if it is lost."""
        edge, task, places = self.world.edge, slot.tasks[index], plans[index]
        blocks = int(self.world.block_mask[task.model].sum())
        device_j = self.world.block_device_j[task.model, task.device_class]
        admitted = places is not None
        if places is None:
            if edge.drop_refused or sum(device_j[:blocks]) > limit_j:
                return None
            places = [DEVICE] * blocks
        legs: list[Leg] = []
        previous, energy_j = DEVICE, 0.0
        for block, place in enumerate(places):
            bits = float(self.world.block_input_bits[task.model, block])
            airtime_s = free_s = 0.0
            if place != previous and previous == DEVICE:
                sharing = sum(_uploads(plan, place) for plan in plans) if edge.shared_bandwidth else 1
                airtime_s = bits / (task.link_bps[place] / sharing)
            elif place != previous:
                free_s = bits / (task.link_bps[previous] if place == DEVICE else self.world.backhaul_bps)
            energy_j += airtime_s * edge.transmit_power_w[task.device_class]
            if place == DEVICE:
                energy_j += device_j[block]
                queue = ("processor", task.device)
                service_s = self.world.block_device_s[task.model, task.device_class, block] * task.device_factor
            else:
                queue = ("server", place)
                service_s = self.world.block_server_s[task.model, block, place] * task.server_factor / slot.share[place]
            uplink = ("radio", task.device) if place != previous and previous == DEVICE else None
            if legs and place == previous:
                later_s = (*legs[-1].later_s, float(service_s))
                legs[-1] = legs[-1]._replace(service_s=legs[-1].service_s + float(service_s), later_s=later_s)
            else:
                legs.append(Leg(uplink, airtime_s, free_s, queue, float(service_s), ()))
            previous = place
        answer_s = 0.0 if previous == DEVICE else float(edge.download_s[previous])
        accuracy, block_deadline_s = float(self.world.accuracy[task.model]), float("inf")
        if self.world.block_deadlines:
            block_deadline_s = task.deadline_s
        deadline_s = task.deadline_s * self._limited_blocks(task)
        return Job(task, legs, answer_s, float(energy_j), accuracy, admitted, deadline_s, block_deadline_s)

    def _limited_blocks(self, task: Task) -> int:
        """Return how many limits the task's deadline is the sum of."""
        return int(self.world.block_mask[task.model].sum()) if self.world.block_deadlines else 1

    def _announce(self, number: int, jobs: list[Job]) -> None:
        """Join the groups of this slot at all resources that its tasks will use."""
        if self.arrival_order:
            return
        legs = [leg for job in jobs for leg in job.legs]
        queues = [leg.queue for leg in legs] + [leg.radio for leg in legs if leg.radio is not None]
        for queue in set(queues):
            self.groups[number, queue] = FifoGroup(self.clock, self._resource(queue), queues.count(queue))

    def _run_job(self, number: int, job: Job) -> Events:
        began_s = self.clock.now
        device_s = upload_s = queue_s = server_s = download_s = 0.0
        in_time = True
        for leg in job.legs:
            left_s = self.clock.now
            if leg.radio is not None:
                asked_s = self.clock.now
                yield from self._use(number, leg.radio, job.task.number, leg.airtime_s)
                upload_s += self.clock.now - asked_s
            yield self.clock.timeout(leg.free_s)
            asked_s = self.clock.now
            yield from self._use(number, leg.queue, job.task.number, leg.service_s)
            took_s = self.clock.now - asked_s
            first_s = self.clock.now - left_s - sum(leg.later_s)
            in_time = in_time and max(first_s, *leg.later_s, 0.0) <= job.block_deadline_s
            if leg.queue[0] == "processor":
                device_s, download_s = device_s + took_s, download_s + leg.free_s
            else:
                queue_s, server_s = queue_s + took_s - leg.service_s, server_s + leg.service_s + leg.free_s
        latency_s = self.clock.now - began_s + job.answer_s
        self.by_slot[number][job.task.number] = Outcome(
            device_s=device_s,
            upload_s=upload_s,
            queue_s=queue_s,
            server_s=server_s,
            download_s=download_s + job.answer_s,
            latency_s=latency_s,
            energy_j=job.energy_j,
            accuracy=job.accuracy,
            admitted=job.admitted,
            in_time=in_time and (self.world.block_deadlines or latency_s <= job.deadline_s),
        )

    def _use(self, number: int, queue: Queue, task: int, service_s: float) -> Events:
        if not self.arrival_order:
            yield self.groups[number, queue].join(task, service_s)
            return
        with self._resource(queue).request() as request:
            yield request
            yield self.clock.timeout(service_s)

    def _resource(self, queue: Queue) -> simpy.Resource:
        return self.resources.setdefault(queue, simpy.Resource(self.clock))

    def _left_j(self, task: Task) -> float:
        edge = self.world.edge
        battery_j = max(0.0, float(edge.battery_j[task.device_class]) - self.spent_j[task.device])
        return min(float(edge.task_energy_j[task.device_class]), battery_j)


def _uploads(places: list[int] | None, server: int) -> int:
    """Return how often a task goes from its device to a server."""
    if places is None:
        return 0
    return sum(
        place == server and previous == DEVICE for previous, place in zip([DEVICE, *places], places, strict=False)
    )
