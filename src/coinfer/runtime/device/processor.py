"""The device's own processor: one piece of work after another, with a backlog that the planner sees."""

import threading
from collections.abc import Mapping
from concurrent.futures import Future, ThreadPoolExecutor

import numpy as np

from coinfer.runtime.executor import Abort, Executor

SCALE_GAIN = 0.2
"""Weight of the newest run in the processor's speed."""
BELIEVABLE = (0.2, 5.0)
"""A run outside this range of what was expected says little of the next one."""


class Processor:
    """Runs segments in the order of asking.

    Args:
        scale: first guess of how many times slower than the profiled machine it is; runs correct it.
    """

    def __init__(self, executor: Executor, scale: float):
        self.scale = scale
        self.backlog_s = 0.0
        self._executor = executor
        self._lock = threading.Lock()
        self._pool = ThreadPoolExecutor(1, "coinfer-processor")

    def submit(
        self,
        tensors: Mapping[str, np.ndarray],
        outputs: tuple[str, ...],
        profiled_s: float,
        abort: Abort | None = None,
    ) -> Future[dict[str, np.ndarray]]:
        """Queues a segment that takes `profiled_s` on the profiled machine; `abort` stops it."""
        expected_s = profiled_s * self.scale
        with self._lock:
            self.backlog_s += expected_s
        return self._pool.submit(self._run, dict(tensors), outputs, expected_s, abort)

    def close(self) -> None:
        """Finishes what was queued."""
        self._pool.shutdown(wait=True)

    def _run(
        self, tensors: dict[str, np.ndarray], outputs: tuple[str, ...], expected_s: float, abort: Abort | None
    ) -> dict[str, np.ndarray]:
        try:
            computed, took_s = self._executor.run(tensors, outputs, abort)
        finally:
            with self._lock:
                self.backlog_s = max(self.backlog_s - expected_s, 0.0)
        if expected_s > 0 and not (abort and abort.event.is_set()):
            low, high = BELIEVABLE
            self.scale *= 1 + SCALE_GAIN * (min(max(took_s / expected_s, low), high) - 1)
        return computed
