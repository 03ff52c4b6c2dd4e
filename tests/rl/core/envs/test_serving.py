"""Servers that batch and load as an environment: it plays as the rules do, by one decider and by several."""

import pytest
import torch

from coinfer.envs import offload, rewards
from coinfer.evaluate.deciders import apart
from coinfer.evaluate.serving_slots import demand_greedy, rule_weights
from coinfer.rl.core.envs.serving import ServingEnv
from coinfer.scenario.compile import open_world


def by_rule(rows, mask, _):
    return torch.where(mask, rows[..., 0], -torch.inf).argmax(-1)


@pytest.mark.parametrize("deciders", [1, 3])
def test_the_untrained_policy_plays_as_the_rule(deciders):
    world = open_world(
        "many-models", {"slots": 8, "staleness_slots": 2, "arrivals.rates_per_s": [60, 60, 60, 60]}
    ).world
    weights = rule_weights(world)
    env = ServingEnv(world, rewards.latency, 2, weights, 0.03, deciders)
    played, _ = env.reset(torch.tensor([5]))
    tables, state = env.tables, played.world
    decide = apart(demand_greedy(weights), deciders)(tables)
    for _ in range(7):
        step = env.play(played, by_rule)
        stepped = offload.step(tables, state, decide(state, offload.observe(tables, state)), rewards.latency)
        torch.testing.assert_close(step.reward.flatten(), stepped.reward)
        tasks = step.observation.task_mask.sum(-1).flatten()
        assert tasks.tolist() == state.draws.task_mask.sum(-1).tolist()
        played, state = step.state, stepped.state
    assert float(stepped.reward.abs().sum()) > 0
