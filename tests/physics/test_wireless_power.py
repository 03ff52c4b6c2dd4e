"""DROO's division of the frame against an independent convex solver, and its published figures."""

import itertools

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.optimize import minimize

from coinfer.envs import wireless_power as env
from coinfer.physics import frame_rates, wireless_power
from coinfer.scenario.compile import open_world


def solved_by_scipy(local, send, ratio, offloads):
    """The optimum by sequential quadratic programming on (a, tau), in units of the greatest coefficient."""
    who = np.flatnonzero(offloads)
    scale = max(local.max(), send.max())

    def loss(x):
        a, tau = x[0], x[1:]
        sent = send[who] * tau * np.log1p(ratio[who] * a / tau)
        return -((local[~offloads].sum() * np.cbrt(a)) + sent.sum()) / scale

    parts = len(who) + 1
    bounds = [(1e-9, 1.0)] * parts
    within = {"type": "ineq", "fun": lambda x: 1 - x.sum(), "jac": lambda x: -np.ones(parts)}
    settings = {"maxiter": 500, "ftol": 1e-14}
    found = minimize(
        loss, np.full(parts, 1 / parts), method="SLSQP", bounds=bounds, constraints=within, options=settings
    )
    return -found.fun * scale


def coefficients(gain, weight):
    local = wireless_power.local_bps(gain, weight, 3.0, 0.7, 100.0, 1e-26)
    return local, wireless_power.send_bps(weight, 2e6, 1.1), wireless_power.signal_to_noise(gain, 3.0, 0.7, 1e-10)


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 2**32 - 1), st.integers(1, 10))
def test_equals_an_independent_convex_solver(seed, devices):
    rng = np.random.default_rng(seed)
    gain = torch.tensor(rng.exponential(4e-6, devices))
    weight = torch.tensor(rng.choice([1.0, 1.5], devices))
    offloads = torch.tensor(rng.random(devices) < 0.5)
    given_ = coefficients(gain, weight)
    found = wireless_power.allocate(*given_, offloads)
    wanted = solved_by_scipy(*(array.numpy() for array in given_), offloads.numpy())
    assert float(found.rate_bps) == pytest.approx(wanted, rel=1e-4)
    assert float(found.rate_bps) >= wanted * (1 - 1e-7)
    assert float(found.feed_share + found.send_share.sum()) == pytest.approx(1.0, abs=1e-9)
    again = wireless_power.device_rates_bps(*given_, offloads, found.feed_share, found.send_share)
    assert float(again.sum()) == pytest.approx(float(found.rate_bps), rel=1e-9)


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 2**32 - 1))
def test_no_other_division_is_better(seed):
    rng = np.random.default_rng(seed)
    gain, weight = torch.tensor(rng.exponential(4e-6, 6)), torch.tensor(rng.choice([1.0, 1.5], 6))
    offloads = torch.tensor(rng.random(6) < 0.5)
    given_ = coefficients(gain, weight)
    best = wireless_power.allocate(*given_, offloads)
    parts = torch.tensor(rng.dirichlet(np.ones(7), 200)) * torch.cat((torch.ones(1, dtype=torch.bool), offloads))
    parts = 0.9 * torch.cat((best.feed_share[None], best.send_share)) + 0.1 * parts / parts.sum(-1, keepdim=True)
    other = wireless_power.device_rates_bps(*given_, offloads, parts[:, 0], parts[:, 1:]).sum(-1)
    assert (other <= best.rate_bps * (1 + 1e-9)).all()


@pytest.mark.parametrize("gain", [1e-12, 1e-9, 1e-6, 1e-3])
def test_extreme_channels_and_uniform_modes(gain):
    gains, weight = torch.full((4,), gain, dtype=torch.float64), torch.ones(4, dtype=torch.float64)
    given_ = coefficients(gains, weight)
    modes = torch.tensor([[False] * 4, [True] * 4, [True, False, False, False]])
    found = wireless_power.allocate(*given_, modes)
    assert found.feed_share[0] == 1.0
    assert float(found.rate_bps[0]) == pytest.approx(float(given_[0].sum()))
    for mode, rate in zip(modes[1:], found.rate_bps[1:], strict=True):
        wanted = solved_by_scipy(*(array.numpy() for array in given_), mode.numpy())
        assert float(rate) >= wanted * (1 - 1e-6)
    assert torch.isfinite(found.rate_bps).all()


def test_one_search_serves_arrays_and_tensors_and_ends_when_the_rate_is_exact():
    world = open_world("droo").world
    tables = env.load(world)
    state = env.reset(tables, torch.arange(40))
    modes = torch.rand(40, 6, 10, generator=torch.Generator().manual_seed(0)) < 0.5
    exact = frame_rates.ungrouped_rates_bps(world, state.gain, state.weight, modes, wireless_power.EXPORT_ROUNDS)
    for one in range(40):  # alone, so that each ends when it has converged itself
        found = env.rates_bps(tables, env.State(*(part[one : one + 1] for part in state)), modes[one : one + 1])
        torch.testing.assert_close(found, exact[one : one + 1], rtol=1e-11, atol=0)


def test_the_authors_channels_give_their_published_means():
    """Over their 10-device frames: optimum 3.18 Mbit/s with a = 0.52; all-local 0.335 of it, all-offload 0.896."""
    tables = env.load(open_world("droo").world)
    modes = torch.tensor(list(itertools.product([False, True], repeat=10)))
    state = env.reset(tables, torch.arange(150))
    rates = env.rates_bps(tables, state, modes)
    best, which = rates.max(-1)
    feed = env.step(tables, state, modes[which]).allocation.feed_share
    assert best.mean().item() == pytest.approx(3.18e6, rel=0.06)
    assert feed.mean().item() == pytest.approx(0.52, abs=0.02)
    assert (rates[:, 0] / best).mean().item() == pytest.approx(0.335, abs=0.02)
    assert (rates[:, -1] / best).mean().item() == pytest.approx(0.896, abs=0.02)


def test_frames_follow_from_the_seed_alone():
    tables = env.load(open_world("droo").world)
    alone, many = env.reset(tables, torch.tensor([5])), env.reset(tables, torch.arange(9))
    nobody = torch.zeros(1, 10, dtype=torch.bool)
    for _ in range(3):
        assert env.observe(tables, many)[0][5:6].equal(env.observe(tables, alone)[0])
        step = env.step(tables, alone, nobody)
        assert not step.truncated.any()
        alone, many = step.state, env.step(tables, many, nobody.expand(9, -1)).state
    gains = torch.stack([env.reset(tables, torch.arange(4000) + 4000 * i).gain for i in range(3)]).flatten(0, 1)
    assert torch.allclose(gains.mean(0), tables.mean_gain, rtol=0.05)
