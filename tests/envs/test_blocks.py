"""The vectorised environment `blocks` against its event-driven reference, and what must hold of any world."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.envs.worlds import random_blocks

from coinfer.envs import block_visits, blocks, core, offload, rewards
from coinfer.envs.reference import blocks as reference_blocks
from coinfer.envs.reference import offload as reference
from coinfer.scenario.world import BlocksWorld, Edge, OffloadWorld
from coinfer.types import BlocksDecision, OffloadDecision

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


def plain_edge(edge: Edge, tasks: int) -> Edge:
    """One slot of so many tasks, each on its own device, of one class and one network, before 2 servers; links of 1
    bit a second, deadline 15.5 s, nothing left to chance."""
    return edge._replace(
        slots=1,
        tasks=tasks,
        distinct_devices=True,
        device_class=np.zeros(tasks, int),
        model_cdf=np.ones(1),
        arrival_cdf=np.zeros((1, tasks)),
        arrival_state=np.zeros((1, 1), int),
        deadline_s=np.full((1, 1, 2), 15.5),
        device_factor=np.ones(1),
        server_factor=np.ones(1),
        mean_link=np.ones((1, tasks, 2)),
        link_bank=np.ones((1, 1)),
        bandwidth_hz=None,
        shared_bandwidth=False,
        rate_error=np.ones(1),
        transmit_power_w=np.array([0.5]),
        server_capacity=np.full(2, np.inf),
        share_bank=np.ones((1, 1)),
        download_s=np.zeros(2),
        drop_refused=False,
        task_energy_j=np.array([np.inf]),
        battery_j=np.array([np.inf]),
    )


@settings(max_examples=60, deadline=None)
@given(SEEDS)
def test_equals_the_event_driven_reference(seed):
    rng = np.random.default_rng(seed)
    world = random_blocks(rng)
    places = decisions(rng, world)
    found = reference_blocks.run(world, reference.draw_episode(world, seed), lambda t, k: places[t, 0, k].tolist())
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


@settings(max_examples=30, deadline=None)
@given(SEEDS)
def test_permuted_servers_permute_what_becomes_of_blocks(seed):
    rng = np.random.default_rng(seed)
    still = {"link_bank": np.ones((1, 1)), "share_bank": np.ones((1, 1)), "rate_error": np.ones(1)}
    world = random_blocks(rng, **still)
    order = rng.permutation(world.edge.servers)
    edge = world.edge._replace(mean_link=world.edge.mean_link[..., order], download_s=world.edge.download_s[order])
    permuted = world._replace(edge=edge, block_server_s=world.block_server_s[..., order])
    places = decisions(rng, world)
    moved = torch.tensor([0, *(np.argsort(order) + 1), world.edge.servers + 1])[places]
    before, after = rollout(world, torch.arange(3), places), rollout(permuted, torch.arange(3), moved)
    for (seen, step), (seen_after, step_after) in zip(before, after, strict=True):
        assert all(map(torch.equal, step.outcome, step_after.outcome))
        assert seen.server_backlog_s[:, order].equal(seen_after.server_backlog_s)


@settings(max_examples=30, deadline=None)
@given(SEEDS, st.floats(1.0, 10.0))
def test_more_bandwidth_never_makes_blocks_of_a_lone_task_slower(seed, factor):
    """One task a slot, which neither meets itself on a later slot's way nor is refused."""
    rng = np.random.default_rng(seed)
    alone = {"tasks": 1, "arrival_cdf": np.zeros((1, 1)), "arrival_state": np.zeros((1, 1), int)}
    world = random_blocks(rng, **alone, distinct_devices=False, bandwidth_hz=None, drop_refused=False)
    unlimited = np.full(world.edge.classes, np.inf)
    world = world._replace(edge=world.edge._replace(slots=1, task_energy_j=unlimited, battery_j=unlimited))
    faster = world._replace(
        edge=world.edge._replace(mean_link=world.edge.mean_link * factor), backhaul_bps=world.backhaul_bps * factor
    )
    places = decisions(rng, world)
    [(_, step)], [(_, sooner)] = (rollout(one, torch.arange(10), places) for one in (world, faster))
    assert (sooner.outcome.latency_s <= step.outcome.latency_s + 1e-9).all()


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
    edge = plain_edge(world.edge, tasks=1)._replace(
        mean_link=np.array([[[2.0, 1.0]]]), download_s=np.array([7.0, 7.0]), task_energy_j=np.array([6.0])
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
    limited = world._replace(block_deadlines=True, edge=edge._replace(deadline_s=np.full((1, 1, 2), 2.0)))
    [(seen, step)] = rollout(limited, torch.tensor([0]), torch.tensor([[[[0, 1, 2, 0]]]]))
    assert (float(seen.deadline_s), seen.block_deadline_s.tolist()) == (8.0, [[[2.0] * 4]])
    assert step.reward.tolist() == pytest.approx([-15.0 - (0 + 3 + 1 + 4)])  # blocks take 1, 2 + 3, 1 + 2 and 2 + 4 s
    assert not step.outcome.in_time.any()
    tight = world._replace(edge=edge._replace(task_energy_j=np.array([5.9])))
    [(_, step)] = rollout(tight, torch.tensor([0]), torch.tensor([[[[0, 1, 2, 0]]]]))
    assert step.info.dropped.tolist() == [[True]]
    assert float(step.outcome.latency_s[0, 0]) == pytest.approx(15.5)


@pytest.mark.parametrize(("place", "refused"), [([1, 2, 0], True), ([2, 1, 0], True), ([1, 2, 2], False)])
def test_a_dead_link_is_of_no_use_up_or_down(place, refused):
    """The link to server 2 is dead: nothing goes up there or comes down from there, though it may be reached across."""
    edge = plain_edge(random_blocks(np.random.default_rng(0)).edge, tasks=1)
    world = BlocksWorld(
        name="by hand",
        edge=edge._replace(mean_link=np.array([[[1.0, 0.0]]])),
        block_device_s=np.array([[[5.0, 5.0, 5.0]]]),
        block_server_s=np.ones((1, 3, 2)),
        block_input_bits=np.ones((1, 3)),
        block_device_j=np.zeros((1, 1, 3)),
        block_mask=np.ones((1, 3), bool),
        accuracy=np.array([1.0]),
        backhaul_bps=1.0,
    )
    [(_, step)] = rollout(world, torch.tensor([0]), torch.tensor([[[place]]]))
    assert step.info.refused.tolist() == [[refused]]
    assert step.outcome.latency_s.tolist() == [[15.0 if refused else 1.0 + 1.0 + 1.0 + 1.0 + 1.0]]


@settings(max_examples=20, deadline=None)
@given(SEEDS)
def test_no_block_is_offered_where_there_is_no_task(seed):
    rng = np.random.default_rng(seed)
    world = random_blocks(rng, arrival_cdf=np.full((2, 4), 0.5), tasks=4, distinct_devices=False)
    for seen, _ in rollout(world, torch.arange(20), decisions(rng, world)):
        assert not seen.task_mask.all()
        assert not seen.block_mask[~seen.task_mask].any()


def test_a_later_stay_waits_for_nobody_slower():
    """Task 0 computes 1 s on server 1 and goes on to server 2, task 1 needs 9 s on its device before it sends its last
    block to server 2. Task 0 does not wait for it, though it comes to server 2 with its second stay."""
    rng = np.random.default_rng(0)
    edge = plain_edge(random_blocks(rng).edge, tasks=2)
    world = BlocksWorld(
        name="by hand",
        edge=edge,
        block_device_s=np.array([[[9.0, 9.0]]]),
        block_server_s=np.array([[[1.0, 1.0], [1.0, 1.0]]]),
        block_input_bits=np.array([[1.0, 1.0]]),
        block_device_j=np.zeros((1, 1, 2)),
        block_mask=np.ones((1, 2), bool),
        accuracy=np.array([1.0]),
        backhaul_bps=1.0,
    )
    places = torch.tensor([[[[1, 2], [0, 2]]]])
    [(_, step)] = rollout(world, torch.tensor([0]), places)
    assert step.outcome.latency_s.tolist() == [[1.0 + 1.0 + 1.0 + 1.0, 9.0 + 1.0 + 1.0]]
    assert step.outcome.queue_s.tolist() == [[0.0, 0.0]]


def test_a_task_makes_those_behind_it_wait():
    """Three tasks of 1 s on server 1, ready at the same time, and one of 3 s on its device: 2, 1, 0 and 0 s. Then the
    first also goes on to server 2, behind the third."""
    tables, state = four_tasks(1.5)

    def imposed(places: list[list[int]]) -> list[float]:
        served = blocks.serve(tables, state, BlocksDecision(torch.tensor([places])))
        return block_visits.imposed_s(tables.edge, served.usage)[0].tolist()

    assert imposed([[1, 1], [1, 1], [1, 1], [0, 0]]) == [2.0, 1.0, 0.0, 0.0]
    assert imposed([[1, 2], [1, 1], [2, 2], [0, 0]]) == [0.5, 0.0, 1.0, 0.0]


@settings(max_examples=30, deadline=None)
@given(st.lists(st.sampled_from([(0, 0), (1, 1), (2, 2), (0, 1), (0, 2)]), min_size=4, max_size=4))
def test_without_a_task_the_others_wait_as_much_less_as_it_is_charged(places):
    """Blocks of 0.7 s on a device: tasks of one cut come after servers have paused, or before."""
    tables, state = four_tasks(0.7)

    def served(where: list[tuple[int, int]]) -> blocks.Served:
        return blocks.serve(tables, state, BlocksDecision(torch.tensor([where])))

    charged = block_visits.marginal_wait_s(tables.edge, served(places).usage)[0]
    for k in range(4):
        without = [(0, 0) if number == k else place for number, place in enumerate(places)]
        latency_s, alone_s = (served(where).outcome.latency_s[0] for where in (places, without))
        expected = (latency_s.sum() - latency_s[k]) - (alone_s.sum() - alone_s[k])
        assert float(charged[k]) == pytest.approx(float(expected), abs=1e-9)


def four_tasks(device_s: float) -> tuple[blocks.Tables, core.State]:
    """Tasks of two blocks of 0.5 s on either server, each with a device of its own."""
    world = BlocksWorld(
        name="by hand",
        edge=plain_edge(random_blocks(np.random.default_rng(0)).edge, tasks=4),
        block_device_s=np.full((1, 1, 2), device_s),
        block_server_s=np.full((1, 2, 2), 0.5),
        block_input_bits=np.array([[1.0, 1.0]]),
        block_device_j=np.zeros((1, 1, 2)),
        block_mask=np.ones((1, 2), bool),
        accuracy=np.array([1.0]),
        backhaul_bps=1.0,
    )
    tables = blocks.load(world, dtype=torch.float64)
    return tables, blocks.reset(tables, torch.tensor([0]))


@settings(max_examples=40, deadline=None)
@given(SEEDS)
def test_one_cut_is_what_offload_does(seed):
    """The same edge as `blocks` and as `offload`, whose option o keeps o blocks on the device: the same outcomes.
    (Where it keeps none, a task of `offload` still waits for its processor.)"""
    rng = np.random.default_rng(seed)
    world = random_blocks(rng, share_bank=np.ones((1, 1)), drop_refused=False)
    world = world._replace(block_mask=np.ones_like(world.block_mask), block_input_bits=world.block_input_bits + 0.1)
    world = world._replace(block_deadlines=False)
    blocks_count, servers = world.blocks, world.edge.servers
    cut = np.arange(blocks_count + 1)
    before, after = np.arange(blocks_count) < cut[:, None], np.arange(blocks_count) >= cut[:, None]
    shape = (world.edge.models, world.edge.classes, blocks_count + 1)
    bits = np.pad(world.block_input_bits, ((0, 0), (0, 1)))
    on_server_s = np.einsum("xmn,om->xon", world.block_server_s, after)[:, None]
    same = OffloadWorld(
        name="one cut",
        edge=world.edge,
        option_device_s=world.block_device_s @ before.T,
        option_upload_bits=np.broadcast_to(bits[:, None], shape).copy(),
        option_server_s=np.broadcast_to(on_server_s, (*shape, servers)).copy(),
        option_accuracy=np.broadcast_to(world.accuracy[:, None, None], shape).copy(),
        option_device_j=world.block_device_j @ before.T,
        option_mask=np.ones(shape, bool),
        local_option=np.full(shape[:2], blocks_count),
    )
    option = torch.tensor(rng.integers(1, blocks_count + 1, (world.edge.slots, 1, world.edge.tasks)))
    server = torch.tensor(rng.integers(0, servers, option.shape))
    place = torch.where(torch.arange(blocks_count) < option[..., None], 0, server[..., None] + 1)
    seeds = torch.arange(3)
    tables = offload.load(same, dtype=torch.float64)
    state = offload.reset(tables, seeds)
    for t, (_, ours) in enumerate(rollout(world, seeds, place)):
        decision = OffloadDecision(option[t].expand(3, -1), server[t].expand(3, -1))
        theirs = offload.step(tables, state, decision, rewards.late())
        for name, field in ours.outcome._asdict().items():
            assert torch.allclose(field.double(), getattr(theirs.outcome, name).double(), atol=1e-9), name
        state = theirs.state
