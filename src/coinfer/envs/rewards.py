"""The papers' rewards as arguments of `step`: from the outcome and draws of a slot [B, K] to rewards [B].

Each is a sum over the tasks of the slot of a formula in `physics.rewards`."""

from collections.abc import Callable

from torch import Tensor

from coinfer.envs.exogenous import Draws
from coinfer.physics import rewards as paid
from coinfer.types import Outcome

Reward = Callable[[Outcome, Draws], Tensor]


def latency(outcome: Outcome, draws: Draws) -> Tensor:
    """CDO-DSAC: minus the summed latency."""
    return _summed(paid.latency_reward(outcome.latency_s), draws)


def late(weight: float = 1.0) -> Reward:
    """Multi-task A3C: minus the summed latency and `weight` times what comes after the deadline."""
    return lambda outcome, draws: _summed(paid.late_reward(outcome.latency_s, draws.deadline_s, weight), draws)


def weighted(best_bps: float, sensitivity: float, scale_s: float) -> Reward:
    """SAC-d: accuracy against latency, weighed by the rate of the task's best link."""

    def reward(outcome: Outcome, draws: Draws) -> Tensor:
        rate_bps = draws.link_bps.amax(-1)
        accuracy, latency_s = outcome.accuracy, outcome.latency_s
        value = paid.weighted_reward(
            accuracy, latency_s, rate_bps, best_bps=best_bps, sensitivity=sensitivity, scale_s=scale_s
        )
        return _summed(value, draws)

    return reward


def early_exit(latency_weight: float = 0.1, late_penalty: float = 0.5) -> Reward:
    """GRLE: accuracy of what is in time, a penalty for what is late."""

    def reward(outcome: Outcome, draws: Draws) -> Tensor:
        accuracy, latency_s, in_time = outcome.accuracy, outcome.latency_s, outcome.in_time
        value = paid.early_exit_reward(
            accuracy, latency_s, draws.deadline_s, in_time, latency_weight=latency_weight, late_penalty=late_penalty
        )
        return _summed(value, draws)

    return reward


def _summed(value: Tensor, draws: Draws) -> Tensor:
    return (value * draws.task_mask).sum(-1)
