"""The papers' rewards as arguments of `step`: from the outcome and draws of a slot [B, K] to rewards [B].

Each is a sum over the tasks of the slot of a formula in `physics.rewards`.
"""

from collections.abc import Callable
from dataclasses import dataclass

from torch import Tensor

from coinfer.envs.exogenous import Draws
from coinfer.physics import rewards as task_rewards
from coinfer.types import Outcome

Reward = Callable[[Outcome[Tensor], Draws], Tensor]


def latency(outcome: Outcome[Tensor], draws: Draws) -> Tensor:
    """Return minus the summed latency of the slot (CDO-DSAC), [B].

    Args:
        outcome: of the slot's tasks.
        draws: of the slot.
    """
    return _slot_sum(task_rewards.latency_reward(outcome.latency_s), draws)


@dataclass(frozen=True)
class Late:
    """Minus the summed latency and `weight` times the time after the deadline (multi-task A3C, equation 14)."""

    weight: float = 1.0
    """Weight of a second after the deadline, without unit."""

    def __call__(self, outcome: Outcome[Tensor], draws: Draws) -> Tensor:
        """Return the reward of slots whose deadlines limit whole tasks, [B].

        Args:
            outcome: of the slot's tasks.
            draws: of the slot.
        """
        return self.of_excess(outcome, (outcome.latency_s - draws.deadline_s).clamp(min=0), draws)

    def of_excess(self, outcome: Outcome[Tensor], excess_s: Tensor, draws: Draws) -> Tensor:
        """Return the reward of slots with a known time after the limits, [B].

        Args:
            outcome: of the slot's tasks.
            excess_s: [B, K] time after the task's deadline, or that of its blocks summed (equation 13).
            draws: of the slot.
        """
        return _slot_sum(task_rewards.late_reward(outcome.latency_s, excess_s, self.weight), draws)


def late(weight: float = 1.0) -> Late:
    """Return a reward: minus the summed latency and `weight` times the time after the deadline (multi-task A3C).

    Args:
        weight: of a second after the deadline, without unit.
    """
    return Late(weight)


def weighted(best_bps: float, sensitivity: float, scale_s: float) -> Reward:
    """Return a reward: accuracy against latency, weighted by the rate of the task's best link (SAC-d).

    Args:
        best_bps: rate at which only accuracy counts.
        sensitivity: of the weight to the rate, without unit; see `physics.rewards.weighted_reward`.
        scale_s: latency that weighs as much as full accuracy.
    """

    def reward(outcome: Outcome[Tensor], draws: Draws) -> Tensor:
        rate_bps = draws.link_bps.amax(-1)
        accuracy, latency_s = outcome.accuracy, outcome.latency_s
        value = task_rewards.weighted_reward(
            accuracy, latency_s, rate_bps, best_bps=best_bps, sensitivity=sensitivity, scale_s=scale_s
        )
        return _slot_sum(value, draws)

    return reward


def early_exit(latency_weight: float = 0.1, late_penalty: float = 0.5) -> Reward:
    """Return a reward: accuracy of tasks in time, less some of it for their latency; a penalty for late tasks (GRLE).

    Args:
        latency_weight: share of the accuracy that is lost at the deadline.
        late_penalty: at least 0.
    """

    def reward(outcome: Outcome[Tensor], draws: Draws) -> Tensor:
        accuracy, latency_s, in_time = outcome.accuracy, outcome.latency_s, outcome.in_time
        value = task_rewards.early_exit_reward(
            accuracy, latency_s, draws.deadline_s, in_time, latency_weight=latency_weight, late_penalty=late_penalty
        )
        return _slot_sum(value, draws)

    return reward


def _slot_sum(value: Tensor, draws: Draws) -> Tensor:
    return (value * draws.task_mask).sum(-1)
