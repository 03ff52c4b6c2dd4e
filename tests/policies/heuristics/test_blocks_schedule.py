"""The schedule of a whole slot, by hand."""

import torch
from tests.policies.heuristics.test_blocks import random_blocks

from coinfer.policies.heuristics.blocks import NEVER_S
from coinfer.policies.heuristics.blocks_schedule import cut_schedule, cut_times, schedule_cuts, with_last_moved
from coinfer.types import BlocksObservation


def idle_slot(
    tasks: int, server_s: list[float], device_s: float, age_s: float = 0.0
) -> BlocksObservation[torch.Tensor]:
    """Tasks of two equal blocks on idle servers; transfers take almost no time."""
    servers, shape = len(server_s), (1, tasks, 2)
    seen = random_blocks(1, 1, tasks, 2, servers)
    double = torch.float64
    return seen._replace(
        block_device_s=torch.full(shape, device_s, dtype=double),
        block_server_s=torch.tensor(server_s, dtype=double).expand(*shape, servers),
        block_input_bits=torch.full(shape, 1e-6, dtype=double),
        block_mask=torch.ones(shape, dtype=torch.bool),
        task_mask=torch.ones(1, tasks, dtype=torch.bool),
        uplink_bps=torch.ones(1, tasks, servers, dtype=double),
        backhaul_bps=torch.ones(1, 1, dtype=double),
        device_backlog_s=torch.zeros(1, tasks, dtype=double),
        uplink_backlog_s=torch.zeros(1, tasks, dtype=double),
        server_backlog_s=torch.zeros(1, servers, dtype=double),
        server_room=torch.full((1, servers), torch.inf, dtype=double),
        observation_age_s=torch.full((1, servers), age_s, dtype=double),
    )


def test_a_task_that_would_wait_does_its_first_block_meanwhile():
    """One server, tasks of 2 s; a block takes 3.5 s on a device, which fits into the waiting of the third and later. So
    these leave the server 1 s each: it is free for them at 0, 2, 4, 5, 6 s, and for whole tasks at 0, 2, 4, 6, 8 s."""
    seen = idle_slot(5, [1.0], 3.5)
    free_s = schedule_cuts(seen, cut_times(seen)).free_s[0, :, 0]
    torch.testing.assert_close(free_s, torch.tensor([0.0, 2.0, 4.0, 5.0, 6.0]).double(), atol=0.2, rtol=0)


def test_the_last_task_goes_on_where_another_has_finished():
    """The first task has server 1 until 2 s. The second would end on server 2 at 3.8 s; if it goes on to server 1 after
    its first block, which is done at 1.9 s, it ends at 3 s."""
    place = torch.tensor([[[1, 1], [2, 2]]])
    moved = with_last_moved(idle_slot(2, [1.0, 1.9], 50.0), place)
    assert moved.tolist() == [[[1, 1], [2, 1]]]


def test_nothing_is_moved_on_old_knowledge_or_if_it_does_not_help():
    place = torch.tensor([[[1, 1], [2, 2]]])
    assert torch.equal(with_last_moved(idle_slot(2, [1.0, 1.9], 50.0, age_s=1.0), place), place)
    assert torch.equal(with_last_moved(idle_slot(2, [1.0, 1.0], 50.0), place), place)


def test_no_queue_is_so_long_that_a_server_that_is_out_looks_better():
    seen = idle_slot(2, [1.0, 1.0], 50.0)
    seen = seen._replace(
        server_room=torch.tensor([[0.0, 1.0]]).double(), server_backlog_s=torch.full((1, 2), 2 * NEVER_S).double()
    )
    seen = seen._replace(device_backlog_s=torch.full((1, 2), 3 * NEVER_S).double())
    assert not (cut_schedule()(seen).place == 1).any()
