"""Bounds really bound: no policy, and no oracle, is better, in worlds with everything that a scenario can have."""

import numpy as np
import pytest
import torch
from tests.envs.worlds import random_world

from coinfer.envs import offload, rewards
from coinfer.evaluate import limits, oracles
from coinfer.evaluate.simulate import episode_seeds, run_policy
from coinfer.policies.bounds import slot
from coinfer.policies.candidates import candidates_of
from coinfer.policies.heuristics.offload import OFFLOAD
from coinfer.scenario.world import OffloadWorld

EPISODES = 3
ROUNDING = 1e-5
"""Of float32 in the environment."""


def small(seed: int) -> OffloadWorld:
    return random_world(np.random.default_rng(seed))


def plain(world: OffloadWorld, most: int = 1000) -> OffloadWorld:
    """Without what the model of a slot leaves out: shared links, tasks of the same device, limits of energy, losses."""
    edge = world.edge
    tasks = min(edge.tasks, edge.devices, most)
    return world._replace(edge=edge._replace(
        distinct_devices=True, shared_bandwidth=False, drop_refused=False,
        tasks=tasks, arrival_cdf=edge.arrival_cdf[:, :tasks],
        task_energy_j=np.full(edge.classes, np.inf), battery_j=np.full(edge.classes, np.inf),
        download_s=np.zeros(edge.servers),
    ))  # fmt: skip


@pytest.mark.parametrize("seed", range(12))
def test_no_policy_beats_the_lower_bound_of_an_episode(seed):
    world = small(seed)
    bound = limits.lower_bound(world, 2, EPISODES, steps=40).measures
    for name in [*OFFLOAD, "slot-descent"]:
        found = run_policy(world, name, 2, EPISODES).measures
        there = ~np.isnan(found["mean_s"])
        assert (found["mean_s"] >= bound["mean_s"] * (1 - ROUNDING))[there].all(), name
        assert (found["in_time"] <= bound["in_time"] + ROUNDING)[there].all(), name


@pytest.mark.parametrize("seed", range(8))
def test_nothing_beats_the_optimum_of_a_slot(seed):
    """From the state that a policy reaches, slot by slot, as the environment serves it."""
    world = small(seed)
    world = world._replace(edge=world.edge._replace(tasks=2, arrival_cdf=world.edge.arrival_cdf[:, :2]))
    tables = offload.load(world, dtype=torch.float64)
    state = offload.reset(tables, episode_seeds(1, 6))
    policies = {name: make(0) for name, make in OFFLOAD.items()}
    for _ in range(world.edge.slots):
        seen = offload.observe(tables, state)
        cost = oracles.slot_cost(tables, state)
        true = oracles.true_observation(tables, state)
        least = slot.exhaustive(oracles.unlimited_room(true), cost).cost
        near = slot.coordinate_descent(true, cost).cost
        assert (near >= least - 1e-12).all()
        for name, policy in policies.items():
            decision = policy(seen)
            reached = cost(candidates_of(true).choice(decision)[:, None])[:, 0]
            assert (reached >= least - 1e-12).all(), name
        state = offload.step(tables, state, decision, rewards.latency).state


@pytest.mark.parametrize("seed", range(6))
def test_highs_decides_a_slot_as_exhaustive_search_does(seed):
    """In worlds of which its program leaves nothing out."""
    tables = offload.load(plain(small(seed), most=2), dtype=torch.float64)
    state = offload.reset(tables, episode_seeds(1, 4))
    for _ in range(3):
        seen = offload.observe(tables, state)
        both = [oracles.ORACLES[name](tables)(state, seen) for name in ("slot-optimum", "slot-milp")]
        costs = [offload.serve(tables, state, one).outcome.latency_s.sum(-1) for one in both]
        torch.testing.assert_close(costs[1], costs[0], rtol=1e-6, atol=1e-9)
        state = offload.step(tables, state, both[0], rewards.latency).state


def test_the_cost_of_the_oracle_is_what_the_environment_makes_of_it():
    world = small(3)
    tables = offload.load(world, dtype=torch.float64)
    state = offload.reset(tables, episode_seeds(1, 5))
    decision = OFFLOAD["sequential-greedy"](0)(offload.observe(tables, state))
    choice = candidates_of(oracles.true_observation(tables, state)).choice(decision)
    cost = oracles.slot_cost(tables, state)(choice[:, None].expand(-1, 3, -1))
    latency_s = offload.step(tables, state, decision, rewards.latency).outcome.latency_s.sum(-1)
    assert torch.equal(cost, latency_s[:, None].expand(-1, 3))


def test_without_queues_sharing_or_errors_the_model_of_a_slot_is_the_environment():
    """`bounds.slot_latency_s` against the environment, where tasks come from different devices."""
    for seed in range(20):
        tables = offload.load(plain(small(seed)), dtype=torch.float64)
        state = offload.reset(tables, episode_seeds(1, 4))
        for _ in range(tables.edge.edge.slots):
            true = oracles.true_observation(tables, state)
            decision = OFFLOAD["sequential-greedy"](0)(true)
            choice = candidates_of(true).choice(decision)
            expected_s = slot.slot_latency_s(true, choice[:, None])[:, 0]
            stepped = offload.step(tables, state, decision, rewards.latency)
            torch.testing.assert_close(stepped.outcome.latency_s, expected_s, rtol=1e-12, atol=1e-12)
            state = stepped.state


@pytest.mark.parametrize("factors", [1, 4])
def test_a_lone_world_is_tried_in_many_ways_as_one_of_many_is(factors):
    """One world and one factor of its times (`[1.0]`, the same for all) are both of length 1."""
    world = small(3)
    world = world._replace(edge=world.edge._replace(device_factor=np.ones(factors), server_factor=np.ones(factors)))
    tables = offload.load(world, dtype=torch.float64)
    seeds = episode_seeds(1, 5)
    costs = []
    for state in (offload.reset(tables, seeds), offload.reset(tables, seeds[:1])):
        choice = torch.arange(world.options * world.edge.servers)[:, None].expand(-1, world.edge.tasks)
        costs.append(oracles.slot_cost(tables, state)(choice.expand(len(state.slot), -1, -1))[0])
    assert costs[0].equal(costs[1])
