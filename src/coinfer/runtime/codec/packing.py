"""Min-max quantisation of tensors to 16, 12, 8 or 4 bits, packed without gaps.

It works chunk by chunk, so that every intermediate result stays in the processor's cache.

Packed layout: 8 bits take one byte each. 4 bits come two to a byte, the first in the low half. 16 and 12 bits are a
plane of low bytes followed by a plane of high bytes or of packed high halves: high bits are alike, so planes mostly
compress better than pairs.

All values of a tensor share one range, or each row (a channel of a picture, a token of a text) has its own.
"""

import math
from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np

from coinfer.units import BITS_PER_BYTE, FLOAT32_BITS, WIRE_BITS

CHUNK = 32 * 1024
"""Elements at a time, an even number; their 128 KiB of float32 fit into a second-level cache."""
MIN_FINER_BITS = 2.0
"""Ranges by row must make values finer by as many bits as this. Values that use all levels compress less well: if the
channels are alike, such ranges would cost more bytes than they are worth."""
QUANTISED_BITS = tuple(bits for bits in WIRE_BITS if bits < FLOAT32_BITS)


class Scale(NamedTuple):
    """The quantised value q stands for `offset + q * step`."""

    offset: float
    step: float


def packed_bytes(elements: int, bits: int) -> int:
    """Return the size in bytes of packed values.

    Args:
        elements: number of values.
        bits: per value.
    """
    return (elements * bits + 7) // 8


def working_dtype(dtype: np.dtype) -> np.dtype:
    """Return the precision in which values of a floating type are scaled: float64 for float64, else float32.

    Args:
        dtype: of the tensor.
    """
    return np.dtype(np.float64 if dtype.itemsize > 4 else np.float32)


def scale_fits(scale: Scale, bits: int, dtype: np.dtype) -> bool:
    """Return true if all values of a scale are finite numbers of `dtype`, and its step has full precision.

    Args:
        scale: as read from a payload or made by `scale_of`.
        bits: per value; the largest value is `2**bits - 1`.
        dtype: of the tensor, a floating type.
    """
    work = working_dtype(dtype)
    step_ok = scale.step == 0 or scale.step >= float(np.finfo(work).tiny)
    with np.errstate(over="ignore", invalid="ignore"):
        offset, reach = work.type(scale.offset), work.type(scale.step) * work.type(2**bits - 1)
        ends = np.array([reach, offset, offset + reach])
        return bool(step_ok and np.isfinite(ends).all() and np.isfinite(ends[1:].astype(dtype)).all())


def scale_of(values: np.ndarray, bits: int) -> Scale | None:
    """Return the scale from the smallest to the largest value, or None if quantising is impossible.

    Args:
        values: not empty; None results if they are not finite, or too close together or too far apart.
        bits: per value.
    """
    low, high = float(values.min()), float(values.max())  # both are NaN if any value is
    span = high - low
    if not math.isfinite(span):
        return None
    work = working_dtype(values.dtype)
    with np.errstate(under="ignore", over="ignore"):
        scale = Scale(low, float(work.type(span / (2**bits - 1))))
        levels_fit = np.isfinite(work.type(span)) and (span == 0 or scale.step > 0)
    return scale if levels_fit and scale_fits(scale, bits, values.dtype) else None


def quantise(values: np.ndarray, bits: int, scale: Scale, out: np.ndarray) -> None:
    """Write values, rounded to the nearest step, as packed bytes.

    Args:
        values: flat, of a floating type, all within the scale.
        bits: per value.
        scale: from `scale_of` for these values.
        out: uint8, of `packed_bytes` length; filled.
    """
    work = working_dtype(values.dtype)
    buffer = np.empty(min(CHUNK, values.size), work)
    levels = np.empty(buffer.size, np.uint8 if bits <= 8 else np.uint16)
    offset = work.type(scale.offset)
    per_step = work.type(1 / scale.step) if scale.step else work.type(0)
    for start in range(0, values.size, CHUNK):
        scaled = buffer[: min(CHUNK, values.size - start)]
        np.subtract(values[start : start + CHUNK], offset, out=scaled)
        scaled *= per_step
        scaled += work.type(0.5)
        chunk = levels[: scaled.size]
        if bits == 8:
            chunk = out[start : start + scaled.size]
        chunk[:] = scaled
        _PACK[bits](chunk, start, values.size, out)


def dequantise(packed: np.ndarray, bits: int, scale: Scale, out: np.ndarray) -> None:
    """Fill a tensor from packed bytes.

    Args:
        packed: uint8, of `packed_bytes` length.
        bits: per value.
        scale: all of its values must fit the type of `out` (`scale_fits`).
        out: flat, of a floating type; filled.
    """
    work = working_dtype(out.dtype)
    direct = work == out.dtype
    buffer = np.empty(0 if direct else min(CHUNK, out.size), work)
    offset, step = work.type(scale.offset), work.type(scale.step)
    for start in range(0, out.size, CHUNK):
        size = min(CHUNK, out.size - start)
        scaled = out[start : start + size] if direct else buffer[:size]
        scaled[:] = _UNPACK[bits](packed, start, size, out.size)
        scaled *= step
        scaled += offset
        if not direct:
            out[start : start + size] = scaled


def rows_of(shape: Sequence[int]) -> int:
    """Return the number of rows of a tensor that may have ranges of their own: its channels, those of each sample.

    Args:
        shape: of at least three axes; with fewer, all of the tensor is one row.
    """
    return shape[0] * shape[1] if len(shape) > 2 else 1


def row_scales(values: np.ndarray, bits: int) -> np.ndarray | None:
    """Return offset and step of each row, [rows, 2], or None if one of them cannot be quantised.

    Args:
        values: [rows, elements], of a floating type, finite.
        bits: per value.
    """
    work = working_dtype(values.dtype)
    scales = np.empty((len(values), 2), work)
    with np.errstate(over="ignore", invalid="ignore", under="ignore"):
        low, high = values.min(axis=1).astype(np.float64), values.max(axis=1).astype(np.float64)
        scales[:, 0], scales[:, 1] = low, (high - low) / (2**bits - 1)
        fits = ((high > low) <= (scales[:, 1] > 0)).all()
    return scales if fits and row_scales_fit(scales, bits, values.dtype) else None


def row_scales_fit(scales: np.ndarray, bits: int, dtype: np.dtype) -> bool:
    """Return true if `scale_fits` holds for every row.

    Args:
        scales: offset and step of each row, [rows, 2], in working precision.
        bits: per value.
        dtype: of the tensor, a floating type.
    """
    offset, step = scales[:, 0], scales[:, 1]
    step_ok = (step == 0) | (step >= np.finfo(scales.dtype).tiny)
    with np.errstate(over="ignore", invalid="ignore"):
        reach = step * scales.dtype.type(2**bits - 1)
        ends = np.stack([offset, offset + reach]).astype(dtype)
        return bool((step_ok & np.isfinite(reach)).all() and np.isfinite(ends).all())


def rows_pay(scale: Scale, scales: np.ndarray, elements: int) -> bool:
    """Return true if ranges by row make values so much finer that it is worth the bytes of these ranges.

    The mean squared error of rounding is proportional to that of the steps.

    Args:
        scale: of the whole tensor.
        scales: offset and step of each row, [rows, 2].
        elements: of a row.
    """
    if scale.step == 0:
        return False
    share = float(np.mean(np.square(scales[:, 1].astype(np.float64) / scale.step)))
    finer_bits = -0.5 * math.log2(share) if share > 0 else math.inf
    return finer_bits >= MIN_FINER_BITS and finer_bits * elements >= 2 * scales.itemsize * BITS_PER_BYTE


def quantise_rows(values: np.ndarray, bits: int, scales: np.ndarray, out: np.ndarray) -> None:
    """Write values, rounded to the nearest step of their row, as packed bytes.

    Args:
        values: [rows, elements], of a floating type.
        bits: per value.
        scales: from `row_scales` for these values.
        out: uint8, of `packed_bytes` length; filled.
    """
    rows, elements = values.shape
    step = scales[:, 1:]
    per_step = np.divide(1, step, out=np.zeros_like(step), where=step > 0)
    for start, end in _row_chunks(rows, elements):
        scaled = (values[start:end] - scales[start:end, :1]) * per_step[start:end]
        scaled += scales.dtype.type(0.5)
        levels = scaled.reshape(-1).astype(np.uint8 if bits <= 8 else np.uint16)
        if bits == 8:
            out[start * elements : end * elements] = levels
        _PACK[bits](levels, start * elements, values.size, out)


def dequantise_rows(packed: np.ndarray, bits: int, scales: np.ndarray, out: np.ndarray) -> None:
    """Fill a tensor from packed bytes.

    Args:
        packed: uint8, of `packed_bytes` length.
        bits: per value.
        scales: offset and step of each row; all of their values must fit the type of `out` (`row_scales_fit`).
        out: [rows, elements], of a floating type; filled.
    """
    rows, elements = out.shape
    for start, end in _row_chunks(rows, elements):
        levels = _UNPACK[bits](packed, start * elements, (end - start) * elements, out.size)
        scaled = levels.reshape(-1, elements).astype(scales.dtype)
        scaled *= scales[start:end, 1:]
        scaled += scales[start:end, :1]
        out[start:end] = scaled


def _row_chunks(rows: int, elements: int) -> Iterator[tuple[int, int]]:
    """Yield the first and the last row of chunks that fit the cache, and start at an even element."""
    count = max(CHUNK // elements, 1)
    count += count * elements % 2
    for start in range(0, rows, count):
        yield start, min(start + count, rows)


def _pack_8(levels: np.ndarray, start: int, total: int, out: np.ndarray) -> None:
    """Do nothing: `quantise` has written the levels in place."""


def _pack_4(levels: np.ndarray, start: int, total: int, out: np.ndarray) -> None:
    """Pack each pair of bytes, read as a 16-bit number, into one byte; `start` is even."""
    even = levels.size // 2 * 2
    pairs = levels[:even].view("<u2")
    out[start // 2 : (start + even) // 2] = pairs | (pairs >> 4)
    if levels.size > even:
        out[(start + even) // 2] = levels[even]


def _pack_12(levels: np.ndarray, start: int, total: int, out: np.ndarray) -> None:
    out[start : start + levels.size] = levels
    _pack_4((levels >> 8).astype(np.uint8), start, total, out[total:])


def _pack_16(levels: np.ndarray, start: int, total: int, out: np.ndarray) -> None:
    out[start : start + levels.size] = levels
    out[total + start : total + start + levels.size] = levels >> 8


def _unpack_8(packed: np.ndarray, start: int, size: int, total: int) -> np.ndarray:
    return packed[start : start + size]


def _unpack_4(packed: np.ndarray, start: int, size: int, total: int) -> np.ndarray:
    pairs = packed[start // 2 : (start + size + 1) // 2].astype("<u2")
    pairs |= pairs << 4
    pairs &= 0x0F0F
    return pairs.view(np.uint8)[:size]


def _unpack_12(packed: np.ndarray, start: int, size: int, total: int) -> np.ndarray:
    levels = _unpack_4(packed[total:], start, size, total).astype(np.uint16)
    levels <<= 8
    levels |= packed[start : start + size]
    return levels


def _unpack_16(packed: np.ndarray, start: int, size: int, total: int) -> np.ndarray:
    levels = packed[total + start : total + start + size].astype(np.uint16)
    levels <<= 8
    levels |= packed[start : start + size]
    return levels


_PACK = {16: _pack_16, 12: _pack_12, 8: _pack_8, 4: _pack_4}
_UNPACK = {16: _unpack_16, 12: _unpack_12, 8: _unpack_8, 4: _unpack_4}
