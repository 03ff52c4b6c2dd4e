"""Insertion: first come, first served in its mind, and whom a task would delay."""

import pytest
import torch
from tests.policies.observations import observation, random_observation

from coinfer.policies.candidates import candidates_of
from coinfer.policies.heuristics.insertion import insertion
from coinfer.policies.heuristics.offload import sequential_greedy
from coinfer.types import DEVICE


def test_it_knows_who_is_served_first():
    """A long task, ready late, is decided first. In the order of decisions the short one would wait behind it; served
    first come, first served it goes before it, at once."""
    seen = observation(
        device_s=torch.tensor([[[0.3, 9.0], [0.0, 0.35]]]),
        upload_bits=torch.tensor([[[1e5, 0.0], [1e5, 0.0]]]),
        server_s=torch.tensor([[[[0.5], [0.0]], [[0.1], [0.0]]]]),
        uplink_bps=torch.full((1, 2, 1), 1e7),
        server_backlog_s=torch.zeros(1, 1),
    )
    assert sequential_greedy()(seen).server.tolist() == [[0, DEVICE]]
    assert insertion()(seen).server.tolist() == [[0, 0]]


def test_it_counts_whom_it_would_delay():
    """The same with a device that is nearly as fast: going first would cost the other more than it gains."""
    seen = observation(
        device_s=torch.tensor([[[0.3, 9.0], [0.0, 0.2]]]),
        upload_bits=torch.tensor([[[1e5, 0.0], [1e5, 0.0]]]),
        server_s=torch.tensor([[[[0.5], [0.0]], [[0.15], [0.0]]]]),
        uplink_bps=torch.full((1, 2, 1), 1e7),
        server_backlog_s=torch.zeros(1, 1),
    )
    assert insertion()(seen).server.tolist() == [[0, DEVICE]]


@pytest.mark.parametrize("seed", range(5))
def test_only_possible_choices_are_taken(seed):
    seen = random_observation(seed, 40, 6, 3, 3)
    found, decision = candidates_of(seen), insertion()(seen)
    choice = found.choice(decision)
    allowed = found.mask.gather(-1, choice[..., None])[..., 0]
    assert (allowed | ~seen.task_mask).all()
    counted = torch.zeros_like(seen.server_room).scatter_add(
        -1,
        decision.server.clamp(min=0),
        ((decision.server != DEVICE) & seen.task_mask).to(seen.server_room.dtype),
    )
    assert (counted <= seen.server_room.clamp(min=0)).all()
