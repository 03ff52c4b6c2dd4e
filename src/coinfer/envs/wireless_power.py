"""The environment `wireless-power` (DROO, IEEE TMC 2020): each device of a frame computes its bits or sends them.

Three pure functions: `reset`, `observe`, `step`. The frame is divided optimally for the decision, so the reward is
exact, and no frame depends on the decisions in others. `rates_bps` scores any number of decisions of a frame at once,
for learners and bounds.

Gains are drawn, or come from recorded frames: then an episode begins at a frame that follows from its seed, goes on in
the order of the file, and begins anew at its end.
"""

from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from coinfer.physics import frame_rates, radio, random
from coinfer.physics import wireless_power as physics
from coinfer.scenario.world import WirelessPowerWorld

SMALLEST_UNIFORM = 2.0**-25
"""Added to uniform numbers, so that no gain is 0."""


class Tables(NamedTuple):
    """The scenario as tensors."""

    world: WirelessPowerWorld
    mean_gain: Tensor
    """[N]"""
    phase_start: Tensor
    """[P] int64"""
    weight: Tensor
    """[P, N]"""
    on: Tensor
    """[P, N] bool"""
    weights: Tensor
    """[G] the different weights, ascending."""
    frame_gain: Tensor | None
    """[F, N] of recorded frames."""


class State(NamedTuple):
    """A batch of independent worlds at the beginning of a frame."""

    seed: Tensor
    """[B] int64"""
    slot: Tensor
    """[B] int64"""
    gain: Tensor
    """[B, N] channel gain of each device in this frame; 0 if it is off."""
    weight: Tensor
    """[B, N] weight of each device in this frame."""


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
    phase_start, on = (torch.as_tensor(a).to(device) for a in (world.phase_start, world.on))
    frame_gain = None if world.frames is None else torch.as_tensor(world.frames.gain).to(device, dtype)
    return Tables(world, mean_gain, phase_start, weight, on, weight.unique(), frame_gain)


def reset(tables: Tables, seeds: Tensor) -> State:
    """Return worlds at the first frame of their episodes.

    Args:
        tables: from `load`.
        seeds: [B] int64, one episode each.
    """
    seeds = seeds.to(tables.mean_gain.device, torch.int64)
    return state_at(tables, seeds, torch.zeros_like(seeds))


def observe(tables: Tables, state: State) -> tuple[Tensor, Tensor]:
    """Return channel gains and weights of the devices, each [B, N].

    Args:
        tables: from `load`.
        state: at the beginning of a frame.
    """
    return state.gain, state.weight


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
    parts = frame_rates.coefficients(tables.world, state.gain, state.weight)
    return Step(after, physics.allocate(*parts, offloads), after.slot >= tables.world.slots)


def rates_bps(tables: Tables, state: State, offloads: Tensor) -> Tensor:
    """Return the weighted sum of rates of S modes of the same frame, [B, S].

    Args:
        tables: from `load`.
        state: at the beginning of the frame.
        offloads: [B, S, N] bool, or [S, N] for the same modes in all worlds.
    """
    return frame_rates.grouped_rates_bps(tables.world, tables.weights, state.gain, state.weight, offloads)


def state_at(tables: Tables, seeds: Tensor, slot: Tensor) -> State:
    """Return worlds at any frames of their episodes.

    Args:
        tables: from `load`.
        seeds: [B] int64, seeds of the episodes, on the device of the tables.
        slot: [B] int64, number of the frame.
    """
    if tables.frame_gain is None:
        devices = torch.arange(tables.mean_gain.shape[0], device=seeds.device)
        uniform = random.uniform(random.bits(random.key(seeds, slot)[:, None], devices), tables.mean_gain.dtype)
        gain = tables.mean_gain * radio.rayleigh_gain(uniform + SMALLEST_UNIFORM)
    else:
        gain = tables.frame_gain[recorded_frame(tables, seeds, slot)]
    if len(tables.phase_start) == 1:
        return State(seeds, slot, gain, tables.weight.expand(gain.shape))
    phase = torch.bucketize(slot, tables.phase_start, right=True) - 1
    return State(seeds, slot, gain * tables.on[phase], tables.weight[phase])


def recorded_frame(tables: Tables, seeds: Tensor, slot: Tensor) -> Tensor:
    """Return which recorded frame [B] any frames of episodes are; needs a world with recorded frames.

    Args:
        tables: from `load`.
        seeds: [B] int64, seeds of the episodes.
        slot: [B] int64, number of the frame.
    """
    assert tables.frame_gain is not None
    frames = len(tables.frame_gain)
    return (random.integer(random.bits(seeds, 0), frames) + slot) % frames
