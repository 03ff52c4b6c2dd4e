"""Policies for frames of wireless-powered devices (DROO, IEEE TMC 2020), which decide who sends and who computes.

Each takes the frame's channel gains [B, N], the weights of the devices [B, N], and the rates that the best division of
the frame gives to any modes, and returns modes [B, N], true for a device that sends. Every name is a function from a
seed, as in `heuristics.offload`.
"""

import math
from collections.abc import Callable
from itertools import count

import torch
from torch import Tensor

from coinfer.policies.bounds.slot import BoundError
from coinfer.policies.sampling import uniform

Rates = Callable[[Tensor], Tensor]
"""From S modes [B, S, N], or the same ones for all frames [S, N], to rates [B, S]."""
ModesPolicy = Callable[[Tensor, Tensor, Rates], Tensor]

MAX_DEVICES = 16
"""Exhaustive search tries 2^N modes."""
MAX_THRESHOLDS = 20_000
"""Modes that `threshold_search` tries in a frame at most."""


def all_local(seed: int = 0) -> ModesPolicy:
    """Return a policy in which every device computes.

    Args:
        seed: ignored; the policy is deterministic.
    """
    return lambda gain, *_: torch.zeros_like(gain, dtype=torch.bool)


def all_send(seed: int = 0) -> ModesPolicy:
    """Return a policy in which every device sends.

    Args:
        seed: ignored; the policy is deterministic.
    """
    return lambda gain, *_: torch.ones_like(gain, dtype=torch.bool)


def random(seed: int = 0) -> ModesPolicy:
    """Return a policy that draws each mode, both equally likely.

    Args:
        seed: of the random numbers.
    """
    calls = count()
    return lambda gain, *_: uniform(seed, next(calls), gain.shape, gain.device) < 0.5


def coordinate_descent(seed: int = 0) -> ModesPolicy:
    """Return a policy that starts from random modes and makes the best single change until none helps (the paper's CD).

    Args:
        seed: of the random numbers.
    """
    calls = count()

    def decide(gain: Tensor, weight: Tensor, rates: Rates) -> Tensor:
        modes = uniform(seed, next(calls), gain.shape, gain.device) < 0.5
        change = torch.eye(gain.shape[-1], dtype=torch.bool, device=gain.device)
        rate = rates(modes[:, None])[:, 0]
        while True:
            best_rate, index = rates(modes[:, None] ^ change).max(-1)
            better = best_rate > rate * (1 + 1e-9)
            if not better.any():
                return modes
            modes = torch.where(better[:, None], modes ^ change[index], modes)
            rate = torch.where(better, best_rate, rate)

    return decide


def threshold_search(seed: int = 0) -> ModesPolicy:
    """Return a policy that tries all modes in which, among the devices of equal weight, those of greatest gain send.

    They are few: the product of one more than the devices of each weight. That one of them is best is not proved; on
    DROO's channels it was the optimum in every frame that was enumerated (experiments/droo).

    Args:
        seed: ignored; the policy is deterministic.

    Raises:
        BoundError: from the policy, if there are more than `MAX_THRESHOLDS` such modes; one line.
    """

    def decide(gain: Tensor, weight: Tensor, rates: Rates) -> Tensor:
        group = weight.unique()
        equal = weight[:, None] == group[:, None]
        greater = (gain[:, None, :] > gain[..., None]) | (
            (gain[:, None, :] == gain[..., None]) & torch.ones_like(equal[0, 0]).expand(gain.shape[-1], -1).tril(-1)
        )
        rank = (greater & (weight[:, None, :] == weight[..., None])).sum(-1)
        counts = [int(devices) + 1 for devices in equal.sum(-1).amax(0)]
        if math.prod(counts) > MAX_THRESHOLDS:
            raise BoundError(f"{math.prod(counts)} thresholds to try; threshold-search takes at most {MAX_THRESHOLDS}")
        sending = torch.cartesian_prod(*(torch.arange(count, device=gain.device) for count in counts))
        limit = sending.reshape(-1, len(counts)) @ equal.long()
        modes = rank[:, None] < limit
        best = rates(modes).argmax(-1)
        return modes[torch.arange(len(gain), device=gain.device), best]

    return decide


def optimum(seed: int = 0) -> ModesPolicy:
    """Return a policy that takes the best of all 2^N modes.

    Args:
        seed: ignored; the policy is deterministic.

    Raises:
        BoundError: from the policy, if there are more than `MAX_DEVICES` devices; one line.
    """

    def decide(gain: Tensor, weight: Tensor, rates: Rates) -> Tensor:
        devices = gain.shape[-1]
        if devices > MAX_DEVICES:
            raise BoundError(f"2^{devices} modes to try; optimum takes at most {MAX_DEVICES} devices")
        best, best_rate = torch.zeros_like(gain, dtype=torch.bool), torch.full_like(gain[:, 0], -torch.inf)
        for part in torch.arange(2**devices, device=gain.device).split(64):
            modes = ((part[:, None] >> torch.arange(devices, device=gain.device)) & 1) > 0
            rate, index = rates(modes).max(-1)
            better = rate > best_rate
            best = torch.where(better[:, None], modes[index], best)
            best_rate = torch.where(better, rate, best_rate)
        return best

    return decide


MODES: dict[str, Callable[[int], ModesPolicy]] = {
    "all-local": all_local,
    "all-send": all_send,
    "random": random,
    "coordinate-descent": coordinate_descent,
    "threshold-search": threshold_search,
    "optimum": optimum,
}
"""Names on the command line; the last is too slow to run by default."""
