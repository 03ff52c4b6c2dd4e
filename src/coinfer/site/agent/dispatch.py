"""Decisions about requests that wait together on one edge server: what is known of all servers, and who computes what.

Pure functions; `dispatcher.py` collects the requests and carries the decisions out.
"""

import math
from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import NamedTuple

import numpy as np

from coinfer.graph.fingerprints import is_fingerprint_of_one
from coinfer.physics.latency import offload_ready_s
from coinfer.runtime.protocol.task_options import TaskOptions
from coinfer.site.agent.serving_state import Told
from coinfer.site.agent.view import work_key
from coinfer.types import DEVICE, OffloadDecision, OffloadObservation
from coinfer.units import BITS_PER_BYTE

OWN_RATE_BPS = 1e12
"""Rate of the link from a server to itself."""
EXPLORE_WITHIN = 2.0
"""Servers are tried on which a task is predicted to take at most so many times what it takes on the best one."""
UNKNOWN_S = 0.02
"""Believed time of work that no server has reported yet."""


class Task(NamedTuple):
    """A request whose server is to be chosen, or everything that is done."""

    model: str
    fingerprint: str
    """Of the sender's network, or its beginning; empty if any will do."""
    work: str
    """See `view.work_key`; empty if there are options."""
    size_bytes: int
    """Of the tensors that would go on."""
    deadline_s: float
    """From now; infinite if there is none."""
    excluded: frozenset[str] = frozenset()
    """Addresses of servers that were asked in vain."""
    options: TaskOptions | None = None
    """What its device could do; None if the tensors are here."""
    outputs: tuple[str, ...] = ()
    """Of options that state none."""


class Booking(NamedTuple):
    """A task that goes to a server."""

    address: str
    model: str
    work: str
    """See `view.work_key`."""
    service_s: float
    arrives_s: float
    """From now."""
    deadline_s: float
    """From now."""


class SentTask(NamedTuple):
    """A task that was sent to a server since it reported, or on its way to the decider itself."""

    model: str
    work: str
    """See `view.work_key`."""
    service_s: float
    """Time that it was believed to take."""
    arrives_s: float
    """From now; negative if it should be there."""
    deadline_s: float
    """From now."""


class Candidate(NamedTuple):
    """A server as the decider knows it now."""

    address: str
    models: Mapping[str, tuple[str, ...]]
    """Fingerprints by name: of a network, and of its bottleneck if it has one."""
    works: Mapping[str, float]
    """Reported times, in seconds, by the key of the work."""
    backlog_s: float
    room: float
    age_s: float
    rate_bps: float = OWN_RATE_BPS
    round_trip_s: float = 0.0
    services: Mapping[str, float] = MappingProxyType({})
    """Times as in `works`, without what must be loaded before."""
    told: Told | None = None
    """How it batches and loads; None if it does neither, or that is not known."""
    sent: tuple[SentTask, ...] = ()
    """What it does not know of in `told`."""

    def serves(self, task: Task) -> bool:
        """Return true if the server may be given a task.

        Args:
            task: names its network.
        """
        served = self.models.get(task.model, ())
        known = is_fingerprint_of_one(task.fingerprint, served) if task.fingerprint else bool(served)
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


def observe_options(tasks: Sequence[Task], servers: Sequence[Candidate]) -> OffloadObservation[np.ndarray]:
    """Return K tasks whose devices could do several things, on N servers, as a policy sees them.

    What a server has reported counts before what a device believes of it. A server that a device does not reach, or
    that may not be given a task, takes infinitely long for it.

    Args:
        tasks: at least one, all with options.
        servers: the decider itself first.
    """
    asked = [task.options for task in tasks if task.options is not None]
    count, width, n = len(tasks), max(len(one.options) for one in asked), len(servers)
    device_s, upload_bits, accuracy = np.zeros((3, count, width))
    server_s, mask = np.full((count, width, n), np.inf), np.zeros((count, width), dtype=bool)
    rate_bps, wait_s = np.full((count, n), OWN_RATE_BPS), np.zeros((count, n))
    for k, (task, one) in enumerate(zip(tasks, asked, strict=True)):
        length = len(one.options)
        device_s[k, :length] = [option.device_s for option in one.options]
        upload_bits[k, :length] = [option.upload_bits for option in one.options]
        accuracy[k, :length] = [option.accuracy for option in one.options]
        mask[k, :length] = True
        reached = {link.node: i for i, link in enumerate(one.servers)}
        for j, server in enumerate(servers):
            i = reached.get(server.address)
            if i is not None and server.serves(task):
                rate_bps[k, j], wait_s[k, j] = one.servers[i].rate_bps, one.servers[i].wait_s
                server_s[k, :length, j] = one.servers[i].round_trip_s + _services_s(task, one, server, i)
    server_s[mask & (upload_bits == 0)] = 0.0  # no server plays a part
    return OffloadObservation(
        option_device_s=device_s,
        option_upload_bits=upload_bits,
        option_server_s=server_s,
        option_accuracy=accuracy,
        option_device_j=np.zeros((count, width)),
        option_mask=mask,
        task_mask=np.ones(count, dtype=bool),
        deadline_s=np.array([task.deadline_s for task in tasks]),
        uplink_bps=rate_bps,
        device_backlog_s=np.zeros(count),
        server_backlog_s=np.array([server.backlog_s for server in servers]),
        server_room=np.array([float(server.room) for server in servers]),
        energy_left_j=np.full(count, math.inf),
        observation_age_s=np.array([server.age_s for server in servers]),
        uplink_backlog_s=wait_s,
    )


def option_work(task: Task, option: int) -> str:
    """Return the key of what an option of a task leaves to a server; empty if that is nothing.

    Args:
        task: to decide.
        option: of the task; any if its tensors are here.
    """
    if task.options is None:
        return task.work
    chosen = task.options.options[option]
    return work_key(task.model, chosen.cut, chosen.outputs or task.outputs) if chosen.upload_bits else ""


def _services_s(task: Task, asked: TaskOptions, server: Candidate, index: int) -> np.ndarray:
    """Return the time [O] of a server for each option; infinite if its device says that it cannot do it."""
    times = np.full(len(asked.options), np.inf)
    for o, option in enumerate(asked.options):
        believed_s = option.server_s[index] if option.server_s else None
        if believed_s is not None:
            times[o] = server.works.get(work_key(task.model, option.cut, option.outputs or task.outputs), believed_s)
    return times


def sequential_greedy(observation: OffloadObservation[np.ndarray]) -> OffloadDecision[np.ndarray]:
    """Return option and server of least predicted latency for each task, one after the other, the earliest deadline
    first.

    Each task sees the servers busy with those that were placed before it. A task for which nobody has room gets option
    0 and server 0, the one that it has reached or, if that does not serve its network, the one that ends first else.

    Args:
        observation: K tasks.
    """
    o = observation
    tasks, _, servers = o.option_server_s.shape
    sends, ready_s = o.option_upload_bits > 0, offload_ready_s(o)
    arrived_s = np.where((o.option_mask & sends)[..., None], ready_s, np.inf)
    device_s = np.where(o.option_mask & ~sends, ready_s[..., 0], np.inf)
    backlog_s, room = o.server_backlog_s.copy(), o.server_room.copy()
    option, server = np.zeros((2, tasks), dtype=int)
    for task in np.argsort(o.deadline_s, kind="stable"):
        end_s = np.maximum(arrived_s[task], backlog_s) + o.option_server_s[task]
        soonest = divmod(int(end_s.argmin()), servers)
        end_s[:, room <= 0] = np.inf
        best, place = divmod(int(end_s.argmin()), servers)
        own = int(device_s[task].argmin())
        if device_s[task, own] < end_s[best, place]:
            option[task], server[task] = own, DEVICE
        elif math.isfinite(end_s[best, place]):
            option[task], server[task] = best, place
            backlog_s[place] = end_s[best, place]
            room[place] -= 1
        elif not np.isfinite(o.option_server_s[task, 0, 0]):
            option[task], server[task] = soonest
    return OffloadDecision(option, server)


def checked(
    decision: OffloadDecision[np.ndarray], observation: OffloadObservation[np.ndarray]
) -> OffloadDecision[np.ndarray]:
    """Return a policy's decision, if it can be carried out; what sends nothing has no server.

    Args:
        decision: of an actor.
        observation: that it was given.

    Raises:
        ValueError: if it cannot.
    """
    tasks, options, servers = observation.option_server_s.shape
    option, server = np.asarray(decision.option), np.asarray(decision.server)
    for name, value, least, end in (("option", option, 0, options), ("server", server, DEVICE, servers)):
        if value.shape != (tasks,) or value.dtype.kind not in "iu" or value.min() < least or value.max() >= end:
            raise ValueError(f"decision.{name} is {value.dtype} {value.tolist()[:8]}, expected [{tasks}] below {end}")
    rows = np.arange(tasks)
    sends = observation.option_upload_bits[rows, option] > 0
    service_s = np.where(sends & (server == DEVICE), np.inf, observation.option_server_s[rows, option, server])
    if not observation.option_mask[rows, option].all() or not np.isfinite(service_s).all():
        raise ValueError("a task was given an option that it has not, or to a server that cannot do it")
    return OffloadDecision(option, np.where(sends, server, DEVICE))


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
