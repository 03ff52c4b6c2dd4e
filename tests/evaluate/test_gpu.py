"""Policies and environments on a GPU do what they do on the processor."""

import numpy as np
import pytest
import torch

from coinfer.evaluate.simulate import known_policies, run_policy
from coinfer.policies.heuristics.block_rules import BLOCKS
from coinfer.policies.heuristics.offload import OFFLOAD
from coinfer.scenario.compile import open_world

CASES = [("campus", name) for name in OFFLOAD] + [("mtl-a3c", name) for name in BLOCKS]


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
@pytest.mark.parametrize(("scenario", "policy"), CASES)
def test_a_policy_comes_to_the_same_figures_on_a_gpu(scenario, policy):
    """In float32, where two equal choices may be told apart by rounding: so not task by task."""
    world = open_world(scenario, {"slots": 12}).world
    assert policy in known_policies(world)
    here, there = (run_policy(world, policy, seeds=8, episodes=2, device=device) for device in ("cpu", "cuda"))
    assert here.tasks == there.tasks
    for name in ("mean_s", "in_time", "accuracy", "energy_j"):
        assert np.allclose(here.measures[name], there.measures[name], rtol=0.02), name
