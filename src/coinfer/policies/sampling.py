"""Random numbers of policies.

They are counted, not consumed: a decision depends on seed, call and position, not on the other worlds of the batch or
on the device of the tensors.
"""

import torch
from torch import Tensor

from coinfer.physics import random


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


def pick(mask: Tensor, drawn: Tensor) -> Tensor:
    """Return the index of a random true entry of the last axis, each equally likely, [..].

    Args:
        mask: [.., C] bool with at least one true entry.
        drawn: [..] uniform numbers in [0, 1).
    """
    rank = (drawn * mask.sum(-1)).long()
    return (mask.long().cumsum(-1) > rank[..., None]).int().argmax(-1)
