"""Counter-based random numbers against SplitMix64 in plain integers, and their statistics."""

import torch

from coinfer.physics import random

WRAP = 2**64


def splitmix(seed: int, numbers: int) -> list[int]:
    """The generator as it is published: add, then mix."""
    found, state = [], seed
    for _ in range(numbers):
        state = (state + 0x9E3779B97F4A7C15) % WRAP
        value = ((state ^ (state >> 30)) * 0xBF58476D1CE4E5B9) % WRAP
        value = ((value ^ (value >> 27)) * 0x94D049BB133111EB) % WRAP
        found.append(value ^ (value >> 31))
    return found


def test_equals_splitmix64_from_any_seed():
    assert splitmix(1234567, 3)[0] == 6457827717110365317
    for seed in (0, 1, 2**40 + 7, 2**63 - 1):
        found = random.bits(torch.tensor(seed), torch.arange(50))
        assert [value % WRAP for value in found.tolist()] == splitmix(seed, 50)
        assert random.bits(torch.tensor(seed), 4) == found[4]


def test_both_halves_are_uniform_and_independent():
    many = random.bits(random.key(torch.arange(64), 3)[:, None], torch.arange(4096)).reshape(-1)
    first, second = random.uniform(many, torch.float64), random.second_uniform(many, torch.float64)
    for values in (first, second):
        assert ((values >= 0) & (values < 1)).all()
        counts = torch.histc(values, bins=64, min=0, max=1)
        chi2 = ((counts - counts.mean()) ** 2 / counts.mean()).sum()
        assert chi2 < 63 + 5 * (2 * 63) ** 0.5
    assert abs(torch.corrcoef(torch.stack((first, second)))[0, 1]) < 4 / many.shape[0] ** 0.5
    assert random.integer(many, 7).bincount().tolist() == torch.bincount((first * 7).long()).tolist()
    assert random.second_integer(many, 1000).max() == 999


def test_float32_and_float64_draw_the_same_numbers():
    some = random.bits(torch.tensor(9), torch.arange(1000))
    assert random.uniform(some, torch.float32).double().equal(random.uniform(some, torch.float64))


def test_keys_of_sub_streams_differ():
    parents = torch.arange(1000)
    keys = torch.cat([random.key(parents, child) for child in range(5)] + [random.key(parents, parents + 5)])
    assert keys.unique().shape == keys.shape
