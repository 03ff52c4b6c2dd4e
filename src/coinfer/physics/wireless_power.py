"""Devices that a station powers by radio and that then compute their bits or send them.

DROO (Huang, Bi, Zhang, IEEE TMC 2020, arXiv 1808.01977), problem P1 and its solution for fixed modes, section III and
appendix. In a frame of length 1 the station powers all devices for a share a; those that offload then send one after
the other, each for a share tau_j, a + sum of tau_j <= 1. The weighted sum of rates is

    Q = a^(1/3) sum of L_i over those that compute + sum of c_j tau_j ln(1 + s_j a / tau_j) over those that send

with L (`local_bps`), c (`send_bps`) and s (`signal_to_noise`) below. It is concave in a and tau, and its optimum, for
any number of frames and modes at once, is one root search for the price v of time: y_j = s_j a / tau_j solves ln(1 + y)
- y / (1 + y) = v / c_j (the paper writes it with Lambert's W), a = 1 / (1 + sum of s_j / y_j), and v is the price that
equals a's own marginal rate, L a^(-2/3) / 3 + sum of c_j s_j / (1 + y_j).
"""

import math
from typing import NamedTuple

import torch
from torch import Tensor

ROUNDS = 60
SNR_ROUNDS = 3
TOLERANCE = 1e-10
"""Relative change of the price at which the search ends."""
MAX_LEVEL = 500.0
"""Upper limit of v / c: beyond it y would overflow, and a device has no time to send anyway."""


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

    The root is searched by Newton's method from the price of an even division; if a step would leave the bracket, the
    logarithm of the bracket is halved instead.

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
    upper = torch.maximum(local_sum, 60.0 * (send * offloads).amax(-1)) + 1.0
    lower = torch.maximum(local_sum / 4, 1e-12 * send.amin(-1))
    senders = offloads.sum(-1, keepdim=True)
    price = local_sum / 2 + (send * ratio / (1 + ratio * senders)).sum(-1)
    price = torch.minimum(torch.maximum(price, lower), upper)
    for _ in range(ROUNDS):
        excess, slope = _excess(price, local_sum, send, ratio)
        lower, upper = torch.where(excess > 0, price, lower), torch.where(excess > 0, upper, price)
        newton = price - excess / slope
        converged = (newton - price).abs() <= TOLERANCE * price
        inside = (newton > lower) & (newton < upper)
        price = torch.where(converged | inside, newton, (lower * upper).sqrt())
        if converged.all():
            break
    snr = _sending_snr(price[..., None] / send)
    feed = 1 / (1 + (ratio / snr).sum(-1))
    sends = ratio * feed[..., None] / snr
    rate = feed ** (1 / 3) * local_sum + (send * sends * torch.log1p(snr) * offloads).sum(-1)
    return Allocation(feed, sends, rate)


def rate_bps(
    local_bps: Tensor,
    send_bps: Tensor,
    signal_to_noise: Tensor,
    offloads: Tensor,
    feed_share: Tensor,
    send_share: Tensor,
) -> Tensor:
    """Return the weighted sum of rates Q [..] of any division of the frame, the best one or not.

    Args:
        local_bps: [.., N], from `local_bps`.
        send_bps: [.., N], from `send_bps`.
        signal_to_noise: [.., N], from `signal_to_noise`.
        offloads: [.., N] bool, the modes; true sends, false computes.
        feed_share: [..] a, share of the frame in which the station powers.
        send_share: [.., N] tau, share of the frame in which each device sends; ignored for those that compute.
    """
    received = signal_to_noise * feed_share[..., None] / torch.where(send_share > 0, send_share, 1.0)
    sent = send_bps * send_share * torch.log1p(received) * offloads
    return feed_share ** (1 / 3) * (local_bps * ~offloads).sum(-1) + sent.sum(-1)


def _excess(price: Tensor, local_sum: Tensor, send: Tensor, ratio: Tensor) -> tuple[Tensor, Tensor]:
    """Return by how much the marginal rate of powering exceeds its price, and the derivative by the price."""
    snr = _sending_snr(price[..., None] / send)
    send_per_feed = (ratio / snr).sum(-1)
    feed = 1 / (1 + send_per_feed)
    send_per_feed_slope = (ratio * (1 + snr) ** 2 / (send * snr**3)).sum(-1)
    worth = local_sum / 3 * feed ** (-2 / 3) + (send * ratio / (1 + snr)).sum(-1)
    slope = -2 / 9 * local_sum * feed ** (1 / 3) * send_per_feed_slope - send_per_feed - 1
    return worth - price, slope


def _sending_snr(level: Tensor) -> Tensor:
    """Return the y above 0 with ln(1 + y) - y / (1 + y) = level.

    Newton's method on u + e^(-u) = 1 + level with u = ln(1 + y).
    """
    level = level.clamp(max=MAX_LEVEL)
    u = torch.minimum(1 + level, (2 * level).sqrt() + level / 3)
    for _ in range(SNR_ROUNDS):
        u = u - (u + torch.expm1(-u) - level) / -torch.expm1(-u)
    return torch.expm1(u)
