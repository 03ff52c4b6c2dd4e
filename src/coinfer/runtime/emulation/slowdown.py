"""A slow processor, emulated on this one: do the work, then sleep until the slow one would be done."""

import statistics
import time
from collections.abc import Callable
from typing import TypeVar

Found = TypeVar("Found")
AGAIN_FROM = 4.0
"""From this factor on, short work is done again."""
SHORT_S = 0.005
"""What cold caches cost, some tenths of a millisecond, matters to work that is shorter."""
RUNS, BUSY = 8, 0.75
"""At most so many runs, and in so large a share of the slow processor's time."""


def slowed(
    work: Callable[[], Found],
    slowdown: float,
    clock: Callable[[], float] = time.thread_time,
    sleep: Callable[[float], object] = time.sleep,
) -> tuple[Found, float]:
    """Return what `work` returns, and the seconds that it took the slow processor.

    After a pause the first run finds cold caches, and any run may be disturbed for a moment. That costs as much on any
    processor, and counted `slowdown` times it would drown the work itself; so short work is done again while the slow
    processor is still at it, and the median without the first run counts.

    Args:
        clock: tells the time that counts; processor time is not longer for neighbours on the cores.
    """
    began_s, spent = time.perf_counter(), clock()
    found = work()
    spent_s = [clock() - spent]
    if slowdown >= AGAIN_FROM and 0 < spent_s[0] < SHORT_S:
        while len(spent_s) < RUNS and sum(spent_s) + min(spent_s) <= BUSY * slowdown * min(spent_s):
            again_s = clock()
            work()
            spent_s.append(clock() - again_s)
    if slowdown > 1:
        counts_s = statistics.median(spent_s[1:] or spent_s)
        sleep(max(slowdown * counts_s - (time.perf_counter() - began_s), 0.0))
    return found, time.perf_counter() - began_s
