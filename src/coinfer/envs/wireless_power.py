"""The environment `wireless-power` (DROO, IEEE TMC 2020): each device of a frame computes its bits or sends them.

Three pure functions: `reset`, `observe`, `step`. The frame is divided optimally for the decision, so the reward is
exact, and no frame depends on another. `rates_bps` scores any number of decisions of a frame at once, for learners and
bounds.
"""

from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from coinfer.physics import radio, random
from coinfer.physics import wireless_power as physics
from coinfer.scenario.world import WirelessPowerWorld

SMALLEST_UNIFORM = 2.0**-25
"""Added to uniform numbers, so that no gain is 0."""


class Tables(NamedTuple):
    """The scenario as tensors."""

    world: WirelessPowerWorld
    mean_gain: Tensor
    """[N]"""
    weight: Tensor
    """[N]"""


class State(NamedTuple):
    """A batch of independent worlds at the beginning of a frame."""

    seed: Tensor
    """[B] int64"""
    slot: Tensor
    """[B] int64"""
    gain: Tensor
    """[B, N] channel gain of each device in this frame."""


class Step(NamedTuple):
    """The next state and the result of a frame."""

    state: State
    allocation: physics.Allocation
    """[B]; `rate_bps` is the reward."""
    truncated: Tensor
    """[B] bool, the episode is over."""


def load(world: WirelessPowerWorld, device: str | torch.device = "cpu", dtype: torch.dtype = torch.float64) -> Tables:
    """Return the tables of a scenario, on a device.

    Args:
        world: a compiled scenario.
        device: where the tensors live.
        dtype: float64 by default, as the rates of two decisions may differ by little.
    """
    mean_gain, weight = (torch.as_tensor(np.asarray(a)).to(device, dtype) for a in (world.mean_gain, world.weight))
    return Tables(world, mean_gain, weight)


def reset(tables: Tables, seeds: Tensor) -> State:
    """Return worlds at the first frame of their episodes.

    Args:
        tables: from `load`.
        seeds: [B] int64, one episode each.
    """
    seeds = seeds.to(tables.mean_gain.device, torch.int64)
    return state_at(tables, seeds, torch.zeros_like(seeds))


def observe(tables: Tables, state: State) -> Tensor:
    """Return the channel gains, [B, N].

    Args:
        tables: from `load`.
        state: at the beginning of a frame.
    """
    return state.gain


def step(tables: Tables, state: State, offloads: Tensor) -> Step:
    """Carry out the modes of a frame and go to the next one.

    Args:
        tables: from `load`.
        state: at the beginning of the frame; unchanged.
        offloads: [B, N] bool, true sends, false computes.

    Returns:
        The next state, the division of the frame with the reward, and whether the episode is over.
    """
    after = state_at(tables, state.seed, state.slot + 1)
    return Step(after, _allocate(tables, state.gain, offloads), after.slot >= tables.world.slots)


def rates_bps(tables: Tables, state: State, offloads: Tensor) -> Tensor:
    """Return the weighted sum of rates of S modes of the same frame, [B, S].

    Args:
        tables: from `load`.
        state: at the beginning of the frame.
        offloads: [B, S, N] bool, or [S, N] for the same modes in all worlds.
    """
    return _allocate(tables, state.gain[:, None], offloads).rate_bps


def state_at(tables: Tables, seeds: Tensor, slot: Tensor) -> State:
    """Return worlds at any frames of their episodes.

    Args:
        tables: from `load`.
        seeds: [B] int64, seeds of the episodes, on the device of the tables.
        slot: [B] int64, number of the frame.
    """
    devices = torch.arange(tables.mean_gain.shape[0], device=seeds.device)
    uniform = random.uniform(random.bits(random.key(seeds, slot)[:, None], devices), tables.mean_gain.dtype)
    return State(seeds, slot, tables.mean_gain * radio.rayleigh_gain(uniform + SMALLEST_UNIFORM))


def _allocate(tables: Tables, gain: Tensor, offloads: Tensor) -> physics.Allocation:
    world = tables.world
    return physics.allocate(
        physics.local_bps(
            gain, tables.weight, world.power_w, world.harvest_efficiency, world.cycles_per_bit, world.capacitance
        ),
        physics.send_bps(tables.weight, world.bandwidth_hz, world.overhead),
        physics.signal_to_noise(gain, world.power_w, world.harvest_efficiency, world.noise_w),
        offloads,
    )
