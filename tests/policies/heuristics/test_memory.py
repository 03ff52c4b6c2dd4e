"""What was sent since is what is missing from a stale observation."""

import pytest
import torch

from coinfer.envs import core, offload, rewards
from coinfer.evaluate.simulate import episode_seeds, run_policy
from coinfer.policies.heuristics import offload as heuristics
from coinfer.policies.heuristics.memory import memory_policy
from coinfer.scenario.compile import open_world
from coinfer.types import OffloadObservation


def exact_world(staleness: int, slots: int = 12):
    """Nothing is off but the age: times and links are as predicted, and a slot's tasks come from different devices."""
    changes = {"staleness_slots": staleness, "slots": slots, "servers.0.capacity": 1000}
    world = open_world("cdo-dsac", changes).world
    return world._replace(edge=world.edge._replace(distinct_devices=True))


@pytest.mark.parametrize("staleness", [1, 3])
def test_told_backlogs_are_the_true_ones(staleness):
    """With exact predictions and every decision remembered, nothing is left of the age."""
    world = exact_world(staleness)
    tables = offload.load(world, dtype=torch.float64)
    state: core.State = offload.reset(tables, episode_seeds(3, 1))
    told: list[torch.Tensor] = []

    def watched(seen: OffloadObservation):
        told.append(seen.server_backlog_s)
        assert not seen.observation_age_s.any()
        return heuristics.sequential_greedy()(seen)

    policy = memory_policy(watched, world.edge.slot_s)
    for _ in range(world.edge.slots):
        decision = policy(offload.observe(tables, state))
        torch.testing.assert_close(told[-1], state.server_backlog_s, rtol=0, atol=1e-6)
        state = offload.step(tables, state, decision, rewards.latency).state
    assert max(one.max() for one in told) > 0.1


def test_with_fresh_knowledge_nothing_changes():
    world = exact_world(0, slots=6)
    plain = run_policy(world, "sequential-greedy", 2, 1)
    told = run_policy(
        world, "told", 2, 1, maker=lambda seed: memory_policy(heuristics.sequential_greedy(seed), world.edge.slot_s)
    )
    assert plain.measures["mean_s"].tolist() == told.measures["mean_s"].tolist()


def test_another_number_of_worlds_begins_anew():
    world = exact_world(2, slots=4)
    tables = offload.load(world)
    policy = memory_policy(heuristics.sequential_greedy(), world.edge.slot_s)
    for worlds in (3, 2):
        seen = offload.observe(tables, offload.reset(tables, episode_seeds(worlds, 1)))
        plain, told = heuristics.sequential_greedy()(seen), policy(seen)
        assert torch.equal(plain.server, told.server)
