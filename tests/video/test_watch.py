"""The newest frame wins: what a slow network misses is counted, and every frame is accounted for."""

import itertools
import threading
import time
from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from coinfer.runtime.device.admission import RefusedError
from coinfer.runtime.images import ImageError
from coinfer.video.newest import NewestFrame
from coinfer.video.sources import Frame, Source, SourceError
from coinfer.video.watch import Summary, WatchedFrame, Watcher

PICTURE = np.zeros((2, 2, 3), np.uint8)
INF = float("inf")


def frame(number: int) -> Frame:
    return Frame(number / 10, lambda: PICTURE)


def live(frames: Iterator[Frame]) -> Source:
    return Source("test", 10.0, True, frames)


class FakeDevice:
    """Answers when it is told to, or refuses."""

    def __init__(self, *refused: int, block: bool = False):
        self.go, self.asked, self.deadlines_s = threading.Semaphore(0), threading.Semaphore(0), list[float]()
        self._count, self._refused, self._block = itertools.count(), refused, block

    def infer(self, picture: np.ndarray, *, deadline_s: float, abort: Any) -> Any:
        number = next(self._count)
        self.deadlines_s.append(deadline_s)
        self.asked.release()
        if self._block:
            abort.on_set(self.go.release)
            self.go.acquire()
        if number in self._refused:
            raise RefusedError("late", "hopeless", 0.1)
        return SimpleNamespace(sent_bits=80.0, fallback="", executed_on="device")


def watch(device: Any, source: Source, **settings: Any) -> tuple[Watcher, list[WatchedFrame]]:
    answers: list[WatchedFrame] = []
    return Watcher(device, source, answers.append, **{"deadline_s": INF, "concurrency": 1, **settings}), answers


def assert_all_accounted_for(summary: Summary) -> None:
    assert summary.seen == summary.answered + summary.replaced + summary.late + summary.unreadable


def test_a_slow_device_gets_the_newest_frame_and_the_others_are_counted():
    device = FakeDevice(block=True)

    def frames() -> Iterator[Frame]:
        yield frame(0)
        device.asked.acquire()  # the first is under way
        yield from map(frame, range(1, 6))
        device.go.release()
        device.asked.acquire()  # the newest of the others is under way
        device.go.release()
        yield frame(6)
        device.asked.acquire()
        device.go.release()

    watcher, answers = watch(device, live(frames()))
    summary = watcher.run()
    assert [answer.number for answer in answers] == [0, 5, 6]
    assert (summary.seen, summary.answered, summary.replaced, summary.late) == (7, 3, 4, 0)
    assert answers[0].behind >= 1
    assert summary.nodes == {"device": 3}
    assert summary.sent_bits == 240
    assert_all_accounted_for(summary)


def test_what_the_device_refuses_is_late_and_damaged_frames_are_told_apart():
    def damaged() -> np.ndarray:
        raise ImageError("damaged")

    frames = [frame(0), frame(1), Frame(0.2, damaged), frame(3)]
    watcher, answers = watch(FakeDevice(1), live(iter(frames)), keep_all=True, deadline_s=100.0)
    summary = watcher.run()
    assert [answer.number for answer in answers] == [0, 3]
    assert (summary.late, summary.unreadable) == (1, 1)
    assert_all_accounted_for(summary)


def test_a_frame_that_has_grown_old_is_not_asked_for():
    device = FakeDevice()
    watcher, answers = watch(device, live(map(frame, range(3))), keep_all=True, deadline_s=1e-9)
    summary = watcher.run()
    assert (summary.late, answers, device.deadlines_s) == (3, [], [])


def test_all_frames_of_a_file_are_answered_if_it_need_not_keep_pace():
    watcher, answers = watch(
        FakeDevice(), Source("file", 10.0, False, map(frame, range(50))), keep_all=True, concurrency=3
    )
    summary = watcher.run()
    assert sorted(answer.number for answer in answers) == list(range(50))
    assert (summary.skipped, summary.seen) == (0, 50)


def test_a_file_keeps_its_own_pace():
    began_s = time.monotonic()
    watcher, answers = watch(FakeDevice(), Source("file", 10.0, False, map(frame, range(4))))
    watcher.run()
    assert time.monotonic() - began_s >= 0.3
    assert answers[-1].number == 3


def test_a_video_that_breaks_off_is_an_error_after_what_was_answered():
    def frames() -> Iterator[Frame]:
        yield frame(0)
        raise SourceError("test: broke off")

    device = FakeDevice()
    watcher, _ = watch(device, live(frames()), keep_all=True)
    with pytest.raises(SourceError, match="broke off"):
        watcher.run()
    assert watcher.summary.seen == 1


def test_an_error_of_the_device_ends_the_watch():
    class Broken(FakeDevice):
        def infer(self, picture: np.ndarray, *, deadline_s: float, abort: Any) -> Any:
            raise RuntimeError("broken")

    watcher, _ = watch(Broken(), live(map(frame, itertools.count())), keep_all=True)
    with pytest.raises(RuntimeError, match="broken"):
        watcher.run()


def test_an_interrupt_gives_up_what_is_under_way(monkeypatch: pytest.MonkeyPatch):
    device = FakeDevice(block=True)
    watcher, _ = watch(device, live(map(frame, itertools.count())), keep_all=True)
    join = threading.Thread.join

    def interrupt(thread: threading.Thread, timeout: float | None = None) -> None:
        if timeout is None:
            return join(thread)
        device.asked.acquire()
        monkeypatch.setattr(threading.Thread, "join", join)
        raise KeyboardInterrupt

    monkeypatch.setattr(threading.Thread, "join", interrupt)
    with pytest.raises(KeyboardInterrupt):
        watcher.run()
    assert threading.active_count() < 20
    assert watcher.summary.seen >= 1


def test_the_place_for_the_newest_frame():
    newest = NewestFrame()
    for number in range(3):
        newest.put(frame(number), float(number))
    taken = newest.take()
    assert taken is not None
    assert (taken.number, taken.arrived_s) == (2, 2.0)
    newest.put(frame(3), 3.0)
    newest.end()
    assert newest.take() is not None
    assert newest.take() is None
    assert (newest.seen, newest.replaced) == (4, 2)


def test_quantiles_of_nothing_are_no_number():
    assert np.isnan(Summary().quantile_s(0.5))
