"""A table of values, worked out by hand."""

from dataclasses import replace

import pytest
import torch

from coinfer.physics import random
from coinfer.policies.learned.placement.load_table import Grid
from coinfer.rl.algorithms.online_rl import OnlineRl, OnlineRlSettings
from coinfer.rl.core.records import Observation, Transition

GRID = Grid(servers=2, loads_s=(0.1,), rates_bps=(), works_s=(), running_queues=False)
"""Rows: 0 if both servers are idle, 2 if one is loaded, 3 if both are."""
SETTINGS = OnlineRlSettings(gamma=0.5, learning_rate=0.25)
IDLE, ONE, BOTH = (0.0, 0.0), (0.2, 0.0), (0.2, 0.2)
DEVICE = 2
KEYS = random.key(torch.zeros(1, dtype=torch.int64), torch.arange(1))


def features(*loads_s: tuple[float, float], work_s: float = 0.0) -> torch.Tensor:
    """[1, 1, K, 5] of requests that find these loads."""
    return torch.tensor([[[[0.0, work_s, work_s, *load_s] for load_s in loads_s]]])


def learner() -> OnlineRl:
    table = OnlineRl(SETTINGS, GRID, KEYS)
    table.values[0] = torch.tensor([[0.0, 0.0, 0.0], [9.0, 9.0, 9.0], [0.5, 0.0, 0.25], [1.0, 2.0, 0.0]])
    return table


def slot(now: torch.Tensor, places: list[int], rewards: list[float], after: torch.Tensor, ends: bool = False):
    """A step of one world."""
    task_mask = torch.ones(1, 1, len(places), dtype=torch.bool)
    mask = torch.ones(1, 1, len(places), 3, dtype=torch.bool)
    return Transition(
        now, mask, task_mask, torch.tensor([[places]]), torch.tensor([[rewards]]), torch.tensor([[1.0 - ends]]),
        after, mask, task_mask,
    )  # fmt: skip


@pytest.mark.parametrize("ends", [False, True])
def test_a_slot_is_learned_request_by_request(ends: bool):
    """The first goes to server 1, the less loaded one: column 0; what follows it is the second, in the same row. The
    second stays on its device: column 2; what follows it is the next slot, with both servers loaded."""
    table = learner()
    table.update(slot(features(ONE, ONE), [1, DEVICE], [-1.0, -2.0], features(BOTH, BOTH), ends))
    first, second = (-1.0, -2.0) if ends else (-1.0 + 0.5 * 0.5, -2.0 + 0.5 * 2.0)
    expected = learner().values[0]
    expected[2, 0] += 0.25 * (first - 0.5)
    expected[2, 2] += 0.25 * (second - 0.25)
    torch.testing.assert_close(table.values[0], expected)


def test_requests_of_one_row_and_place_count_as_if_one_came_after_the_other():
    table, expected = learner(), learner().values[0]
    table.update(slot(features(ONE, ONE, ONE), [0, 0, 0], [1.0, 1.0, 1.0], features(IDLE, IDLE, IDLE), ends=True))
    for _ in range(3):
        expected[2, 1] += 0.25 * (1.0 - expected[2, 1])
    torch.testing.assert_close(table.values[0], expected)


def test_requests_that_are_not_there_teach_nothing():
    table, expected = learner(), learner().values[0]
    step = slot(features(ONE, ONE), [1, 0], [-1.0, -99.0], features(BOTH, BOTH))
    task_mask = torch.tensor([[[True, False]]])
    table.update(step._replace(task_mask=task_mask))
    expected[2, 0] += 0.25 * (-1.0 + 0.5 * 2.0 - 0.5)  # the next slot follows the last that is there
    torch.testing.assert_close(table.values[0], expected)


def test_with_running_queues_a_request_sees_what_the_one_before_it_sent():
    """Both find idle servers; the first is sent to server 0 and loads it, so the second is in the row of one loaded."""
    table = OnlineRl(SETTINGS, replace(GRID, running_queues=True), KEYS)
    now = features(IDLE, IDLE, work_s=0.2)
    table.update(slot(now, [0, 1], [-1.0, -2.0], features(IDLE, IDLE), ends=True))
    expected = torch.zeros(4, 3)
    expected[0, 0], expected[2, 0] = -0.25, -0.5
    torch.testing.assert_close(table.values[0], expected)


@pytest.mark.parametrize("running", [False, True])
@pytest.mark.parametrize("epsilon", [0.0, 0.9])
def test_what_is_masked_is_never_chosen(running: bool, epsilon: float):
    grid = replace(GRID, running_queues=running)
    table = OnlineRl(replace(SETTINGS, epsilon=(epsilon, epsilon)), grid, KEYS)
    generator = torch.Generator().manual_seed(0)
    table.values = torch.randn(table.values.shape, generator=generator)
    mask = torch.rand((1, 400, 3, 3), generator=generator) < 0.6
    mask[..., DEVICE] |= ~mask.any(-1)
    loads_s = 0.2 * torch.randint(0, 2, (1, 400, 1, 2), generator=generator).expand(-1, -1, 3, -1)
    observation = Observation(
        torch.cat((torch.zeros(1, 400, 3, 1), torch.full((1, 400, 3, 2), 0.2), loads_s), -1),
        mask,
        torch.ones((1, 400, 3), dtype=torch.bool),
    )
    chosen = table.act(observation, 0)
    assert mask.gather(-1, chosen[..., None]).all()
    assert len(chosen.unique()) == 3
