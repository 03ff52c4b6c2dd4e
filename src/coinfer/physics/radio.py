"""Radio links: path loss, noise, Shannon rate and fading, element by element, for NumPy arrays, tensors or plain
numbers."""

import math
from typing import Any, cast

import numpy as np

from coinfer.types import V

LIGHT_M_PER_S = 299_792_458.0
THERMAL_NOISE_DBM_PER_HZ = -174.0
"""Noise density at room temperature (Wu et al., IEEE TII 2020, settings)."""


def log2(value: V) -> V:
    """Return the logarithm to base 2.

    Args:
        value: above 0; a NumPy array, a tensor or a number.
    """
    anything = cast(Any, value)
    return anything.log2() if hasattr(anything, "log2") else np.log2(anything)


def from_db(value_db: V) -> V:
    """Return the ratio that a number of decibels stands for.

    Args:
        value_db: decibels, of a ratio of powers.
    """
    return 10.0 ** (value_db / 10.0)


def watts_of_dbm(power_dbm: V) -> V:
    """Return a power in watts.

    Args:
        power_dbm: the power in decibels over one milliwatt.
    """
    return from_db(power_dbm - 30.0)


def path_loss_db(distance_km: V) -> V:
    """Return 140.7 + 36.7 log10(d / km) in decibels (CDO-DSAC, SEKE 2023, section V: "channel gain").

    Args:
        distance_km: d, above 0.
    """
    return 140.7 + 36.7 * log2(distance_km) * math.log10(2.0)


def free_space_gain(distance_m: V, antenna_gain: float, carrier_hz: float, exponent: float) -> V:
    """Return the mean power gain A (c / (4 pi f d))^e, a ratio (DROO, IEEE TMC 2020, section VI).

    Args:
        distance_m: d, above 0.
        antenna_gain: A, a ratio, not decibels.
        carrier_hz: f, frequency of the carrier.
        exponent: e, path loss exponent.
    """
    return antenna_gain * (LIGHT_M_PER_S / (4.0 * math.pi * carrier_hz * distance_m)) ** exponent


def signal_to_noise(power_w: V | float, gain: V, bandwidth_hz: V | float, noise_w_per_hz: V | float) -> V:
    """Return p |h|^2 / (N0 B), a ratio (multi-task A3C, IEEE TMC 2024, the rate R; GRLE's r_mn is the same).

    Args:
        power_w: p, transmit power.
        gain: |h|^2, power gain of the channel, a ratio.
        bandwidth_hz: B.
        noise_w_per_hz: N0, noise density.
    """
    return power_w * gain / (noise_w_per_hz * bandwidth_hz)


def shannon_bps(signal_to_noise: V, bandwidth_hz: V | float) -> V:
    """Return B log2(1 + SNR) (multi-task A3C, IEEE TMC 2024, the rate R; SAC-d, WCNC 2022, inside equation 2).

    Args:
        signal_to_noise: SNR, a ratio, not decibels.
        bandwidth_hz: B.
    """
    return bandwidth_hz * log2(1.0 + signal_to_noise)


def shared_bps(rate_bps: V, senders: V) -> V:
    """Return the rate of each of several senders who share a channel evenly.

    Args:
        rate_bps: rate of the whole channel.
        senders: how many send, this one included; 0 counts as 1.
    """
    return rate_bps / (senders + (senders < 1))


def rayleigh_gain(uniform: V) -> V:
    """Return the power gain under Rayleigh fading, exponential with mean 1.

    Args:
        uniform: random numbers in [0, 1).
    """
    return -log2(1.0 - uniform) * math.log(2.0)


def gauss_markov(previous: V, normal: V, correlation: float) -> V:
    """Return the next value of a process of mean 0 and variance 1: r h + sqrt(1 - r^2) w.

    Args:
        previous: h, the current value.
        normal: w, standard normal random numbers.
        correlation: r, of two values that follow each other, -1 to 1.
    """
    return correlation * previous + math.sqrt(1.0 - correlation**2) * normal


def upload_s(size_bits: V, rate_bps: V) -> V:
    """Return size over rate.

    Sending nothing takes no time even on a dead link (rate 0); sending anything there takes for ever (infinite).

    Args:
        size_bits: at least 0.
        rate_bps: at least 0.
    """
    with np.errstate(divide="ignore"):
        return size_bits / (rate_bps + (size_bits <= 0))
