"""Counter-based random numbers: the n-th number of a stream is a function of its key and n, and of nothing else.

So a world's history depends on its seed alone: not on the batch it runs in, the device, the number type, or what
another world draws. The function is SplitMix64 (Steele, Lea, Flood, OOPSLA 2014, figure 12) evaluated at any counter;
int64 tensors wrap around on overflow as it needs, and so do NumPy arrays, which `mix`, `key` and `bits` take as well:
on few numbers they need a third of the time. Uniform numbers have 24 bits, exact in float32 and float64.
"""

from typing import TypeVar

import numpy as np
import torch
from torch import Tensor

Array = TypeVar("Array", Tensor, np.ndarray)
GOLDEN = 0x9E3779B97F4A7C15 - 2**64
FIRST_FACTOR = 0xBF58476D1CE4E5B9 - 2**64
SECOND_FACTOR = 0x94D049BB133111EB - 2**64


def mix(value: Array) -> Array:
    """Return the output function of SplitMix64, a bijection on 64 bits.

    Args:
        value: int64, any shape.
    """
    value = (value ^ _shifted(value, 30)) * FIRST_FACTOR
    value = (value ^ _shifted(value, 27)) * SECOND_FACTOR
    return value ^ _shifted(value, 31)


def key(parent: Array, child: Array | int) -> Array:
    """Return the keys of sub-streams, int64; the two arguments broadcast against each other.

    Args:
        parent: int64 keys.
        child: number of the sub-stream, 0, 1, 2 and so on.
    """
    return mix(mix(parent + GOLDEN) + _stride(child))


def bits(keys: Array, counters: Array | int) -> Array:
    """Return 64 random bits for each key and counter, which broadcast against each other, as int64.

    Args:
        keys: int64 keys of streams.
        counters: place in the stream, from 0.
    """
    return mix(keys + _stride(counters))


def uniform(random_bits: Tensor, dtype: torch.dtype) -> Tensor:
    """Return numbers in [0, 1), made of the upper 24 bits, so that they are the same in float32 and float64.

    Args:
        random_bits: int64, from `bits`.
        dtype: float32 or float64.
    """
    return ((random_bits >> 40) & 0xFFFFFF).to(dtype) * 2.0**-24


def second_uniform(random_bits: Tensor, dtype: torch.dtype) -> Tensor:
    """Return numbers in [0, 1), made of bits that `uniform` does not use.

    Args:
        random_bits: int64, from `bits`.
        dtype: float32 or float64.
    """
    return ((random_bits >> 8) & 0xFFFFFF).to(dtype) * 2.0**-24


def integer(random_bits: Tensor, count: int) -> Tensor:
    """Return whole numbers in [0, count) as int64, made of the upper 32 bits.

    Args:
        random_bits: int64, from `bits`.
        count: from 1 to below 2^31.
    """
    return (((random_bits >> 32) & 0xFFFFFFFF) * count) >> 32


def second_integer(random_bits: Tensor, count: int) -> Tensor:
    """Return whole numbers in [0, count) as int64, made of the lower 32 bits, which `integer` does not use.

    Args:
        random_bits: int64, from `bits`.
        count: from 1 to below 2^31.
    """
    return ((random_bits & 0xFFFFFFFF) * count) >> 32


def _stride(counter: Array | int) -> Array | int:
    if isinstance(counter, int):
        return ((counter + 1) * GOLDEN + 2**63) % 2**64 - 2**63
    return (counter + 1) * GOLDEN


def _shifted(value: Array, places: int) -> Array:
    """Return the bits shifted right, with zeros coming in."""
    return (value >> places) & ((1 << (64 - places)) - 1)
