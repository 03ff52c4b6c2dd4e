"""Optima and bounds of worlds that place every block, against each other and against what policies reach."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.envs.worlds import random_blocks

from coinfer.envs import blocks
from coinfer.evaluate.blocks_oracles import BLOCKS_ORACLES, slot_cost, slot_descent, slot_optimum, true_observation
from coinfer.evaluate.limits import lower_bound_of_blocks
from coinfer.evaluate.simulate import run_policy
from coinfer.policies.bounds import blocks_slot
from coinfer.policies.bounds.slot import BoundError
from coinfer.policies.heuristics.block_rules import BLOCKS
from coinfer.scenario.world import BlocksWorld


def small(seed: int, **changes: object) -> BlocksWorld:
    """Two tasks, two servers, at most three blocks, and no task that is lost."""
    rng = np.random.default_rng(seed)
    world = random_blocks(rng, distinct_devices=True, drop_refused=False, **changes)
    unlimited = np.full(world.edge.classes, np.inf)
    edge = world.edge._replace(
        slots=3, tasks=2, arrival_cdf=np.zeros((1, 2)), arrival_state=np.zeros((1, 1), int),
        task_energy_j=unlimited, battery_j=unlimited,
    )  # fmt: skip
    fewer = {"block_device_s": 2, "block_server_s": 1, "block_input_bits": 1, "block_device_j": 2, "block_mask": 1}
    cut = {name: np.take(getattr(world, name), range(min(3, world.blocks)), axis) for name, axis in fewer.items()}
    return world._replace(edge=edge, **cut)


@settings(max_examples=10, deadline=None)
@given(st.integers(0, 10_000))
def test_bound_optimum_descent_and_policies_are_in_this_order(seed):
    world = small(seed)
    if world.edge.devices < 2 or world.edge.servers > 3:
        return
    tables = blocks.load(world, dtype=torch.float64)
    state = blocks.reset(tables, torch.arange(3))
    seen = true_observation(tables, state)
    costs = {}
    for name, decide in {"optimum": slot_optimum(tables), "descent": slot_descent(tables)}.items():
        costs[name] = slot_cost(tables, state, decide(state, seen).place[:, None])[:, 0]
    bound = blocks_slot.least_latency(seen)
    assert (bound <= costs["optimum"] + 1e-9).all()
    assert (costs["optimum"] <= costs["descent"] + 1e-9).all()
    for maker in BLOCKS.values():
        cost = slot_cost(tables, state, maker(0)(seen).place[:, None])[:, 0]
        assert (costs["optimum"] <= cost + 1e-9).all()


def test_a_pooled_server_is_exact_for_equal_tasks_of_tiny_parts():
    """Two tasks, each 4 s on its device, one server that does a whole task in 1 s; nothing travels. The first is done
    after C_1 = 1 / (1 + 1/4) with both computing, the second after C_2: C_2 + C_1/4 + C_2/4 = 2."""
    found = blocks_slot._sum_s(np.array([0.1, 0.1]), np.array([4.0, 4.0]), np.array([1.0, 1.0]))
    assert found == pytest.approx(0.8 + 1.8 / 1.25)
    assert blocks_slot._sum_s(np.zeros(0), np.zeros(0), np.zeros(0)) == 0


def test_no_policy_beats_the_bound_of_an_episode():
    world = small(4)._replace(name="small")
    bound = lower_bound_of_blocks(world, 2, 2).measures["mean_s"]
    for name in ("sequential-greedy", "rpdi", "device-only", *BLOCKS_ORACLES):
        assert (run_policy(world, name, 2, 2).measures["mean_s"] >= bound * (1 - 1e-6)).all(), name


def test_exhaustive_search_says_what_it_cannot_do():
    world = random_blocks(np.random.default_rng(1), distinct_devices=False, tasks=9, arrival_cdf=np.zeros((2, 9)))
    tables = blocks.load(world)
    state = blocks.reset(tables, torch.arange(1))
    with pytest.raises(BoundError, match=r"exhaustive search takes 2,000,000; slot-descent takes more"):
        slot_optimum(tables)(state, blocks.observe(tables, state))
