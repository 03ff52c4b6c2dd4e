"""Devices that a station powers by radio and that then compute their bits or send them.

DROO (Huang, Bi, Zhang, IEEE TMC 2020, arXiv 1808.01977), problem P1 and its solution for fixed modes, section III and
appendix. In a frame of length 1 the station powers all devices for a share a; those that offload then send one after
the other, each for a share tau_j, a + sum of tau_j <= 1. The weighted sum of rates is

    Q = a^(1/3) sum of L_i over those that compute + sum of c_j tau_j ln(1 + s_j a / tau_j) over those that send

with L (`local_bps`), c (`send_bps`) and s (`signal_to_noise`) below. It is concave in a and tau, and its optimum, for
any number of frames and modes at once, is one root search for the price v of time: y_j = s_j a / tau_j solves ln(1 + y)
- y / (1 + y) = v / c_j (the paper writes it with Lambert's W), a = 1 / (1 + sum of s_j / y_j), and v is the price that
equals a's own marginal rate, L a^(-2/3) / 3 + sum of c_j s_j / (1 + y_j). All devices of one c have the same y, so
they count by the sum of their s: the search is over groups of devices with equal weights, and a frame with given modes
is one number for those that compute and one for each group.

The search is written once for tensors and NumPy arrays. Tensors on the CPU are searched as NumPy arrays, because its
operations on small arrays take a third of the time.
"""

import math
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

MAX_ROUNDS = 40
EXPORT_ROUNDS = 4
"""Rounds that leave a relative error of the rate below 1e-12 with weights and channels of the paper's kind."""
CRITIC_ROUNDS = 2
"""Rounds that leave a relative error below 1e-6 there, enough to tell candidates apart."""
TOLERANCE = 1e-3
"""Relative distance of the price from its marginal rate at which the next round is the last. Newton's method squares
it, and the rate, which is greatest at the right price, squares it again: its relative error is below 1e-12 with weights
and channels of the paper's kind, and below 1e-6 anywhere."""
MAX_STEP = 1.4
"""Largest change of the logarithm of the price in a round."""


class Allocation(NamedTuple):
    """The best division of the frame for given modes."""

    feed_share: Tensor
    """[..] a, 0 to 1."""
    send_share: Tensor
    """[.., N] tau; 0 for devices that compute."""
    rate_bps: Tensor
    """[..] Q, the weighted sum of rates."""


def local_bps(
    gain: Tensor, weight: Tensor, power_w: float, efficiency: float, cycles_per_bit: float, capacitance: float
) -> Tensor:
    """Return the weighted rate [.., N] of computing if the station powered for the whole frame.

    It is L = w (mu P)^(1/3) / phi (h / kappa)^(1/3).

    Args:
        gain: [.., N] h, power gain of the channel.
        weight: [N] w of each device.
        power_w: P of the station.
        efficiency: mu, harvested power over received power, 0 to 1.
        cycles_per_bit: phi.
        capacitance: kappa of the processor.
    """
    return weight * (efficiency * power_w) ** (1 / 3) / cycles_per_bit * (gain / capacitance) ** (1 / 3)


def send_bps(weight: Tensor, bandwidth_hz: float, overhead: float) -> Tensor:
    """Return the weighted rate [N] of sending for each unit of ln(1 + SNR): c = w B / (v_u ln 2).

    Args:
        weight: [N] w of each device.
        bandwidth_hz: B.
        overhead: v_u, sent bits over bits of the task, at least 1.
    """
    return weight * bandwidth_hz / (overhead * math.log(2.0))


def signal_to_noise(gain: Tensor, power_w: float, efficiency: float, noise_w: float) -> Tensor:
    """Return s = mu P h^2 / N0, [.., N]: a device sends what it harvested back over the same channel.

    Args:
        gain: [.., N] h, power gain of the channel.
        power_w: P of the station.
        efficiency: mu, harvested power over received power, 0 to 1.
        noise_w: N0, noise power at the station.
    """
    return efficiency * power_w * gain**2 / noise_w


def allocate(local_bps: Tensor, send_bps: Tensor, signal_to_noise: Tensor, offloads: Tensor) -> Allocation:
    """Return the best division of the frame for given modes; the arguments broadcast against each other.

    Args:
        local_bps: [.., N], from `local_bps`.
        send_bps: [.., N], from `send_bps`.
        signal_to_noise: [.., N], from `signal_to_noise`.
        offloads: [.., N] bool, the modes; true sends, false computes.
    """
    ratio = signal_to_noise * offloads
    shape = (local_bps + send_bps + ratio).shape
    local, send, ratio = (part.expand(shape) for part in (local_bps, send_bps, ratio))
    local_sum = (local * ~offloads).sum(-1)
    feed, send_per_feed, level = _search(local_sum, send.movedim(-1, 0), ratio.movedim(-1, 0), None)
    sends = send_per_feed.movedim(0, -1) * feed[..., None]
    rate = feed ** (1 / 3) * local_sum + (send * sends * level.movedim(0, -1)).sum(-1)
    return Allocation(feed, sends, rate)


def best_rate_bps(local_bps: Tensor, send_bps: Tensor, signal_to_noise: Tensor, rounds: int | None = None) -> Tensor:
    """Return Q [..] of the best division of frames in which G groups of devices send, each group of equal c.

    Args:
        local_bps: [..] sum of the `local_bps` of the devices that compute.
        send_bps: [G, ..] `send_bps` of each group; broadcasts against `signal_to_noise`.
        signal_to_noise: [G, ..] sum of the `signal_to_noise` of the group's devices that send; 0 if none does.
        rounds: rounds of the search, such as `EXPORT_ROUNDS`; None for as many as are needed.
    """
    feed, send_per_feed, level = _search(local_bps, send_bps, signal_to_noise, rounds)
    return feed ** (1 / 3) * local_bps + feed * (send_bps * send_per_feed * level).sum(0)


def device_rates_bps(
    local_bps: Tensor,
    send_bps: Tensor,
    signal_to_noise: Tensor,
    offloads: Tensor,
    feed_share: Tensor,
    send_share: Tensor,
) -> Tensor:
    """Return the weighted rate [.., N] of each device in any division of the frame, the best one or not.

    Args:
        local_bps: [.., N], from `local_bps`.
        send_bps: [.., N], from `send_bps`.
        signal_to_noise: [.., N], from `signal_to_noise`.
        offloads: [.., N] bool, the modes; true sends, false computes.
        feed_share: [..] a, share of the frame in which the station powers.
        send_share: [.., N] tau, share of the frame in which each device sends; ignored for those that compute.
    """
    received = signal_to_noise * feed_share[..., None] / torch.where(send_share > 0, send_share, 1.0)
    sent = send_bps * send_share * torch.log1p(received)
    return torch.where(offloads, sent, feed_share[..., None] ** (1 / 3) * local_bps)


def _search(local: Any, send: Any, ratio: Any, rounds: int | None) -> tuple[Any, Any, Any]:
    """Return a [..], tau / a [G, ..] and ln(1 + y) [G, ..] of the best division; arguments as in `best_rate_bps`."""
    if isinstance(local, np.ndarray):
        return _divide(np, local, send, ratio, rounds)
    if local.is_cpu and rounds is None:
        found = _divide(np, local.numpy(), send.numpy(), ratio.numpy(), None)
        feed, send_per_feed, level = (torch.as_tensor(np.asarray(part)) for part in found)
        return feed, send_per_feed, level
    return _divide(torch, local, send, ratio, rounds)


def _divide(xp: Any, local: Any, send: Any, ratio: Any, rounds: int | None) -> tuple[Any, Any, Any]:
    """Search the price by Newton's method, in logarithms, from an estimate.

    Args:
        xp: the library of the arrays, torch or NumPy.
        local: [..]
        send: [G, ..]
        ratio: [G, ..]
        rounds: None until the price has converged everywhere.
    """
    paid = send * ratio
    least = 1e-12 * send.min()
    price = xp.maximum(local / 3 + 0.6 * xp.amax(send * xp.log1p(ratio), 0), least)
    level = price / send
    u = xp.minimum(1 + level, xp.sqrt(2 * level) + level / 3)
    for _ in range(rounds or MAX_ROUNDS):
        u, share, inverse = _sending_level(xp, u, level)
        send_per_feed = ratio * inverse / share
        whole = 1 + send_per_feed.sum(0)
        powered = local / 3 * whole ** (2 / 3)
        excess = xp.maximum(powered + (paid * inverse).sum(0), least) / price
        fall = 2 / 3 * powered / whole * (send_per_feed / (send * share * share)).sum(0) + whole - 1
        bounded = excess.clip(1e-3, 1e3)
        price = xp.maximum(price * xp.exp((xp.log(bounded) / (1 + fall / bounded)).clip(-MAX_STEP, MAX_STEP)), least)
        level = price / send
        if rounds is None and abs(excess - 1).max() < TOLERANCE:
            break
    u, share, inverse = _sending_level(xp, u, level)
    send_per_feed = ratio * inverse / share
    return 1 / (1 + send_per_feed.sum(0)), send_per_feed, u


def _sending_level(xp: Any, u: Any, level: Any) -> tuple[Any, Any, Any]:
    """Return u = ln(1 + y) with u + e^(-u) = 1 + level, y / (1 + y) and 1 / (1 + y).

    One step of Halley's method from a nearby u, within the bounds level and 1 + level.
    """
    share = -xp.expm1(-u)
    off = u - share - level
    u = u - 2 * off * share / (2 * share * share - off * (1 - share))
    u = xp.minimum(xp.maximum(u, level), 1 + level)
    return u, -xp.expm1(-u), xp.exp(-u)
