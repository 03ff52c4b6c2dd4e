"""Formulas against values worked out by hand, in NumPy and torch."""

import numpy as np
import pytest
import torch

from coinfer.physics import compute, radio


@pytest.mark.parametrize("make", [np.array, torch.tensor])
def test_the_rates_of_cdo_dsac_at_its_distances(make):
    """20 dBm, -174 dBm/Hz, 6 MHz: 31.6, 44.3, 53.4 and 66.3 Mbit/s at 150, 100, 75 and 50 m."""
    gain = radio.from_db(-radio.path_loss_db(make([0.150, 0.100, 0.075, 0.050])))
    noise = radio.watts_of_dbm(radio.THERMAL_NOISE_DBM_PER_HZ)
    ratio = radio.signal_to_noise(radio.watts_of_dbm(20.0), gain, 6e6, noise)
    rate_bps = np.asarray(radio.shannon_bps(ratio, 6e6))
    assert rate_bps / 1e6 == pytest.approx([31.6, 44.3, 53.4, 66.3], abs=0.06)


def test_the_mean_gains_of_droo_at_both_ends():
    """8.42e-6 at 2.5 m and 1.09e-6 at 5.2 m (means of its data for 10 devices, to 1 %)."""
    gain = radio.free_space_gain(np.array([2.5, 5.2]), 3.0, 915e6, 2.8)
    assert gain == pytest.approx([8.42e-6, 1.09e-6], rel=0.015)


def test_rayleigh_gain_is_exponential_with_mean_one():
    uniform = (np.arange(200_000) + 0.5) / 200_000
    gain = radio.rayleigh_gain(uniform)
    assert gain.mean() == pytest.approx(1.0, rel=1e-3)
    assert gain.std() == pytest.approx(1.0, rel=5e-3)
    assert np.median(gain) == pytest.approx(np.log(2.0), rel=1e-4)


def test_gauss_markov_keeps_its_variance_and_its_correlation():
    rng = np.random.default_rng(1)
    values = rng.standard_normal(50_000)
    later = values
    for _ in range(5):
        later = radio.gauss_markov(later, rng.standard_normal(values.shape), 0.9)
    assert later.std() == pytest.approx(1.0, abs=0.02)
    assert np.corrcoef(values, later)[0, 1] == pytest.approx(0.9**5, abs=0.02)


@pytest.mark.parametrize("make", [np.array, torch.tensor])
def test_sending_nothing_takes_no_time_even_on_a_dead_link(make):
    took_s = radio.upload_s(make([0.0, 0.0, 8e6]), make([0.0, 1e6, 2e6]))
    assert took_s.tolist() == [0.0, 0.0, 4.0]


def test_a_channel_is_shared_by_those_who_send():
    assert radio.shared_bps(np.array([6.0, 6.0, 6.0]), np.array([0, 1, 3])).tolist() == [6.0, 6.0, 2.0]


def test_energies():
    """kappa f^2 c with the multi-task A3C values (1e-26, 1 GHz) for 2e9 cycles; 0.1 W for 3 s."""
    assert compute.compute_j(1e-26, 1e9, compute.cycles(1000.0, 2e6)) == pytest.approx(20.0)
    assert compute.transmit_j(0.1, 3.0) == pytest.approx(0.3)
    assert compute.compute_s(2e9, 1e9) == 2.0
