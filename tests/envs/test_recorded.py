"""Tasks that come as they were recorded, and options that only refused tasks take: both environments agree on them."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.envs.test_offload import decisions, rollout
from tests.envs.worlds import random_blocks, random_world

from coinfer.envs import blocks, exogenous
from coinfer.envs.reference import offload as reference
from coinfer.scenario.world import Edge, OffloadWorld, RecordedTasks

SEEDS = st.integers(0, 2**32 - 1)


def recorded(rng: np.random.Generator, edge: Edge) -> Edge:
    """The same edge with a record that ends before the episode does."""
    shape = (edge.slots - 1, edge.tasks)
    device, model = rng.integers(0, edge.devices, shape), rng.integers(0, edge.models, shape)
    return edge._replace(distinct_devices=False, recorded=RecordedTasks(rng.random(shape) < 0.6, device, model))


def check_against_reference(world: OffloadWorld, seed: int) -> None:
    decided = decisions(np.random.default_rng(seed), world)
    slots = reference.draw_episode(world, seed)
    episode = reference.run(world, slots, lambda t, k: (int(decided[t].option[0, k]), int(decided[t].server[0, k])))
    for t, (seen, step) in enumerate(rollout(world, torch.tensor([seed]), decided)):
        assert set(episode.outcomes[t]) == set(seen.task_mask[0].nonzero().flatten().tolist())
        for k, outcome in episode.outcomes[t].items():
            found = [float(field[0, k]) for field in step.outcome]
            assert found == pytest.approx([float(value) for value in outcome], rel=1e-6, abs=1e-9)


@settings(max_examples=15, deadline=None)
@given(SEEDS)
def test_every_world_has_the_recorded_tasks_and_no_others(seed: int):
    rng = np.random.default_rng(seed)
    world = random_world(rng)
    world = world._replace(edge=recorded(rng, world.edge))
    record = world.edge.recorded
    tables = exogenous.load_edge(world, "cpu", torch.float64)
    for slot in range(world.edge.slots + 1):
        draws = exogenous.draw(tables, torch.arange(3), torch.full((3,), slot))
        if slot >= len(record.task_mask):
            assert not draws.task_mask.any()
            continue
        there = record.task_mask[slot]
        for b in range(3):
            assert draws.task_mask[b].tolist() == there.tolist()
            assert draws.device[b, there].tolist() == record.device[slot, there].tolist()
            assert draws.model[b, there].tolist() == record.model[slot, there].tolist()


@settings(max_examples=15, deadline=None)
@given(SEEDS)
def test_recorded_tasks_are_served_as_in_the_event_driven_reference(seed: int):
    rng = np.random.default_rng(seed)
    world = random_world(rng)
    check_against_reference(world._replace(edge=recorded(rng, world.edge)), seed)


def test_a_record_changes_nothing_else_that_is_drawn():
    """The record of what an episode drew is that episode."""
    rng = np.random.default_rng(5)
    world = random_world(rng, distinct_devices=False)
    tables, seeds = exogenous.load_edge(world, "cpu", torch.float64), torch.tensor([7])
    drawn = [exogenous.draw(tables, seeds, torch.tensor([slot])) for slot in range(world.edge.slots)]
    parts = (np.concatenate([getattr(one, name) for one in drawn]) for name in ("task_mask", "device", "model"))
    again = exogenous.load_edge(
        world._replace(edge=world.edge._replace(recorded=RecordedTasks(*parts))), "cpu", torch.float64
    )
    for slot, before in enumerate(drawn):
        after = exogenous.draw(again, seeds, torch.tensor([slot]))
        assert all(map(torch.equal, before, after))


def test_blocks_play_a_record_too():
    rng = np.random.default_rng(3)
    world = random_blocks(rng)
    world = world._replace(edge=recorded(rng, world.edge))
    tables = blocks.load(world)
    seen = blocks.observe(tables, blocks.reset(tables, torch.arange(4)))
    assert seen.task_mask.tolist() == [world.edge.recorded.task_mask[0].tolist()] * 4


@settings(max_examples=15, deadline=None)
@given(SEEDS)
def test_only_refused_tasks_take_an_option_that_cannot_be_chosen(seed: int):
    rng = np.random.default_rng(seed)
    world = random_world(rng)
    mask = world.option_mask.copy()
    mask[..., 0], mask[..., -1] = True, False
    bits, device_s = world.option_upload_bits.copy(), world.option_device_s.copy()
    bits[..., 0], device_s[..., 0] = 0.3, 0.1
    world = world._replace(option_mask=mask, option_upload_bits=bits, option_device_s=device_s)
    for seen, step in rollout(world, torch.arange(5), decisions(rng, world)):
        assert not seen.option_mask[..., -1].any()
        stays = seen.task_mask & (step.outcome.upload_s == 0) & ~step.info.dropped & (step.outcome.server_s == 0)
        assert (step.info.refused | ~stays).all()
    check_against_reference(world, seed)
