"""The pure decisions of an edge node: which requests it admits, when each starts, which it refuses and why.

`apply(state, event)` returns the next state; `plan(state, now_s)` returns what to do now. The caller applies each
command that it has carried out as an event. `workers` serve the jobs of the smallest priority number first, then one of
each caller in turn, then first come, first served; at most `queue` jobs wait, as behind an endless queue every answer
comes too late. In a full one the last job of who has most gives way to a caller who has less. Jobs of one kind run
together where that is faster (`physics.batching`).
"""

import math
from collections import Counter
from collections.abc import Callable, Hashable, Mapping, Sequence
from itertools import takewhile

from coinfer.physics.batching import Waiting, batch_members, drain_ratio
from coinfer.runtime.edge.node_state import (
    Admit,
    Arrived,
    Cancelled,
    Command,
    Counts,
    Drained,
    Ended,
    Event,
    Job,
    NodeState,
    Reason,
    Refuse,
    Running,
    Start,
)
from coinfer.runtime.edge.service_times import after_service, typical
from coinfer.runtime.margin import SAFETY_FACTOR, after_wait
from coinfer.runtime.protocol.messages import LAST_PRIORITY, Code, LoadReport
from coinfer.runtime.turns import gives_way, in_turn

FORGET_HALF_LIFE_S = 5.0
"""After this time unmeasured, a service time counts half; a node that was slow once would else refuse for ever."""
MIN_PUSHBACK_S = 1e-3
NEW = -1
"""Id of a job that has none yet."""

CODES: Mapping[Reason, Code] = {
    "queue_full": "RESOURCE_EXHAUSTED",
    "hopeless": "DEADLINE_EXCEEDED",
    "expired": "DEADLINE_EXCEEDED",
    "draining": "UNAVAILABLE",
}


def apply(state: NodeState, event: Event) -> NodeState:
    """Return the state after an event.

    Args:
        state: the state before; it is not changed.
        event: what happened; one about a job that the state does not hold changes nothing.
    """
    match event:
        case Arrived(job):
            return state._replace(arriving=(*state.arriving, job), counts=_count(state, "received"))
        case Drained():
            return state._replace(draining=True)
        case Admit(id, now_s, forecast_s):
            admitted = tuple(
                job._replace(admitted_s=now_s, forecast_s=forecast_s) for job in state.arriving if job.id == id
            )
            waiting = in_turn(state.waiting + admitted)
            return _remove(state, id)._replace(waiting=_without_overtaken_forecasts(waiting, id))
        case Start(_, now_s, others):
            for id in event.ids:
                state = _start(state, id, now_s, event.id if id in others else None, len(event.ids))
            return state
        case Refuse(id, reason):
            counts = _count(state, "refused") if _is_queued(state, id) else state.counts
            margin = state.margin if reason == "queue_full" else _learned_margin(state, id, math.inf)
            return _remove(state, id)._replace(counts=counts, margin=margin, running=_abandoned(state, id))
        case Cancelled(id):
            counts = _count(state, "cancelled") if _is_queued(state, id) else state.counts
            return _remove(state, id)._replace(counts=counts, running=_abandoned(state, id))
        case Ended():
            return _end(state, event)


def plan(state: NodeState, now_s: float) -> tuple[Command, ...]:
    """Return the commands to carry out now; once all of them are applied, nothing is left to do at this moment.

    Args:
        state: jobs that wait come before jobs that have just arrived.
        now_s: on the node's clock.
    """
    commands, waiting, free = _overdue(state, now_s), list[Job](), state.free_workers
    for job in state.waiting:
        late = _late_reason(state, job, now_s, min)
        if late is None:
            waiting.append(job)
        else:
            commands.append(Refuse(job.id, late, MIN_PUSHBACK_S))
    while waiting and free > 0:
        together = _together(state, waiting, now_s)
        commands.append(Start(together[0], now_s, together[1:]))
        waiting = [job for job in waiting if job.id not in together]
        free -= 1
    for job in state.arriving:
        reason = _refusal(state, job, now_s, free, len(waiting))
        if reason == "queue_full" and (last := gives_way(waiting, job)) is not None:
            commands.append(Refuse(last.id, reason, pushback_s(state, now_s)))
            waiting.remove(last)
            reason = None
        if reason is not None:
            commands.append(Refuse(job.id, reason, pushback_s(state, now_s)))
        elif free > 0:
            commands.append(Start(job.id, now_s))
            free -= 1
        else:
            wait_s = backlog_s(state, now_s, job.priority, job.caller)
            commands.append(Admit(job.id, now_s, wait_s if wait_s > expected_s(state, job) else 0.0))
            waiting.append(job)
    return tuple(commands)


def is_quick(state: NodeState, job: Job, now_s: float, limit_s: float) -> bool:
    """Return true if a job that arrives now needs no worker: one is free, nobody waits, and its kind takes no time.

    Args:
        state: holds the measured times; a kind that is not known is not quick.
        job: has not arrived yet.
        now_s: on the node's clock.
        limit_s: a kind is quick if it typically takes less.
    """
    known = state.service.get(job.kind)
    if known is None or state.waiting or state.arriving or state.free_workers <= 0 or known.typical_s >= limit_s:
        return False
    return _refusal(state, job, now_s, 1, 0) is None


def after_quick(state: NodeState, kind: Hashable, began_s: float, now_s: float, ok: bool) -> NodeState:
    """Return the state after a job was done without a worker: as if it had arrived, started and ended.

    Args:
        state: the state before.
        kind: of the job.
        began_s: when it arrived and started.
        now_s: when it ended.
        ok: whether it has a result.
    """
    counts, service = state.counts, state.service
    if not ok:
        return state._replace(counts=counts._replace(received=counts.received + 1, failed=counts.failed + 1))
    service = after_service(service, kind, now_s - began_s, now_s)
    counts = counts._replace(received=counts.received + 1, finished=counts.finished + 1)
    return state._replace(counts=counts, service=service)


def load(state: NodeState, now_s: float) -> LoadReport:
    """Return the node's load as it reports it to clients.

    Args:
        state: a draining node reports no room.
        now_s: on the node's clock.
    """
    waiting = len(state.waiting) + len(state.arriving)
    room = state.queue + state.free_workers - waiting
    return LoadReport(backlog_s(state, now_s), waiting, 0 if state.draining else max(room, 0))


def backlog_s(state: NodeState, now_s: float, priority: int = LAST_PRIORITY, caller: str | None = None) -> float:
    """Return how long a job that arrives now would wait, as far as service times are known; jobs run together as now.

    Args:
        state: 0 results if a worker is free and no job waits.
        now_s: on the node's clock.
        priority: of the job.
        caller: whose it is; None if it waits for the jobs of all callers.
    """
    if state.free_workers > 0 and not state.waiting:
        return 0.0
    before = [job for job in state.waiting if job.priority <= priority]
    if caller is not None:
        new = Job(NEW, None, math.inf, priority, caller=caller)
        before = list(takewhile(lambda job: job is not new, in_turn((*before, new))))
    kinds = Counter((job.kind, job.times) for job in before)
    first = {(job.kind, job.times): job for job in reversed(before)}
    waiting_s = sum(
        expected_s(state, first[kind]) * drain_ratio(kind[1], count, len(before)) for kind, count in kinds.items()
    )
    return (waiting_s + running_s(state, now_s)) / state.workers


def running_s(state: NodeState, now_s: float) -> float:
    """Return how long the workers are still busy with the jobs that run, summed.

    Args:
        state: of the node.
        now_s: on the node's clock.
    """
    return sum(_remaining_s(state, run, now_s) for run in state.running)


def expected_s(state: NodeState, job: Job) -> float:
    """Return the expected service time of a job.

    Args:
        state: holds the measured times.
        job: the typical time of its kind counts; for a new kind the mean over all kinds, and 0 if none is known.
    """
    known = state.service.get(job.kind)
    if known is not None:
        return known.typical_s
    return sum(s.typical_s for s in state.service.values()) / len(state.service) if state.service else 0.0


def pushback_s(state: NodeState, now_s: float) -> float:
    """Return the seconds until a place in the queue is likely to be free.

    Args:
        state: the job that is expected to finish first frees the place.
        now_s: on the node's clock.
    """
    soonest = min((_remaining_s(state, run, now_s) for run in state.running), default=0.0)
    return max(soonest, MIN_PUSHBACK_S)


def wake_s(state: NodeState) -> float:
    """Return when to plan again if no event comes before: at the earliest deadline of a job that waits or runs.

    Args:
        state: the time is on the node's clock, and infinite if no such job has a deadline.
    """
    jobs = (*state.waiting, *(run.job for run in state.running if not run.abandoned))
    return min((job.deadline_s for job in jobs), default=float("inf"))


def is_idle(state: NodeState) -> bool:
    """Return true if no job arrives, waits or runs.

    Args:
        state: jobs whose caller has given up count for as long as they run.
    """
    return not (state.arriving or state.waiting or state.running)


def _together(state: NodeState, waiting: Sequence[Job], now_s: float) -> tuple[int, ...]:
    """Return the job that is to start, and those that run with it."""
    first = waiting[0]
    queue = [Waiting(job.kind == first.kind, expected_s(state, job), job.deadline_s - now_s) for job in waiting]
    return tuple(waiting[place].id for place in batch_members(first.times, queue, state.workers))


def _without_overtaken_forecasts(waiting: Sequence[Job], id: int) -> tuple[Job, ...]:
    """Return jobs of which nothing is learned any more if a new one has come before them."""
    place = next((place for place, job in enumerate(waiting) if job.id == id), len(waiting))
    return (*waiting[: place + 1], *(job._replace(forecast_s=0.0) for job in waiting[place + 1 :]))


def _refusal(state: NodeState, job: Job, now_s: float, free: int, waiting: int) -> Reason | None:
    if state.draining:
        return "draining"
    wait_s = 0.0 if free > 0 else state.margin * backlog_s(state, now_s, job.priority, job.caller)
    late = _late_reason(state, job, now_s + wait_s, lambda times_s: SAFETY_FACTOR * typical(times_s))
    if late is not None:
        return "expired" if now_s >= job.deadline_s else "hopeless"
    return "queue_full" if free <= 0 and waiting >= state.queue else None


def _late_reason(
    state: NodeState, job: Job, start_s: float, expect: Callable[[tuple[float, ...]], float]
) -> Reason | None:
    """Return why a job that starts at `start_s` is of no use, or None if it is.

    Args:
        expect: reduces the recent service times to one: typical for an arriving job, the least for a waiting one.
    """
    if start_s >= job.deadline_s:
        return "expired"
    known = state.service.get(job.kind) if state.forecasts else None
    if known is None:
        return None
    believed_s = expect(known.recent_s) * 0.5 ** (max(start_s - known.measured_s, 0.0) / FORGET_HALF_LIFE_S)
    return "hopeless" if start_s + believed_s > job.deadline_s else None


def _learned_margin(state: NodeState, id: int, now_s: float) -> float:
    """Return the margin once a job no longer waits; one that expired has waited for ever."""
    job = next((job for job in state.waiting if job.id == id and job.forecast_s > 0), None)
    return state.margin if job is None else after_wait(state.margin, (now_s - job.admitted_s) / job.forecast_s)


def _start(state: NodeState, id: int, now_s: float, first: int | None, together: int) -> NodeState:
    started = [Running(job, now_s, False, first, together) for job in state.arriving + state.waiting if job.id == id]
    margin = _learned_margin(state, id, now_s)
    return _remove(state, id)._replace(running=(*state.running, *started), margin=margin)


def _remaining_s(state: NodeState, run: Running, now_s: float) -> float:
    """Return how long a worker is still busy; jobs that run together count once."""
    if run.first is not None:
        return 0.0
    return max(expected_s(state, run.job) * run.job.times.ratio(run.together) - (now_s - run.started_s), 0.0)


def _end(state: NodeState, event: Ended) -> NodeState:
    run = next((run for run in state.running if run.job.id == event.id), None)
    if run is None:
        return state
    what = "cancelled" if run.abandoned else "finished" if event.ok else "failed"
    service, late = state.service, what != "failed" and event.now_s > run.job.deadline_s
    alone_s = (event.now_s - run.started_s) / run.job.times.ratio(run.together)
    is_stopped = what == "cancelled" and late and alone_s > expected_s(state, run.job)  # it takes that long at least
    if run.first is None and (what == "finished" or is_stopped):
        service = after_service(service, run.job.kind, alone_s, event.now_s)
    rest = tuple(other for other in state.running if other is not run)
    broken = run.job.forecast_s > 0 and (event.too_late or late)
    margin = after_wait(state.margin, math.inf) if broken else state.margin
    return state._replace(running=rest, service=service, counts=_count(state, what), margin=margin)


def _overdue(state: NodeState, now_s: float) -> list[Command]:
    """Return the end of the jobs that run on although their deadline has passed."""
    late = [run.job.id for run in state.running if not run.abandoned and now_s >= run.job.deadline_s]
    return [Refuse(id, "expired", MIN_PUSHBACK_S) for id in late]


def _abandoned(state: NodeState, id: int) -> tuple[Running, ...]:
    return tuple(run._replace(abandoned=True) if run.job.id == id else run for run in state.running)


def _is_queued(state: NodeState, id: int) -> bool:
    return any(job.id == id for job in state.arriving + state.waiting)


def _remove(state: NodeState, id: int) -> NodeState:
    """Return the state with the job neither arriving nor waiting."""
    arriving = tuple(job for job in state.arriving if job.id != id)
    return state._replace(arriving=arriving, waiting=tuple(job for job in state.waiting if job.id != id))


def _count(state: NodeState, what: str) -> Counts:
    return state.counts._replace(**{what: getattr(state.counts, what) + 1})
