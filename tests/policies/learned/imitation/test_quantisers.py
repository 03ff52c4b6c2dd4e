"""Candidates: the network's own decision first, none twice, the order of the outputs kept, nearer ones first."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from coinfer.policies.learned.imitation import quantisers

SEEDS = st.integers(0, 2**31)
LOGITS = {
    "smooth": lambda logits: logits,
    "ties": lambda logits: logits.round(),
    "saturated": lambda logits: 1e3 * logits,
}
SHAPES = st.sampled_from(sorted(LOGITS))


def drawn(seed: int, shape: str, *size: int) -> Tensor:
    return LOGITS[shape](torch.randn(*size, generator=torch.Generator().manual_seed(seed)))


def are_distinct(candidates: Tensor) -> bool:
    """Whether no candidate of [B, S, N] comes twice."""
    return all(len(set(map(tuple, rows))) == len(rows) for rows in candidates.tolist())


def by_the_paper(probability: list[float], count: int) -> list[list[int]]:
    """Equations 8 and 9 of DROO, written plainly; for outputs without ties."""
    found = [[int(p > 0.5) for p in probability]]
    for threshold in sorted(probability, key=lambda p: abs(p - 0.5))[: count - 1]:
        strict = threshold > 0.5
        found.append([int(p > threshold if strict else p >= threshold) for p in probability])
    return found


@settings(max_examples=30, deadline=None)
@given(SEEDS, st.integers(1, 8), st.integers(1, 9))
def test_order_preserving_is_the_papers_rule(seed, devices, count):
    logits = drawn(seed, "smooth", devices).double()
    found = quantisers.order_preserving(logits, count)
    assert found.int().tolist() == by_the_paper(logits.sigmoid().tolist(), count)


@settings(max_examples=30, deadline=None)
@given(SEEDS, SHAPES, st.integers(1, 7), st.integers(1, 9))
def test_order_is_kept_and_none_comes_twice(seed, shape, devices, count):
    logits = drawn(seed, shape, 5, devices)
    found = quantisers.order_preserving(logits, count)
    assert found.shape == (5, min(count, devices + 1), devices)
    assert found[:, 0].equal(logits > 0)
    assert are_distinct(found)
    greater = logits[:, None, :, None] > logits[:, None, None, :]
    broken = greater & ~found[..., :, None] & found[..., None, :]
    assert not broken.any()
    assert quantisers.binary_candidates(logits, count, None).equal(found), "by NumPy as by torch"


@settings(max_examples=30, deadline=None)
@given(SEEDS, SHAPES, st.integers(1, 6), st.integers(1, 3), st.data())
def test_noise_adds_candidates_and_keeps_the_first_ones(seed, shape, devices, copies, data):
    count = data.draw(st.integers(1, devices + 1))
    logits, noise = drawn(seed, shape, 5, devices), drawn(seed + 1, "smooth", 5, copies, devices)
    found = quantisers.noisy_order_preserving(logits, count, noise)
    own = count - copies * (count // (copies + 1))
    assert found.shape == (5, count, devices)
    assert found[:, :own].equal(quantisers.order_preserving(logits, own))
    assert are_distinct(found)
    assert quantisers.binary_candidates(logits, count, noise).equal(found), "by NumPy as by torch"
    noisy = quantisers.order_preserving(logits[:, None] + noise, devices + 1).flatten(1, 2)
    every = torch.cat((quantisers.order_preserving(logits, devices + 1), noisy), 1)
    assert (found[:, :, None] == every[:, None]).all(-1).any(-1).all()
    others = count - own
    assert (found[:, own:, None] == noisy[:, None]).all(-1).any(-1).sum() >= (others > 0)


@settings(max_examples=30, deadline=None)
@given(SEEDS, SHAPES, st.integers(1, 5))
def test_nearest_are_all_decisions_from_near_to_far(seed, shape, devices):
    logits = drawn(seed, shape, 3, devices).double()
    found = quantisers.nearest(logits, 2**devices)
    assert found[:, 0].equal(logits > 0)
    assert are_distinct(found)
    distance = (found.double() - logits.sigmoid()[:, None]).square().sum(-1)
    assert (distance.diff(dim=-1) >= -1e-9).all()
    assert quantisers.nearest(logits, 3).equal(found[:, :3])


def masked(seed: int, shape: str, tasks: int, choices: int) -> tuple[Tensor, Tensor]:
    mask = drawn(seed + 1, "smooth", 4, tasks, choices) > -1
    mask[..., 0] |= ~mask.any(-1)
    return drawn(seed, shape, 4, tasks, choices), mask


@settings(max_examples=30, deadline=None)
@given(SEEDS, SHAPES, st.integers(1, 4), st.integers(2, 5))
def test_choices_begin_with_the_best_and_raise_one_choice_for_all(seed, shape, tasks, choices):
    logits, mask = masked(seed, shape, tasks, choices)
    found = quantisers.order_preserving_choices(logits, mask, 100)
    allowed = logits.masked_fill(~mask, -torch.inf)
    own = allowed.argmax(-1)
    assert found[:, 0].equal(own)
    assert mask[:, None].expand(*found.shape, choices).gather(-1, found[..., None]).all()
    possible = 1 + mask.sum((1, 2)) - tasks
    for row, count in zip(found, possible.tolist(), strict=True):
        assert are_distinct(row[None, :count])
        assert (row[count:] == row[0]).all()
    gap = (allowed.max(-1, keepdim=True).values - allowed)[:, None].expand(*found.shape, choices)
    gap_taken = gap.gather(-1, found[..., None])[..., 0]
    assert (gap_taken.amax(-1)[:, :2].diff(dim=-1) >= 0).all()
    for row, taken, gaps, first in zip(found, gap_taken, gap[:, 0], own, strict=True):
        for candidate, paid in zip(row[1:], taken[1:], strict=True):
            moved = candidate != first
            if moved.any():
                (raised,) = set(candidate[moved].tolist())
                others = gaps[:, raised][~moved & (first != raised)]
                assert (others >= paid[moved].max()).all()


@settings(max_examples=30, deadline=None)
@given(SEEDS, st.integers(1, 6))
def test_two_choices_are_the_binary_rule(seed, devices):
    logits = drawn(seed, "smooth", 3, devices)
    both = torch.stack((torch.zeros_like(logits), logits), -1)
    found = quantisers.order_preserving_choices(both, torch.ones_like(both, dtype=torch.bool), devices + 1)
    assert (found == 1).equal(quantisers.order_preserving(logits, devices + 1))


@settings(max_examples=30, deadline=None)
@given(SEEDS, SHAPES, st.integers(1, 4), st.integers(2, 5))
def test_single_changes_move_one_task_the_least_certain_first(seed, shape, tasks, choices):
    logits, mask = masked(seed, shape, tasks, choices)
    found = quantisers.single_changes(logits, mask, 100)
    allowed = logits.masked_fill(~mask, -torch.inf)
    assert found[:, 0].equal(allowed.argmax(-1))
    moved = found != found[:, :1]
    possible = 1 + mask.sum((1, 2)) - tasks
    assert moved.sum((1, 2)).equal(possible - 1)
    assert (moved.sum(-1) <= 1).all()
    paid = (
        allowed.max(-1).values[:, None] - allowed[:, None].expand(*found.shape, -1).gather(-1, found[..., None])[..., 0]
    ).sum(-1)
    for row, count in zip(paid, possible.tolist(), strict=True):
        assert (row[:count].diff() >= 0).all()


def test_nearest_refuses_many_devices():
    with pytest.raises(ValueError, match="13 devices: nearest neighbours are for at most 12"):
        quantisers.nearest(torch.zeros(13), 2)


def test_fixed_noise_samples_the_softmax_and_is_the_same_for_any_size():
    noise = quantisers.fixed_gumbel(40, 14, 25)
    assert quantisers.fixed_gumbel(8, 5, 10).equal(noise[:8, :5, :10])
    assert len(noise.flatten().unique()) > 0.99 * noise.numel()
    assert noise.mean().item() == pytest.approx(0.5772, abs=0.05)
    logits = torch.linspace(-1.0, 2.0, 25).double()
    often = (logits + quantisers.fixed_gumbel(400, 14, 25)).argmax(-1).flatten().bincount(minlength=25) / 5600
    torch.testing.assert_close(often.double(), logits.softmax(-1), atol=0.02, rtol=0)
