"""Placement of blocks: the chain's optimum against all placements, and what each baseline must do by hand."""

import itertools

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from coinfer.policies.heuristics import blocks
from coinfer.policies.heuristics.block_rules import BLOCKS
from coinfer.types import BlocksObservation


def random_blocks(seed: int, worlds: int, tasks: int, count: int, servers: int) -> BlocksObservation:
    """Networks of different lengths, a server out here and there."""
    generator = torch.Generator().manual_seed(seed)

    def drawn(low: float, high: float, *shape: int) -> torch.Tensor:
        return low + (high - low) * torch.rand(shape, generator=generator, dtype=torch.float64)

    length = 1 + (drawn(0, count, worlds, tasks)).long()
    mask = torch.arange(count) < length[..., None]
    return BlocksObservation(
        block_device_s=drawn(0.1, 1.0, worlds, tasks, count) * mask,
        block_server_s=drawn(0.01, 0.5, worlds, tasks, count, servers) * mask[..., None],
        block_input_bits=drawn(0.0, 1e6, worlds, tasks, count) * mask,
        block_device_j=drawn(0, 1, worlds, tasks, count) * mask,
        block_mask=mask,
        task_mask=drawn(0, 1, worlds, tasks) < 0.8,
        deadline_s=drawn(0.5, 3, worlds, tasks),
        uplink_bps=drawn(1e6, 1e7, worlds, tasks, servers),
        backhaul_bps=torch.full((worlds, 1), 1e7, dtype=torch.float64),
        device_backlog_s=drawn(-0.2, 0.2, worlds, tasks).clamp(min=0),
        server_backlog_s=drawn(-0.2, 0.5, worlds, servers).clamp(min=0),
        server_room=torch.where(drawn(0, 1, worlds, servers) < 0.8, torch.inf, 0.0),
        energy_left_j=torch.full((worlds, tasks), torch.inf),
        observation_age_s=torch.zeros(worlds, servers),
        uplink_backlog_s=drawn(-0.3, 0.3, worlds, tasks).clamp(min=0),
        block_deadline_s=torch.full((worlds, tasks, count), torch.inf),
    )


def latency_s(seen: BlocksObservation, world: int, task: int, places: tuple[int, ...]) -> float:
    """Of a task alone, in plain Python."""
    at, now_s = 0, 0.0
    for m, place in enumerate(places):
        bits = float(seen.block_input_bits[world, task, m])
        if place != at:
            server = max(place, at) - 1
            now_s = max(now_s, float(seen.uplink_backlog_s[world, task])) if at == 0 else now_s
            rate = seen.backhaul_bps[world, 0] if place and at else seen.uplink_bps[world, task, server]
            now_s += bits / float(rate)
        at = place
        if place and seen.server_room[world, place - 1] <= 0:
            return float("inf")
        wait_s = seen.server_backlog_s[world, place - 1] if place else seen.device_backlog_s[world, task]
        work_s = seen.block_server_s[world, task, m, place - 1] if place else seen.block_device_s[world, task, m]
        now_s = max(now_s, float(wait_s)) + float(work_s)
    return now_s


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 100_000), st.integers(1, 4), st.integers(1, 3))
def test_best_cut_is_the_best_of_all_placements(seed, count, servers):
    seen = random_blocks(seed, 2, 2, count, servers)
    place = blocks.best_cut()(seen).place
    for world, task in itertools.product(range(2), range(2)):
        length = int(seen.block_mask[world, task].sum())
        ways = itertools.product(range(servers + 1), repeat=length)
        least_s = min(latency_s(seen, world, task, way) for way in ways)
        chosen = tuple(place[world, task, :length].tolist())
        assert latency_s(seen, world, task, chosen) == pytest.approx(least_s, rel=1e-12)


@pytest.mark.parametrize("name", BLOCKS)
@settings(max_examples=10, deadline=None)
@given(st.integers(0, 100_000), st.integers(1, 5), st.integers(1, 4))
def test_no_block_goes_to_a_server_that_is_out(name, seed, count, servers):
    seen = random_blocks(seed, 6, 3, count, servers)
    place = BLOCKS[name](seed)(seen).place
    assert place.shape == seen.block_mask.shape
    room = torch.nn.functional.pad(seen.server_room, (1, 0), value=1.0)[:, None].expand(-1, 3, -1)
    assert (room.gather(-1, place) > 0).all()


def all_up(seed: int, tasks: int, count: int, servers: int) -> BlocksObservation:
    seen = random_blocks(seed, 1, tasks, count, servers)
    return seen._replace(
        server_room=torch.full((1, servers), torch.inf),
        server_backlog_s=torch.zeros(1, servers, dtype=torch.float64),
        block_mask=torch.ones(1, tasks, count, dtype=torch.bool),
        task_mask=torch.ones(1, tasks, dtype=torch.bool),
    )


def test_apdi_spreads_neighbours_evenly():
    place = blocks.apdi()(all_up(0, 2, 6, 3)).place[0].tolist()
    assert place == [[1, 1, 2, 2, 3, 3], [2, 2, 3, 3, 1, 1]]


def test_proportional_gives_every_server_its_part_of_a_slot():
    seen = all_up(0, 60, 2, 3)
    work_s = torch.tensor([0.1, 0.2, 0.3], dtype=torch.float64).expand(1, 60, 2, 3)
    place = blocks.proportional(3)(seen._replace(block_server_s=work_s)).place[0]
    assert (place == place[:, :1]).all()
    parts = torch.bincount(place[:, 0], minlength=4) / 60
    assert parts.tolist() == pytest.approx([0, 6 / 11, 3 / 11, 2 / 11], abs=0.04)


def test_planned_servers_take_tasks_by_their_speeds_and_one_that_is_out_takes_none_however_long_the_queues_are():
    """Servers of 10 and 20 tasks a second: the second takes two of three."""
    seen = random_blocks(3, 1, 6, 1, 2)._replace(
        block_server_s=torch.tensor([0.1, 0.05]).double().expand(1, 6, 1, 2),
        task_mask=torch.ones(1, 6, dtype=torch.bool),
        server_backlog_s=torch.zeros(1, 2, dtype=torch.float64),
        server_room=torch.full((1, 2), torch.inf),
    )
    server, _ = blocks.planned_servers(seen)
    assert [int(server[0, :count].sum()) for count in (1, 3, 4, 6)] == [1, 2, 3, 4]
    out = seen._replace(
        server_backlog_s=torch.tensor([[0.0, 5000.0]]).double(), server_room=torch.tensor([[0.0, torch.inf]])
    )
    server, backlog_s = blocks.planned_servers(out)
    assert server.eq(1).all()
    assert backlog_s[0, 0] > 5000


def test_rpdi_uses_every_place_equally():
    place = blocks.rpdi(3)(all_up(0, 500, 6, 3)).place
    counted = torch.bincount(place.flatten(), minlength=4) / place.numel()
    assert counted.tolist() == pytest.approx([0.25] * 4, abs=0.03)


def test_greedy_takes_the_least_loaded_server_block_by_block():
    seen = all_up(0, 1, 4, 2)._replace(
        server_backlog_s=torch.tensor([[0.3, 0.0]], dtype=torch.float64),
        block_server_s=torch.full((1, 1, 4, 2), 0.2, dtype=torch.float64),
    )
    assert blocks.greedy()(seen).place[0, 0].tolist() == [2, 2, 1, 2]


def test_greedy_counts_the_work_of_the_slots_other_tasks_and_may_count_the_device():
    seen = all_up(0, 2, 2, 2)._replace(
        block_server_s=torch.full((1, 2, 2, 2), 0.2, dtype=torch.float64),
        block_device_s=torch.full((1, 2, 2), 0.5, dtype=torch.float64),
        device_backlog_s=torch.tensor([[0.1, 0.0]], dtype=torch.float64),
    )
    assert blocks.greedy()(seen).place[0].tolist() == [[1, 2], [1, 2]]
    assert blocks.greedy_device()(seen).place[0].tolist() == [[1, 2], [0, 1]]


def test_device_only_and_server_only_do_not_split():
    seen = all_up(1, 5, 4, 3)
    assert not blocks.device_only()(seen).place.any()
    place = blocks.server_only()(seen).place[0]
    assert (place == place[:, :1]).all()
    assert (place > 0).all()


def test_sequential_greedy_spreads_what_best_cut_heaps_up():
    """Six equal tasks of one block and two servers, the second a little busier."""
    seen = all_up(2, 6, 1, 2)._replace(
        block_device_s=torch.full((1, 6, 1), 9.0, dtype=torch.float64),
        block_server_s=torch.full((1, 6, 1, 2), 0.2, dtype=torch.float64),
        block_input_bits=torch.zeros(1, 6, 1, dtype=torch.float64),
        server_backlog_s=torch.tensor([[0.0, 0.1]], dtype=torch.float64),
    )
    assert blocks.best_cut()(seen).place.flatten().tolist() == [1] * 6
    assert blocks.sequential_greedy()(seen).place.flatten().tolist() == [1, 2, 1, 2, 1, 2]
