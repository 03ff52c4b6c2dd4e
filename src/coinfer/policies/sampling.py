"""Random numbers of policies.

They are counted, not consumed: a decision depends on seed, call and position, not on the other worlds of the batch or
on the device of the tensors.
"""

import torch
from torch import Tensor

from coinfer.physics import random

_GOLDEN = (5**0.5 - 1) / 2


def uniform(seed: int, call: int, shape: tuple[int, ...] | torch.Size, device: torch.device | None = None) -> Tensor:
    """Return numbers in [0, 1), float32.

    The position is counted over the whole shape, worlds first, so the first worlds get the same numbers in a batch of
    any size.

    Args:
        seed: of the policy.
        call: number of the call; the same numbers come again for the same call.
        shape: of the result.
        device: of the result.
    """
    place = torch.arange(torch.Size(shape).numel(), device=device).reshape(shape)
    stream = random.key(random.key(place.new_tensor(0), seed), call)
    return random.uniform(random.bits(stream, place), torch.float32)


def spread(first: Tensor, count: int) -> Tensor:
    """Return numbers in [0, 1) that follow a first one by steps of the golden section, [.., count].

    Each of them is uniform if the first is, and any few neighbours lie evenly over the whole range: tasks that draw
    from one distribution with them are shared out in its proportions, which independent draws miss by chance.

    Args:
        first: [..] real numbers; only their fractions matter.
        count: of the numbers.
    """
    step = torch.arange(count, device=first.device, dtype=first.dtype) * _GOLDEN
    numbers = (first - first.floor())[..., None] + step
    return numbers - numbers.floor()


def pick(mask: Tensor, drawn: Tensor) -> Tensor:
    """Return the index of a random true entry of the last axis, each equally likely, [..].

    Args:
        mask: [.., C] bool with at least one true entry.
        drawn: [..] uniform numbers in [0, 1).
    """
    rank = (drawn * mask.sum(-1)).long()
    return (mask.long().cumsum(-1) > rank[..., None]).int().argmax(-1)
