from types import SimpleNamespace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.scenario.worlds import SMALL

from coinfer.physics.radio import shannon_bps
from coinfer.scenario import channels
from coinfer.scenario.compile import compile_scenario
from coinfer.scenario.load import load, read
from coinfer.scenario.spec_links import Fading, Outages, ServerShare
from coinfer.traces import Trace


def rng() -> np.random.Generator:
    return np.random.default_rng(3)


def test_rayleigh_gains_are_exponential_and_fresh():
    gains = channels.fading(Fading(kind="rayleigh"), 100, rng())
    assert gains.mean() == pytest.approx(1, abs=0.02)
    assert gains.std() == pytest.approx(1, abs=0.02)
    assert abs(np.corrcoef(gains[:, :-1].ravel(), gains[:, 1:].ravel())[0, 1]) < 0.02


@pytest.mark.parametrize("correlation", [0.0, 0.5, 0.9])
def test_gauss_markov_gains_keep_rayleighs_distribution_and_remember(correlation: float):
    """The gain is a squared Gaussian pair, so its own correlation is the square of the field's."""
    gains = channels.fading(Fading(kind="gauss-markov", correlation=correlation), 64, rng())
    assert gains.mean() == pytest.approx(1, abs=0.03)
    assert gains.std() == pytest.approx(1, abs=0.05)
    found = np.corrcoef(gains[:, :-1].ravel(), gains[:, 1:].ravel())[0, 1]
    assert found == pytest.approx(correlation**2, abs=0.02)


@given(st.floats(1, 50), st.floats(0, 50), st.floats(0.1, 500))
@settings(max_examples=50, deadline=None)
def test_a_walk_stays_between_its_ends(low: float, width: float, step: float):
    paths = channels.random_walk(low, low + width, step, 50, rng())
    assert paths.min() >= low - 1e-9
    assert paths.max() <= low + width + 1e-9
    assert np.abs(np.diff(paths)).max() <= step + 1e-9


def test_a_walk_is_spread_evenly():
    paths = channels.random_walk(2.0, 6.0, 1.0, 50, rng())
    assert np.histogram(paths, 8, (2, 6))[0] / paths.size == pytest.approx(np.full(8, 1 / 8), abs=0.02)


def test_drawn_rates_are_held():
    paths = channels.piecewise_constant(1.0, 3.0, 5, 40, rng())
    assert (np.diff(paths.reshape(len(paths), -1, 5), axis=-1) == 0).all()
    assert paths.mean() == pytest.approx(2, abs=0.05)
    assert channels.piecewise_constant(1.0, 3.0, 0, 40, rng()).shape[1] == 1


def test_servers_are_out_as_long_as_the_scenario_says():
    spec = SimpleNamespace(server_share=None, outages=Outages(up_s=30, down_s=10), slots=500, slot_s=0.5)
    out = channels.server_shares(spec, rng()) == 0
    assert out.mean() == pytest.approx(0.25, abs=0.03)
    falls = (~out[:, :-1] & out[:, 1:]).sum() / (~out[:, :-1]).sum()
    assert falls == pytest.approx(0.5 / 30, rel=0.1)
    shared = SimpleNamespace(**{**vars(spec), "server_share": ServerShare(low=0.2, high=0.8)})
    share = channels.server_shares(shared, rng())
    assert share[share > 0].min() >= 0.2
    assert (share == 0).mean() == pytest.approx(0.25, abs=0.03)


def test_radio_rates_are_those_of_the_papers_figures():
    """20 dBm, 6 MHz, -174 dBm/Hz, 140.7 + 36.7 log10(d / km): 53.4 Mbit/s at 75 m, 31.6 at 150 m."""
    spec = load("cdo-dsac").spec
    links = spec.links.model_copy(update={"placements": 200})
    snr = channels._place_devices(links, np.array([0.1]), 1, rng())
    rates_bps = shannon_bps(snr, links.bandwidth_hz)
    assert rates_bps.min() > 31.6e6 - 0.1e6
    far = links.model_copy(update={"diameter_m": 1e-3, "nearest_m": 75.0})
    at_75_m = shannon_bps(channels._place_devices(far, np.array([0.1]), 1, rng()), links.bandwidth_hz)
    np.testing.assert_allclose(at_75_m, 53.4e6, rtol=2e-3)


def test_windows_are_pieces_of_the_traces():
    trace = Trace(np.arange(1000.0), np.arange(1000.0) % 77 + 1)
    links = SimpleNamespace(average_s=None, scale=2.0, floor_bps=0.0)
    bank = channels.trace_windows([trace], links, 1.0, 100)
    for row in bank:
        starts = np.flatnonzero(trace.rate_bps * 2 == row[0])
        assert any(
            (trace.rate_bps[s : s + bank.shape[1]] * 2 == row).all() for s in starts if s + bank.shape[1] <= 1000
        )
    assert channels.trace_windows([trace], SimpleNamespace(average_s=None, scale=1, floor_bps=5.0), 1.0, 10).min() == 5


def test_moving_means_look_ahead_round_the_circle():
    np.testing.assert_allclose(channels.moving_mean(np.array([1.0, 2, 3, 6]), 3), [2, 11 / 3, 10 / 3, 3])
    np.testing.assert_allclose(channels.moving_mean(np.array([1.0, 3]), 9), [2, 2])


def test_where_files_are_missing_others_stand_in_and_it_is_said(monkeypatch):
    monkeypatch.delenv("COINFER_DATA", raising=False)
    links = "links: {kind: traces, files: [none.csv], otherwise: [traces/synthetic.csv.gz]}"
    compiled = compile_scenario(read(SMALL.replace("links: {kind: constant, rate_bps: 1.0e+7}", links), "x"))
    assert compiled.notes == (
        "links follow traces/synthetic.csv.gz, as none.csv is not there (set COINFER_DATA to its folder)",
    )
    assert compiled.world.edge.one_path
