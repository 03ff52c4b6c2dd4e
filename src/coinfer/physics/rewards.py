"""The papers' rewards for one task, element by element: NumPy arrays or tensors in and out."""

import math

from coinfer.physics.radio import log2
from coinfer.types import A, V


def latency_reward(latency_s: V) -> V:
    """Return -T of each task (CDO-DSAC, SEKE 2023: R = -sum of T_j).

    Args:
        latency_s: T.
    """
    return -latency_s


def late_reward(latency_s: V, excess_s: V, weight: float = 1.0) -> V:
    """Return -(L + beta psi) of each task (multi-task A3C, IEEE TMC 2024, equation 14; beta is not given).

    Args:
        latency_s: L.
        excess_s: psi, time after the limits, at least 0; the paper's is a sum over blocks (equation 13).
        weight: beta, without unit.
    """
    return -(latency_s + weight * excess_s)


def weighted_reward(
    accuracy: V, latency_s: V, rate_bps: V, *, best_bps: float, sensitivity: float, scale_s: float
) -> V:
    """Return lambda A - (1 - lambda) T of each task (SAC-d, WCNC 2022, equations 12 and 13).

    The weight grows with the rate: lambda = ln(1 + w B) / ln(1 + w B_max). The paper's text lacks the symbols; the form
    is our reading.

    Args:
        accuracy: A, 0 to 1.
        latency_s: T once divided by `scale_s`, as the paper standardises both.
        rate_bps: B, rate of the link, at most `best_bps`.
        best_bps: B_max, the rate at which only accuracy counts.
        sensitivity: w B_max, without unit.
        scale_s: latency that weighs as much as full accuracy.
    """
    weight = log2(1.0 + sensitivity * (rate_bps / best_bps)) / math.log2(1.0 + sensitivity)
    return weight * accuracy - (1.0 - weight) * (latency_s / scale_s)


def early_exit_reward(
    accuracy: A, latency_s: A, deadline_s: A, in_time: A, *, latency_weight: float, late_penalty: float
) -> A:
    """Return phi (1 - eta T / delta) of a task in time, -psi of a late one (GRLE, arXiv 2210.13464).

    Only the abstract is public; the form is our reading.

    Args:
        accuracy: phi, 0 to 1.
        latency_s: T.
        deadline_s: delta, from the request.
        in_time: bool, whether the task was answered in time.
        latency_weight: eta, without unit.
        late_penalty: psi, at least 0.
    """
    return in_time * accuracy * (1.0 - latency_weight * latency_s / deadline_s) - ~in_time * late_penalty
