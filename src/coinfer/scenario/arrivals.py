"""How many requests come in a slot, as a table that one uniform number looks its count up in.

A slot has a level of load, and each level a distribution of counts. Steady processes have one level; a measured
workload has many, and every world starts somewhere else in it.
"""

from typing import NamedTuple

import numpy as np
from scipy import special

MAX_LEVELS = 256


class Arrivals(NamedTuple):
    """K tasks of a slot, R levels, L slots until the workload starts again."""

    cdf: np.ndarray
    """[R, K] probability that at most 0 .. K - 1 tasks come; the count is the number of entries at or below a uniform
    number, so at most K."""
    level: np.ndarray
    """[L] level of each slot."""
    offered: float
    """Tasks that come in a slot on average, those beyond K included."""

    @property
    def mean(self) -> float:
        """Tasks in a slot on average, at most K."""
        return float((1 - self.cdf).sum(axis=1)[self.level].mean())

    @property
    def lost(self) -> float:
        """Share of the tasks that a slot has no place for."""
        return max(0.0, 1 - self.mean / self.offered) if self.offered else 0.0


def fixed(count: int, most: int) -> Arrivals:
    """The same number in every slot."""
    return Arrivals((np.arange(most) >= count)[None].astype(float), np.zeros(1, dtype=np.int64), float(count))


def poisson(mean: float, most: int) -> Arrivals:
    """Requests that come independently of each other, `mean` of them in a slot."""
    return _levels(np.array([mean]), np.zeros(1, dtype=np.int64), most)


def lognormal(mean: float, variance: float, per_unit: float, most: int) -> Arrivals:
    """CDO-DSAC (SEKE 2023, section V.A): the rate of each slot is lognormal; given the rate, arrivals are Poisson.

    Args:
        mean, variance: of the rate itself, not of its logarithm.
        per_unit: tasks in a slot for each unit of rate.
    """
    log_variance = np.log1p(variance / mean**2)
    nodes, weights = np.polynomial.hermite_e.hermegauss(96)
    rates = np.exp(np.log(mean) - log_variance / 2 + np.sqrt(log_variance) * nodes)
    cdf = weights / weights.sum() @ special.pdtr(np.arange(most), per_unit * rates[:, None])
    return Arrivals(cdf[None], np.zeros(1, dtype=np.int64), mean * per_unit)


def superposed(counts: np.ndarray, copies: int) -> np.ndarray:
    """The sum of so many of the same workload [L], begun at evenly spaced points."""
    starts = np.unique(np.linspace(0, len(counts), copies, endpoint=False).astype(int), return_counts=True)
    return np.sum([many * np.roll(counts, start) for start, many in zip(*starts, strict=True)], axis=0)


def measured(means: np.ndarray, most: int) -> Arrivals:
    """Poisson around a measured workload.

    Args:
        means: [L] requests in each slot of the workload.
    """
    levels, level = np.unique(means, return_inverse=True)
    if len(levels) > MAX_LEVELS:  # closer together where loads are small
        levels = np.linspace(0, np.sqrt(levels[-1]), MAX_LEVELS) ** 2
        level = _nearest(levels, means)
    return _levels(levels, level.astype(np.int64), most, float(means.mean()))


def _nearest(edges: np.ndarray, values: np.ndarray) -> np.ndarray:
    above = np.clip(np.searchsorted(edges, values), 1, len(edges) - 1)
    return np.where(values - edges[above - 1] < edges[above] - values, above - 1, above)


def _levels(means: np.ndarray, level: np.ndarray, most: int, offered: float | None = None) -> Arrivals:
    cdf = special.pdtr(np.arange(most), means[:, None])
    return Arrivals(cdf, level, float(means[level].mean()) if offered is None else offered)
