"""The environment `wireless-power` (DROO, IEEE TMC 2020): each device of a frame computes its bits or sends them.

Three pure functions: `reset`, `observe`, `step`. The frame is divided optimally for the decision, so the reward is
exact, and one frame leaves nothing to the next. `rates_bps` scores any number of decisions of a frame at once, for
learners and bounds.
"""

from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from coinfer.physics import radio, random
from coinfer.physics import wireless_power as physics
from coinfer.scenario.world import WirelessPowerWorld


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
    state: State
    allocation: physics.Allocation
    """[B]; `rate_bps` is the reward."""
    truncated: Tensor
    """[B] bool, the episode is over."""


def load(world: WirelessPowerWorld, device: str | torch.device = "cpu", dtype: torch.dtype = torch.float64) -> Tables:
    """Puts a scenario on a device; float64, as the rates of two decisions may differ by little."""
    mean_gain, weight = (torch.as_tensor(np.asarray(a)).to(device, dtype) for a in (world.mean_gain, world.weight))
    return Tables(world, mean_gain, weight)


def reset(tables: Tables, seeds: Tensor) -> State:
    """Worlds at the first frame of the episodes that the seeds [B] (int64) name."""
    seeds = seeds.to(tables.mean_gain.device, torch.int64)
    return at(tables, seeds, torch.zeros_like(seeds))


def observe(tables: Tables, state: State) -> Tensor:
    """The gains [B, N]."""
    return state.gain


def step(tables: Tables, state: State, offloads: Tensor) -> Step:
    """Carries out the modes [B, N] (bool, true: sends) and goes to the next frame."""
    after = at(tables, state.seed, state.slot + 1)
    return Step(after, _allocate(tables, state.gain, offloads), after.slot >= tables.world.slots)


def rates_bps(tables: Tables, state: State, offloads: Tensor) -> Tensor:
    """Rates [B, S] of S modes [B, S, N] (or [S, N], the same for all worlds) of the frame."""
    return _allocate(tables, state.gain[:, None], offloads).rate_bps


def at(tables: Tables, seeds: Tensor, slot: Tensor) -> State:
    """Worlds at any frames [B] of the episodes that the seeds [B] name; no frame depends on another."""
    devices = torch.arange(tables.mean_gain.shape[0], device=seeds.device)
    chance = random.uniform(random.bits(random.key(seeds, slot)[:, None], devices), tables.mean_gain.dtype)
    least = 2.0**-25
    return State(seeds, slot, tables.mean_gain * radio.rayleigh_gain(chance + least))


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
