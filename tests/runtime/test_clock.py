import threading

from coinfer.runtime.clock import VirtualClock, WallClock


def test_virtual_time_passes_only_in_sleep():
    clock = VirtualClock(10.0)
    assert clock.now_s() == clock.now_s() == 10.0
    assert clock.sleep(2.5)
    assert clock.now_s() == 12.5
    clock.sleep(-1.0)
    assert clock.now_s() == 12.5


def test_virtual_sleepers_overlap():
    clock = VirtualClock()
    together = threading.Barrier(4)

    class Late(VirtualClock):
        """All four have read the time before one of them moves it."""

        def now_s(self) -> float:
            now_s = super().now_s()
            together.wait()
            return now_s

    clock = Late()
    threads = [threading.Thread(target=clock.sleep, args=(float(i),)) for i in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert VirtualClock.now_s(clock) == 3.0


def test_a_cancelled_virtual_sleep_takes_no_time():
    clock, cancel = VirtualClock(), threading.Event()
    cancel.set()
    assert not clock.sleep(5.0, cancel)
    assert clock.now_s() == 0.0


def test_wall_sleep_lasts_at_least_as_long_as_asked():
    clock = WallClock()
    began_s = clock.now_s()
    assert clock.sleep(0.01)
    assert clock.sleep(0.01, threading.Event())
    assert clock.now_s() - began_s >= 0.02


def test_wall_sleep_ends_when_cancelled():
    clock, cancel = WallClock(), threading.Event()
    outcome = []
    sleeper = threading.Thread(target=lambda: outcome.append(clock.sleep(3600.0, cancel)))
    sleeper.start()
    cancel.set()
    sleeper.join(60)
    assert outcome == [False]
