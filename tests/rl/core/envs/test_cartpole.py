"""Our CartPole is Gymnasium's, and discrete SAC learns it."""

import gymnasium
import numpy as np
import pytest
import torch

from coinfer.physics import random
from coinfer.policies.learned.nets import Mlp
from coinfer.rl.algorithms.sac import Sac, SacSettings
from coinfer.rl.core.envs.cartpole import CartPole, CartPoleState, advance
from coinfer.rl.core.loop import Loop, LoopSettings, assess, run


def test_the_physics_is_gymnasiums():
    env, drawn = gymnasium.make("CartPole-v1"), np.random.default_rng(0)
    for episode in range(20):
        expected, _ = env.reset(seed=episode)
        motion, over = torch.tensor(np.asarray(env.unwrapped.state), dtype=torch.float64), False
        while not over:
            action = int(drawn.integers(2))
            expected, _, over, _, _ = env.step(action)
            motion = advance(motion, torch.tensor(action))
            np.testing.assert_allclose(motion.numpy(), expected, rtol=1e-5, atol=1e-6)
        fallen = CartPole(1).step(
            CartPoleState(torch.zeros(1, 1, dtype=torch.int64), before(motion), torch.zeros(1, 1)), torch.zeros(1, 1, 1)
        )
        assert bool(fallen.terminated[0, 0])


def before(fallen: torch.Tensor) -> torch.Tensor:
    """A state from which it falls at once, as it is past the limit and moves on."""
    away = fallen.clone()
    away[1], away[3] = away[0].sign() * away[1].abs(), away[2].sign() * away[3].abs()
    return away.float().reshape(1, 1, 4)


@pytest.mark.slow
def test_learns_to_hold_the_pole():
    seeds = random.key(torch.zeros(2, dtype=torch.int64), torch.arange(2))
    net, rounds = Mlp(4, (64, 64), 1, 2), 1000
    settings = SacSettings(0.98, 0.02, 2e-3, 2e-3, 2e-3, 0.1, (0.5, 0.1), rounds)
    learner = Sac(settings, net, net, seeds)
    run(Loop(LoopSettings(rounds, 50, 10_000, 64, assess_rounds=1), CartPole(8), learner))
    env = CartPole(20)
    state, observation = env.reset(seeds + 1)
    alive, lasted = torch.ones(2, 20), torch.zeros(2, 20)
    for _ in range(200):
        result = env.step(state, learner.act(observation, 0, explore=False))
        lasted, alive = lasted + alive, alive * ~result.terminated
        state, observation = result.state, result.observation
    assert lasted.mean(1).min() > 100  # at random it lasts 22 steps
    assert assess(env, learner, 3)["reward"].tolist() == [1.0, 1.0]
