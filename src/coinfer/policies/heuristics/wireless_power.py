"""Deciders for frames of wireless-powered devices (DROO, IEEE TMC 2020): who sends, who computes.

Each takes the frame's channel gains [B, N] and the rates that the best division of the frame gives to any modes, and
returns modes [B, N], true where a device sends. Every name is a function from a seed, as in `heuristics`.
"""

from collections.abc import Callable
from itertools import count

import torch
from torch import Tensor

from coinfer.policies.bounds.slot import BoundError
from coinfer.policies.sampling import uniform

Rates = Callable[[Tensor], Tensor]
"""From S modes [B, S, N], or the same ones for all frames [S, N], to rates [B, S]."""
ModesPolicy = Callable[[Tensor, Rates], Tensor]

MOST_DEVICES = 16
"""Exhaustive search tries 2^N modes."""


def all_local(seed: int = 0) -> ModesPolicy:
    """Everybody computes."""
    return lambda gain, _: torch.zeros_like(gain, dtype=torch.bool)


def all_send(seed: int = 0) -> ModesPolicy:
    """Everybody sends."""
    return lambda gain, _: torch.ones_like(gain, dtype=torch.bool)


def random(seed: int = 0) -> ModesPolicy:
    """Every mode is as likely."""
    calls = count()
    return lambda gain, _: uniform(seed, next(calls), gain.shape, gain.device) < 0.5


def coordinate_descent(seed: int = 0) -> ModesPolicy:
    """From random modes the single change that helps most, until none does (the paper's CD)."""
    calls = count()

    def decide(gain: Tensor, rates: Rates) -> Tensor:
        modes = uniform(seed, next(calls), gain.shape, gain.device) < 0.5
        change = torch.eye(gain.shape[-1], dtype=torch.bool, device=gain.device)
        least = rates(modes[:, None])[:, 0]
        while True:
            found, which = rates(modes[:, None] ^ change).max(-1)
            better = found > least * (1 + 1e-9)
            if not better.any():
                return modes
            modes = torch.where(better[:, None], modes ^ change[which], modes)
            least = torch.where(better, found, least)

    return decide


def optimum(seed: int = 0) -> ModesPolicy:
    """The best of all 2^N modes."""

    def decide(gain: Tensor, rates: Rates) -> Tensor:
        devices = gain.shape[-1]
        if devices > MOST_DEVICES:
            raise BoundError(f"2^{devices} modes to try; optimum takes at most {MOST_DEVICES} devices")
        best, best_rate = torch.zeros_like(gain, dtype=torch.bool), torch.full_like(gain[:, 0], -torch.inf)
        for part in torch.arange(2**devices, device=gain.device).split(64):
            modes = ((part[:, None] >> torch.arange(devices, device=gain.device)) & 1) > 0
            rate, which = rates(modes).max(-1)
            better = rate > best_rate
            best = torch.where(better[:, None], modes[which], best)
            best_rate = torch.where(better, rate, best_rate)
        return best

    return decide


MODES: dict[str, Callable[[int], ModesPolicy]] = {
    "all-local": all_local,
    "all-send": all_send,
    "random": random,
    "coordinate-descent": coordinate_descent,
    "optimum": optimum,
}
"""What the command line calls them; the last is too slow to be among those that run unasked."""
