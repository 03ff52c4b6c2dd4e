"""Devices that a station feeds by radio and that then compute, or send, their bits (DROO: Huang, Bi, Zhang, IEEE TMC
2020, arXiv 1808.01977, problem P1 and its solution for fixed modes, section III and appendix).

In a frame of length 1 the station feeds everybody for a share a; those who offload then send in turn, each for a share
tau_j, a + sum of tau_j <= 1. The weighted sum of rates is

    Q = a^(1/3) sum of L_i over who computes + sum of c_j tau_j ln(1 + s_j a / tau_j) over who sends

with L (`local_bps`), c (`send_bps`) and s (`signal_to_noise`) below. It is concave in a and tau, and its optimum, for
any number of frames and modes at once, is one root search for the price v of time: y_j = s_j a / tau_j solves
ln(1 + y) - y / (1 + y) = v / c_j (the paper writes it with Lambert's W), a = 1 / (1 + sum of s_j / y_j), and v is where
a's own marginal rate, L a^(-2/3) / 3 + sum of c_j s_j / (1 + y_j), equals v.
"""

import math
from typing import NamedTuple

import torch
from torch import Tensor

ROUNDS = 60
SPREAD_ROUNDS = 3
CLOSE = 1e-10
"""Relative change of the price at which the search ends."""
STEEPEST = 500.0
"""Of v / c: beyond it y would overflow, and a device has no time to send anyway."""


class Allocation(NamedTuple):
    """The best division of the frame for given modes."""

    feed_share: Tensor
    """[..] a, 0 to 1."""
    send_share: Tensor
    """[.., N] tau; 0 for who computes."""
    rate_bps: Tensor
    """[..] Q, the weighted sum of rates."""


def local_bps(
    gain: Tensor, weight: Tensor, power_w: float, efficiency: float, cycles_per_bit: float, capacitance: float
) -> Tensor:
    """w (mu P)^(1/3) / phi (h / kappa)^(1/3): weighted rate of computing if the station fed for the whole frame."""
    return weight * (efficiency * power_w) ** (1 / 3) / cycles_per_bit * (gain / capacitance) ** (1 / 3)


def send_bps(weight: Tensor, bandwidth_hz: float, overhead: float) -> Tensor:
    """w B / (v_u ln 2): weighted rate of sending for each unit of ln(1 + SNR)."""
    return weight * bandwidth_hz / (overhead * math.log(2.0))


def signal_to_noise(gain: Tensor, power_w: float, efficiency: float, noise_w: float) -> Tensor:
    """mu P h^2 / N0: what is harvested over the channel is sent back over it."""
    return efficiency * power_w * gain**2 / noise_w


def allocate(local_bps: Tensor, send_bps: Tensor, signal_to_noise: Tensor, offloads: Tensor) -> Allocation:
    """The optimum for modes `offloads` [.., N] (true: sends), which broadcast against the other arrays [.., N].

    The root is searched by Newton's method from the price of an even division, and by halving the logarithm of a
    bracket where a step would leave it.
    """
    ratio = signal_to_noise * offloads
    shape = (local_bps + send_bps + ratio).shape
    local, send, ratio = (part.expand(shape) for part in (local_bps, send_bps, ratio))
    alone = (local * ~offloads).sum(-1)
    high = torch.maximum(alone, 60.0 * (send * offloads).amax(-1)) + 1.0
    low = torch.maximum(alone / 4, 1e-12 * send.amin(-1))
    senders = offloads.sum(-1, keepdim=True)
    price = alone / 2 + (send * ratio / (1 + ratio * senders)).sum(-1)
    price = torch.minimum(torch.maximum(price, low), high)
    for _ in range(ROUNDS):
        excess, slope = _excess(price, alone, send, ratio)
        low, high = torch.where(excess > 0, price, low), torch.where(excess > 0, high, price)
        newton = price - excess / slope
        arrived = (newton - price).abs() <= CLOSE * price
        inside = (newton > low) & (newton < high)
        price = torch.where(arrived | inside, newton, (low * high).sqrt())
        if arrived.all():
            break
    spread = _spread(price[..., None] / send)
    feed = 1 / (1 + (ratio / spread).sum(-1))
    sends = ratio * feed[..., None] / spread
    rate = feed ** (1 / 3) * alone + (send * sends * torch.log1p(spread) * offloads).sum(-1)
    return Allocation(feed, sends, rate)


def rate_bps(
    local_bps: Tensor,
    send_bps: Tensor,
    signal_to_noise: Tensor,
    offloads: Tensor,
    feed_share: Tensor,
    send_share: Tensor,
) -> Tensor:
    """Q [..] of any division of the frame, the best one or not."""
    received = signal_to_noise * feed_share[..., None] / torch.where(send_share > 0, send_share, 1.0)
    sent = send_bps * send_share * torch.log1p(received) * offloads
    return feed_share ** (1 / 3) * (local_bps * ~offloads).sum(-1) + sent.sum(-1)


def _excess(price: Tensor, alone: Tensor, send: Tensor, ratio: Tensor) -> tuple[Tensor, Tensor]:
    """How much more feeding is worth than its price, and the derivative by the price."""
    spread = _spread(price[..., None] / send)
    crowding = (ratio / spread).sum(-1)
    feed = 1 / (1 + crowding)
    thinning = (ratio * (1 + spread) ** 2 / (send * spread**3)).sum(-1)
    worth = alone / 3 * feed ** (-2 / 3) + (send * ratio / (1 + spread)).sum(-1)
    slope = -2 / 9 * alone * feed ** (1 / 3) * thinning - crowding - 1
    return worth - price, slope


def _spread(level: Tensor) -> Tensor:
    """The y above 0 where ln(1 + y) - y / (1 + y) = level: Newton's method on u + e^(-u) = 1 + level, u = ln(1 + y)."""
    level = level.clamp(max=STEEPEST)
    u = torch.minimum(1 + level, (2 * level).sqrt() + level / 3)
    for _ in range(SPREAD_ROUNDS):
        u = u - (u + torch.expm1(-u) - level) / -torch.expm1(-u)
    return torch.expm1(u)
