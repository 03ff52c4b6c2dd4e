"""The vectorised environment `blocks` against its event-driven reference, and what must hold of any world."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.envs.worlds import random_blocks

from coinfer.envs import blocks, reference, reference_blocks, rewards
from coinfer.scenario.world import BlocksWorld
from coinfer.types import BlocksDecision

SEEDS = st.integers(0, 2**32 - 1)


def decisions(rng: np.random.Generator, world: BlocksWorld) -> torch.Tensor:
    """[T, 1, K, M] random places, a few of them impossible; tasks tend to keep their place."""
    shape = (world.edge.slots, 1, world.edge.tasks, world.blocks)
    place = rng.integers(0, world.edge.servers + 1, shape)
    place = np.where(rng.random(shape) < 0.3, place[..., :1], place)
    return torch.tensor(np.where(rng.random(shape) < 0.02, world.edge.servers + 1, place))


def rollout(world: BlocksWorld, seeds: torch.Tensor, places: torch.Tensor, dtype=torch.float64) -> list:
    """(observation, step) of each slot."""
    tables = blocks.load(world, dtype=dtype)
    state, found = blocks.reset(tables, seeds), []
    for place in places:
        seen = blocks.observe(tables, state)
        step = blocks.step(tables, state, BlocksDecision(place.expand(len(seeds), -1, -1)), rewards.late())
        found.append((seen, step))
        state = step.state
    return found


@settings(max_examples=150, deadline=None)
@given(SEEDS)
def test_equals_the_event_driven_reference(seed):
    rng = np.random.default_rng(seed)
    world = random_blocks(rng)
    places = decisions(rng, world)
    found = reference_blocks.run(world, reference.chance(world, seed), lambda t, k: places[t, 0, k].tolist())
    for t, (seen, step) in enumerate(rollout(world, torch.tensor([seed]), places)):
        assert set(found[t]) == set(seen.task_mask[0].nonzero().flatten().tolist())
        for k, outcome in found[t].items():
            ours = [float(field[0, k]) for field in step.outcome]
            assert ours == pytest.approx([float(value) for value in outcome], rel=1e-6, abs=1e-9)


@settings(max_examples=30, deadline=None)
@given(SEEDS)
def test_a_world_does_not_depend_on_its_batch(seed):
    rng = np.random.default_rng(seed)
    world = random_blocks(rng)
    places, seeds = decisions(rng, world), torch.tensor(rng.integers(0, 2**62, 9))
    many, alone = rollout(world, seeds, places, torch.float32), rollout(world, seeds[4:5], places, torch.float32)
    for (seen, step), (seen_alone, step_alone) in zip(many, alone, strict=True):
        for field, field_alone in zip((*seen, *step.outcome), (*seen_alone, *step_alone.outcome), strict=True):
            assert field[4:5].equal(field_alone)


@settings(max_examples=30, deadline=None)
@given(SEEDS)
def test_nothing_is_lost_or_counted_twice(seed):
    rng = np.random.default_rng(seed)
    world = random_blocks(rng)
    for t, (seen, step) in enumerate(rollout(world, torch.arange(20), decisions(rng, world))):
        outcome, info = step.outcome, step.info
        answered = seen.task_mask & ~info.dropped
        assert (outcome.admitted == (seen.task_mask & ~info.refused)).all()
        assert ((outcome.latency_s > 0) == seen.task_mask).all()
        assert ((outcome.accuracy > 0) == answered).all()
        assert (outcome.server_s.sum(-1) >= info.server_work_s.sum(-1) - 1e-9).all()
        assert (info.server_tasks.sum(-1) <= seen.block_mask.sum((-1, -2))).all()
        parts = outcome.device_s + outcome.upload_s + outcome.queue_s + outcome.server_s + outcome.download_s
        assert torch.allclose(parts, outcome.latency_s)
        assert info.truncated.all() == (t == world.edge.slots - 1)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
@pytest.mark.parametrize("seed", range(5))
def test_a_gpu_places_blocks_alike(seed):
    rng = np.random.default_rng(seed)
    world = random_blocks(rng)
    places, seeds = decisions(rng, world), torch.arange(50)
    tables = blocks.load(world, "cuda", torch.float64)
    state = blocks.reset(tables, seeds)
    for (seen, step), place in zip(rollout(world, seeds, places), places, strict=True):
        there = blocks.observe(tables, state)
        step_there = blocks.step(tables, state, BlocksDecision(place.expand(50, -1, -1).cuda()), rewards.late())
        for ours, theirs in zip((*seen, *step.outcome), (*there, *step_there.outcome), strict=True):
            assert torch.allclose(ours.double(), theirs.cpu().double(), rtol=1e-9)
        state = step_there.state


def test_a_task_by_hand():
    """Device, server 1, server 2, device on an idle edge: 1 + (2 up + 3) + (1 across + 2) + (2 down + 4) = 15 s."""
    rng = np.random.default_rng(0)
    world = random_blocks(rng)
    edge = world.edge._replace(
        slots=1,
        tasks=1,
        distinct_devices=True,
        device_class=np.zeros(1, int),
        model_cdf=np.ones(1),
        arrival_cdf=np.zeros((1, 1)),
        arrival_state=np.zeros((1, 1), int),
        deadline_s=np.full((1, 1, 2), 15.5),
        device_factor=np.ones(1),
        server_factor=np.ones(1),
        mean_link=np.array([[[2.0, 1.0]]]),
        link_bank=np.ones((1, 1)),
        bandwidth_hz=None,
        shared_bandwidth=False,
        rate_error=np.ones(1),
        transmit_power_w=np.array([0.5]),
        server_capacity=np.full(2, np.inf),
        share_bank=np.ones((1, 1)),
        download_s=np.array([7.0, 7.0]),
        drop_refused=False,
        task_energy_j=np.array([6.0]),
        battery_j=np.array([np.inf]),
    )
    world = BlocksWorld(
        name="by hand",
        edge=edge,
        block_device_s=np.array([[[1.0, 1.0, 1.0, 4.0]]]),
        block_server_s=np.array([[[9.0, 9.0], [3.0, 9.0], [9.0, 2.0], [9.0, 9.0]]]),
        block_input_bits=np.array([[1.0, 4.0, 5.0, 2.0]]),
        block_device_j=np.array([[[1.0, 1.0, 1.0, 4.0]]]),
        block_mask=np.ones((1, 4), bool),
        accuracy=np.array([0.75]),
        backhaul_bps=5.0,
    )
    [(_, step)] = rollout(world, torch.tensor([0]), torch.tensor([[[[0, 1, 2, 0]]]]))
    found = [float(field[0, 0]) for field in step.outcome]
    assert found == pytest.approx([5.0, 2.0, 0.0, 6.0, 2.0, 15.0, 6.0, 0.75, 1.0, 1.0])
    assert step.reward.tolist() == pytest.approx([-15.0])
    tight = world._replace(edge=edge._replace(task_energy_j=np.array([5.9])))
    [(_, step)] = rollout(tight, torch.tensor([0]), torch.tensor([[[[0, 1, 2, 0]]]]))
    assert step.info.dropped.tolist() == [[True]]
    assert float(step.outcome.latency_s[0, 0]) == pytest.approx(15.5)
