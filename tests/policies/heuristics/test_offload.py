"""Every heuristic against what it must do by hand, and against the planner's own hull."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.policies.observations import observation, random_observation

from coinfer.partition.hull import Hull, best_of
from coinfer.policies.heuristics import offload
from coinfer.types import DEVICE, OffloadDecision, OffloadObservation


def two_servers(tasks: int, backlog_s: tuple[float, float] = (0.0, 0.05)) -> OffloadObservation:
    """Equal tasks: 0.1 s of upload and 0.1 s of work on either server, or 1 s on the device."""
    shape = (1, tasks, 2)
    return observation(
        device_s=torch.tensor([0.0, 1.0]).expand(shape),
        upload_bits=torch.tensor([1e6, 0.0]).expand(shape),
        server_s=torch.tensor([[0.1, 0.1], [0.0, 0.0]]).expand(1, tasks, 2, 2),
        uplink_bps=torch.full((1, tasks, 2), 1e7),
        server_backlog_s=torch.tensor([backlog_s]),
    )


def servers_of(decision: OffloadDecision) -> list[int]:
    return decision.server[0].tolist()


def test_device_only_stays_and_server_only_goes():
    seen = two_servers(3, (0.3, 9.0))
    assert servers_of(offload.device_only()(seen)) == [DEVICE] * 3
    assert servers_of(offload.server_only()(seen)) == [0] * 3
    assert offload.device_only()(seen).option[0].tolist() == [1] * 3


def test_server_only_takes_the_first_cut():
    seen = two_servers(1)
    seen = seen._replace(
        option_device_s=torch.tensor([[[0.2, 0.1, 1.0]]]),
        option_upload_bits=torch.tensor([[[1e3, 1e6, 0.0]]]),
        option_server_s=torch.full((1, 1, 3, 2), 0.1),
        option_accuracy=torch.ones(1, 1, 3),
        option_mask=torch.ones(1, 1, 3, dtype=torch.bool),
    )
    assert offload.server_only()(seen).option.tolist() == [[1]]
    assert offload.best_cut()(seen).option.tolist() == [[1]]
    slow = seen._replace(uplink_bps=torch.full((1, 1, 2), 1e6))
    assert offload.server_only()(slow).option.tolist() == [[1]]
    assert offload.best_cut()(slow).option.tolist() == [[0]]


@pytest.mark.parametrize("herding", [offload.greedy, offload.best_cut])
def test_greedy_herds_and_sequential_greedy_does_not(herding):
    seen = two_servers(4, (0.1, 0.15))
    assert servers_of(herding()(seen)) == [0] * 4
    assert servers_of(offload.sequential_greedy()(seen)) == [0, 1, 0, 1]


def test_sequential_greedy_goes_home_when_the_queues_are_long():
    assert servers_of(offload.sequential_greedy()(two_servers(4, (0.85, 0.75)))) == [1, 0, 1, DEVICE]


def test_sequential_greedy_counts_the_room_that_is_left():
    seen = two_servers(4)._replace(server_room=torch.tensor([[1.0, 2.0]]))
    assert servers_of(offload.sequential_greedy()(seen)) == [0, 1, 1, DEVICE]


def test_tasks_that_do_not_exist_take_no_place():
    seen = two_servers(4, (0.1, 0.15))._replace(task_mask=torch.tensor([[True, False, True, True]]))
    chosen = servers_of(offload.sequential_greedy()(seen))
    assert [chosen[0], *chosen[2:]] == [0, 1, 0]


def test_round_robin_goes_on_from_slot_to_slot():
    policy = offload.round_robin()
    seen = two_servers(3)._replace(task_mask=torch.tensor([[True, False, True]]))
    chosen = [servers_of(policy(two_servers(3))), servers_of(policy(seen)), servers_of(policy(two_servers(3)))]
    assert [chosen[0], chosen[1][0], chosen[1][2], chosen[2]] == [[0, 1, 0], 1, 0, [1, 0, 1]]


def test_greedy_fixes_the_cut_for_idle_servers_while_best_cut_looks_at_the_queue():
    """Behind a queue of 0.5 s a longer head costs nothing."""
    seen = observation(
        device_s=torch.tensor([[[0.0, 0.4, 9.0]]]),
        upload_bits=torch.tensor([[[1e5, 1e5, 0.0]]]),
        server_s=torch.tensor([[[[0.3], [0.1], [0.0]]]]),
        uplink_bps=torch.tensor([[[1e7]]]),
        server_backlog_s=torch.tensor([[0.5]]),
    )
    assert offload.greedy()(seen).option.item() == 0
    assert offload.best_cut()(seen).option.item() == 1


@pytest.mark.parametrize("name", offload.OFFLOAD)
@settings(max_examples=15, deadline=None)
@given(seed=st.integers(0, 10_000), tasks=st.integers(1, 6), options=st.integers(2, 4), servers=st.integers(1, 5))
def test_only_possible_choices_are_taken(name, seed, tasks, options, servers):
    seen = random_observation(seed, 5, tasks, options, servers)
    decision = offload.OFFLOAD[name](seed)(seen)
    taken = seen.option_mask.gather(-1, decision.option[..., None])
    sends = seen.option_upload_bits.gather(-1, decision.option[..., None])[..., 0] > 0
    assert taken.all()
    assert torch.equal(decision.server != DEVICE, sends)
    assert (decision.server < servers).all()
    room = seen.server_room.gather(-1, decision.server.clamp(min=0))
    assert (~sends | (room > 0)).all()


@pytest.mark.parametrize("name", offload.OFFLOAD)
def test_a_world_decides_the_same_alone_and_beside_others(name):
    seen = random_observation(3, 8, 5, 3, 4)
    first = OffloadObservation(*(field[:2] for field in seen))
    together, alone = offload.OFFLOAD[name](7), offload.OFFLOAD[name](7)
    for _ in range(3):
        for both, one in zip(together(seen), alone(first), strict=True):
            assert torch.equal(both[:2], one)


@pytest.mark.parametrize("name", ["device-only", "server-only", "greedy", "best-cut", "sequential-greedy"])
def test_permuted_servers_permute_the_decision(name):
    seen = random_observation(5, 20, 4, 3, 4)
    order = torch.tensor([2, 0, 3, 1])
    permuted = seen._replace(
        option_server_s=seen.option_server_s[..., order],
        uplink_bps=seen.uplink_bps[..., order],
        uplink_backlog_s=seen.uplink_backlog_s[..., order],
        server_backlog_s=seen.server_backlog_s[..., order],
        server_room=seen.server_room[..., order],
    )
    plain, moved = offload.OFFLOAD[name](0)(seen), offload.OFFLOAD[name](0)(permuted)
    back = torch.where(moved.server == DEVICE, DEVICE, order[moved.server.clamp(min=0)])
    assert torch.equal(moved.option, plain.option)
    assert torch.equal(back, plain.server)


def test_best_cut_is_the_hull_of_the_planner_on_idle_servers():
    seen = random_observation(11, 200, 1, 6, 3)
    seen = seen._replace(
        option_mask=torch.ones_like(seen.option_mask),
        server_backlog_s=torch.zeros_like(seen.server_backlog_s),
        server_room=torch.full_like(seen.server_room, torch.inf),
        device_backlog_s=torch.zeros_like(seen.device_backlog_s),
        uplink_backlog_s=torch.zeros_like(seen.uplink_backlog_s),
    )
    decision = offload.best_cut()(seen)
    for world in range(200):
        o = OffloadObservation(*(np.asarray(field[world]) for field in seen))
        compute_s = o.option_device_s[0, :, None] + o.option_server_s[0]
        hulls = [Hull.build(compute_s[:, n], o.option_upload_bits[0]) for n in range(3)]
        best = best_of(hulls, o.uplink_bps[0])
        assert (decision.option[world].item(), decision.server[world].item()) == (int(best.option), int(best.server))


def test_two_choices_takes_the_better_of_two_and_never_more_often_the_worse():
    """Of three servers the slowest is taken by nobody, the fastest by two tasks of three."""
    tasks = 3000
    seen = observation(
        device_s=torch.tensor([0.0, 9.0]).expand(1, tasks, 2),
        upload_bits=torch.tensor([1e6, 0.0]).expand(1, tasks, 2),
        server_s=torch.tensor([[0.1, 0.2, 0.3], [0, 0, 0]]).expand(1, tasks, 2, 3),
        uplink_bps=torch.full((1, tasks, 3), 1e7),
        server_backlog_s=torch.zeros(1, 3),
    )
    counted = torch.bincount(offload.two_choices(1)(seen).server[0], minlength=3) / tasks
    assert counted[2] == 0
    assert counted[0].item() == pytest.approx(2 / 3, abs=0.04)


@pytest.mark.parametrize(("name", "places"), [("random", [0, 1, DEVICE]), ("random-place", [0, 1, DEVICE])])
def test_random_choices_are_equally_likely(name, places):
    chosen = offload.OFFLOAD[name](4)(two_servers(6000)).server[0]
    for place in places:
        assert (chosen == place).float().mean().item() == pytest.approx(1 / 3, abs=0.03)


def test_seeds_and_calls_draw_anew():
    seen = two_servers(50)
    policy = offload.random(1)
    first, second = servers_of(policy(seen)), servers_of(policy(seen))
    assert first != second
    assert first != servers_of(offload.random(2)(seen))
    assert first == servers_of(offload.random(1)(seen))


def two_exits(deadline_s: float) -> OffloadObservation:
    """On the device: exit 1 in 0.1 s at 60 %, exit 2 in 0.4 s at 90 %; the server, behind 2 s, is no help."""
    return observation(
        device_s=torch.tensor([[[0.0, 0.1, 0.4]]]),
        upload_bits=torch.tensor([[[1e6, 0.0, 0.0]]]),
        server_s=torch.tensor([[[[0.1], [0.0], [0.0]]]]),
        uplink_bps=torch.tensor([[[1e7]]]),
        server_backlog_s=torch.tensor([[2.0]]),
        option_accuracy=torch.tensor([[[0.9, 0.6, 0.9]]]),
        deadline_s=torch.tensor([[deadline_s]]),
    )


@pytest.mark.parametrize("name", ["accurate-cut", "sequential-accurate"])
@pytest.mark.parametrize(("deadline_s", "option"), [(1.0, 2), (0.4, 2), (0.3, 1), (0.05, 1), (3.0, 2), (torch.inf, 1)])
def test_the_most_accurate_exit_that_is_in_time(name, deadline_s, option):
    assert offload.OFFLOAD[name](0)(two_exits(deadline_s)).option.item() == option
    assert offload.best_cut()(two_exits(deadline_s)).option.item() == 1
