"""The environment `blocks` once more: one world, event by event, in plain floats (simpy); see `reference`."""

from collections.abc import Callable, Sequence
from typing import NamedTuple

import simpy

from coinfer.envs.reference.fifo_groups import Events, Turn
from coinfer.envs.reference.offload import Slot, Task, lost
from coinfer.scenario.world import BlocksWorld
from coinfer.types import DEVICE, Outcome

Decide = Callable[[int, int], Sequence[int]]
"""From the slot and the task's number to the places of its blocks: 0 is the device, n is server n."""

Queue = tuple[str, int]
"""Kind of resource (`processor`, `radio`, `server`) and its number."""


class Leg(NamedTuple):
    """Neighbouring blocks of a task in one place: a wait for a radio or a free transfer, then a resource."""

    radio: Queue | None
    airtime_s: float
    free_s: float
    """Transfer that waits for nobody: down, or between servers."""
    queue: Queue
    service_s: float


class Life(NamedTuple):
    """A task that runs."""

    task: Task
    legs: list[Leg]
    answer_s: float
    energy_j: float
    accuracy: float
    admitted: bool


def run(
    world: BlocksWorld, slots: Sequence[Slot], decide: Decide, arrival_order: bool = False
) -> list[dict[int, Outcome]]:
    """Serves an episode to the end of its last task; for each slot, the plain outcome of each task by its number."""
    return _Run(world, slots, decide, arrival_order).outcomes()


class _Run:
    def __init__(self, world: BlocksWorld, slots: Sequence[Slot], decide: Decide, arrival_order: bool):
        self.world, self.slots, self.decide, self.arrival_order = world, slots, decide, arrival_order
        self.clock = simpy.Environment()
        self.resources: dict[Queue, simpy.Resource] = {}
        self.turns: dict[tuple[int, Queue], Turn] = {}
        self.spent_j = [0.0] * world.edge.devices
        self.found: list[dict[int, Outcome]] = [{} for _ in slots]

    def outcomes(self) -> list[dict[int, Outcome]]:
        self.clock.process(self._arrivals())
        self.clock.run()
        return self.found

    def _arrivals(self) -> Events:
        for number, slot in enumerate(self.slots):
            yield self.clock.timeout(max(0.0, number * self.world.edge.slot_s - self.clock.now))
            left_j = [self._left_j(task) for task in slot.tasks]
            plans = [self._plan(number, slot, task, limit_j) for task, limit_j in zip(slot.tasks, left_j, strict=True)]
            lives = [self._life(slot, plans, i, left_j[i]) for i in range(len(plans))]
            self._announce(number, [life for life in lives if life is not None])
            for task, life in zip(slot.tasks, lives, strict=True):
                if life is None:
                    self.found[number][task.number] = lost(task)
                else:
                    self.spent_j[task.device] += life.energy_j
                    self.clock.process(self._live(number, life))

    def _plan(self, number: int, slot: Slot, task: Task, limit_j: float) -> list[int] | None:
        """Places of the task's blocks, `DEVICE` or a server; None where they cannot be."""
        servers, blocks = self.world.edge.servers, int(self.world.block_mask[task.model].sum())
        places = [place - 1 for place in self.decide(number, task.number)][:blocks]
        if any(not DEVICE <= place < servers or (place >= 0 and slot.share[place] <= 0) for place in places):
            return None
        spends_j, before = 0.0, DEVICE
        for block, place in enumerate(places):
            bits = self.world.block_input_bits[task.model, block]
            if place != before and DEVICE in (place, before):
                rate_bps = task.link_bps[max(place, before)]
                if rate_bps <= 0:
                    return None
                if place >= 0:
                    spends_j += self.world.edge.transmit_power_w[task.device_class] * bits / rate_bps
            if place == DEVICE:
                spends_j += self.world.block_device_j[task.model, task.device_class, block]
            before = place
        return places if spends_j <= limit_j else None

    def _life(self, slot: Slot, plans: list[list[int] | None], index: int, limit_j: float) -> Life | None:
        """What the task does; None where it is lost."""
        edge, task, places = self.world.edge, slot.tasks[index], plans[index]
        blocks = int(self.world.block_mask[task.model].sum())
        device_j = self.world.block_device_j[task.model, task.device_class]
        admitted = places is not None
        if places is None:
            if edge.drop_refused or sum(device_j[:blocks]) > limit_j:
                return None
            places = [DEVICE] * blocks
        legs: list[Leg] = []
        before, energy_j = DEVICE, 0.0
        for block, place in enumerate(places):
            bits = float(self.world.block_input_bits[task.model, block])
            airtime_s = free_s = 0.0
            if place != before and before == DEVICE:
                sharing = sum(_uploads(plan, place) for plan in plans) if edge.shared_bandwidth else 1
                airtime_s = bits / (task.link_bps[place] / sharing)
            elif place != before:
                free_s = bits / (task.link_bps[before] if place == DEVICE else self.world.backhaul_bps)
            energy_j += airtime_s * edge.transmit_power_w[task.device_class]
            if place == DEVICE:
                energy_j += device_j[block]
                queue = ("processor", task.device)
                service_s = self.world.block_device_s[task.model, task.device_class, block] * task.device_factor
            else:
                queue = ("server", place)
                service_s = self.world.block_server_s[task.model, block, place] * task.server_factor / slot.share[place]
            up = ("radio", task.device) if place != before and before == DEVICE else None
            if legs and place == before:
                legs[-1] = legs[-1]._replace(service_s=legs[-1].service_s + float(service_s))
            else:
                legs.append(Leg(up, airtime_s, free_s, queue, float(service_s)))
            before = place
        answer_s = 0.0 if before == DEVICE else float(edge.download_s[before])
        return Life(task, legs, answer_s, float(energy_j), float(self.world.accuracy[task.model]), admitted)

    def _announce(self, number: int, lives: list[Life]) -> None:
        """Takes a turn at every resource that somebody of this slot will use."""
        if self.arrival_order:
            return
        legs = [leg for life in lives for leg in life.legs]
        queues = [leg.queue for leg in legs] + [leg.radio for leg in legs if leg.radio is not None]
        for queue in set(queues):
            self.turns[number, queue] = Turn(self.clock, self._resource(queue), queues.count(queue))

    def _live(self, number: int, life: Life) -> Events:
        began_s = self.clock.now
        device_s = upload_s = queue_s = server_s = download_s = 0.0
        for leg in life.legs:
            if leg.radio is not None:
                asked_s = self.clock.now
                yield from self._use(number, leg.radio, life.task.number, leg.airtime_s)
                upload_s += self.clock.now - asked_s
            yield self.clock.timeout(leg.free_s)
            asked_s = self.clock.now
            yield from self._use(number, leg.queue, life.task.number, leg.service_s)
            took_s = self.clock.now - asked_s
            if leg.queue[0] == "processor":
                device_s, download_s = device_s + took_s, download_s + leg.free_s
            else:
                queue_s, server_s = queue_s + took_s - leg.service_s, server_s + leg.service_s + leg.free_s
        latency_s = self.clock.now - began_s + life.answer_s
        self.found[number][life.task.number] = Outcome(
            device_s=device_s,
            upload_s=upload_s,
            queue_s=queue_s,
            server_s=server_s,
            download_s=download_s + life.answer_s,
            latency_s=latency_s,
            energy_j=life.energy_j,
            accuracy=life.accuracy,
            admitted=life.admitted,
            in_time=latency_s <= life.task.deadline_s,
        )

    def _use(self, number: int, queue: Queue, task: int, service_s: float) -> Events:
        if not self.arrival_order:
            yield self.turns[number, queue].join(task, service_s)
            return
        with self._resource(queue).request() as mine:
            yield mine
            yield self.clock.timeout(service_s)

    def _resource(self, queue: Queue) -> simpy.Resource:
        return self.resources.setdefault(queue, simpy.Resource(self.clock))

    def _left_j(self, task: Task) -> float:
        edge = self.world.edge
        battery_j = max(0.0, float(edge.battery_j[task.device_class]) - self.spent_j[task.device])
        return min(float(edge.task_energy_j[task.device_class]), battery_j)


def _uploads(places: list[int] | None, server: int) -> int:
    """How often a task goes from its device to a server."""
    if places is None:
        return 0
    return sum(place == server and before == DEVICE for before, place in zip([DEVICE, *places], places, strict=False))
