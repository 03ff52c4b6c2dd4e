"""A rule for servers that batch and load which remembers demand: what a load or an affinity is worth.

`policies.heuristics.serving` sends a task where it adds least to the latency of all requests that are there. It never
has a network loaded, as the task that asks for it would pay for all later ones. Here the memory of a decider says what
later ones save: for each network the seconds that its last requests would have saved on a server, for each second
(`Memory.saved`). A load counts that for some time ahead, less the same of the networks that it evicts. And a network's
requests tend to go where its last ones went, where they find others to run with.

The rule gives a price to each choice; a learned policy (`policies.learned.pointer`) adds a correction to it.
Plain Python, for one world.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

from coinfer.physics.loading import evicted
from coinfer.policies.heuristics.server_times import Asked, ServerState, advance, seen_later
from coinfer.policies.heuristics.serving import Choice, Placement, Task
from coinfer.types import DEVICE


@dataclass(frozen=True)
class DemandWeights:
    """The weights of the rule."""

    memory_s: float = 2.0
    """Time in which what is remembered falls to 1 / e."""
    gain_s: float = 4.0
    """How long a network that is loaded counts as used."""
    loss_s: float = 4.0
    """The same of a network that is evicted."""
    spare: float = 0.1
    """Part of both that counts if another server holds the network, or will."""
    queue_s: float = 0.0
    """Price of each load that a server must do before."""
    affinity_s: float = 0.0
    """Worth of a server that got all of the network's last requests; of others in proportion."""
    at_home: bool = False
    """Whether tasks go to their network's home or stay on their devices (`policies.heuristics.homes`)."""
    loads_at_home: bool = False
    """Whether networks are loaded at their home only; tasks also go to other servers that hold theirs, as far as the
    decider knows (one that has dropped it meanwhile loads it again)."""


LOADS = DemandWeights(1.4, 4.5, 11.0, 0.045, 0.024)
"""Weights where servers load, found in `many-models` (experiments/gpu-edge/tune.py)."""


def batch_weights(moment_s: float) -> DemandWeights:
    """Return weights where servers only batch.

    Args:
        moment_s: about what a batch takes; a slot in `gpu-edge`.
    """
    return DemandWeights(5 * moment_s, affinity_s=moment_s)


class Sent(NamedTuple):
    """A request that was sent to a server."""

    server: int
    asked: Asked


class Memory(NamedTuple):
    """What a decider remembers of past slots, one world."""

    saved: list[float]
    """[X] seconds that servers which hold a network would save its tasks, for each second: beside their devices or, for
    tasks that no device can do, beside a load."""
    placed: list[list[float]]
    """[N][X] requests sent to a server; both fade."""
    sent: list[list[Sent]]
    """Requests of the slots since what is known of the servers was true, the last slot first; each in the times of its
    slot."""
    faded: Sequence[list[float]] = ()
    """[S][X] `saved` as it would be with each of `FADING_S` in place of `DemandWeights.memory_s`, for who forecasts
    from it what comes (`policies.learned.forecast`); nothing for others."""


FADING_S = (0.3, 1.0, 3.0, 10.0)
"""Times in which `Memory.faded` falls to 1 / e."""


def fade(memory: Memory, keeps: float) -> None:
    """Let what is remembered fade.

    Args:
        memory: changed.
        keeps: part that is left.
    """
    for row in (memory.saved, *memory.placed):
        row[:] = [keeps * value for value in row]


class Scored(NamedTuple):
    """A choice of a task, with what speaks for it and against it; seconds."""

    choice: Choice
    added_s: float
    """What it adds to the latency of all."""
    total_s: float
    """For `Placement.place`."""
    price_s: float
    """What the rule adds to that, for the future."""
    loads: bool
    """Whether it has the network loaded."""
    waits_s: float
    """Until the network is there, if loads are to be waited for."""
    copies: int
    """Other servers that hold the network or will."""
    saved: float
    """`Memory.saved` of the network."""
    lost: float
    """The same of the networks that a load would evict."""
    share: float
    """Part of the network's last requests that the server got."""


class Slot:
    """The tasks of a slot of one world, decided one after the other.

    Args:
        servers: as they are known.
        tasks: the first to arrive first.
        memory: as it was after the slot before; changed to what it is after this one.
        weights: of the rule.
        slot_s: length of a slot.
        home: [X] of each network, if `weights` asks for it.
    """

    def __init__(
        self,
        servers: Sequence[ServerState],
        tasks: Sequence[Task],
        memory: Memory,
        weights: DemandWeights,
        slot_s: float,
        home: Sequence[int] = (),
    ):
        assert home or not (weights.at_home or weights.loads_at_home)
        self.servers, self.tasks, self.memory, self.weights, self.home = servers, tasks, memory, weights, home
        self.placement = Placement(servers, tasks)
        self.holds = [_held(server) for server in servers]
        self.copies = [sum(x in held for held in self.holds) for x in range(len(memory.saved))]
        self.used_bytes = [_used_bytes(server) for server in servers]
        self.left = [0] * len(memory.saved)
        self._remember(math.exp(-slot_s / weights.memory_s), slot_s)

    def _remember(self, keeps: float, slot_s: float) -> None:
        saved_s = [0.0] * len(self.memory.saved)
        fade(self.memory, keeps)
        for task in self.tasks:
            network = task.choices[0].network
            self.left[network] += 1
            here = [one.ready_s for one in task.choices if one.server < 0]
            there = [one.ready_s + one.service_s for one in task.choices if one.server >= 0]
            load_s = [self.servers[one.server].load_s[network] for one in task.choices if one.server >= 0]
            spared_s = min(here) - min(there) if here and there else min(load_s, default=0.0)
            saved_s[network] += max(0.0, spared_s)
        for x, more_s in enumerate(saved_s):
            self.memory.saved[x] += more_s * (1 - keeps) / slot_s
        for row, time_s in zip(self.memory.faded, FADING_S, strict=False):
            keeps = math.exp(-slot_s / time_s)
            row[:] = [keeps * value + (1 - keeps) * more_s / slot_s for value, more_s in zip(row, saved_s, strict=True)]

    def scored(self, k: int) -> list[Scored]:
        """Return the choices of the next task with their prices, in their order.

        Args:
            k: number of the task; those before it are placed.
        """
        choices = self._allowed(self.tasks[k].choices)
        network = choices[0].network
        sent = sum(row[network] for row in self.memory.placed)
        return [self._scored(k, choice, sent) for choice in choices]

    def _allowed(self, choices: Sequence[Choice]) -> Sequence[Choice]:
        network, weights = choices[0].network, self.weights
        if not (weights.at_home or weights.loads_at_home):
            return choices
        places = {DEVICE, self.home[network]}
        if not weights.at_home:
            places |= {n for n, held in enumerate(self.holds) if network in held}
        return [one for one in choices if one.server in places] or choices

    def _scored(self, k: int, choice: Choice, sent: float) -> Scored:
        added_s, total = self.placement.added_s(k, choice)
        n, x, weights = choice.server, choice.network, self.weights
        if n < 0:
            return Scored(choice, added_s, total, 0.0, False, 0.0, self.copies[x], self.memory.saved[x], 0.0, 0.0)
        share = self.memory.placed[n][x] / sent if sent else 0.0
        price_s, waits_s, lost = -weights.affinity_s * share, 0.0, 0.0
        server, loads = self.servers[n], x not in self.holds[n]
        copies = self.copies[x] - (not loads)
        if loads:
            before = len(server.wanted) + (server.loading is not None)
            waits_s = _until_free_s(server) + server.load_s[x]
            lost = self._lost(n, x)
            gain = self.memory.saved[x] * (weights.spare if copies else 1.0)
            price_s += weights.loss_s * lost - weights.gain_s * gain + weights.queue_s * before
        elif x not in server.warm:
            waits_s = _until_free_s(server)
        return Scored(choice, added_s, total, price_s, loads, waits_s, copies, self.memory.saved[x], lost, share)

    def _lost(self, n: int, network: int) -> float:
        """Return what the networks save that would be evicted."""
        server = self.servers[n]
        needed = self.used_bytes[n] + server.size_bytes[network] - server.memory_bytes
        if needed <= 0:
            return 0.0
        saved, spare = self.memory.saved, self.weights.spare
        return sum(saved[x] * (spare if self.copies[x] > 1 else 1.0) for x in evicted(server.warm, needed))

    def place(self, k: int, scored: Scored) -> None:
        """Place a task.

        Args:
            k: number of the task.
            scored: its choice, of `scored`.
        """
        n, network = scored.choice.server, scored.choice.network
        self.placement.place(k, scored.choice, scored.total_s)
        self.left[network] -= 1
        if n < 0:
            return
        self.memory.placed[n][network] += 1
        if scored.loads:
            self.holds[n].add(network)
            self.copies[network] += 1
            self.used_bytes[n] += self.servers[n].size_bytes[network]


class SeenServers:
    """Servers of one world as they were seen some time ago.

    Args:
        servers: in times of then.
        age_s: how long ago that was.
        slot_s: length of a slot.
    """

    def __init__(self, servers: Sequence[ServerState], age_s: float, slot_s: float):
        self._servers, self._age_s, self._slot_s = servers, age_s, slot_s
        self._left_alone: dict[int, ServerState] = {}

    def now(self, sent: Sequence[Sequence[Sent]]) -> list[ServerState]:
        """Return the servers as they should be now, if all that came to them since is what was sent.

        Args:
            sent: the requests of each slot since, the last slot first, in the times of their slots.
        """
        if self._age_s == 0:
            return [*self._servers]
        more: dict[int, list[Asked]] = {}
        for ago, requests in enumerate(sent, 1):
            by_s = self._age_s - ago * self._slot_s
            for n, one in requests:
                more.setdefault(n, []).append(seen_later(one, -by_s))
        return [
            advance(server, more[n], self._age_s) if n in more else self._alone(n)
            for n, server in enumerate(self._servers)
        ]

    def _alone(self, n: int) -> ServerState:
        """Return a server to which nothing was sent; kept for other deciders."""
        if n not in self._left_alone:
            self._left_alone[n] = advance(self._servers[n], [], self._age_s)
        return self._left_alone[n]


def decide_by_rule(slot: Slot) -> list[Scored]:
    """Return the choice of every task of a slot, each made after those before it.

    Args:
        slot: at its beginning; changed.
    """
    found = list[Scored]()
    for k in range(len(slot.tasks)):
        found.append(best(slot.scored(k)))
        slot.place(k, found[-1])
    return found


def best(scored: Sequence[Scored]) -> Scored:
    """Return the choice that the rule takes: the first of least price.

    Args:
        scored: of a task.
    """
    return min(scored, key=lambda one: one.added_s + one.price_s)


def _held(server: ServerState) -> set[int]:
    """Return the networks that a server holds or will load; all if its memory is not limited."""
    if server.memory_bytes == float("inf"):
        return set(range(len(server.size_bytes)))
    loading = [server.loading[0]] if server.loading else []
    return {*server.warm, *server.wanted, *loading, *(one.network for one in server.asked)}


def _used_bytes(server: ServerState) -> float:
    """Return the memory that is taken, or will be by what is to be loaded; above the limit if something must go."""
    return sum(server.size_bytes[x] for x in _held(server)) if server.memory_bytes < float("inf") else 0.0


def _until_free_s(server: ServerState) -> float:
    """Return the time until a server has loaded all that waits."""
    return (server.loading[1] if server.loading else 0.0) + sum(server.load_s[x] for x in server.wanted)
