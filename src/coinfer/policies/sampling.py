"""Random numbers of policies: counted, not consumed, so a decision depends on seed, call and place, never on who else
was drawn for or on which device the tensors lie."""

import torch
from torch import Tensor

from coinfer.physics import random


def uniform(seed: int, call: int, shape: tuple[int, ...] | torch.Size, device: torch.device | None = None) -> Tensor:
    """Numbers in [0, 1), float32, in this shape.

    The place is counted over the whole shape, worlds first, so the first worlds draw the same however many stand beside
    them.
    """
    place = torch.arange(torch.Size(shape).numel(), device=device).reshape(shape)
    stream = random.key(random.key(place.new_tensor(0), seed), call)
    return random.uniform(random.bits(stream, place), torch.float32)


def pick(mask: Tensor, drawn: Tensor) -> Tensor:
    """Index of a true entry of the last axis, each as likely.

    Args:
        drawn: [..] uniform in [0, 1), mask's shape without the last axis.
    """
    rank = (drawn * mask.sum(-1)).long()
    return (mask.long().cumsum(-1) > rank[..., None]).int().argmax(-1)
