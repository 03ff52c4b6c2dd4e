"""The environment `wireless-power` with queues (after LyDROO: Bi, Huang, Wang, Zhang, IEEE TWC 2021).

In each frame exponentially many bits arrive at every device, and what it computes or sends leaves its queue. A queue is
stable if its mean does not grow without end. By drift plus penalty (Neely, 2010), a rule that maximises in each frame

    sum of (Q_i + V w_i) r_i

over modes and division of the frame, with queue Q, rate r and weight w of device i, keeps all queues stable if any
rule does, and comes within O(1 / V) of the best weighted rate. Divided by V this is DROO's problem with the weights
w + Q / V, and is solved by the same functions. LyDROO's devices have batteries and a second queue for their mean
power, which devices that are fed by radio do not need: what they harvest in a frame they use in it. Unlike there, the
rule does not take into account that a device serves no more than its queue holds.
"""

from typing import NamedTuple

import torch
from torch import Tensor

from coinfer.envs import wireless_power
from coinfer.physics import frame_rates, random
from coinfer.physics import wireless_power as physics
from coinfer.scenario.world import QueueWorld

_ARRIVALS = 7
"""Number of the arrivals' stream of random numbers; the channels use the seed itself."""


class Tables(NamedTuple):
    """The scenario as tensors."""

    world: QueueWorld
    frames: wireless_power.Tables


class State(NamedTuple):
    """A batch of independent worlds at the beginning of a frame."""

    frame: wireless_power.State
    queue_bits: Tensor
    """[B, N] bits at each device, with those that have just arrived."""


class Step(NamedTuple):
    """The next state and the result of a frame."""

    state: State
    served_bits: Tensor
    """[B, N] bits that left each queue."""
    truncated: Tensor
    """[B] bool, the episode is over."""


def load(world: QueueWorld, device: str | torch.device = "cpu") -> Tables:
    """Return the tables of a scenario, on a device.

    Args:
        world: a compiled scenario.
        device: where the tensors live.
    """
    return Tables(world, wireless_power.load(world.frames, device))


def reset(tables: Tables, seeds: Tensor) -> State:
    """Return worlds at the first frame of their episodes, with the bits that arrive in it.

    Args:
        tables: from `load`.
        seeds: [B] int64, one episode each.
    """
    frame = wireless_power.reset(tables.frames, seeds)
    return State(frame, _arrivals(tables, frame))


def weights(tables: Tables, state: State) -> Tensor:
    """Return w + Q / V of each device, [B, N].

    Args:
        tables: from `load`.
        state: at the beginning of the frame.
    """
    return state.frame.weight + state.queue_bits / tables.world.rate_weight_bits


def scores_bps(tables: Tables, state: State, offloads: Tensor, weight: Tensor | None = None) -> Tensor:
    """Return the greatest sum of weighted rates that S modes allow, [B, S].

    Args:
        tables: from `load`.
        state: at the beginning of the frame.
        offloads: [B, S, N] bool, or [S, N] for the same modes in all worlds.
        weight: [B, N] of the rates; those of `weights` by default.
    """
    weight = weights(tables, state) if weight is None else weight
    return frame_rates.ungrouped_rates_bps(tables.world.frames, state.frame.gain, weight, offloads)


def step(tables: Tables, state: State, offloads: Tensor, weight: Tensor | None = None) -> Step:
    """Carry out the modes of a frame, divided as is best for the weights, and go to the next one.

    Args:
        tables: from `load`.
        state: at the beginning of the frame; unchanged.
        offloads: [B, N] bool, true sends, false computes.
        weight: [B, N] of the rates; those of `weights` by default.
    """
    frames, gain = tables.world.frames, state.frame.gain
    weight = weights(tables, state) if weight is None else weight
    shares = physics.allocate(*frame_rates.coefficients(frames, gain, weight), offloads)
    plain = frame_rates.coefficients(frames, gain, torch.ones_like(weight))
    rate_bps = physics.device_rates_bps(*plain, offloads, shares.feed_share, shares.send_share)
    served_bits = rate_bps.minimum(state.queue_bits)  # frames of DROO have length 1
    frame = wireless_power.state_at(tables.frames, state.frame.seed, state.frame.slot + 1)
    after = State(frame, state.queue_bits - served_bits + _arrivals(tables, frame))
    return Step(after, served_bits, frame.slot >= tables.world.slots)


def _arrivals(tables: Tables, frame: wireless_power.State) -> Tensor:
    """Return the bits [B, N] that arrive at the beginning of a frame."""
    keys = random.key(random.key(frame.seed, _ARRIVALS), frame.slot)
    devices = torch.arange(frame.gain.shape[-1], device=keys.device)
    uniform = random.uniform(random.bits(keys[:, None], devices), frame.gain.dtype)
    return -tables.world.arrival_bits * (uniform + wireless_power.SMALLEST_UNIFORM).log()
