"""A slow processor, emulated on this one: do the work, then sleep until the slow one would have finished."""

import statistics
import time
from collections.abc import Callable
from typing import TypeVar

Returned = TypeVar("Returned")
REPEAT_FROM = 4.0
"""Smallest factor at which short work is repeated."""
SHORT_S = 0.005
"""Work shorter than this is repeated, as cold caches cost some tenths of a millisecond."""
CHEAP_FROM = 12.0
"""Smallest factor at which work is repeated whatever its first run took: one more run takes at most a twelfth of the
slow processor's time, and what a first run loses to cold caches, several times its work on some hosts, would count
twelve times or more."""
MAX_RUNS, MAX_SHARE = 4, 0.75
"""Most runs, and the largest share of the slow processor's time that they may take."""


def emulate_slowdown(
    work: Callable[[], Returned],
    slowdown: float,
    clock: Callable[[], float] = time.thread_time,
    sleep: Callable[[float], object] = time.sleep,
) -> tuple[Returned, float]:
    """Return what the work returns, and the seconds that it took the emulated processor.

    After a pause the first run finds cold caches, and any run may be disturbed for a moment. These costs do not grow
    with the slow-down, so multiplied by it they would dominate short work. Short work is therefore repeated while the
    slow processor would still be busy, and the median without the first run counts.

    Args:
        work: is called once or several times, and must return the same each time.
        slowdown: emulated over real time, at least 1.
        clock: returns the time that counts in seconds; processor time does not grow with other load on the machine.
        sleep: waits for the given seconds.
    """
    began_s, started = time.perf_counter(), clock()
    result = work()
    runs_s = [clock() - started]
    is_short = runs_s[0] < SHORT_S or slowdown >= CHEAP_FROM
    if slowdown >= REPEAT_FROM and is_short and runs_s[0] > 0:
        while len(runs_s) < MAX_RUNS and sum(runs_s) + min(runs_s) <= MAX_SHARE * slowdown * min(runs_s):
            run_began_s = clock()
            work()
            runs_s.append(clock() - run_began_s)
    if slowdown > 1:
        typical_s = statistics.median(runs_s[1:] or runs_s)
        sleep(max(slowdown * typical_s - (time.perf_counter() - began_s), 0.0))
    return result, time.perf_counter() - began_s
