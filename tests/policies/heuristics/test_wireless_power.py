"""Modes of wireless-powered devices: the optimum bounds all others, and coordinate descent reaches it."""

import itertools

import pytest
import torch

from coinfer.envs import wireless_power
from coinfer.policies.bounds.slot import BoundError
from coinfer.policies.heuristics.wireless_power import MODES, optimum
from coinfer.scenario.compile import open_world


@pytest.fixture(scope="module")
def frame():
    world = open_world("droo", {"devices": 6}).world
    tables = wireless_power.load(world)
    return tables, wireless_power.reset(tables, torch.arange(40))


def test_nothing_beats_the_optimum_and_descent_nearly_reaches_it(frame):
    tables, state = frame
    rates = lambda modes: wireless_power.rates_bps(tables, state, modes)  # noqa: E731
    found = {name: rates(make(3)(state.gain, state.weight, rates)[:, None])[:, 0] for name, make in MODES.items()}
    for name, rate in found.items():
        assert (rate <= found["optimum"] * (1 + 1e-9)).all(), name
    assert (found["coordinate-descent"] / found["optimum"]).mean() > 0.999
    assert (found["all-local"] < found["optimum"]).any()


def test_the_optimum_is_the_best_of_all_modes_one_by_one(frame):
    tables, state = frame
    rates = lambda modes: wireless_power.rates_bps(tables, state, modes)  # noqa: E731
    best = torch.full((40,), -torch.inf, dtype=torch.float64)
    for way in itertools.product((False, True), repeat=6):
        best = torch.maximum(best, rates(torch.tensor(way)[None])[:, 0])
    reached = rates(optimum()(state.gain, state.weight, rates)[:, None])[:, 0]
    torch.testing.assert_close(reached, best, rtol=1e-9, atol=0)


def test_too_many_devices_are_one_line():
    with pytest.raises(BoundError, match="optimum takes at most 16 devices"):
        optimum()(torch.ones(1, 17), torch.ones(1, 17), lambda modes: modes.sum(-1))
