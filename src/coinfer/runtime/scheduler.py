"""Carries out what the node's pure core decides, on worker threads. Lives on one event loop."""

import asyncio
import itertools
from collections.abc import Callable, Hashable
from concurrent.futures import ThreadPoolExecutor
from typing import Any, NamedTuple

from coinfer.runtime import node
from coinfer.runtime.clock import Clock
from coinfer.runtime.executor import Abort
from coinfer.runtime.messages import LoadReport, WireError
from coinfer.runtime.node import Arrived, Cancelled, Drained, Ended, Job, NodeState, Refuse, Start


class _Entry(NamedTuple):
    waiter: asyncio.Future[Any]
    work: Callable[[Abort], Any]
    abort: Abort
    arrived_s: float


class Scheduler:
    """Admission, queue and workers.

    Args:
        workers: jobs at a time.
        queue: jobs that may wait.
    """

    def __init__(self, workers: int, queue: int, clock: Clock):
        self.state = NodeState(workers, queue)
        self._clock = clock
        self._pool = ThreadPoolExecutor(workers, "coinfer-worker")
        self._entries: dict[int, _Entry] = {}
        self._ids = itertools.count()
        self._alarm: asyncio.TimerHandle | None = None

    async def run(self, kind: Hashable, deadline_s: float, work: Callable[[Abort], Any]) -> tuple[Any, float]:
        """What `work` returns, and the seconds that it waited for a worker.

        Args:
            kind: jobs of a kind take the same time.
            deadline_s: on the scheduler's clock.

        Raises:
            WireError: where the job is refused; and whatever `work` raises.
        """
        job = Job(next(self._ids), kind, deadline_s)
        waiter = asyncio.get_running_loop().create_future()
        self._entries[job.id] = _Entry(waiter, work, Abort(), self._clock.now_s())
        self.state = node.apply(self.state, Arrived(job))
        self._step()
        try:
            return await waiter
        except asyncio.CancelledError:
            self._entries[job.id].abort.set() if job.id in self._entries else None
            self.state = node.apply(self.state, Cancelled(job.id))
            if all(run.job.id != job.id for run in self.state.running):
                self._entries.pop(job.id, None)
            self._step()
            raise

    def drain(self) -> None:
        """Admits nothing more."""
        self.state = node.apply(self.state, Drained())
        self._step()

    def load(self) -> LoadReport:
        return node.load(self.state, self._clock.now_s())

    def close(self) -> None:
        """Stops what still runs."""
        for entry in self._entries.values():
            entry.abort.set()
        self._pool.shutdown(wait=False, cancel_futures=True)

    def _step(self) -> None:
        """Carries out the plan and sets the alarm for the next deadline in the queue."""
        now_s = self._clock.now_s()
        for command in node.plan(self.state, now_s):
            self.state = node.apply(self.state, command)
            match command:
                case Start(id, started_s):
                    self._start(id, started_s)
                case Refuse(id):
                    entry = self._entries.pop(id)
                    if not entry.waiter.done():
                        entry.waiter.set_exception(self._refusal(command))
        if self._alarm is not None:
            self._alarm.cancel()
        due_s = node.wake_s(self.state)
        loop = asyncio.get_running_loop()
        self._alarm = loop.call_later(due_s - now_s, self._step) if due_s < float("inf") else None

    def _start(self, id: int, started_s: float) -> None:
        entry = self._entries[id]
        running = asyncio.get_running_loop().run_in_executor(self._pool, entry.work, entry.abort)
        running.add_done_callback(lambda done: self._end(id, started_s - entry.arrived_s, done))

    def _end(self, id: int, queue_s: float, done: asyncio.Future[Any]) -> None:
        entry = self._entries.pop(id)
        error = done.exception()
        self.state = node.apply(self.state, Ended(id, self._clock.now_s(), ok=error is None))
        if not entry.waiter.done():
            if error is not None:
                entry.waiter.set_exception(error)
            else:
                entry.waiter.set_result((done.result(), queue_s))
        self._step()

    def _refusal(self, refuse: Refuse) -> WireError:
        pushback_s = refuse.pushback_s if refuse.reason == "queue_full" else None
        text = {
            "queue_full": f"the queue is full ({self.state.queue} wait); try another node, or again in "
            f"{refuse.pushback_s:.3f} s",
            "hopeless": "the deadline cannot be met here any more",
            "expired": "the deadline passed before a worker was free",
            "draining": "this node is shutting down; use another",
        }[refuse.reason]
        return WireError(node.CODES[refuse.reason], text, refuse.reason, pushback_s)
