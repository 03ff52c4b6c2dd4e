"""CartPole-v1 for batched learners: a well-known task that shows whether a learner learns.

The physics is that of Gymnasium (Barto, Sutton, Anderson 1983) for all worlds at once, as pure functions; a test
compares it with Gymnasium's own.
"""

import math
from typing import NamedTuple

import torch
from torch import Tensor

from coinfer.physics import random
from coinfer.rl.core.records import Observation, StepResult

GRAVITY, CART_KG, POLE_KG, HALF_POLE_M, FORCE_N, STEP_S = 9.8, 1.0, 0.1, 0.5, 10.0, 0.02
MAX_M, MAX_RAD, MAX_STEPS = 2.4, 12 * 2 * math.pi / 360, 500
FIRST = 0.05
"""The four numbers of a first state are uniform in [-FIRST, FIRST)."""


class CartPoleState(NamedTuple):
    """State of W worlds of each of L learners."""

    seed: Tensor
    """[L, W] int64 seed of the episode."""
    motion: Tensor
    """[L, W, 4] position, speed, angle, angular speed; metres, radians, seconds."""
    step: Tensor
    """[L, W] steps of the episode so far."""


class CartPole:
    """Environment CartPole-v1: reward 1 for each step, at most 500 steps.

    Args:
        worlds: W, worlds of each learner.
    """

    def __init__(self, worlds: int):
        self.worlds = worlds

    def reset(self, seeds: Tensor) -> tuple[CartPoleState, Observation]:
        """Return the first state and its observation.

        Args:
            seeds: [L] int64, one for each learner.
        """
        worlds = random.key(seeds[:, None], torch.arange(self.worlds, device=seeds.device))
        state = CartPoleState(worlds, _first(worlds), torch.zeros_like(worlds))
        return state, self.observe(state)

    def observe(self, state: CartPoleState) -> Observation:
        """Return the motion as features [L, W, 4], with both choices allowed for the one task.

        Args:
            state: a state that `reset` or `step` returned.
        """
        task_mask = torch.ones((*state.step.shape, 1), dtype=torch.bool, device=state.step.device)
        return Observation(state.motion, task_mask[..., None].expand(*task_mask.shape, 2), task_mask)

    def step(self, state: CartPoleState, action: Tensor) -> StepResult[CartPoleState]:
        """Push every cart for one step of time, and reset the worlds whose episode ends.

        Args:
            state: the state before the step.
            action: [L, W, 1] 0 for a push to the left, 1 for one to the right.

        Returns:
            The next state; `terminated` if the pole fell or the cart left the track, `truncated` after 500 steps.
        """
        moved = state._replace(motion=advance(state.motion, action[..., 0]), step=state.step + 1)
        fallen = (moved.motion[..., 0].abs() > MAX_M) | (moved.motion[..., 2].abs() > MAX_RAD)
        truncated = (moved.step >= MAX_STEPS) & ~fallen
        over, seed = fallen | truncated, random.mix(state.seed)
        after = CartPoleState(
            torch.where(over, seed, state.seed),
            torch.where(over[..., None], _first(seed), moved.motion),
            torch.where(over, 0, moved.step),
        )
        reward = torch.ones_like(moved.motion[..., 0])
        return StepResult(after, self.observe(after), self.observe(moved), reward, fallen, truncated, {})


def advance(motion: Tensor, action: Tensor) -> Tensor:
    """Return the motion [.., 4] one step of `STEP_S` seconds later, by Euler's method.

    Args:
        motion: [.., 4] position, speed, angle, angular speed.
        action: [..] 0 for a push to the left, 1 for one to the right.
    """
    position, speed, angle, spin = motion.unbind(-1)
    force, cosine, sine = FORCE_N * (2.0 * action - 1.0), angle.cos(), angle.sin()
    all_kg, pole = CART_KG + POLE_KG, POLE_KG * HALF_POLE_M
    push = (force + pole * spin.square() * sine) / all_kg
    angular = (GRAVITY * sine - cosine * push) / (HALF_POLE_M * (4 / 3 - POLE_KG * cosine.square() / all_kg))
    linear = push - pole * angular * cosine / all_kg
    parts = (position + STEP_S * speed, speed + STEP_S * linear, angle + STEP_S * spin, spin + STEP_S * angular)
    return torch.stack(parts, -1)


def _first(seed: Tensor) -> Tensor:
    drawn = random.bits(seed[..., None], torch.arange(4, device=seed.device))
    return (2 * random.uniform(drawn, torch.float32) - 1) * FIRST
