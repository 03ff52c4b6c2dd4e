"""What a user wishes of an answer: two limits and a goal out of accuracy, latency and the device's energy."""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal, get_args

import numpy as np

from coinfer.errors import UserError
from coinfer.physics.compute import transmit_j
from coinfer.physics.radio import upload_s
from coinfer.runtime.device.planner import feasible_latency_s, least_latency
from coinfer.types import DEVICE, OffloadDecision, OffloadObservation, Policy

Goal = Literal["latency", "accuracy", "energy"]
Limit = Literal["deadline", "accuracy", "energy"]
LIMITS: tuple[Limit, ...] = get_args(Limit)
"""In the order in which they count where not all can be met."""
GOALS: tuple[Goal, ...] = get_args(Goal)


class WishError(UserError):
    """A wish that cannot be one; the message is one line for a person."""


@dataclass(frozen=True)
class Wish:
    """The deadline is the request's own; the other limits and the goal are here. A limit on the goal itself is allowed:
    it changes no choice and is reported where it is missed."""

    goal: Goal = "latency"
    """Least latency, highest accuracy, or least energy of the device, among what meets the limits."""
    min_accuracy: float = 0.0
    """0 to 1."""
    energy_j: float = math.inf
    """Of the device, for computing and sending."""
    compute_power_w: float = 0.0
    """Of the device while it computes."""
    transmit_power_w: float = 0.0
    """Of the device while it sends."""

    def __post_init__(self) -> None:
        if self.goal not in GOALS:
            raise WishError(f"goal is {self.goal!r}; expected one of {', '.join(GOALS)}")
        if not 0 <= self.min_accuracy <= 1:
            raise WishError(f"min_accuracy is {self.min_accuracy:g}; expected a share from 0 to 1, such as 0.75")
        if not self.energy_j > 0:
            raise WishError(f"energy_j is {self.energy_j:g}; expected joules above 0")
        for name, power_w in (("power_w", self.compute_power_w), ("transmit_power_w", self.transmit_power_w)):
            if not 0 <= power_w < math.inf:
                raise WishError(f"{name} is {power_w:g}; expected watts of at least 0")
        if self.counts_energy and not (self.compute_power_w or self.transmit_power_w):
            raise WishError(
                "a wish for energy needs the device's power: give power_w while it computes, transmit_power_w while "
                "it sends, or both"
            )

    @property
    def counts_energy(self) -> bool:
        return self.goal == "energy" or self.energy_j < math.inf

    def unmet(self, latency_s: float, deadline_s: float, accuracy: float, energy_j: float) -> tuple[Limit, ...]:
        """The limits that an answer misses."""
        missed = (latency_s > deadline_s, accuracy < self.min_accuracy, energy_j > self.energy_j)
        return tuple(limit for limit, is_missed in zip(LIMITS, missed, strict=True) if is_missed)


def planned_for(wish: Wish, expected: Callable[[OffloadObservation], OffloadObservation] | None = None) -> Policy:
    """The policy that fulfils a wish as well as can be predicted; the plain one is quicker by other means.

    Args:
        expected: the mean request, where some are cheaper than the observation says; see `choose`.
    """
    plain = wish.goal == "latency" and not wish.min_accuracy and not wish.counts_energy
    if plain and expected is None:
        return least_latency
    return lambda observation: choose(wish, observation, expected and expected(observation))


def choose(wish: Wish, observation: OffloadObservation, mean: OffloadObservation | None = None) -> OffloadDecision:
    """The best option and server of each task.

    Deadline, accuracy and energy, in this order, each leave out what misses them, but never the last that is left. Of
    the rest comes first what misses an unmet limit by the least, then the goal, then latency.

    Args:
        mean: the mean request, by which goal and latency are judged; limits hold for every request of `observation`.
    """
    latency_s = feasible_latency_s(observation)
    costs = _costs(wish, observation, latency_s)
    means = costs if mean is None else _costs(wish, mean, feasible_latency_s(mean))
    limits = {
        "latency": observation.deadline_s,
        "accuracy": np.full(len(latency_s), -wish.min_accuracy),
        "energy": observation.energy_left_j,
    }
    kept = np.isfinite(latency_s)
    misses = []
    for name, limit in limits.items():
        with np.errstate(invalid="ignore"):  # what is impossible against what is not limited
            excess = costs[name] - np.asarray(limit)[:, None, None]
        kept = _where_any(kept, kept & (excess <= 0))
        misses.append(excess.clip(0))
    for cost in (*misses, means[wish.goal], means["latency"]):
        among = np.where(kept, cost, np.inf)
        kept = kept & (among <= among.min(axis=(1, 2), keepdims=True))
    tasks, _, nodes = latency_s.shape
    best = kept.reshape(tasks, -1).argmax(axis=1)
    option, server = best // nodes, best % nodes
    return OffloadDecision(option=option, server=np.where(server == nodes - 1, DEVICE, server))


def _costs(wish: Wish, observation: OffloadObservation, latency_s: np.ndarray) -> dict[str, np.ndarray]:
    """All [K, O, N + 1], less is better."""
    accuracy = np.asarray(observation.option_accuracy)[..., None]
    return {
        "latency": latency_s,
        "accuracy": -np.broadcast_to(accuracy, latency_s.shape),
        "energy": device_energy_j(wish, observation),
    }


def device_energy_j(wish: Wish, observation: OffloadObservation) -> np.ndarray:
    """Predicted energy of the device [K, O, N + 1] for computing and sending; the last column is for what stays (SAC-d,
    WCNC 2022, equation 3)."""
    sent_s = upload_s(observation.option_upload_bits[..., None], observation.uplink_bps[:, None, :])
    sent_s = np.concatenate([sent_s, np.zeros((*sent_s.shape[:2], 1))], axis=-1)
    return observation.option_device_j[..., None] + transmit_j(wish.transmit_power_w, sent_s)


def _where_any(before: np.ndarray, after: np.ndarray) -> np.ndarray:
    """`after` for tasks where it leaves something, else `before`; [K, O, N + 1]."""
    return np.where(after.any(axis=(1, 2), keepdims=True), after, before)
