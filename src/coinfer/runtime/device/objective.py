"""What a user wants from answers: limits, and a goal among latency, accuracy and the device's energy."""

import math
from dataclasses import dataclass
from typing import Literal, get_args

from coinfer.errors import UserError

Goal = Literal["latency", "accuracy", "energy"]
Limit = Literal["deadline", "accuracy", "energy"]
LIMITS: tuple[Limit, ...] = get_args(Limit)
"""In order of priority if not all can be met."""
GOALS: tuple[Goal, ...] = get_args(Goal)


class ObjectiveError(UserError):
    """An objective that cannot be one; the message is one line for a person."""


@dataclass(frozen=True)
class Objective:
    """A goal and its limits. Each request brings its own deadline; the other limits are here.

    A limit on the goal itself is allowed: it changes no choice, and results report if it is missed.

    Raises:
        ObjectiveError: if a value is out of range, or energy matters and no power is given.
    """

    goal: Goal = "latency"
    """What to optimise among choices that meet the limits: least latency, highest accuracy, or least device energy."""
    min_accuracy: float = 0.0
    """Limit on the expected accuracy, 0 to 1."""
    energy_j: float = math.inf
    """Limit on the device's energy for a request, computing and sending."""
    power_w: float = 0.0
    """Power of the device while it computes; 0 leaves that energy uncounted."""
    transmit_power_w: float = 0.0
    """Power of the device while it sends; 0 leaves that energy uncounted."""

    def __post_init__(self) -> None:
        if self.goal not in GOALS:
            raise ObjectiveError(f"goal is {self.goal!r}; expected one of {', '.join(GOALS)}")
        if not 0 <= self.min_accuracy <= 1:
            raise ObjectiveError(f"min_accuracy is {self.min_accuracy:g}; expected a share from 0 to 1, such as 0.75")
        if not self.energy_j > 0:
            raise ObjectiveError(f"energy_j is {self.energy_j:g}; expected joules above 0")
        for name, power_w in (("power_w", self.power_w), ("transmit_power_w", self.transmit_power_w)):
            if not 0 <= power_w < math.inf:
                raise ObjectiveError(f"{name} is {power_w:g}; expected watts of at least 0")
        if self.counts_energy and not (self.power_w or self.transmit_power_w):
            raise ObjectiveError(
                "an energy objective needs the device's power: give power_w while it computes, transmit_power_w while "
                "it sends, or both"
            )

    @property
    def counts_energy(self) -> bool:
        """Return true if energy is the goal or limited."""
        return self.goal == "energy" or self.energy_j < math.inf

    @property
    def counts_accuracy(self) -> bool:
        """Return true if accuracy is the goal or limited."""
        return self.goal == "accuracy" or self.min_accuracy > 0

    def unmet(self, latency_s: float, deadline_s: float, accuracy: float, energy_j: float) -> tuple[Limit, ...]:
        """Return the limits that an answer misses, in the order of `LIMITS`.

        Args:
            latency_s: from the request to its answer.
            deadline_s: of the request; infinite if it has none.
            accuracy: expected, 0 to 1.
            energy_j: that the request took from the device.
        """
        missed = (latency_s > deadline_s, accuracy < self.min_accuracy, energy_j > self.energy_j)
        return tuple(limit for limit, is_missed in zip(LIMITS, missed, strict=True) if is_missed)
