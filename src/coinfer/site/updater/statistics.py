"""Means with intervals, without SciPy: a controller needs none."""

import math
from collections.abc import Callable, Mapping, Sequence
from statistics import NormalDist
from typing import NamedTuple

import numpy as np

_Z = NormalDist().inv_cdf(0.975)
BLOCKS = 20
"""Decisions follow each other and are not independent; means of so many stretches nearly are."""
OUTLIER = 10.0
"""Latencies of more than so many medians count as so many: one request that waits for minutes decides nothing."""


class Mean(NamedTuple):
    """A mean with its 95 % confidence interval, mean plus and minus half."""

    mean: float
    half: float

    @property
    def low(self) -> float:
        """Return the lower end of the interval."""
        return self.mean - self.half

    @property
    def high(self) -> float:
        """Return the upper end of the interval."""
        return self.mean + self.half


def student(degrees: float) -> float:
    """Return the 97.5 % quantile of Student's t (Abramowitz and Stegun 26.7.5); within 1 % from 4 degrees on.

    Args:
        degrees: of freedom, at least 1.
    """
    z, v = _Z, max(degrees, 1.0)
    first, second = (z**3 + z) / 4, (5 * z**5 + 16 * z**3 + 3 * z) / 96
    return z + first / v + second / v**2 + (3 * z**7 + 19 * z**5 + 17 * z**3 - 15 * z) / 384 / v**3


def block_mean(values: np.ndarray) -> Mean:
    """Return the mean of values that follow each other in time, by batch means.

    Args:
        values: [n] in the order of time, at least 2.
    """
    blocks = np.array([part.mean() for part in np.array_split(values, min(BLOCKS, len(values)))])
    half = student(len(blocks) - 1) * float(blocks.std(ddof=1)) / math.sqrt(len(blocks))
    return Mean(float(np.mean(values)), half)


def difference(first: Mean, second: Mean) -> Mean:
    """Return the difference of two independent means.

    Args:
        first: minuend.
        second: subtrahend.
    """
    return Mean(first.mean - second.mean, math.hypot(first.half, second.half))


def limited(latency_s: Sequence[float], usual_s: float) -> np.ndarray:
    """Return latencies without extremes.

    Args:
        latency_s: any.
        usual_s: their median.
    """
    return np.minimum(np.asarray(latency_s, dtype=float), OUTLIER * usual_s)


def median_of_nodes(values: Mapping[str, float]) -> float:
    """Return the median over nodes, which a minority of nodes does not decide.

    Args:
        values: of each node; at least one.
    """
    return float(np.median(list(values.values())))


def by_key(items: Sequence, key: Callable) -> dict:
    """Return items in groups, in their order.

    Args:
        items: any.
        key: names the group of an item.
    """
    found: dict = {}
    for item in items:
        found.setdefault(key(item), []).append(item)
    return found
