"""Environments with exact answers, after Rejax: each asks for one more ability of a learner than the one before.

All have one task and one or two choices, W worlds of each learner, and episodes that terminate.
"""

from typing import NamedTuple

import torch
from torch import Tensor

from coinfer.physics import random
from coinfer.rl.core.records import Observation, StepResult


class ProbeState(NamedTuple):
    seed: Tensor
    """[L, W]"""
    sign: Tensor
    """[L, W] the observation, -1 or 1."""
    step: Tensor
    """[L, W]"""


class Probe:
    """Base of the probes: worlds with episodes of a fixed length.

    Args:
        length: steps of an episode.
        choices: number of choices of the one task.
        worlds: worlds of each learner.
        ends: whether an episode terminates; if false, it is truncated and would go on for ever.
    """

    def __init__(self, length: int = 1, choices: int = 2, worlds: int = 4, ends: bool = True):
        self.length, self.choices, self.worlds, self.ends = length, choices, worlds, ends

    def reward(self, state: ProbeState, action: Tensor) -> Tensor:
        raise NotImplementedError

    def reset(self, seeds: Tensor) -> tuple[ProbeState, Observation]:
        worlds = random.key(seeds[:, None], torch.arange(self.worlds))
        state = ProbeState(worlds, self._sign(worlds), torch.zeros_like(worlds))
        return state, self.observe(state)

    def observe(self, state: ProbeState) -> Observation:
        step = state.step if self.ends else torch.zeros_like(state.step)
        features = torch.stack((state.sign.float(), step.float()), -1)
        shape = (*state.sign.shape, 1)
        return Observation(
            features, torch.ones(*shape, self.choices, dtype=torch.bool), torch.ones(shape, dtype=torch.bool)
        )

    def step(self, state: ProbeState, action: Tensor) -> StepResult:
        reward = self.reward(state, action[..., 0])
        seed = random.mix(state.seed)
        after = ProbeState(seed, self._sign(seed), state.step + 1)
        over = after.step >= self.length
        fresh = after._replace(step=torch.where(over, 0, after.step))
        flags = (over, torch.zeros_like(over))
        terminated, truncated = flags if self.ends else flags[::-1]
        return StepResult(fresh, self.observe(fresh), self.observe(after), reward, terminated, truncated, {})

    def _sign(self, seed: Tensor) -> Tensor:
        return random.integer(random.bits(seed, 0), 2) * 2 - 1


class ConstantReward(Probe):
    """Reward 1: the value is 1."""

    def reward(self, state: ProbeState, action: Tensor) -> Tensor:
        return torch.ones(action.shape)


class ObservationReward(Probe):
    """Reward equal to the observation, on which the value then depends."""

    def reward(self, state: ProbeState, action: Tensor) -> Tensor:
        return state.sign.float()


class DelayedReward(Probe):
    """Two steps, reward 1 at the second: the value of the first is the discount."""

    def reward(self, state: ProbeState, action: Tensor) -> Tensor:
        return (state.step == self.length - 1).float()


class ChoiceReward(Probe):
    """Reward 1 for the second choice, 0 for the first."""

    def reward(self, state: ProbeState, action: Tensor) -> Tensor:
        return action.float()


class MatchReward(Probe):
    """Reward 1 if the choice matches the observation, else -1."""

    def reward(self, state: ProbeState, action: Tensor) -> Tensor:
        return state.sign.float() * (2 * action - 1)
