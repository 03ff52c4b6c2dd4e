"""Random numbers of policies: counted, not consumed, so a decision depends on seed, call and task, never on who else
was drawn for or on which device the tensors lie."""

import torch
from torch import Tensor

_MASK = (1 << 64) - 1
_MIX = (0xBF58476D1CE4E5B9, 0x94D049BB133111EB)
_GOLDEN = 0x9E3779B97F4A7C15


def uniform(seed: int, call: int, shape: tuple[int, ...] | torch.Size, device: torch.device | None = None) -> Tensor:
    """Numbers in [0, 1), float32, in this shape: SplitMix64 (Steele et al., OOPSLA 2014) of seed, call and index.

    The index runs over the whole shape, worlds first, so the first worlds draw the same however many stand beside them.
    """
    index = torch.arange(max(1, torch.Size(shape).numel()), device=device).reshape(shape)
    stream = _mix_number(_mix_number(seed) + call)
    mixed = _mix(index * _signed(_GOLDEN) + _signed(stream))
    return _shift(mixed, 40).float() * 2.0**-24


def pick(mask: Tensor, drawn: Tensor) -> Tensor:
    """Index of a true entry of the last axis, each as likely.

    Args:
        drawn: [..] uniform in [0, 1), mask's shape without the last axis.
    """
    rank = (drawn * mask.sum(-1)).long()
    return (mask.long().cumsum(-1) > rank[..., None]).int().argmax(-1)


def _mix(value: Tensor) -> Tensor:
    value = (value ^ _shift(value, 30)) * _signed(_MIX[0])
    value = (value ^ _shift(value, 27)) * _signed(_MIX[1])
    return value ^ _shift(value, 31)


def _mix_number(value: int) -> int:
    value = (value + _GOLDEN) & _MASK
    value = ((value ^ (value >> 30)) * _MIX[0]) & _MASK
    value = ((value ^ (value >> 27)) * _MIX[1]) & _MASK
    return value ^ (value >> 31)


def _shift(value: Tensor, bits: int) -> Tensor:
    """To the right, filling with zeros; torch's own shift of int64 keeps the sign."""
    return (value >> bits) & ((1 << (64 - bits)) - 1)


def _signed(value: int) -> int:
    """The int64 with the same bits."""
    return value - (1 << 64) if value >> 63 else value
