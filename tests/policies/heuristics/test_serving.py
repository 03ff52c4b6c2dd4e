"""Rules for servers that batch and load: what they predict is what the environment does, and searches only gain."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.envs.worlds import random_world, serving_world

from coinfer.envs import offload, rewards
from coinfer.evaluate import oracles, serving_oracles
from coinfer.evaluate.limits import lower_bound
from coinfer.evaluate.serving_worlds import known_worlds
from coinfer.evaluate.simulate import run_policy
from coinfer.physics.batching import BatchTimes
from coinfer.physics.loading import Loaded
from coinfer.policies.heuristics.server_times import ServerState, total_s
from coinfer.policies.heuristics.serving import Choice, Task, plan
from coinfer.types import OffloadDecision


def open_servers(rng: np.random.Generator, loads: bool):
    """A world in which what is expected is true: no errors, outages, refusals or limits."""
    still = {"share_bank": np.ones((1, 1)), "rate_error": np.ones(1), "staleness_slots": 0, "drop_refused": False}
    same = {"device_factor": np.ones(1), "server_factor": np.ones(1), "shared_bandwidth": False}
    world = serving_world(rng, random_world(rng, **still, **same), loads=loads)
    edge = world.edge._replace(
        task_energy_j=np.full(world.edge.classes, np.inf),
        battery_j=np.full(world.edge.classes, np.inf),
        server_capacity=np.full(world.edge.servers, 12.0),
    )
    return world._replace(edge=edge)


@settings(max_examples=8, deadline=None)
@given(st.integers(0, 2**32 - 1), st.booleans())
def test_the_predicted_end_of_all_requests_is_that_of_the_environment(seed, loads):
    rng = np.random.default_rng(seed)
    tables = offload.load(open_servers(rng, loads), dtype=torch.float64)
    state = offload.reset(tables, torch.tensor([seed]))
    for _ in range(3):
        option = torch.tensor(rng.integers(0, tables.exists.shape[1], state.draws.device.shape))
        server = torch.tensor(rng.integers(0, tables.edge.edge.servers, option.shape))
        state = offload.step(tables, state, OffloadDecision(option, server), rewards.latency).state
    assert state.queues is not None
    waits = state.queues.requests.finish_s.isinf()
    expected_s = torch.where(waits, state.queues.requests.expected_s, 0.0).sum(-1)[0]
    predicted_s = [total_s(server) for server in known_worlds(tables, state.queues)[0]]
    assert predicted_s == pytest.approx(expected_s.tolist())


def test_a_task_joins_a_batch_that_waits_rather_than_an_idle_server_that_is_slow():
    times = BatchTimes((1, 2), (1.0, 1.1))
    busy, idle = (ServerState([times], [0.0], [1.0], float("inf"), free_s=free_s) for free_s in (1.0, 0.0))
    tasks = [Task((Choice(0, 0, 0.1, 1.0, 0, 0), Choice(0, 1, 0.1, 2.5, 0, 0)), float("inf")) for _ in range(2)]
    assert [one.server for one in plan([busy, idle], tasks)] == [0, 0]


def test_tasks_together_load_what_none_would_load_alone():
    server = ServerState([BatchTimes()] * 2, [2.0, 2.0], [1.0, 1.0], 1.0, warm={0: Loaded(1.0, 2.0, 2.0)})
    tasks = [
        Task((Choice(1, -1, k + 1.5, 0.0, 1, 1), Choice(0, 0, k + 0.1, 0.1, 1, 1)), float("inf")) for k in range(6)
    ]
    assert {one.server for one in plan([server], tasks)} == {-1}
    assert [one.server for one in plan([server], tasks, load_weight=0.2)] == [0] * 6
    assert {one.server for one in plan([server], tasks, rounds=4)} == {0}


@pytest.mark.parametrize("loads", [False, True])
def test_nobody_is_below_the_bound_and_a_search_that_knows_what_comes_is_nearest(loads):
    rng = np.random.default_rng(5)
    busy = {"arrival_cdf": np.zeros((1, 3)), "arrival_state": np.zeros((1, 1), int), "tasks": 3}
    world = open_servers(rng, loads)
    world = world._replace(edge=world.edge._replace(**busy, slots=6, distinct_devices=False))
    deciders = {
        "rule": serving_oracles.serving_greedy,
        "slot": serving_oracles.serving_descent,
        "environment": oracles.slot_descent,
    }
    deciders |= {} if loads else {"horizon": serving_oracles.serving_horizon(3)}  # devices wait too long to plan loads
    means = {
        name: run_policy(world, name, 2, 1, oracle=oracle).measures["mean_s"].mean()
        for name, oracle in deciders.items()
    }
    bound = lower_bound(world, 2, 1, steps=8).measures["mean_s"].mean()
    assert 0.2 * min(means.values()) < bound < min(means.values()) * (1 + 1e-6)
    assert means.get("horizon", 0.0) < 1.001 * means["rule"]
