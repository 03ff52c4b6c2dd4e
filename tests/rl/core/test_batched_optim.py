"""Draws, schedules and names of tensors."""

import torch

from coinfer.physics import random
from coinfer.rl.core.batched_optim import (
    add_prefix,
    interpolate,
    linear_decay,
    sample_categorical,
    strip_prefix,
    uniform,
)


def test_draws_follow_the_weights():
    weights = torch.tensor([0.0, 0.2, 0.0, 0.5, 0.3, 0.0])
    drawn = (torch.arange(10_000) + 0.5) / 10_000
    counts = torch.bincount(sample_categorical(weights.expand(10_000, -1), drawn), minlength=6)
    torch.testing.assert_close(counts / 10_000, weights, atol=1e-3, rtol=0)
    ends = sample_categorical(weights.expand(2, -1), torch.tensor([0.0, 1 - 2.0**-24]))
    assert ends.tolist() == [1, 4]


def test_draws_on_the_cpu_are_those_of_tensors():
    """They are computed by NumPy, which must give the same bits."""
    keys = random.key(torch.tensor(3), torch.arange(2))
    bits = random.bits(random.key(keys, 7)[:, None], torch.arange(30))
    assert uniform(keys, 7, (2, 15)).equal(random.uniform(bits, torch.float32).reshape(2, 2, 15))
    assert uniform(keys, 5, (2, 15), 4)[2].equal(uniform(keys, 7, (2, 15))), "draws that follow on each other"


def test_schedules_go_from_one_end_to_the_other_and_stay():
    assert [interpolate((1.0, 0.5), updates, 10) for updates in (0, 5, 10, 30)] == [1.0, 0.75, 0.5, 0.5]
    assert [linear_decay(updates, (10, 20)) for updates in (0, 10, 15, 20, 25)] == [1.0, 1.0, 0.5, 0.0, 0.0]
    assert linear_decay(1000, None) == 1.0


def test_a_prefix_is_taken_off_again_and_others_are_left_out():
    tensors = {"a": torch.zeros(1), "b.c": torch.ones(1)}
    assert strip_prefix("x", add_prefix("x", tensors) | add_prefix("xy", tensors)) == tensors
