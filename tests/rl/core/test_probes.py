"""Every learner finds the exact answers of environments that each need one more thing of it."""

import pytest
import torch
from tests.rl.core.probes import ChoiceReward, ConstantReward, DelayedReward, MatchReward, ObservationReward, Probe
from torch import Tensor

from coinfer.physics import random
from coinfer.policies.learned.nets import Mlp
from coinfer.rl.algorithms.dqn import Dqn, DqnSettings
from coinfer.rl.algorithms.sac import Sac, SacSettings
from coinfer.rl.core.loop import Loop, LoopSettings, run
from coinfer.rl.core.records import Learner, Observation

pytestmark = pytest.mark.slow
SEEDS = random.key(torch.zeros(2, dtype=torch.int64), torch.arange(2))
ROUNDS = LoopSettings(rounds=400, warmup=10, batch=32, capacity=1000, assess_rounds=4)
DISCOUNT = 0.9


def sac(choices: int) -> Sac:
    net = Mlp(2, (32,), 1, choices)
    settings = SacSettings(DISCOUNT, 0.05, 5e-3, 5e-3, 5e-3, initial_temperature=0.01, target_entropy=(0.0, 0.0))
    return Sac(settings, net, net, SEEDS)


def dqn(choices: int) -> Dqn:
    return Dqn(DqnSettings(DISCOUNT, 0.05, 5e-3, epsilon_updates=300), Mlp(2, (32,), 1, choices), SEEDS)


LEARNERS = pytest.mark.parametrize("make", [sac, dqn])


def value(learner: Learner, sign: int, step: int, choice: int = 0) -> Tensor:
    """[L] of a choice in a state, by the (first) critic."""
    features = torch.tensor([[float(sign), float(step)]]).expand(2, 1, 2)
    if isinstance(learner, Sac):
        return learner.values(learner.critic_flat, features)[0, :, 0, 0, choice].detach()
    assert isinstance(learner, Dqn)
    return learner.net(learner.flat, features)[:, 0, 0, choice].detach()


def train(make, probe: Probe) -> Learner:
    learner = make(probe.choices)
    run(Loop(ROUNDS, probe, learner))
    return learner


def choice(learner: Learner, sign: int) -> list[int]:
    observation = Observation(
        torch.tensor([[float(sign), 0.0]]).expand(2, 1, 2),
        torch.ones(2, 1, 1, 2, dtype=torch.bool),
        torch.ones(2, 1, 1, dtype=torch.bool),
    )
    return learner.act(observation, 0, explore=False).flatten().tolist()


@LEARNERS
def test_learns_a_constant(make):
    learner = train(make, ConstantReward(choices=1))
    torch.testing.assert_close(value(learner, 1, 0), torch.ones(2), atol=0.05, rtol=0)


@LEARNERS
def test_reads_the_observation(make):
    learner = train(make, ObservationReward(choices=1))
    for sign in (-1, 1):
        torch.testing.assert_close(value(learner, sign, 0), torch.full((2,), float(sign)), atol=0.05, rtol=0)


@LEARNERS
def test_discounts_what_comes_later(make):
    learner = train(make, DelayedReward(length=2, choices=1))
    torch.testing.assert_close(value(learner, 1, 1), torch.ones(2), atol=0.07, rtol=0)
    torch.testing.assert_close(value(learner, 1, 0), torch.full((2,), DISCOUNT), atol=0.07, rtol=0)


@LEARNERS
def test_a_time_limit_is_not_an_end(make):
    """One choice and reward 1 for ever: 1 / (1 - discount), however short the episodes are cut; were the cut an end,
    the value would be 4.1 at most. It has not quite arrived after so few updates."""
    cut = ConstantReward(length=5, choices=1, ends=False)
    learner = make(1)
    run(Loop(LoopSettings(600, 10, 1000, 32, assess_rounds=4), cut, learner))
    torch.testing.assert_close(value(learner, 1, 0), torch.full((2,), 1 / (1 - DISCOUNT)), atol=1.0, rtol=0)


@LEARNERS
def test_chooses(make):
    learner = train(make, ChoiceReward())
    assert choice(learner, 1) == [1, 1]
    torch.testing.assert_close(value(learner, 1, 0, 1), torch.ones(2), atol=0.05, rtol=0)


@LEARNERS
def test_chooses_by_what_it_sees(make):
    learner = train(make, MatchReward())
    assert choice(learner, 1) == [1, 1]
    assert choice(learner, -1) == [0, 0]
