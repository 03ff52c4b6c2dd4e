"""The device's own processor: it runs one segment after another, with a backlog that the planner sees."""

from collections.abc import Callable, Mapping

import numpy as np

from coinfer.options.table import Names
from coinfer.runtime.device.planning.sized import Sizes
from coinfer.runtime.device.processor_queue import ProcessorQueue, Run
from coinfer.runtime.executor import Abort, Executor
from coinfer.runtime.turns import Turn

SCALE_GAIN = 0.2
"""Weight of the newest run in the estimated speed."""
RATIO_RANGE = (0.2, 5.0)
"""Measured over expected time is clipped to this range; a run outside it says little about the next one."""
MAX_SCALES = 64
"""Sizes of requests whose speed is kept; the one that was not used for longest is forgotten."""
Tensors = Mapping[str, np.ndarray]


class Processor:
    """Runs the segments of a network, as a queue says.

    Args:
        executor: computes segments.
        profiled_s: from a segment's inputs, its outputs and the request's sizes to its time on the profiled machine.
        scale: first guess of the device's time over the profiled machine's; runs correct it.
        queue: shared with other networks; None takes one of its own, which `close` closes.
    """

    def __init__(
        self,
        executor: Executor,
        profiled_s: Callable[[Names, Names, Sizes], float],
        scale: float,
        queue: ProcessorQueue | None = None,
    ):
        self.scale = scale
        """Time of a single small request over the profiled machine's."""
        self._scales: dict[Sizes, float] = {}
        self._executor = executor
        self._profiled_s = profiled_s
        self._queue = queue or ProcessorQueue()
        self._owns_queue = queue is None

    @property
    def backlog_s(self) -> float:
        """Return the expected time of what waits or runs, that of other networks on this processor included."""
        return self._queue.backlog_s

    def wait_s(self) -> float:
        """Return the expected time of what runs before a segment that the present caller submits now."""
        return self._queue.wait_s()

    def scale_at(self, sizes: Sizes) -> float:
        """Return the time of requests of some size over the profiled machine's; runs of each size correct their own.

        Args:
            sizes: of the request.
        """
        return self._scales.get(sizes, self.scale)

    def submit(
        self,
        tensors: Tensors,
        outputs: Names,
        abort: Abort | None = None,
        sizes: Sizes = (),
        check: Callable[[float], None] = lambda expected_s: None,
        *,
        here: bool = False,
    ) -> Run:
        """Queue a segment.

        Args:
            tensors: the segment's inputs by name.
            outputs: names of the tensors to compute; if `tensors` has them all, nothing is queued.
            abort: stops the run.
            sizes: of the request.
            check: called with the expected time when the segment's turn has come; nothing runs if it raises.
            here: the caller would only wait for it, and may compute it (`ProcessorQueue.submit`).

        Returns:
            A future of the outputs by name. It raises `RequestError` if the outputs do not follow from the inputs,
            `WireError` if the run was aborted, and what `check` raises.
        """
        if set(outputs) <= set(tensors):
            result = Run(dict, 0.0, Turn())
            result.set_result({name: tensors[name] for name in outputs})
            return result
        expected_s, tensors = self._profiled_s(tuple(tensors), outputs, sizes) * self.scale_at(sizes), dict(tensors)

        def compute() -> dict[str, np.ndarray]:
            check(expected_s)
            return self._run(tensors, outputs, expected_s, abort, sizes)

        return self._queue.submit(compute, expected_s, abort, here=here)

    def close(self) -> None:
        """Finish what is queued, and stop the thread, unless others share it."""
        if self._owns_queue:
            self._queue.close()

    def _run(
        self, tensors: Tensors, outputs: Names, expected_s: float, abort: Abort | None, sizes: Sizes
    ) -> dict[str, np.ndarray]:
        computed, took_s = self._executor.run(tensors, outputs, abort)
        if expected_s > 0 and not (abort and abort.event.is_set()):
            self._learn(sizes, scale_factor(took_s / expected_s))
        return computed

    def _learn(self, sizes: Sizes, factor: float) -> None:
        """Correct the estimated speed; of requests of other sizes than the single small one, only their own."""
        if not sizes:
            self.scale *= factor
            return
        self._scales[sizes] = self._scales.pop(sizes, self.scale) * factor
        if len(self._scales) > MAX_SCALES:
            del self._scales[next(iter(self._scales))]


def scale_factor(ratio: float) -> float:
    """Return the factor by which a run corrects the estimated speed of the device.

    Args:
        ratio: of the measured time to the expected one.
    """
    low, high = RATIO_RANGE
    return 1 + SCALE_GAIN * (min(max(ratio, low), high) - 1)
