"""What may be said of a mean of few seeds."""

from typing import NamedTuple

import numpy as np
from scipy import stats

CONFIDENCE = 0.95


class Estimate(NamedTuple):
    """A mean with its 95 % confidence interval, mean plus and minus half."""

    mean: float
    half: float
    """NaN where there is only one value."""

    def clear_of_zero(self) -> bool:
        """Whether the interval does not hold 0."""
        return abs(self.mean) > self.half


def interval(values: np.ndarray) -> Estimate:
    """Student's t interval of the mean of independent values [S], one a seed; NaN where one of them is."""
    values = np.asarray(values, dtype=float)
    count = len(values)
    if count < 2:
        return Estimate(float(values.mean()) if count else float("nan"), float("nan"))
    spread = values.std(ddof=1) / np.sqrt(count)
    return Estimate(float(values.mean()), float(stats.t.ppf((1 + CONFIDENCE) / 2, count - 1) * spread))


def paired_difference(values: np.ndarray, reference: np.ndarray) -> Estimate:
    """Interval of the mean of `values - reference`, seed by seed: what chance did to both at once cancels out."""
    return interval(np.asarray(values, dtype=float) - np.asarray(reference, dtype=float))


def jain(load: np.ndarray) -> np.ndarray:
    """Jain's fairness index of loads [.., N], 1 / N to 1 (DEC TR-301, 1984); NaN where nobody has any."""
    load = np.asarray(load, dtype=float)
    total = load.sum(-1)
    with np.errstate(invalid="ignore", divide="ignore"):
        return np.where(total > 0, total**2 / (load.shape[-1] * (load**2).sum(-1)), np.nan)
