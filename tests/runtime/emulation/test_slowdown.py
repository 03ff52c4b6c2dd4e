"""The emulated slow processor takes its factor longer, whatever the first run cost."""

from types import SimpleNamespace

import pytest

from coinfer.runtime.emulation import slowdown as slow
from coinfer.runtime.emulation.slowdown import emulate_slowdown


class Work:
    """Takes the given seconds of a clock of its own, run by run."""

    def __init__(self, *took_s: float):
        self.took_s, self.now_s, self.runs = took_s, 0.0, 0
        self.slept_s: list[float] = []

    def __call__(self) -> int:
        self.now_s += self.took_s[self.runs]
        self.runs += 1
        return self.runs

    def slowed(self, slowdown: float) -> tuple[int, float]:
        return emulate_slowdown(self, slowdown, lambda: self.now_s, self.sleep)

    def sleep(self, duration_s: float) -> None:
        self.slept_s.append(duration_s)
        self.now_s += duration_s


@pytest.fixture
def work(monkeypatch: pytest.MonkeyPatch, took_s: tuple[float, ...]) -> Work:
    """Its clock is the wall's, too."""
    work = Work(*took_s)
    monkeypatch.setattr(slow, "time", SimpleNamespace(perf_counter=lambda: work.now_s))
    return work


@pytest.mark.parametrize(
    ("took_s", "slowdown", "runs", "wanted_s"),
    [
        ((0.004, 0.001, 0.001, 0.003), 20.0, 4, 0.02),  # cold caches and a disturbance count once, not twenty times
        ((0.001, 0.0015, 0.0015, 0.0015), 4.0, 2, 0.006),  # so often as there is time
        ((0.001,), 3.0, 1, 0.003),  # no time for a second run
        ((0.033, *[0.001] * 3), 1000.0, 4, 1.0),  # nor is a long disturbance multiplied, where a run more costs little
        ((0.5,), 10.0, 1, 5.0),  # cold caches do not matter
    ],
)
def test_sleeps_until_the_slow_processor_is_done(work: Work, took_s, slowdown, runs, wanted_s):
    assert work.slowed(slowdown) == (1, pytest.approx(wanted_s)), "the first run's answer"
    assert work.runs == runs
    assert work.slept_s == [pytest.approx(wanted_s - sum(took_s[:runs]))]


@pytest.mark.parametrize("took_s", [(0.001,)])
def test_this_processor_does_not_sleep(work: Work):
    assert work.slowed(1.0) == (1, pytest.approx(0.001))
    assert (work.runs, work.slept_s) == (1, [])
