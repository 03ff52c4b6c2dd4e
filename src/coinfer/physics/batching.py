"""When requests that wait for the same piece of a network run as one batch. Edge servers and the simulator share this.

A worker that becomes free takes the first request of its queue (smallest priority number, then first come). Others of
the same piece may come with it, in the order of the queue; the rest keep their places. Nobody waits for a batch to
fill: a free worker starts at once, and what comes while workers are busy is what the next batch can take.

How many come along follows from the measured times `t(b)` (`BatchTimes`). Every second of computing delays all who
still wait, and those who will come before the queue is empty: with N waiting these are about N squared, as a queue
that holds N on average is used for a share r = N / (1 + N) of the time (M/M/1), and a second of work delays
r / (1 - r) = N newcomers for each second of work that waits. `batch_plan` divides the waiting requests of a piece into
batches with the smallest sum of these delays: with few waiting only a large gain pays, under overload any gain does.

No batch makes a request late, a member or one behind it, that would be in time if all ran alone in the same order.
"""

from collections.abc import Sequence
from functools import lru_cache
from itertools import accumulate
from typing import NamedTuple

import numpy as np

MARGIN = 1.1
"""Factor on the time of a batch where deadlines are counted: the answers have to travel too."""


class BatchTimes(NamedTuple):
    """How the time of a piece grows with the number of requests that run as one."""

    sizes: tuple[int, ...] = (1,)
    """Measured sizes from 1, ascending; the last one is the largest batch that is allowed."""
    ratios: tuple[float, ...] = (1.0,)
    """Time of the batch over that of a single request, `t(b) / t(1)`."""

    @property
    def limit(self) -> int:
        """Return the largest batch."""
        return self.sizes[-1]

    def ratio(self, size: float) -> float:
        """Return `t(b) / t(1)`, a straight line between measured sizes.

        Args:
            size: from 1 to `limit`.
        """
        return float(np.interp(size, self.sizes, self.ratios))

    def each_size(self) -> "BatchTimes":
        """Return the same times with those of all sizes up to `limit`."""
        sizes = tuple(range(1, self.limit + 1))
        return BatchTimes(sizes, tuple(self.ratio(size) for size in sizes))


ALONE = BatchTimes()
"""Of a piece that is never batched."""


class Waiting(NamedTuple):
    """A request in the queue of a server."""

    same: bool
    """It asks for the same piece as the first one of the queue, and may run with it."""
    service_s: float
    """Expected time alone."""
    deadline_s: float
    """From now; infinite for none."""


@lru_cache(4096)
def batch_plan(times: BatchTimes, same: int, waiting: int) -> tuple[int, ...]:
    """Return the sizes of the batches in which requests of one piece run, one after another.

    It is the division with the smallest sum of delays (see above), found by dynamic programming: with k of the piece
    left, a batch of b costs `(waiting - same + k + waiting**2) t(b)`, and then k - b are left.

    Args:
        times: of the piece.
        same: requests of the piece that wait, 1 or more; several workers share them.
        waiting: all requests that wait, at least `same`.
    """
    ratios = [times.ratio(size) for size in range(1, times.limit + 1)]
    costs, sizes = [0.0], [0]
    for left in range(1, same + 1):
        weight = waiting - same + left + waiting**2
        options = [weight * ratio + costs[left - b] for b, ratio in enumerate(ratios[:left], 1)]
        costs.append(min(options))
        sizes.append(options.index(costs[-1]) + 1)
    plan, left = list[int](), same
    while left:
        plan.append(sizes[left])
        left -= sizes[left]
    return tuple(plan)


def drain_ratio(times: BatchTimes, same: int, waiting: int) -> float:
    """Return how long the requests of one piece take together in the batches of `batch_plan`, over one alone.

    Args:
        times: of the piece.
        same: requests of the piece that wait.
        waiting: all requests that wait, at least `same`.
    """
    return sum(times.ratio(size) for size in batch_plan(times, same, waiting)) if same else 0.0


def batch_members(times: BatchTimes, queue: Sequence[Waiting], workers: int = 1) -> tuple[int, ...]:
    """Return the places in the queue of the requests that a free worker runs as one batch now.

    Args:
        times: of the piece of the first request.
        queue: all requests that wait, in the order in which they are served; at least one.
        workers: how many serve the queue; each takes its share.

    Returns:
        Ascending places; 0 is among them.
    """
    same = [place for place, one in enumerate(queue) if one.same]
    if len(same) == 1 or times.limit == 1:
        return (0,)
    size = batch_plan(times, -(-len(same) // workers), -(-len(queue) // workers))[0]
    while size > 1 and _makes_late(times.ratio(size), queue, same[:size], workers):
        size -= 1
    return tuple(same[:size])


def _makes_late(ratio: float, queue: Sequence[Waiting], members: Sequence[int], workers: int) -> bool:
    """Return true if a batch ends after the deadline of a request that would be in time if all ran alone."""
    batch_s, behind = MARGIN * ratio * queue[0].service_s, [k for k in range(len(queue)) if k not in members]
    ends_s = dict.fromkeys(members, batch_s)
    ends_s |= zip(behind, _ends_s([queue[k] for k in behind], batch_s, workers), strict=True)
    alone_s = _ends_s(queue, 0.0, workers)
    return any(alone_s[k] <= one.deadline_s < ends_s[k] for k, one in enumerate(queue))


def _ends_s(queue: Sequence[Waiting], free_s: float, workers: int) -> list[float]:
    """Return when each request ends if it runs alone, one worker is free at `free_s`, and all share those before it."""
    starts_s = accumulate((one.service_s for one in queue), initial=free_s)
    return [start_s / workers + one.service_s for start_s, one in zip(starts_s, queue, strict=False)]
