"""On the device `meta`, where tensors have shapes and no values, in place of a GPU: what stays behind on the processor,
or looks at a value, fails. (A GPU must be waited for to look at a value, and a CUDA graph cannot.)"""

import pytest
import torch

from coinfer.envs import blocks, offload, rewards
from coinfer.policies.heuristics.block_rules import BLOCKS
from coinfer.policies.heuristics.offload import OFFLOAD
from coinfer.scenario.compile import open_world
from coinfer.types import OffloadDecision

SLOTS = {"slots": 4}


@pytest.mark.parametrize("scenario", ["cdo-dsac", "campus", "city", "grle", "sacd"])
def test_offload_stays_on_its_device_and_looks_at_no_value(scenario):
    world = open_world(scenario, SLOTS).world
    tables = offload.load(world, "meta")
    state = offload.reset(tables, torch.arange(8))
    nothing = torch.zeros(8, world.edge.tasks, dtype=torch.int64, device="meta")
    for _ in range(2):
        seen = offload.observe(tables, state)
        step = offload.step(tables, state, OffloadDecision(nothing, nothing), rewards.late())
        fields = (*seen, *step.outcome, *step.info, step.reward)
        assert {field.device.type for field in fields if field is not None} == {"meta"}
        state = step.state


@pytest.mark.parametrize("name", OFFLOAD)
def test_policies_stay_on_the_device_of_what_they_see(name):
    tables = offload.load(open_world("campus", SLOTS).world, "meta")
    seen = offload.observe(tables, offload.reset(tables, torch.arange(8)))
    assert {field.device.type for field in OFFLOAD[name](0)(seen)} == {"meta"}


@pytest.mark.parametrize("name", BLOCKS)
def test_policies_of_blocks_stay_on_the_device_of_what_they_see(name):
    tables = blocks.load(open_world("mtl-a3c", SLOTS).world, "meta")
    seen = blocks.observe(tables, blocks.reset(tables, torch.arange(8)))
    assert BLOCKS[name](0)(seen).place.device.type == "meta"
