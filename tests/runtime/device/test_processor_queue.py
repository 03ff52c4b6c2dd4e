"""Callers take turns for the device's processor, and what comes too late gives way."""

import threading
from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from coinfer.runtime.device.admission import Promises, RefusedError, check_turn
from coinfer.runtime.device.processor_queue import ProcessorQueue, Run
from coinfer.runtime.executor import Abort
from coinfer.runtime.margin import FIRST_MARGIN, SAFETY_FACTOR
from coinfer.runtime.protocol.messages import WireError
from coinfer.runtime.turns import Turn, present_turn
from coinfer.types import DEVICE


class Busy:
    """A processor that is held until `finish`, and what has run on it."""

    def __init__(self) -> None:
        self.queue, self.ran, self._gate = ProcessorQueue(), list[str](), threading.Event()
        started = threading.Event()

        def hold() -> dict[str, np.ndarray]:
            started.set()
            assert self._gate.wait(60)
            return {}

        self.queue.submit(hold, 1.0, None)
        assert started.wait(60)

    def submit(self, name: str, caller: str, priority: int = 10, abort: Abort | None = None) -> Run:
        def compute() -> dict[str, np.ndarray]:
            self.ran.append(name)
            return {}

        with present_caller(caller, priority):
            return self.queue.submit(compute, 1.0, abort)

    def wait_s(self, caller: str) -> float:
        with present_caller(caller):
            return self.queue.wait_s()

    def finish(self) -> list[str]:
        self._gate.set()
        self.queue.close()
        return self.ran


class present_caller:
    def __init__(self, caller: str, priority: int = 10):
        self._turn = Turn(caller, priority)

    def __enter__(self) -> None:
        self._token = present_turn.set(self._turn)

    def __exit__(self, *_: object) -> None:
        present_turn.reset(self._token)


@pytest.fixture
def busy() -> Iterator[Busy]:
    made = Busy()
    yield made
    made.finish()


def test_callers_take_turns_also_after_one_was_served(busy: Busy):
    for name in ("a1", "a2", "a3", "a4"):
        busy.submit(name, "a")
    for name in ("b1", "b2"):
        busy.submit(name, "b")
    busy.submit("c1", "c")
    busy.submit("urgent", "a", priority=1)
    assert busy.finish() == ["urgent", "a1", "b1", "c1", "a2", "b2", "a3", "a4"]


def test_who_was_served_last_is_not_the_next(busy: Busy):
    """The second of `a` came before all of `b`, and is served after its first."""
    gate, reached = threading.Event(), threading.Event()

    def first() -> dict[str, np.ndarray]:
        busy.ran.append("a1")
        reached.set()
        assert gate.wait(60)
        return {}

    with present_caller("a"):
        busy.queue.submit(first, 1.0, None)
    for name in ("a2", "a3"):
        busy.submit(name, "a")
    busy.submit("b1", "b")
    busy._gate.set()
    assert reached.wait(60)
    busy.submit("b2", "b")
    gate.set()
    assert busy.finish() == ["a1", "b1", "a2", "a3", "b2"]


def test_one_waits_only_for_those_whose_turn_comes_first_and_the_others_are_overtaken(busy: Busy):
    runs = [busy.submit(f"a{number}", "a") for number in range(4)]
    assert (busy.wait_s("a"), busy.wait_s("b"), busy.queue.backlog_s) == (5.0, 2.0, 5.0)
    busy.submit("b0", "b")
    assert [run.is_overtaken for run in runs] == [False, True, True, True]


def test_who_gives_up_waits_no_longer(busy: Busy):
    abort = Abort()
    busy.submit("a1", "a")
    run = busy.submit("a2", "a", abort=abort)
    abort.set()
    with pytest.raises(WireError, match="gave up"):
        run.result(timeout=60)
    assert busy.queue.backlog_s == 2.0
    assert busy.finish() == ["a1"]


def plan(predicted_s: float, own_s: float, deadline_s: float) -> Any:
    observation = SimpleNamespace(option_device_s=np.array([[own_s]]))
    route = SimpleNamespace(deadline_s=deadline_s)
    return SimpleNamespace(observation=observation, option=0, server=DEVICE, predicted_s=predicted_s, route=route)


def test_a_promise_that_was_broken_makes_the_next_ones_more_careful():
    promises, own_s, wait_s = Promises(), 1.0, 4.0
    needed_s = SAFETY_FACTOR * own_s + FIRST_MARGIN * wait_s
    one = plan(own_s + wait_s, own_s, needed_s)
    promises.check(one, one.predicted_s, needed_s, 0.1)
    with pytest.raises(RefusedError, match="later than its deadline") as refused:
        promises.check(one, one.predicted_s, needed_s - 0.01, 0.1)
    assert (refused.value.reason, refused.value.pushback_s) == ("hopeless", 0.1)
    promises.learn(plan(1.5, own_s, needed_s), is_kept=False)
    assert promises.margin == FIRST_MARGIN, "a short wait says little"
    promises.learn(one, is_kept=False)
    with pytest.raises(RefusedError):
        promises.check(one, one.predicted_s, needed_s, 0.1)
    for _ in range(2000):
        promises.learn(one, is_kept=True)
    promises.check(one, one.predicted_s, needed_s, 0.1)


@pytest.mark.parametrize(
    ("left_s", "predicted_s", "reason"), [(0.0, 1.0, "expired"), (0.9, 1.0, "hopeless"), (0.9, 9.0, ""), (1.1, 1.0, "")]
)
def test_nothing_is_begun_after_its_deadline(left_s: float, predicted_s: float, reason: str):
    """What was late from the start, and was admitted as it was alone, has its chance."""
    said = ""
    try:
        check_turn(plan(predicted_s, 1.0, 5.0), 1.0, left_s, 0.1)
    except RefusedError as refused:
        said = refused.reason
    assert said == reason


def test_who_would_only_wait_computes_unless_the_processor_is_in_use():
    queue, gate, begun = ProcessorQueue(), threading.Event(), threading.Event()
    threads: list[threading.Thread] = []

    def compute() -> dict[str, np.ndarray]:
        threads.append(threading.current_thread())
        return {}

    def hold() -> dict[str, np.ndarray]:
        begun.set()
        assert gate.wait(60)
        return compute()

    def fail() -> dict[str, np.ndarray]:
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        queue.submit(fail, 1.0, None, here=True).result(0)
    queue.submit(compute, 1.0, None, here=True).result(0)
    queue.submit(compute, 1.0, None).result(60)
    other = threading.Thread(target=queue.submit, args=(hold, 1.0, None), kwargs={"here": True})
    other.start()
    assert begun.wait(60)
    last = queue.submit(compute, 1.0, None, here=True)
    assert (queue.backlog_s, last.done()) == (2.0, False)
    gate.set()
    queue.close()
    other.join()
    assert last.done()
    assert queue.backlog_s == 0.0
    assert [thread is threading.main_thread() for thread in threads] == [True, False, False, False]
    assert threads[2] is other
