"""The episode's bound: exact where it can be worked out, below every schedule, tight where servers are the problem."""

import itertools

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.policies.bounds.test_slot import all_choices, by_hand, world
from tests.policies.observations import observation, random_observation

from coinfer.policies.bounds import episode
from coinfer.policies.bounds.episode import Tasks
from coinfer.types import DEVICE, OffloadObservation

SLOT_S = 0.25


def equal_tasks(count: int, servers: int, ready_s: float = 0.1, work_s: float = 0.2) -> OffloadObservation:
    """Tasks that arrive together, with 4 s to do on the device."""
    return observation(
        device_s=torch.tensor([0.0, 4.0], dtype=torch.float64).expand(1, count, 2),
        upload_bits=torch.tensor([1e6, 0.0], dtype=torch.float64).expand(1, count, 2),
        server_s=torch.tensor([[work_s], [0.0]], dtype=torch.float64).expand(1, count, 2, servers),
        uplink_bps=torch.full((1, count, servers), 1e6 / ready_s, dtype=torch.float64),
        server_backlog_s=torch.zeros(1, servers, dtype=torch.float64),
    )


def unloaded(seen: OffloadObservation) -> OffloadObservation:
    """The same slot with nothing waiting and endless room."""
    return seen._replace(
        server_backlog_s=torch.zeros_like(seen.server_backlog_s),
        device_backlog_s=torch.zeros_like(seen.device_backlog_s),
        uplink_backlog_s=torch.zeros_like(seen.uplink_backlog_s),
        server_room=torch.full_like(seen.server_room, torch.inf),
    )


def test_without_prices_it_is_the_latency_of_idle_servers():
    tasks = episode.tasks_of([equal_tasks(3, 2)], SLOT_S)
    found = episode.least_latency(tasks, grid_s=0.1, steps=0)
    assert found.total.item() == pytest.approx(3 * 0.3)
    assert found.per_task.item() == pytest.approx(0.3)


@pytest.mark.parametrize(("count", "servers"), [(1, 1), (4, 1), (8, 1), (8, 2), (12, 3)])
def test_near_the_optimum_of_equal_tasks_that_come_together(count, servers):
    each = count // servers
    optimum_s = count * 0.1 + servers * 0.2 * each * (each + 1) / 2
    tasks = episode.tasks_of([equal_tasks(count, servers)], SLOT_S)
    found = episode.least_latency(tasks, grid_s=0.1, steps=400).total.item()
    assert 0.95 * optimum_s <= found <= optimum_s * (1 + 1e-9)


def test_tasks_of_later_slots_wait_for_earlier_ones():
    """Two slots of two tasks, 0.25 s apart, one server: work of 0.2 s each is done at 0.3, 0.5, 0.7 and 0.9 s."""
    tasks = episode.tasks_of([equal_tasks(2, 1), equal_tasks(2, 1)], SLOT_S)
    optimum_s = 0.3 + 0.5 + 0.7 + 0.9 - 2 * SLOT_S
    found = episode.least_latency(tasks, grid_s=0.05, steps=400).total.item()
    assert 0.95 * optimum_s <= found <= optimum_s * (1 + 1e-9)


def test_late_tasks_that_nobody_can_help():
    """Of five tasks with a deadline of 0.6 s, one server can answer two in time."""
    seen = equal_tasks(5, 1)._replace(deadline_s=torch.full((1, 5), 0.6, dtype=torch.float64))
    found = episode.fewest_late(episode.tasks_of([seen], SLOT_S), grid_s=0.1, steps=400)
    assert 2.3 <= found.total.item() <= 3 + 1e-9


def test_the_way_back_counts_and_a_lost_task_waits_until_its_deadline():
    tasks = episode.tasks_of([equal_tasks(1, 1)], SLOT_S, download_s=torch.tensor([0.05]))
    assert episode.least_latency(tasks, 0.1, 0).total.item() == pytest.approx(0.35)
    seen = equal_tasks(1, 1)._replace(deadline_s=torch.full((1, 1), 0.2, dtype=torch.float64))
    dropping = episode.tasks_of([seen], SLOT_S, may_drop=True)
    assert episode.least_latency(dropping, 0.1, 0).total.item() == pytest.approx(0.2)
    assert episode.fewest_late(dropping, 0.1, 0).total.item() == 1


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 100_000), st.integers(1, 3), st.integers(2, 3), st.integers(1, 3))
def test_below_the_optimum_of_any_slot(seed, count, options, servers):
    seen = unloaded(random_observation(seed, 2, count, options, servers))
    found = episode.least_latency(episode.tasks_of([seen], SLOT_S), grid_s=0.05, steps=40)
    for index in range(2):
        one = world(seen, index)
        optimum_s = min(by_hand(one, chosen) for chosen in itertools.product(*all_choices(one)))
        alone_s = sum(
            min(by_hand(one._replace(task_mask=torch.arange(count) == k), chosen)
                for chosen in itertools.product(*all_choices(one)))
            for k in range(count) if one.task_mask[k]
        )  # fmt: skip
        assert alone_s - 1e-9 <= found.total[index].item() <= optimum_s + 1e-9


def test_any_prices_give_a_bound():
    seen = unloaded(random_observation(4, 3, 3, 3, 2))
    tasks: Tasks = episode.tasks_of([seen], SLOT_S)
    generator = torch.Generator().manual_seed(0)
    for late in (False, True):
        goal = episode._Goal(late, 0.05, 20)
        best = episode._best(tasks, 0.05, 100, late).total
        for _ in range(20):
            price = 3 * torch.rand(3, 2, 60, generator=generator, dtype=torch.float64)
            cost = episode._costs(tasks, price, goal)
            value = episode._value(tasks, cost, price, goal)
            if late:
                assert (value <= tasks.task_mask.sum(-1)).all()
            else:
                for index in range(3):
                    one = world(seen, index)
                    optimum_s = min(by_hand(one, chosen) for chosen in itertools.product(*all_choices(one)))
                    assert value[index] <= optimum_s + 1e-9
        assert (best >= episode._best(tasks, 0.05, 0, late).total).all()


def test_dominated_choices_go_and_the_device_stays():
    tasks = episode.tasks_of([equal_tasks(2, 3)], SLOT_S)
    assert tasks.ready_s.isfinite().sum(-1).tolist() == [[4, 4]]
    assert DEVICE not in tasks.server.unique().tolist()
