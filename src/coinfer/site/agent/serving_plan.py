"""Decisions for servers that batch or load, by the rule `demand-greedy` or a pointer policy.

Both are those of the simulator (`policies.heuristics.demand`, `policies.learned.pointer`). What a slot is there is here
a window of requests that are decided together; the time since the last one is any.
"""

import math
import statistics
from collections.abc import Mapping, Sequence
from functools import lru_cache
from typing import NamedTuple

import numpy as np

from coinfer.physics.latency import offload_ready_s
from coinfer.policies.heuristics.demand import (
    LOADS,
    DemandWeights,
    Memory,
    Slot,
    batch_weights,
    decide_by_rule,
    fade,
)
from coinfer.policies.heuristics.homes import homes
from coinfer.policies.heuristics.server_times import Asked, ServerState, advance
from coinfer.policies.heuristics.serving import Choice
from coinfer.policies.heuristics.serving import Task as PlainTask
from coinfer.policies.learned.pointer.features import Scores, decide_slot
from coinfer.site.agent.dispatch import (
    UNKNOWN_S,
    Candidate,
    Task,
    observe,
    observe_options,
    option_work,
    sequential_greedy,
)
from coinfer.site.agent.serving_state import Catalogue, busy_state, does_serve, server_state
from coinfer.types import DEVICE, OffloadDecision, OffloadObservation

RULE = "demand-greedy"
WINDOW_S = 0.002
"""Length of a window as the rule counts it; what lies between two windows only lets its memory fade."""
_SOON_S = 1e-6
"""A request that comes is not there yet."""


class Pointer(NamedTuple):
    """A pointer policy."""

    scores: Scores
    weights: DemandWeights
    """Of the rule that it corrects."""
    scale_s: float


class Remembered(NamedTuple):
    """What a decider remembers of the windows before."""

    saved: Mapping[int, float]
    """`Memory.saved`, by network."""
    placed: Mapping[str, Mapping[int, float]]
    """`Memory.placed`, by address of the server and network."""
    at_s: float
    """When the last window was decided."""


class Planned(NamedTuple):
    """A decision, and what to remember if it is carried out."""

    decision: OffloadDecision[np.ndarray]
    remembered: Remembered


class ServingPlanner:
    """Decides for one edge server where servers batch or load."""

    def __init__(self) -> None:
        self._catalogue = Catalogue()
        self._remembered = Remembered({}, {}, -math.inf)

    def plan(
        self,
        tasks: Sequence[Task],
        servers: Sequence[Candidate],
        now_s: float,
        pointer: Pointer | None = None,
    ) -> Planned:
        """Return where tasks go; nothing is changed but numbers of new networks.

        Args:
            tasks: all with options, or none.
            servers: the decider itself first.
            now_s: on the node's clock.
            pointer: decides; None for the rule.
        """
        if self._catalogue.is_full:
            self._catalogue, self._remembered = Catalogue(), Remembered({}, {}, -math.inf)
        catalogue = self._catalogue
        pure = [server._replace(works=server.services) for server in servers]
        observation = (observe if tasks[0].options is None else observe_options)(tasks, pure)
        plain = plain_tasks(tasks, servers, observation, catalogue)
        for server in servers:
            if server.told is not None:
                catalogue.add(server.told.profile)
        states = [known_state(server, catalogue) for server in servers]
        before, networks = self._remembered, range(len(catalogue.networks))
        memory = Memory(
            [before.saved.get(x, 0.0) for x in networks],
            [[before.placed.get(server.address, {}).get(x, 0.0) for x in networks] for server in servers],
            [],
        )
        weights = pointer.weights if pointer else _weights(states, plain)
        fade(memory, math.exp(-(now_s - before.at_s) / weights.memory_s))
        order = sorted((k for k, one in enumerate(plain) if one.choices), key=lambda k: _arrives_s(plain[k]))
        home = site_homes(servers, states, catalogue) if weights.loads_at_home else ()
        slot = Slot(states, [plain[k] for k in order], memory, weights, WINDOW_S, home)
        chosen = decide_slot(slot, pointer.scores, pointer.scale_s) if pointer else decide_by_rule(slot)
        option, server = sequential_greedy(observation)  # for tasks that nobody has room for
        for k, one in zip(order, chosen, strict=True):
            option[k], server[k] = one.choice.option, one.choice.server
        placed = {one.address: dict(enumerate(row)) for one, row in zip(servers, memory.placed, strict=True)}
        remembered = Remembered(dict(enumerate(memory.saved)), placed, now_s)
        return Planned(OffloadDecision(option, server), remembered)

    def adopt(self, planned: Planned) -> None:
        """Remember a decision that is carried out.

        Args:
            planned: from `plan`.
        """
        self._remembered = planned.remembered


def serves(servers: Sequence[Candidate]) -> bool:
    """Return true if any of the servers is known to batch or to load.

    Args:
        servers: all.
    """
    return any(one.told is not None and does_serve(one.told.profile) for one in servers)


def known_state(server: Candidate, catalogue: Catalogue) -> ServerState:
    """Return a server as it should be now, if all that has come to it since its report is what was sent from here.

    Args:
        server: with what it told.
        catalogue: has all networks and pieces.
    """
    if server.told is None:
        return busy_state(catalogue, server.backlog_s)
    age_s = server.age_s
    sent = [
        Asked(
            ready_s=max(one.arrives_s + age_s, _SOON_S),
            service_s=server.services.get(one.work, one.service_s),
            piece=catalogue.pieces.of(one.work),
            network=catalogue.networks.of(one.model),
            deadline_s=one.deadline_s + age_s,
        )
        for one in server.sent
    ]
    return advance(server_state(server.told, catalogue, server.services, UNKNOWN_S), sent, age_s)


def site_homes(servers: Sequence[Candidate], states: Sequence[ServerState], catalogue: Catalogue) -> list[int]:
    """Return the home of each network that a server tells of, the same for all deciders: as if asked for alike.

    Args:
        servers: the decider itself first.
        states: of these servers.
        catalogue: numbers the networks.
    """
    names = sorted({one.name for server in servers if server.told for one in server.told.profile.networks})
    order = sorted(range(len(servers)), key=lambda n: servers[n].address)
    numbers = [catalogue.networks.of(name) for name in names]
    sizes = [max(state.size_bytes[x] for state in states) for x in numbers]
    found = _equal_homes(tuple(sizes), tuple(states[n].memory_bytes for n in order))
    home = [DEVICE] * len(catalogue.networks)
    for x, place in zip(numbers, found, strict=True):
        home[x] = order[place] if place >= 0 else DEVICE
    return home


@lru_cache(maxsize=16)
def _equal_homes(size_bytes: tuple[float, ...], memory_bytes: tuple[float, ...]) -> tuple[int, ...]:
    equal = [1.0] * len(size_bytes)
    return tuple(homes(equal, equal, size_bytes, memory_bytes, crowded=True))


def plain_tasks(
    tasks: Sequence[Task],
    servers: Sequence[Candidate],
    observation: OffloadObservation[np.ndarray],
    catalogue: Catalogue,
) -> list[PlainTask]:
    """Return tasks in the plain form of the rule; one that nobody can take now has no choices.

    Args:
        tasks: all with options, or none.
        servers: the decider itself first.
        observation: of both, in which servers take for a task what it takes there without loads.
        catalogue: numbers their networks and pieces.
    """
    o, ready_s = observation, offload_ready_s(observation)
    found = list[PlainTask]()
    for k, task in enumerate(tasks):
        network, choices = catalogue.networks.of(task.model), list[Choice]()
        round_trips_s = _round_trips_s(task, servers)
        for option in np.flatnonzero(o.option_mask[k]).tolist():
            work = option_work(task, option)
            piece = catalogue.pieces.of(work) if work else 0
            if o.option_upload_bits[k, option] == 0:
                choices.append(Choice(option, DEVICE, float(ready_s[k, option, 0]), 0.0, piece, network))
                continue
            for n, server_s in enumerate(o.option_server_s[k, option].tolist()):
                if math.isfinite(server_s) and o.server_room[n] > 0:
                    arrives_s = max(float(ready_s[k, option, n]) + round_trips_s[n], _SOON_S)
                    service_s = max(server_s - round_trips_s[n], 0.0)
                    choices.append(Choice(option, n, arrives_s, service_s, piece, network))
        found.append(PlainTask(tuple(choices), task.deadline_s))
    return found


def _round_trips_s(task: Task, servers: Sequence[Candidate]) -> list[float]:
    """Return what the observation has added to the time on each server."""
    if task.options is None:
        return [server.round_trip_s for server in servers]
    links = {link.node: link.round_trip_s for link in task.options.servers}
    return [links.get(server.address, 0.0) for server in servers]


def _weights(states: Sequence[ServerState], tasks: Sequence[PlainTask]) -> DemandWeights:
    if any(state.memory_bytes < math.inf for state in states):
        return LOADS
    services_s = [one.service_s for task in tasks for one in task.choices if one.server != DEVICE]
    return batch_weights(statistics.median(services_s) if services_s else UNKNOWN_S)


def _arrives_s(task: PlainTask) -> float:
    return min(one.ready_s for one in task.choices)
