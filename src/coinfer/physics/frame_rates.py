"""Rates of frames of wireless-powered devices from their channels and weights, for any number of modes at once."""

from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor

from coinfer.physics import wireless_power


class FrameConstants(Protocol):
    """What does not change from frame to frame; `scenario.world.WirelessPowerWorld` has it."""

    @property
    def power_w(self) -> float:
        """Return the power of the station."""
        ...

    @property
    def harvest_efficiency(self) -> float:
        """Return harvested power over received power."""
        ...

    @property
    def cycles_per_bit(self) -> float:
        """Return the cycles of a device's processor for each bit."""
        ...

    @property
    def capacitance(self) -> float:
        """Return the effective capacitance of a device's processor."""
        ...

    @property
    def noise_w(self) -> float:
        """Return the noise power at the station."""
        ...

    @property
    def bandwidth_hz(self) -> float:
        """Return the bandwidth."""
        ...

    @property
    def overhead(self) -> float:
        """Return the bits sent for each bit of the task."""
        ...


def coefficients(constants: FrameConstants, gain: Tensor, weight: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Return `local_bps`, `send_bps` and `signal_to_noise` of each device, [.., N], as `physics.wireless_power` does.

    Args:
        constants: of the frames.
        gain: [.., N] channel gains.
        weight: [.., N] weights of the devices' rates.
    """
    c = constants
    return (
        wireless_power.local_bps(gain, weight, c.power_w, c.harvest_efficiency, c.cycles_per_bit, c.capacitance),
        wireless_power.send_bps(weight, c.bandwidth_hz, c.overhead),
        wireless_power.signal_to_noise(gain, c.power_w, c.harvest_efficiency, c.noise_w),
    )


def grouped_rates_bps(
    constants: FrameConstants,
    weights: Tensor,
    gain: Tensor,
    weight: Tensor,
    offloads: Tensor,
    rounds: int | None = None,
) -> Tensor:
    """Return the greatest weighted sum of rates that S modes allow, [.., S]; devices of equal weight count together.

    Args:
        constants: of the frames.
        weights: [G] the different weights that occur.
        gain: [.., N] channel gains.
        weight: [.., N] weights of the devices' rates.
        offloads: [.., S, N] bool, or [S, N] for the same modes everywhere; true sends, false computes.
        rounds: of the search, such as `CRITIC_ROUNDS`; None for as many as are needed.
    """
    parts = (weights, gain, weight, offloads)
    if not gain.is_cpu:
        return _grouped(torch, constants, rounds, *parts)
    return torch.as_tensor(_grouped(np, constants, rounds, *(part.numpy() for part in parts)))


def _grouped(
    xp: Any, constants: FrameConstants, rounds: int | None, weights: Any, gain: Any, weight: Any, offloads: Any
) -> Any:
    """Return `grouped_rates_bps` with a library, torch or NumPy, on its own arrays."""
    local, _, ratio = coefficients(constants, gain, weight)
    groups = weight[..., None] == weights
    per_device = xp.concatenate((local[..., None], ratio[..., None] * groups), -1)
    sums = xp.asarray(offloads, dtype=local.dtype) @ per_device
    local_sum = (local.sum(-1)[..., None] - sums[..., 0]).clip(0)
    send = wireless_power.send_bps(weights, constants.bandwidth_hz, constants.overhead)
    ratio_sum = xp.moveaxis(sums[..., 1:], -1, 0)
    return wireless_power.best_rate_bps(local_sum, send.reshape(-1, *[1] * local_sum.ndim), ratio_sum, rounds)


def ungrouped_rates_bps(
    constants: FrameConstants, gain: Tensor, weight: Tensor, offloads: Tensor, rounds: int | None = None
) -> Tensor:
    """Return the same rates [.., S] for any weights.

    Args:
        constants: of the frames.
        gain: [.., N] channel gains.
        weight: [.., N] weights of the devices' rates.
        offloads: [.., S, N] bool, or [S, N] for the same modes everywhere; true sends, false computes.
        rounds: of the search, such as `EXPORT_ROUNDS` where it is exported; None for as many as are needed.
    """
    local, send, ratio = (part[..., None, :] for part in coefficients(constants, gain, weight))
    local_sum, ratio = (local * ~offloads).sum(-1), (ratio * offloads).movedim(-1, 0)
    return wireless_power.best_rate_bps(local_sum, send.movedim(-1, 0), ratio, rounds)
