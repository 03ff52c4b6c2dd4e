"""Answer the frames of a video with a device.

A reader puts frames into the one place for the newest, at the video's own pace, and a few threads take them from there
and ask the device. What the device refuses because it would be late is left out, and so is what grew old before anybody
was free for it.
"""

import threading
from array import array
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np

from coinfer.runtime.clock import Clock, WallClock
from coinfer.runtime.device.admission import RefusedError
from coinfer.runtime.device.device import Device
from coinfer.runtime.device.result import Result
from coinfer.runtime.executor import Abort
from coinfer.runtime.images import ImageError
from coinfer.video.newest import Arrived, NewestFrame
from coinfer.video.sources import Source

CONCURRENCY = 2
"""Frames that are under way at the same time: while one is at a server, the device begins with the next."""
FRAMES_OF_DEADLINE = 2
"""The answer of a frame should come before the second frame after it, so that it is at most one frame behind."""


class WatchedFrame(NamedTuple):
    """A frame with its answer."""

    number: int
    """From 0, of all frames of the source."""
    at_s: float
    """When it is due, from the first frame on."""
    picture: np.ndarray
    """uint8 [height, width, 3] RGB."""
    result: Result
    latency_s: float
    """From its arrival to its answer."""
    behind: int
    """Newer frames that had come in by then."""
    in_time: bool
    """Whether the deadline was met, which counts from its arrival."""


@dataclass
class Summary:
    """What became of the frames; seen = answered + replaced + late + unreadable + under way."""

    seen: int = 0
    """Frames that came in."""
    answered: int = 0
    in_time: int = 0
    """Answered within the deadline."""
    replaced: int = 0
    """Skipped for a newer one."""
    late: int = 0
    """Skipped because their answers would have been late."""
    unreadable: int = 0
    """Skipped because the frame itself was damaged."""
    sent_bits: float = 0.0
    fallbacks: int = 0
    """Answers for which a server was asked in vain."""
    latencies_s: "array[float]" = field(default_factory=lambda: array("d"))
    """Of each answered frame, in the order of the answers."""
    behind: Counter[int] = field(default_factory=Counter)
    """Answered frames by how many frames they were behind."""
    nodes: Counter[str] = field(default_factory=Counter)
    """Answered frames by the node that gave the answer."""

    def quantile_s(self, share: float) -> float:
        """Return a quantile of the latency; NaN if nothing was answered.

        Args:
            share: 0 to 1.
        """
        return float(np.quantile(self.latencies_s, share)) if self.latencies_s else float("nan")

    @property
    def skipped(self) -> int:
        """Return how many frames have no answer on purpose."""
        return self.replaced + self.late


class Watcher:
    """Answers one video; used once.

    Args:
        device: open; it should refuse what would be late (`DeviceConfig.refuse_late`).
        source: open.
        on_answer: called with each answered frame, by one thread at a time, in the order of the answers.
        deadline_s: from a frame's arrival to its answer; infinity for none.
        concurrency: frames that are under way at the same time.
        keep_all: answer every frame as fast as possible, instead of the newest at the video's own pace.
        clock: None takes the wall clock.
    """

    def __init__(
        self,
        device: Device,
        source: Source,
        on_answer: Callable[[WatchedFrame], None],
        *,
        deadline_s: float,
        concurrency: int = CONCURRENCY,
        keep_all: bool = False,
        clock: Clock | None = None,
    ):
        self.summary = Summary()
        self._device, self._source, self._on_answer = device, source, on_answer
        self._deadline_s, self._paced = deadline_s, not (keep_all or source.is_live)
        self._clock = clock or WallClock()
        self._newest = NewestFrame(keep_all=keep_all)
        self._stop, self._lock = threading.Event(), threading.Lock()
        self._under_way: set[Abort] = set()
        self._error: BaseException | None = None
        self._reader = threading.Thread(target=self._guarded, args=(self._read,), name="coinfer-frames", daemon=True)
        self._workers = [
            threading.Thread(target=self._guarded, args=(self._answer_all,), name="coinfer-watch", daemon=True)
            for _ in range(concurrency)
        ]

    def run(self) -> Summary:
        """Watch until the video ends or a person interrupts; return what became of the frames.

        Raises:
            SourceError: if the video broke off; `summary` holds what became of the frames before.
            UserError: if the frames do not fit the network.
            KeyboardInterrupt: the person's; requests that were under way are given up.
        """
        for thread in (self._reader, *self._workers):
            thread.start()
        try:
            for thread in (self._reader, *self._workers):
                while thread.is_alive():
                    thread.join(0.2)  # so that an interrupt comes through on every platform
        finally:
            self._end()
        if self._error is not None:
            raise self._error
        return self.summary

    def _end(self) -> None:
        """Stop all threads; a source must not be closed while one reads it."""
        self._stop.set()
        self._newest.discard()
        with self._lock:
            for abort in self._under_way:
                abort.set()
        for thread in (self._reader, *self._workers):
            thread.join()
        self.summary.seen, self.summary.replaced = self._newest.seen, self._newest.replaced

    def _guarded(self, work: Callable[[], None]) -> None:
        """Run a thread's work; the first error of any ends all, except those of giving up."""
        try:
            work()
        except BaseException as error:
            if not self._stop.is_set():
                self._error = self._error or error
            self._stop.set()
            self._newest.discard()

    def _read(self) -> None:
        began_s = self._clock.now_s()
        for frame in self._source.frames:
            if self._paced:
                self._clock.sleep(began_s + frame.at_s - self._clock.now_s(), self._stop)
            if self._stop.is_set():
                return
            self._newest.put(frame, self._clock.now_s())
            self.summary.seen = self._newest.seen
        self._newest.end()

    def _answer_all(self) -> None:
        while (arrived := self._newest.take()) is not None:
            self._answer(arrived)

    def _answer(self, arrived: Arrived) -> None:
        left_s = self._deadline_s - (self._clock.now_s() - arrived.arrived_s)
        if left_s <= 0:
            return self._count("late")
        abort = Abort()
        with self._lock:
            if self._stop.is_set():
                return
            self._under_way.add(abort)
        try:
            picture = arrived.frame.picture()
            result = self._device.infer(picture, deadline_s=left_s, abort=abort)
        except RefusedError:
            return self._count("late")
        except ImageError:
            return self._count("unreadable")
        finally:
            with self._lock:
                self._under_way.discard(abort)
        with self._lock:
            self._note(arrived, picture, result)

    def _note(self, arrived: Arrived, picture: np.ndarray, result: Result) -> None:
        latency_s, summary = self._clock.now_s() - arrived.arrived_s, self.summary
        behind, in_time = self._newest.seen - 1 - arrived.number, latency_s <= self._deadline_s
        summary.answered += 1
        summary.in_time += in_time
        summary.replaced = self._newest.replaced
        summary.sent_bits += result.sent_bits
        summary.fallbacks += bool(result.fallback)
        summary.latencies_s.append(latency_s)
        summary.behind[behind] += 1
        summary.nodes[result.executed_on] += 1
        self._on_answer(WatchedFrame(arrived.number, arrived.frame.at_s, picture, result, latency_s, behind, in_time))

    def _count(self, what: str) -> None:
        with self._lock:
            setattr(self.summary, what, getattr(self.summary, what) + 1)
