"""Learning curves for TensorBoard, if it is installed."""

import math
import warnings
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING

from coinfer.rl.core.loop import Point

if TYPE_CHECKING:
    from torch.utils.tensorboard.writer import SummaryWriter as Writer


class EventWriter:
    """A writer of TensorBoard events; does nothing without a folder or without TensorBoard.

    A resumed run writes its points again from the first, and older event files are removed.

    Args:
        folder: the run's folder; events go into `events/` there. None to write nothing.
    """

    def __init__(self, folder: Path | None):
        self._writer: Writer | None = None
        if folder is None:
            return
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                from torch.utils.tensorboard.writer import SummaryWriter
        except ModuleNotFoundError:
            return
        events = folder / "events"
        for old in events.glob("events.*"):
            old.unlink()
        self._writer = SummaryWriter(str(events))

    def add(self, point: Point, group: str = "") -> None:
        """Write a point: the mean and, for several learners, the least and the greatest of every figure.

        Args:
            point: one value of each figure for each learner.
            group: first part of the names, which are `group/figure/statistic`; empty for none.
        """
        if self._writer is None:
            return
        for name, values in point.figures.items():
            statistics = {"mean": math.fsum(values) / len(values)}
            if len(values) > 1:
                statistics |= {"least": min(values), "greatest": max(values)}
            for kind, value in statistics.items():
                self._writer.add_scalar(f"{group}{'/' * bool(group)}{name}/{kind}", value, point.round)

    def __enter__(self) -> "EventWriter":
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None):
        if self._writer is not None:
            self._writer.close()
