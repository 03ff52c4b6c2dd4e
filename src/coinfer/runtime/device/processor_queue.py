"""What waits for the processor of a machine: its callers take turns."""

import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from itertools import takewhile

import numpy as np

from coinfer.runtime.executor import Abort
from coinfer.runtime.protocol.messages import WireError
from coinfer.runtime.turns import Turn, in_turn, present_turn

Outputs = dict[str, np.ndarray]


class Run(Future[Outputs]):
    """A segment that waits for the processor or runs on it.

    Args:
        compute: computes it.
        expected_s: how long that is expected to take.
        turn: whose it is.
    """

    def __init__(self, compute: Callable[[], Outputs], expected_s: float, turn: Turn):
        super().__init__()
        self.expected_s = expected_s
        self.caller, self.priority = turn
        self.waited_s = 0.0
        """From its arrival to its start."""
        self.is_overtaken = False
        """Whether one that came later had its turn before."""
        self._compute = compute
        self._came_s = time.monotonic()

    def carry_out(self) -> None:
        """Compute it, unless it was cancelled."""
        self.waited_s = time.monotonic() - self._came_s
        if self.set_running_or_notify_cancel():
            try:
                self.set_result(self._compute())
            except BaseException as error:
                self.set_exception(error)


class ProcessorQueue:
    """What waits for the processor of a machine; the devices of a process that share it serve several networks.

    Segments run one after the other: by priority, then those of each caller in turn (`turns.in_turn`).
    """

    def __init__(self) -> None:
        self._waiting: tuple[Run, ...] = ()
        """In turn."""
        self._running: Run | None = None
        self._lock = threading.Lock()
        self._computes = threading.Lock()
        """Held by the thread that computes."""
        self._pool = ThreadPoolExecutor(1, "coinfer-processor")

    @property
    def backlog_s(self) -> float:
        """Return the expected time of all that waits or runs."""
        with self._lock:
            return self._expected_s(self._waiting)

    def wait_s(self) -> float:
        """Return the expected time of what runs before a segment that the present caller submits now."""
        new = Run(dict, 0.0, present_turn.get())
        with self._lock:
            return self._expected_s(list(takewhile(lambda run: run is not new, in_turn((*self._waiting, new)))))

    def submit(
        self, compute: Callable[[], Outputs], expected_s: float, abort: Abort | None, *, here: bool = False
    ) -> Run:
        """Queue a segment of the present caller.

        Args:
            compute: computes it.
            expected_s: how long that is expected to take.
            abort: ends its wait.
            here: the caller would only wait for it. If nobody else uses the processor this thread computes it then, as
                to wake another one and to be woken by it takes long on a busy machine.
        """
        run = Run(compute, expected_s, present_turn.get())
        with self._lock:
            if here and not self._waiting and self._computes.acquire(blocking=False):
                self._running = run
            else:
                here = False
                self._queue(run)
        if here:
            self._carry_out(run)
        elif abort is not None:
            abort.on_set(lambda: self._give_up(run))
        return run

    def close(self) -> None:
        """Finish what is queued, and stop the thread."""
        self._pool.shutdown(wait=True)
        with self._computes:
            pass

    def _queue(self, run: Run) -> None:
        self._pool.submit(self._next)
        self._waiting = in_turn((*self._waiting, run))
        for later in takewhile(lambda other: other is not run, reversed(self._waiting)):
            later.is_overtaken = True

    def _next(self) -> None:
        """Run what comes next. On the processor's thread, once for each segment that was queued."""
        self._computes.acquire()
        with self._lock:
            run, *rest = self._waiting or (None,)
            self._running, self._waiting = run, tuple(rest)
        self._carry_out(run)

    def _carry_out(self, run: Run | None) -> None:
        try:
            if run is not None:
                run.carry_out()
        finally:
            self._running = None
            self._computes.release()

    def _give_up(self, run: Run) -> None:
        with self._lock:
            if run not in self._waiting:
                return
            self._waiting = tuple(other for other in self._waiting if other is not run)
        run.set_exception(WireError("CANCELLED", "the caller gave up", "cancelled"))

    def _expected_s(self, waiting: Sequence[Run]) -> float:
        running = self._running
        return sum(run.expected_s for run in waiting) + (running.expected_s if running else 0.0)
