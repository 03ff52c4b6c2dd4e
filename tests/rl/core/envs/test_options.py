"""The simulated edge as an environment: what learners see, may do and are paid is what the simulator says."""

from dataclasses import replace

import pytest
import torch

from coinfer.envs import core, offload
from coinfer.envs.batched_env import reward_of
from coinfer.physics import random
from coinfer.policies.candidates import candidates_of
from coinfer.policies.learned.features import rate_features
from coinfer.rl.algorithms import dqn, sac_d
from coinfer.rl.core.envs.options import OptionEnv
from coinfer.rl.core.loop import random_actions
from coinfer.rl.core.option_training import reward_for
from coinfer.rl.core.training import TrainSettings
from coinfer.scenario.compile import open_world

SLOTS = 3


def seeds(learners: int) -> torch.Tensor:
    return random.key(torch.zeros(learners, dtype=torch.int64), torch.arange(learners))


def env(worlds: int = 4, **more: object) -> OptionEnv:
    compiled = open_world("sacd", {"slots": SLOTS})
    return OptionEnv(compiled.world, reward_of(compiled.reward), worlds, rate_features, **more)


def any_action(observation, call: int) -> torch.Tensor:
    return random_actions(
        observation.mask, torch.rand(observation.task_mask.shape, generator=torch.Generator().manual_seed(call))
    )


def test_a_learners_worlds_are_its_own():
    together, single = env().reset(seeds(3))[1], env().reset(seeds(3)[1:2])[1]
    torch.testing.assert_close(together.features[1:2], single.features, atol=0, rtol=0)
    assert not torch.equal(together.features[0], together.features[1])


def test_steps_are_those_of_the_environment_and_episodes_begin_anew():
    edge = env()
    state, observation = edge.reset(seeds(2))
    for step in range(2 * SLOTS):
        observed = offload.observe(edge.tables, state)
        torch.testing.assert_close(observation.mask.flatten(0, 1), candidates_of(observed).mask)
        action = any_action(observation, step)
        decision = candidates_of(observed).decision(action.flatten(0, 1))
        expected = offload.step(edge.tables, state, decision, edge.reward)
        result = edge.step(state, action)
        torch.testing.assert_close(result.reward.flatten(), expected.reward)
        torch.testing.assert_close(result.final_observation.features, edge.observe(expected.state).features)
        over = (step + 1) % SLOTS == 0
        assert bool(result.truncated.all()) == over
        assert not result.terminated.any()
        if over:
            assert (result.state.slot == 0).all()
            torch.testing.assert_close(result.state.seed, core.next_seeds(state.seed))
        state, observation = result.state, result.observation


def test_without_the_mask_a_choice_beyond_the_limit_is_refused_and_costs_a_penalty():
    free = env(64, unmasked=True)
    state, observation = free.reset(seeds(1))
    allowed = candidates_of(offload.observe(free.tables, state)).mask
    forbidden = (observation.mask.flatten(0, 1) & ~allowed)[:, 0]
    assert forbidden.any(-1).all()
    assert (observation.mask.flatten(0, 1) >= allowed).all()
    preset = replace(sac_d.PRESETS["quick"], energy_penalty=0.75, reward_floor=-1e9)
    paid = reward_for(free.reward, preset)
    action = forbidden.int().argmax(-1)[None, :, None]
    plain, punished = free.step(state, action), OptionEnv(free.world, paid, 64, rate_features, unmasked=True)
    torch.testing.assert_close(punished.step(state, action).reward, plain.reward - 0.75)


@pytest.mark.parametrize("scheme", [sac_d, dqn])
def test_short_training_is_better_than_any_choice_at_random(scheme):
    option_settings = scheme.with_rounds(replace(scheme.PRESETS["quick"], hidden=(32, 32)), 200)
    option_settings = replace(option_settings, loop=replace(option_settings.loop, assess_rounds=20))
    trained = scheme.train(TrainSettings("sacd", seeds=2), option_settings=option_settings)
    assert min(trained.assessed[-1].figures["reward"]) > 0.25  # at random -0.1, the best possible 0.36
    assert trained.assessed[-1].round == 200
