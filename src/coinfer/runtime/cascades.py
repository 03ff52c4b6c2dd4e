"""What comes of leaving at the first exit that is sure, for many thresholds."""

import itertools
from collections.abc import Sequence

import numpy as np

from coinfer.profile.accuracy import CascadePoint

MAX_CASCADES = 400
ALWAYS_CONFIDENT = 2.0
"""A threshold above every entropy."""


def pareto_cascades(right: np.ndarray, entropies: np.ndarray) -> tuple[CascadePoint, ...]:
    """Return what cascades answer, for thresholds at which rising shares of the samples leave at each exit.

    A cascade is left out if another one lets at least as many leave by each exit and is right at least as often. A
    single exit gives none.

    Args:
        right: bool [N, E], whether each exit is right.
        entropies: [N, E], divided by the logarithm of the number of classes.
    """
    exits = right.shape[1]
    if exits < 2:
        return ()
    shares = np.linspace(0, 1, max(2, min(21, int(MAX_CASCADES ** (1 / (exits - 1))))))[1:-1]
    grids = [
        sorted({0.0, ALWAYS_CONFIDENT, *(float(f"{value:.3g}") for value in np.quantile(entropies[:, exit_], shares))})
        for exit_ in range(exits - 1)
    ]
    points = [run_cascade(right, entropies, thresholds) for thresholds in itertools.product(*grids)]
    left_by = np.array([np.cumsum(point.left) for point in points])
    correct = np.array([sum(point.correct) for point in points])
    pareto = []
    for i, point in enumerate(points):
        as_good = (left_by >= left_by[i]).all(axis=1) & (correct >= correct[i])
        better = as_good & ((left_by > left_by[i]).any(axis=1) | (correct > correct[i]))
        equal_before = as_good[:i] & ~better[:i]
        if not better.any() and not equal_before.any():
            pareto.append(point)
    return tuple(pareto)


def run_cascade(right: np.ndarray, entropies: np.ndarray, thresholds: Sequence[float]) -> CascadePoint:
    """Return how many samples leave at each exit, and how many of them are right.

    Each sample leaves at its first confident exit.

    Args:
        right: bool [N, E], whether each exit is right.
        entropies: [N, E], divided by the logarithm of the number of classes.
        thresholds: [E - 1]; an exit is confident below its own, and the last always.
    """
    confident = np.column_stack([entropies[:, :-1] < np.array(thresholds), np.ones(len(right), bool)])
    exit_of = confident.argmax(axis=1)
    is_right = right[np.arange(len(right)), exit_of]
    exits = range(right.shape[1])
    left, correct = (
        tuple(int((exit_of == e).sum()) for e in exits),
        tuple(int(is_right[exit_of == e].sum()) for e in exits),
    )
    return CascadePoint(thresholds=tuple(map(float, thresholds)), left=left, correct=correct)
