"""Confidence intervals of means over few seeds, and fairness."""

from typing import NamedTuple

import numpy as np
from scipy import stats

CONFIDENCE = 0.95


class Estimate(NamedTuple):
    """A mean with its 95 % confidence interval, mean plus and minus half."""

    mean: float
    half: float
    """NaN if there is only one value."""

    def clear_of_zero(self) -> bool:
        """Whether the interval does not contain 0."""
        return abs(self.mean) > self.half


def interval(values: np.ndarray) -> Estimate:
    """Return Student's t interval of the mean of independent values.

    Args:
        values: [S], one per seed; if one is NaN, so is the interval.
    """
    values = np.asarray(values, dtype=float)
    count = len(values)
    if count < 2:
        return Estimate(float(values.mean()) if count else float("nan"), float("nan"))
    standard_error = values.std(ddof=1) / np.sqrt(count)
    return Estimate(float(values.mean()), float(stats.t.ppf((1 + CONFIDENCE) / 2, count - 1) * standard_error))


def paired_difference(values: np.ndarray, reference: np.ndarray) -> Estimate:
    """Return the interval of the mean of `values - reference`; random effects that both share cancel out.

    Args:
        values: [S], one per seed.
        reference: [S], of the same seeds.
    """
    return interval(np.asarray(values, dtype=float) - np.asarray(reference, dtype=float))


def jain(load: np.ndarray) -> np.ndarray:
    """Return Jain's fairness index, 1 / N to 1 (DEC TR-301, 1984), [..]; NaN if the sum of the loads is 0.

    Args:
        load: [.., N], at least 0.
    """
    load = np.asarray(load, dtype=float)
    total = load.sum(-1)
    with np.errstate(invalid="ignore", divide="ignore"):
        return np.where(total > 0, total**2 / (load.shape[-1] * (load**2).sum(-1)), np.nan)
