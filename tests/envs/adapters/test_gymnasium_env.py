"""The Gymnasium environments: Gymnasium's own checker, and what it does not look at."""

import gymnasium
import numpy as np
import pytest
import torch
from gymnasium.utils.env_checker import check_env
from tests.envs.worlds import random_blocks, random_world

from coinfer.envs import offload, rewards
from coinfer.envs.adapters import gymnasium_env
from coinfer.envs.adapters.gymnasium_env import Edge, EdgeVector, hash_seeds, make_env
from coinfer.errors import ScenarioError, UserError
from coinfer.policies.candidates import candidates_of
from coinfer.policies.heuristics.offload import OFFLOAD

PRESETS = ("campus", "cdo-dsac", "grle", "sacd", "mtl-a3c", "city")


@pytest.mark.parametrize("scenario", PRESETS)
def test_gymnasium_finds_nothing_wrong(scenario):
    check_env(gymnasium.make(gymnasium_env.ID, scenario=scenario).unwrapped, skip_render_check=True)


def small(seed: int):
    return random_world(np.random.default_rng(seed))


def test_one_world_is_a_row_of_the_batch():
    world = small(1)
    envs, env = EdgeVector(5, world), Edge(world)
    seen, _ = envs.reset(seed=10)
    envs.action_space.seed(0)
    alone, _ = env.reset(seed=13)
    for _ in range(world.edge.slots - 1):
        action = envs.action_space.sample()
        seen, reward, _, over, info = envs.step(action)
        alone, reward_alone, _, over_alone, info_alone = env.step(action[3])
        assert reward[3] == pytest.approx(reward_alone)
        assert over[3] == over_alone
        assert info["tasks"][3] == info_alone["tasks"]
        for name in alone:
            np.testing.assert_array_equal(seen[name][3], alone[name])


def test_the_last_observation_comes_before_the_next_episode():
    world = small(2)
    envs, env = EdgeVector(3, world), Edge(world)
    envs.reset(seed=0)
    env.reset(seed=1)
    action = np.zeros(envs.action_space.shape, dtype=np.int64)
    for slot in range(1, world.edge.slots + 1):
        seen, _, terminated, truncated, info = envs.step(action)
        last, _, _, over, _ = env.step(action[1])
        assert not terminated.any()
        assert (truncated == (slot == world.edge.slots)).all()
        assert over == (slot == world.edge.slots)
    for name, value in last.items():
        np.testing.assert_array_equal(info["final_obs"][1][name], value)
    assert (seen["server_backlog_s"] == 0).all()
    assert not envs.step(action)[3].any()


def test_only_the_asked_worlds_are_reset():
    world = small(3)._replace(edge=small(3).edge._replace(staleness_slots=0, slots=1000))
    envs = EdgeVector(4, world)
    envs.reset(seed=5)
    for _ in range(3):
        before, *_ = envs.step(np.zeros(envs.action_space.shape, dtype=np.int64))
    after, _ = envs.reset(seed=5, options={"reset_mask": np.array([True, False, False, True])})
    fresh, _ = EdgeVector(4, world).reset(seed=5)
    for name in after:
        np.testing.assert_array_equal(after[name][1:3], before[name][1:3])
        np.testing.assert_array_equal(after[name][0], fresh[name][0])


def test_a_policy_plays_the_same_through_the_adapter():
    """What is observed and what is done arrive unchanged: the adapter against the pure functions."""
    world, policy = small(4), OFFLOAD["sequential-greedy"](0)
    envs = EdgeVector(6, world, reward=rewards.latency)
    envs.reset(seed=3)
    tables = offload.load(world)
    state = offload.reset(tables, hash_seeds(3 + np.arange(6)))
    for _ in range(world.edge.slots - 1):
        seen = offload.observe(tables, state)
        decision = policy(seen)
        stepped = offload.step(tables, state, decision, rewards.latency)
        state = stepped.state
        action = decision.option * world.edge.servers + decision.server.clamp(min=0)
        fields, reward, _, _, info = envs.step(action.numpy())
        np.testing.assert_allclose(reward, stepped.reward.numpy(), rtol=1e-6)
        np.testing.assert_allclose(info["latency_s"], stepped.outcome.latency_s.sum(-1).numpy(), rtol=1e-6)
        np.testing.assert_array_equal(fields["server_backlog_s"], offload.observe(tables, state).server_backlog_s)


@pytest.mark.parametrize("seed", range(5))
def test_masks_of_tasks_are_what_policies_may_choose(seed):
    world = small(seed)
    envs = EdgeVector(8, world)
    envs.reset(seed=0)
    for _ in range(2):
        envs.step(np.zeros(envs.action_space.shape, dtype=np.int64))
    seen = envs.batched_env.environment.observe(envs.batched_env.tables, envs.batched_env.state)
    allowed = torch.from_numpy(envs.action_masks())
    found = candidates_of(seen)
    there = seen.task_mask[..., None] & seen.option_mask.any(-1, keepdim=True)
    once = ~found.on_device | (torch.arange(found.mask.shape[-1]) % found.servers == 0)
    assert torch.equal((allowed & once & there), found.mask & there)
    assert allowed[~seen.task_mask].all()


def test_blocks_have_a_place_for_each_block():
    world = random_blocks(np.random.default_rng(0))
    envs = EdgeVector(2, world)
    assert envs.single_action_space.nvec.tolist() == [world.edge.servers + 1] * world.edge.tasks * world.blocks
    assert envs.action_masks().shape == (2, world.edge.tasks * world.blocks, world.edge.servers + 1)
    assert envs.action_masks()[..., 0].all()


def test_seeds_name_episodes_and_no_seed_draws_new_ones():
    envs = EdgeVector(3, small(6))
    first, again = envs.reset(seed=7)[0], envs.reset(seed=7)[0]
    listed = envs.reset(seed=[9, 8, 7])[0]
    other = envs.reset()[0]
    for name in first:
        np.testing.assert_array_equal(first[name], again[name])
        np.testing.assert_array_equal(first[name], listed[name][::-1])
    assert any((first[name] != other[name]).any() for name in first)


def test_settings_reach_the_scenario_and_mistakes_are_one_line():
    env = Edge("campus", changes={"servers.0.capacity": 3})
    assert env.batched_env.world.edge.server_capacity[0] == 3
    with pytest.raises(ScenarioError, match="did you mean campus"):
        Edge("camus")
    with pytest.raises(ValueError, match="expected one of environment offload or blocks"):
        Edge("droo")


def test_made_by_its_scenarios_name():
    env = make_env("campus", changes={"slots": 2})
    assert env.observation_space.contains(env.reset(seed=0)[0])
    assert [env.step(env.action_space.sample())[3] for _ in range(2)] == [False, True]


@pytest.mark.parametrize(
    ("spoil", "told"),
    [
        (lambda a: a[:-1], r"action has shape \[1, \d+\], expected \[1, \d+\]: worlds, numbers"),
        (lambda a: a.astype(float), "action is of float64, expected whole numbers"),
        (lambda a: a - 1, "action -1 of number 0 in world 0, expected 0 to "),
        (lambda a: a + 10**6, "action 1000000 of number 0 in world 0, expected 0 to "),
    ],
)
@pytest.mark.parametrize("world", [small(3), random_blocks(np.random.default_rng(2))])
def test_what_is_no_action_is_refused_in_one_line(world, spoil, told: str):
    env, envs = Edge(world), EdgeVector(3, world)
    env.reset(seed=0), envs.reset(seed=0)
    action = np.zeros(env.action_space.shape, dtype=np.int64)
    with pytest.raises(UserError, match=told) as caught:
        env.step(spoil(action))
    assert "\n" not in str(caught.value)
    with pytest.raises(UserError, match=told.replace("[1", "[3")):
        envs.step(np.stack([spoil(action)] * 3))
    env.step(action), envs.step(np.stack([action] * 3))
