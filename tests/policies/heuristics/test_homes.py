"""Homes: each network fits at home, work is even, and deciders who do not know of each other agree."""

from itertools import product

import numpy as np
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from coinfer.envs import offload, rewards
from coinfer.envs.serving import known_queues
from coinfer.evaluate.deciders import apart
from coinfer.evaluate.serving_slots import LOADS_AT_HOME, demand_greedy, rule_weights, rules
from coinfer.evaluate.serving_worlds import home_servers
from coinfer.evaluate.simulate import run_policy
from coinfer.policies.heuristics.homes import homes
from coinfer.scenario.compile import open_world
from coinfer.types import DEVICE

INF = float("inf")


def test_work_is_shared_out_where_memory_is_not_limited():
    assert homes([4.0, 3.0, 2.0, 1.0], [1.0] * 4, [1.0] * 4, [INF, INF]) == [0, 1, 1, 0]


def test_those_that_save_most_together_are_at_home_and_the_others_stay_on_devices():
    assert homes([1.0] * 3, [5.0, 9.0, 5.0], [5.0, 7.0, 5.0], [10.0]) == [0, DEVICE, 0]
    assert homes([1.0] * 2, [9.0, 1.0], [7.0, 8.0], [6.0, 0.5]) == [DEVICE, DEVICE]


@settings(max_examples=20, deadline=None)
@given(
    st.lists(st.tuples(st.floats(0.0, 10.0), st.floats(0.0, 9.0), st.floats(0.1, 10.0)), min_size=1, max_size=5),
    st.lists(st.floats(5.0, 20.0), min_size=1, max_size=3),
)
def test_homes_are_as_good_as_the_best_of_all_that_fit(networks, memory_bytes):
    """With a little room to spare, as the program counts in whole steps."""
    work, saved, size_bytes = (np.array(part) for part in zip(*networks, strict=True))

    def fits(found, room: float = 1.0) -> bool:
        taken = [size_bytes[[at == n for at in found]].sum() for n in range(len(memory_bytes))]
        return all(bytes_ <= room * memory + 1e-6 for bytes_, memory in zip(taken, memory_bytes, strict=True))

    def worth(found) -> float:
        return saved[[at != DEVICE for at in found]].sum()

    found = homes(work.tolist(), saved.tolist(), size_bytes.tolist(), memory_bytes)
    assert fits(found)
    places = [DEVICE, *range(len(memory_bytes))]
    best = max(worth(one) for one in product(places, repeat=len(networks)) if fits(one, 0.998))
    assert worth(found) >= best - 0.003 * saved.sum() - 1e-4


def test_work_is_shared_out_among_those_at_home():
    assert sorted(homes([4.0, 3.0, 2.0, 1.0], [1.0] * 4, [1.0] * 4, [2.0, 2.0])) == [0, 0, 1, 1]
    found = homes([4.0, 3.0, 2.0, 1.0], [1.0] * 4, [1.0] * 4, [2.0, 2.0])
    assert found[0] == found[3] != found[1] == found[2]


def test_a_crowded_home_is_for_all_that_could_be_there_alone():
    work, size_bytes, memory_bytes = [1.0, 2.0, 1.0, 4.0], [6.0, 5.0, 7.0, 3.0], [6.0, 6.0]
    alone = homes(work, work, size_bytes, memory_bytes)
    assert [home == DEVICE for home in alone] == [True, False, True, False]
    assert homes(work, work, size_bytes, memory_bytes, crowded=True) == [alone[1], alone[1], DEVICE, alone[3]]


def latencies(world, oracle):
    return run_policy(world, "rule", 3, 1, oracle=oracle).measures["mean_s"]


def test_one_decider_apart_is_the_decider_itself():
    world = open_world("many-models", {"slots": 20, "staleness_slots": 2}).world
    rule = demand_greedy(rule_weights(world))
    np.testing.assert_array_equal(latencies(world, apart(rule, 1)), latencies(world, rule))


def test_deciders_apart_collide_and_those_who_keep_to_homes_do_not():
    """Eight see the servers 20 ms late, and none knows what the others sent since."""
    world = open_world("gpu-edge", {"slots": 30, "staleness_slots": 2}).world
    weights = rule_weights(world)
    together = latencies(world, demand_greedy(weights)).mean()
    assert latencies(world, apart(demand_greedy(weights), 8)).mean() > 1.3 * together
    assert latencies(world, apart(rules(world)["demand-at-home"], 8)).mean() < 1.1 * together


def test_a_network_is_loaded_at_home_only():
    world = open_world("many-models", {"slots": 30, "servers.0.memory_bytes": 5.6e8}).world
    tables = offload.load(world)
    state, decide = offload.reset(tables, torch.arange(2)), demand_greedy(LOADS_AT_HOME)(tables)
    home, held = torch.tensor(home_servers(tables, crowded=True)), 0
    for _ in range(world.edge.slots):
        state = offload.step(tables, state, decide(state, offload.observe(tables, state)), rewards.latency).state
        _, server, network = known_queues(state).memory.warm.nonzero().T
        assert (server == home[network]).all()
        held = max(held, len(network))
    assert held > 8


def test_a_task_goes_home_or_stays():
    world = open_world("many-models", {"slots": 15}).world
    tables = offload.load(world)
    state, decide = offload.reset(tables, torch.arange(2)), rules(world)["demand-at-home"](tables)
    home, sent = torch.tensor(home_servers(tables)), 0
    for _ in range(world.edge.slots):
        observation = offload.observe(tables, state)
        decision = decide(state, observation)
        away = observation.task_mask & (decision.server != DEVICE)
        assert (decision.server[away] == home[state.draws.model[away]]).all()
        sent += int(away.sum())
        state = offload.step(tables, state, decision, rewards.latency).state
    assert sent > 20
