"""Decisions about requests that wait together on one edge server: what is known of all servers, and who computes what.

Pure functions; `dispatcher.py` collects the requests and carries the decisions out.
"""

import math
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np

from coinfer.graph.fingerprints import is_fingerprint_of
from coinfer.types import OffloadDecision, OffloadObservation
from coinfer.units import BITS_PER_BYTE

OWN_RATE_BPS = 1e12
"""Rate of the link from a server to itself."""
EXPLORE_WITHIN = 2.0
"""Servers are tried on which a task is predicted to take at most so many times what it takes on the best one."""
UNKNOWN_S = 0.02
"""Believed time of work that no server has reported yet."""


class Task(NamedTuple):
    """A request whose server is to be chosen."""

    model: str
    fingerprint: str
    """Of the sender's network, or its beginning; empty if any will do."""
    work: str
    """See `view.work_key`."""
    size_bytes: int
    """Of the tensors that would go on."""
    deadline_s: float
    """From now; infinite if there is none."""
    excluded: frozenset[str] = frozenset()
    """Addresses of servers that were asked in vain."""


class Candidate(NamedTuple):
    """A server as the decider knows it now."""

    address: str
    models: Mapping[str, str]
    """Fingerprints by name."""
    works: Mapping[str, float]
    """Reported times, in seconds, by the key of the work."""
    backlog_s: float
    room: float
    age_s: float
    rate_bps: float = OWN_RATE_BPS
    round_trip_s: float = 0.0

    def serves(self, task: Task) -> bool:
        """Return true if the server may be given a task.

        Args:
            task: names its network.
        """
        fingerprint = self.models.get(task.model)
        known = fingerprint is not None and (not task.fingerprint or is_fingerprint_of(task.fingerprint, fingerprint))
        return known and self.address not in task.excluded


def observe(tasks: Sequence[Task], servers: Sequence[Candidate]) -> OffloadObservation[np.ndarray]:
    """Return K tasks with a single option, to compute on one of N servers, as a policy sees them.

    A server that may not be given a task takes infinitely long for it. A piece whose time a server has not reported
    takes there what the slowest of the others takes.

    Args:
        tasks: at least one.
        servers: the decider itself first.
    """
    count, n = len(tasks), len(servers)
    times: dict[str, np.ndarray] = {}
    for work in {task.work for task in tasks}:
        known = [server.works.get(work) for server in servers]
        slowest = max((one for one in known if one is not None), default=UNKNOWN_S)
        times[work] = np.array([slowest if one is None else one for one in known])
    round_trip_s = np.array([server.round_trip_s for server in servers])
    possible = np.array([[server.serves(task) for server in servers] for task in tasks])
    service_s = np.where(possible, np.array([times[task.work] for task in tasks]) + round_trip_s, np.inf)
    bits = np.array([task.size_bytes * float(BITS_PER_BYTE) for task in tasks])
    ones = np.ones((count, 1))
    return OffloadObservation(
        option_device_s=0 * ones,
        option_upload_bits=bits[:, None].clip(1),
        option_server_s=service_s[:, None, :],
        option_accuracy=ones,
        option_device_j=0 * ones,
        option_mask=ones.astype(bool),
        task_mask=np.ones(count, dtype=bool),
        deadline_s=np.array([task.deadline_s for task in tasks]),
        uplink_bps=np.tile([server.rate_bps for server in servers], (count, 1)),
        device_backlog_s=np.zeros(count),
        server_backlog_s=np.array([server.backlog_s for server in servers]),
        server_room=np.array([float(server.room) for server in servers]),
        energy_left_j=np.full(count, math.inf),
        observation_age_s=np.array([server.age_s for server in servers]),
        uplink_backlog_s=np.zeros((count, n)),
    )


def sequential_greedy(observation: OffloadObservation[np.ndarray]) -> OffloadDecision[np.ndarray]:
    """Return the server of least predicted latency for each task, one after the other, the earliest deadline first.

    Each task sees the servers busy with those that were placed before it. A task for which no server has room stays
    with server 0, the one that it has reached.

    Args:
        observation: K tasks with one option each.
    """
    tasks = len(observation.deadline_s)
    backlog_s, room = observation.server_backlog_s.copy(), observation.server_room.copy()
    arrived_s = observation.uplink_backlog_s + observation.option_upload_bits / observation.uplink_bps
    chosen = np.zeros(tasks, dtype=int)
    for task in np.argsort(observation.deadline_s, kind="stable"):
        end_s = np.maximum(arrived_s[task], backlog_s) + observation.option_server_s[task, 0]
        end_s[room <= 0] = np.inf
        best = int(np.argmin(end_s))
        if math.isfinite(end_s[best]):
            chosen[task] = best
            backlog_s[best] = end_s[best]
            room[best] -= 1
    return OffloadDecision(option=np.zeros(tasks, dtype=int), server=chosen)


def checked(
    decision: OffloadDecision[np.ndarray], observation: OffloadObservation[np.ndarray]
) -> OffloadDecision[np.ndarray]:
    """Return a policy's decision, if it can be carried out.

    Args:
        decision: of an actor.
        observation: that it was given.

    Raises:
        ValueError: if it cannot.
    """
    server = np.asarray(decision.server)
    tasks, _, servers = observation.option_server_s.shape
    if server.shape != (tasks,) or server.dtype.kind not in "iu" or server.min() < 0 or server.max() >= servers:
        raise ValueError(f"decision.server is {server.dtype} {server.tolist()[:8]}, expected [{tasks}] below {servers}")
    if not np.isfinite(observation.option_server_s[np.arange(tasks), 0, server]).all():
        raise ValueError("a task was given to a server that cannot do it")
    return decision


def allowed_s(observation: OffloadObservation[np.ndarray]) -> np.ndarray:
    """Return the predicted latency of each task on each server, [K, N]; infinite where it may not be tried.

    A server may be tried that has room, on which the task is not predicted to be late, nor to take more than
    `EXPLORE_WITHIN` times what it takes on the best one.

    Args:
        observation: K tasks with one option each.
    """
    o = observation
    arrived_s = o.uplink_backlog_s + o.option_upload_bits / o.uplink_bps
    end_s = np.maximum(arrived_s, o.server_backlog_s) + o.option_server_s[:, 0]
    end_s = np.where((o.server_room > 0) & (end_s <= o.deadline_s[:, None]), end_s, np.inf)
    return np.where(end_s <= EXPLORE_WITHIN * end_s.min(axis=1, keepdims=True), end_s, np.inf)


def explored(
    wished: np.ndarray, allowed: np.ndarray, share: float, rng: np.random.Generator
) -> tuple[list[int], list[float]]:
    """Return servers of which a share is drawn evenly among those that may be tried, with their probabilities.

    Args:
        wished: [K] servers that the policy chose.
        allowed: [K, N] from `allowed_s`.
        share: of the tasks.
        rng: draws them.
    """
    chosen, probability = wished.tolist(), [1.0] * len(wished)
    for task, good in enumerate(np.isfinite(allowed)):
        places = np.flatnonzero(good)
        if len(places) < 2:
            continue
        if rng.random() < share:
            chosen[task] = int(rng.choice(places))
        probability[task] = (1 - share) * (chosen[task] == wished[task]) + share / len(places) * good[chosen[task]]
    return chosen, [float(one) for one in probability]
