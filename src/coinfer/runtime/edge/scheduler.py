"""Carries out what `admission` decides, on worker threads. Callers live on one event loop.

A worker that has finished a job asks `admission` itself for the next one, and starts it before the event loop learns
of the end: replies are written while the next job computes, and no worker waits for the loop between two jobs. A job
that takes no longer than a worker would need to get it and give it back is done on the event loop itself.
"""

import asyncio
import itertools
from collections.abc import Callable, Hashable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from functools import partial
from threading import Lock
from typing import Any, NamedTuple, TypeVar, cast

from coinfer.physics.batching import ALONE, BatchTimes
from coinfer.runtime.clock import Clock
from coinfer.runtime.edge import admission
from coinfer.runtime.edge.node_state import (
    Admit,
    Arrived,
    Cancelled,
    Command,
    Drained,
    Ended,
    Event,
    Job,
    NodeState,
    Refuse,
    Start,
)
from coinfer.runtime.executor import Abort
from coinfer.runtime.protocol.messages import DEFAULT_PRIORITY, LoadReport, WireError
from coinfer.runtime.turns import present_turn

Result = TypeVar("Result")
SHUTTING_DOWN = "this node is shutting down; use another"


class Batch(NamedTuple):
    """How a job runs together with others of its kind."""

    times: BatchTimes
    """How long several take together."""
    item: object
    """Of this job, for `run`."""
    run: Callable[[Sequence[Any], Sequence[Abort]], Sequence[object]]
    """Does several jobs of the kind at once, given their items: returns a result for each, or the exception that it
    raises. A job whose `Abort` is set needs none; the work should stop soon after all are set."""


class _Entry(NamedTuple):
    """What the scheduler holds of a job until its caller has the outcome."""

    waiter: asyncio.Future[tuple[object, float]]
    work: Callable[[Abort], object]
    abort: Abort
    arrived_s: float
    batch: Batch | None


class _Notice(NamedTuple):
    """The outcome that a caller is to get: a result or an error."""

    waiter: asyncio.Future[tuple[object, float]]
    outcome: tuple[object, float] | BaseException
    abort: Abort | None = None
    """Of work that runs on for nobody."""


class Scheduler:
    """Admission, queue and workers of a node.

    Args:
        workers: jobs that run at the same time.
        queue: jobs that may wait.
        clock: deadlines and waits are on it.
        quick_s: jobs whose kind takes less are done on the event loop, unless they may run as a batch; 0 if jobs wait
            for others.
        forecasts: whether jobs are refused that would be late by their measured times; else the work itself does that.
    """

    def __init__(self, workers: int, queue: int, clock: Clock, quick_s: float = 0.0, *, forecasts: bool = True):
        self._quick_s = quick_s
        self.state = NodeState(workers, queue, forecasts=forecasts)
        self._clock = clock
        self._pool = ThreadPoolExecutor(workers, "coinfer-worker")
        self._reporter = ThreadPoolExecutor(1, "coinfer-reporter")
        """Wakes the event loop for a worker that continues: waking it releases Python's lock, and the loop would hold
        that for as long as a reply needs."""
        self._entries: dict[int, _Entry] = {}
        self._ids = itertools.count()
        self._lock = Lock()
        """Guards state and entries."""
        self._closed = False
        self._alarm: asyncio.TimerHandle | None = None

    async def run(
        self,
        kind: Hashable,
        deadline_s: float,
        work: Callable[[Abort], Result],
        priority: int = DEFAULT_PRIORITY,
        batch: Batch | None = None,
    ) -> tuple[Result, float]:
        """Return what `work` returns, and the seconds that it waited for a worker; callers take turns.

        Args:
            kind: jobs of one kind take the same time.
            deadline_s: on the scheduler's clock; infinite for none. Work that is not done by then is stopped.
            work: runs on a worker thread; it should stop soon after its argument is set.
            priority: of the jobs that wait, those of the smallest number are done first.
            batch: lets it run together with others of its kind; None never does.

        Raises:
            WireError: if the job is refused. What `work` raises is raised too.
        """
        times = batch.times if batch else ALONE
        job = Job(next(self._ids), kind, deadline_s, priority, times=times, caller=present_turn.get().caller)
        now_s = self._clock.now_s()
        may_run_here = self._quick_s > 0 and batch is None and not self._closed
        if may_run_here and admission.is_quick(self.state, job, now_s, self._quick_s):
            return self._do_at_once(kind, work, now_s), 0.0
        entry = _Entry(asyncio.get_running_loop().create_future(), work, Abort(), now_s, batch)
        with self._lock:
            self._entries[job.id] = entry
        self._handle([Arrived(job)])
        try:
            return cast(tuple[Result, float], await entry.waiter)
        except asyncio.CancelledError:
            entry.abort.set()
            self._handle([Cancelled(job.id)])
            raise

    def _do_at_once(self, kind: Hashable, work: Callable[[Abort], Result], began_s: float) -> Result:
        ok = False
        try:
            result = work(Abort())
            ok = True
        finally:
            with self._lock:
                self.state = admission.after_quick(self.state, kind, began_s, self._clock.now_s(), ok)
        return result

    def drain(self) -> None:
        """Refuse every new job; admitted jobs still run."""
        self._handle([Drained()])

    def load(self) -> LoadReport:
        """Return the load of the node now."""
        return admission.load(self.state, self._clock.now_s())

    def close(self) -> None:
        """Abort the jobs that run, refuse those that wait, and release the threads."""
        with self._lock:
            self._closed = True
            queued = [job.id for job in self.state.arriving + self.state.waiting]
            waiting = [self._entries.pop(id) for id in queued if id in self._entries]
            for entry in self._entries.values():
                entry.abort.set()
            self._pool.shutdown(wait=False)
            self._reporter.shutdown(wait=False)
        for entry in waiting:
            self._report(entry.waiter.get_loop(), [_Notice(entry.waiter, _shutdown_error())])

    def _handle(self, events: Sequence[Event] = ()) -> None:
        """Carry out what follows from events. On the event loop."""
        starts, notices = self._advance(events)
        for start in starts:
            self._start(start, asyncio.get_running_loop())
        self._notify(notices)

    def _advance(self, events: Sequence[Event]) -> tuple[list[Start], list[_Notice]]:
        """Apply events (none: time has passed) and the plan that follows from them. On any thread.

        Returns:
            The jobs to start, and the callers to notify of a refusal.
        """
        starts, notices = list[Start](), list[_Notice]()
        with self._lock:
            for event in events:
                self.state = admission.apply(self.state, event)
            running = {run.job.id for run in self.state.running}
            for command in self._plan():
                self.state = admission.apply(self.state, command)
                match command:
                    case Start():
                        starts.append(command)
                    case Refuse(id):
                        notices.append(self._refused(command, id in running))
                    case Admit():
                        pass
            for event in events:
                if isinstance(event, Cancelled) and event.id not in running:
                    self._entries.pop(event.id, None)
        return starts, notices

    def _plan(self) -> Sequence[Command]:
        if not self._closed:
            return admission.plan(self.state, self._clock.now_s())
        return [Refuse(job.id, "draining", 0.0) for job in self.state.arriving if job.id in self._entries]

    def _start(self, start: Start, loop: asyncio.AbstractEventLoop) -> None:
        """Give jobs to a worker, unless the scheduler was closed since the plan."""
        with self._lock:
            if not self._closed:
                self._pool.submit(self._work, start, loop)
                return
            entries = [self._entries.pop(id) for id in start.ids]
        self._report(loop, [_Notice(entry.waiter, _shutdown_error()) for entry in entries])

    def _notify(self, notices: Sequence[_Notice]) -> None:
        """Give callers their outcomes, and set the alarm for the next deadline in the queue. On the event loop."""
        for waiter, outcome, abort in notices:
            if abort is not None:
                abort.set()
            if waiter.done():
                continue
            if isinstance(outcome, BaseException):
                waiter.set_exception(outcome)
            else:
                waiter.set_result(outcome)
        if self._alarm is not None:
            self._alarm.cancel()
        due_s, loop = admission.wake_s(self.state), asyncio.get_running_loop()
        wait_s = due_s - self._clock.now_s()
        self._alarm = loop.call_later(wait_s, self._handle) if due_s < float("inf") else None

    def _work(self, start: Start | None, loop: asyncio.AbstractEventLoop) -> None:
        """Do a job, and then the next one, until none is left. On a worker."""
        while start is not None:
            entries = [self._entries[id] for id in start.ids]
            outcomes, now_s = self._outcomes(entries, start), self._clock.now_s()
            ended = [_ended(id, now_s, outcome) for id, outcome in zip(start.ids, outcomes, strict=True)]
            starts, notices = self._advance(ended)
            done, start = start, starts[0] if starts else None
            for other in starts[1:]:
                self._start(other, loop)
            own = [_Notice(entry.waiter, outcome) for entry, outcome in zip(entries, outcomes, strict=True)]
            report = partial(self._report, loop, [*own, *notices])
            with self._lock:
                for id in done.ids:
                    self._entries.pop(id, None)
                if start is not None and not self._closed:
                    self._reporter.submit(report)
                    continue
            report()

    def _outcomes(self, entries: Sequence[_Entry], start: Start) -> list[tuple[object, float] | BaseException]:
        """Return for each job its result with the wait for a worker, or the error."""
        first = entries[0]
        try:
            if self._closed:
                raise _shutdown_error()
            if len(entries) == 1 or first.batch is None:
                results: Sequence[object] = [first.work(first.abort)]
            else:
                items = [entry.batch.item for entry in entries if entry.batch is not None]
                results = first.batch.run(items, [entry.abort for entry in entries])
        except BaseException as error:
            return [error] * len(entries)
        return [
            result if isinstance(result, BaseException) else (result, start.now_s - entry.arrived_s)
            for result, entry in zip(results, entries, strict=True)
        ]

    def _report(self, loop: asyncio.AbstractEventLoop, notices: Sequence[_Notice]) -> None:
        with suppress(RuntimeError):  # the loop is closed: nobody waits any more
            loop.call_soon_threadsafe(self._notify, notices)

    def _refused(self, refuse: Refuse, is_running: bool) -> _Notice:
        """Return what the caller of a refused job gets; a worker still needs the entry of one that runs."""
        entry = self._entries[refuse.id] if is_running else self._entries.pop(refuse.id)
        return _Notice(entry.waiter, self._refusal(refuse), entry.abort if is_running else None)

    def _refusal(self, refuse: Refuse) -> WireError:
        pushback_s = refuse.pushback_s if refuse.reason == "queue_full" else None
        text = {
            "queue_full": f"the queue is full ({self.state.queue} wait); try another node, or again in "
            f"{refuse.pushback_s:.3f} s",
            "hopeless": "the deadline cannot be met here any more",
            "expired": "the deadline has passed",
            "draining": SHUTTING_DOWN,
        }[refuse.reason]
        return WireError(admission.CODES[refuse.reason], text, refuse.reason, pushback_s)


def _ended(id: int, now_s: float, outcome: object) -> Ended:
    too_late = getattr(outcome, "reason", "") == "hopeless"  # as devices refuse
    return Ended(id, now_s, not isinstance(outcome, BaseException), too_late)


def _shutdown_error() -> WireError:
    return WireError(admission.CODES["draining"], SHUTTING_DOWN, "draining")
