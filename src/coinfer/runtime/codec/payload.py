"""The layout of a payload, which describes itself.

Little-endian:

    0   magic "CINF"
    4   xxh3-64 of everything that follows it
    12  version, kind, dtype, bits, dimensions, scales, lossless, channels last (one byte each)
    20  length of the body, 8 bytes
    28  dimensions (4 bytes each), scales (two 8-byte floats each), zeros up to a multiple of 16
        body

The body is `bits` per element (`packing`), or a JPEG file; if lossless is 1, it is one zstd frame of that. ROWS has in
front of its elements the offset and step of each row (`packing.rows_of`), as numbers of the working precision.

What version 1 can say is written as version 1, which older nodes read. Version 2 adds ROWS, and pictures with the
channels last, of one channel, or of another type than float32; older nodes refuse it by name.
"""

import math
import struct
from typing import NamedTuple

import numpy as np
import xxhash

from coinfer.errors import UserError
from coinfer.runtime.codec import packing
from coinfer.units import BITS_PER_BYTE, FLOAT32_BITS

MAGIC = b"CINF"
VERSION = 2
MAX_DIMS = 8
RAW, MINMAX, PIXELS, JPEG, ROWS = range(5)
DTYPES: tuple[np.dtype, ...] = tuple(
    np.dtype(code) for code in ("?", "u1", "i1", "<u2", "<i2", "<u4", "<i4", "<u8", "<i8", "<f2", "<f4", "<f8")
)
PICTURE_DTYPES = ("float32", "float16", "uint8")
_FIXED = struct.Struct("<4sQ8BQ")
_CHECKED_FROM = 12
_ALIGN = 16


class CodecError(UserError):
    """A tensor that cannot be encoded or a payload that cannot be decoded; the message is one line for a person."""


class Header(NamedTuple):
    """What a payload says about itself."""

    kind: int
    """RAW, MINMAX, PIXELS, JPEG or ROWS."""
    dtype: np.dtype
    """Type of the decoded tensor."""
    bits: int
    """Bits per element, before the lossless stage."""
    shape: tuple[int, ...]
    """Shape of the decoded tensor."""
    scales: tuple[tuple[float, float], ...]
    """MINMAX: one (offset, step); PIXELS and JPEG: (mean, std) of each channel, for pixels of 0 to 1."""
    lossless: bool = False
    """Whether the body went through the lossless stage."""
    body_bytes: int = 0
    channels_last: bool = False
    """PIXELS and JPEG: whether the channels are the last axis of the decoded tensor, not the second."""

    @property
    def elements(self) -> int:
        """Return the number of elements of the decoded tensor."""
        return math.prod(self.shape)

    @property
    def raw_bytes(self) -> int:
        """Return the size of the body before the lossless stage; a JPEG has another."""
        return packing.packed_bytes(self.elements, self.bits) + self.row_bytes

    @property
    def row_bytes(self) -> int:
        """Return the size of the rows' offsets and steps, which only ROWS has."""
        return 2 * packing.rows_of(self.shape) * packing.working_dtype(self.dtype).itemsize if self.kind == ROWS else 0

    @property
    def version(self) -> int:
        """Return the lowest version that can say this."""
        if self.kind in (PIXELS, JPEG):
            return 1 if not self.channels_last and len(self.scales) == 3 and self.dtype == np.float32 else 2
        return 2 if self.kind == ROWS else 1


def payload_bytes(elements: int, bits: int, dims: int = 4) -> int:
    """Return the size of a float32 tensor's payload before the lossless stage, which is its largest.

    Args:
        elements: of the tensor.
        bits: per element.
        dims: axes of the tensor.
    """
    return _header_bytes(dims, int(bits < FLOAT32_BITS)) + packing.packed_bytes(elements, bits)


def build_payload(header: Header, body: bytes | memoryview) -> bytes:
    """Return header, checksum and body as one payload.

    Args:
        header: of this very body.
        body: after the lossless stage.
    """
    dims, scales = len(header.shape), len(header.scales)
    numbers = (*header.shape, *(value for pair in header.scales for value in pair))
    rest = struct.pack(f"<{dims}I{2 * scales}d", *numbers)
    dtype = DTYPES.index(header.dtype)
    fields = (
        header.version,
        header.kind,
        dtype,
        header.bits,
        dims,
        scales,
        header.lossless,
        header.channels_last,
        len(body),
    )
    head = (_FIXED.pack(MAGIC, 0, *fields) + rest).ljust(_header_bytes(dims, scales), b"\0")
    digest = xxhash.xxh3_64(head[_CHECKED_FROM:])
    digest.update(body)
    return b"".join((MAGIC, struct.pack("<Q", digest.intdigest()), head[_CHECKED_FROM:], body))


def read_header(payload: bytes) -> Header:
    """Return what a payload says about itself, without decoding it; checksum and consistency are verified.

    Args:
        payload: as `encode` returned it.

    Raises:
        CodecError: if it is damaged, or no payload.
    """
    return parse_payload(memoryview(payload).cast("B"))[0]


def parse_payload(payload: memoryview) -> tuple[Header, memoryview]:
    """Return header and body of a whole, undamaged and consistent payload.

    Args:
        payload: bytes, perhaps of a hostile sender; the body shares their memory.

    Raises:
        CodecError: if it is damaged, or no payload.
    """
    if len(payload) < _FIXED.size:
        raise CodecError(f"payload is truncated: {len(payload)} bytes, expected at least {_FIXED.size}")
    magic, checksum, version, kind, dtype, bits, dims, scales, lossless, last, body_bytes = _FIXED.unpack_from(payload)
    if magic != MAGIC:
        raise CodecError(f"not a codec payload: it starts with {bytes(magic)!r}, expected {MAGIC!r}")
    if not 1 <= version <= VERSION:
        raise CodecError(
            f"payload is of version {version}, this node reads 1 to {VERSION}; install the same coinfer on both"
        )
    start = _header_bytes(dims, scales)
    if len(payload) != start + body_bytes:
        raise CodecError(f"payload is truncated or padded: {len(payload)} bytes, expected {start + body_bytes}")
    if xxhash.xxh3_64_intdigest(payload[_CHECKED_FROM:]) != checksum:
        raise CodecError("payload was damaged on its way (checksum); send it again")
    last = last if version > 1 else 0
    if dims > MAX_DIMS or dtype >= len(DTYPES) or kind > ROWS or max(lossless, last) > 1:
        raise CodecError(f"payload header is wrong: kind {kind}, dtype {dtype}, {dims} dimensions, lossless {lossless}")
    numbers = struct.unpack_from(f"<{dims}I{2 * scales}d", payload, _FIXED.size)
    pairs = tuple(zip(numbers[dims::2], numbers[dims + 1 :: 2], strict=True))
    header = Header(kind, DTYPES[dtype], bits, numbers[:dims], pairs, bool(lossless), body_bytes, bool(last))
    _CHECK[kind](header)
    if header.version > version:
        raise CodecError(f"payload says version {version}, but what it holds came with version {header.version}")
    return header, payload[start:]


def _check_raw(header: Header) -> None:
    if header.bits != header.dtype.itemsize * BITS_PER_BYTE or header.scales:
        raise CodecError(f"exact payload of {header.dtype} says {header.bits} bits, {len(header.scales)} scales")


def _check_minmax(header: Header) -> None:
    if header.bits not in packing.QUANTISED_BITS or header.dtype.kind != "f" or len(header.scales) != 1:
        raise CodecError(f"quantised payload says {header.bits} bits of {header.dtype}, {len(header.scales)} scales")
    scale = packing.Scale(*header.scales[0])
    if not (scale.step >= 0 and packing.scale_fits(scale, header.bits, header.dtype)):
        raise CodecError(f"payload scale is no range of {header.dtype}: offset {scale.offset}, step {scale.step}")


def _check_picture(header: Header) -> None:
    shape, channels = header.shape, len(header.scales)
    place = shape[3:] if header.channels_last else shape[1:2]
    shaped = len(shape) == 4 and shape[0] == 1 and place == (channels,) and channels in (1, 3) and 0 not in shape
    if not shaped or header.dtype.name not in PICTURE_DTYPES or header.bits != 8:
        raise CodecError(f"picture payload is {header.dtype} {list(shape)}, expected float32 [1, 3, H, W] or its like")
    largest = float(np.finfo(np.float32).max) / 2
    if not all(std > 0 and abs(mean) + 1 <= largest * min(std, 1.0) for mean, std in header.scales):
        raise CodecError(f"picture payload has a mean or deviation that float32 cannot hold: {header.scales}")


def _check_rows(header: Header) -> None:
    quantised = header.bits in packing.QUANTISED_BITS and header.dtype.kind == "f" and not header.scales
    if not quantised or len(header.shape) < 3 or 0 in header.shape:
        raise CodecError(f"payload of rows says {header.bits} bits of {header.dtype} {list(header.shape)}")


_CHECK = (_check_raw, _check_minmax, _check_picture, _check_picture, _check_rows)


def _header_bytes(dims: int, scales: int) -> int:
    used = _FIXED.size + 4 * dims + 16 * scales
    return -(-used // _ALIGN) * _ALIGN
