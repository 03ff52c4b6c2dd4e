"""Threads that wait for replies."""

from collections.abc import Callable
from queue import SimpleQueue
from threading import Lock, Thread

MAX_IDLE = 16
"""Idle threads that are kept for the next calls."""


class ReplyThreads:
    """Runs jobs at once, each on a thread of its own; threads that are done wait for the next job.

    They are daemons, so that a reply that never comes keeps no process from ending.
    """

    def __init__(self) -> None:
        self._jobs: SimpleQueue[Callable[[], object] | None] = SimpleQueue()
        self._idle = 0
        self._lock = Lock()

    def run(self, job: Callable[[], object]) -> None:
        """Run a job on another thread.

        Args:
            job: must not raise.
        """
        with self._lock:
            is_found = self._idle > 0
            self._idle -= is_found
        if is_found:
            self._jobs.put(job)
        else:
            Thread(target=self._work, args=(job,), name="coinfer-reply", daemon=True).start()

    def close(self) -> None:
        """End the idle threads."""
        with self._lock:
            idle, self._idle = self._idle, 0
        for _ in range(idle):
            self._jobs.put(None)

    def _work(self, job: Callable[[], object] | None) -> None:
        while job is not None:
            job()
            with self._lock:
                if self._idle >= MAX_IDLE:
                    return
                self._idle += 1
            job = self._jobs.get()
