"""Tensors and pictures to bytes and back: exact, min-max at 16, 12, 8 or 4 bits, pixels, or JPEG.

A payload describes itself. Little-endian:

    0   magic "CINF"
    4   xxh3-64 of everything that follows it
    12  version, kind, dtype, bits, dimensions, scales, lossless (one byte each), one spare byte
    20  length of the body, 8 bytes
    28  dimensions (4 bytes each), scales (two 8-byte floats each), zeros up to a multiple of 16
        body

The body is `bits` per element (`packing`), or a JPEG file; if lossless is 1, it is one zstd frame of that.
"""

import io
import math
import struct
import threading
import time
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import xxhash
import zstandard
from PIL import Image

from coinfer.errors import UserError
from coinfer.graph.ir import ImageInput
from coinfer.runtime.codec import packing
from coinfer.runtime.images import check_pixels, normalise
from coinfer.units import BITS_PER_BYTE, FLOAT32_BITS, MIB, WIRE_BITS, WIRE_BITS_TEXT

MAGIC = b"CINF"
VERSION = 1
LIMIT_BYTES = 64 * MIB
MAX_DIMS = 8
RAW, MINMAX, PIXELS, JPEG = range(4)
DTYPES: tuple[np.dtype, ...] = tuple(
    np.dtype(code) for code in ("?", "u1", "i1", "<u2", "<i2", "<u4", "<i4", "<u8", "<i8", "<f2", "<f4", "<f8")
)

_FIXED = struct.Struct("<4sQ8BQ")
_CHECKED_FROM = 12
_ALIGN = 16
ZSTD_LEVEL = 1
SAMPLE_BLOCKS, SAMPLE_BLOCK_BYTES = 4, 8 * 1024
ZSTD_DECODE_SPEEDUP = 3.0
"""How many times faster decompressing is than compressing at level 1; measured on activations: 3.5 to 4."""


class CodecError(UserError):
    """A tensor that cannot be encoded or a payload that cannot be decoded; the message is one line for a person."""


class PayloadTooLarge(CodecError):
    """A payload that would take more memory than allowed."""


class Header(NamedTuple):
    """What a payload says about itself."""

    kind: int
    """RAW, MINMAX, PIXELS or JPEG."""
    dtype: np.dtype
    """Type of the decoded tensor."""
    bits: int
    """Bits per element, before the lossless stage."""
    shape: tuple[int, ...]
    """Shape of the decoded tensor."""
    scales: tuple[tuple[float, float], ...]
    """MINMAX: one (offset, step); PIXELS and JPEG: (mean, std) of each channel."""
    lossless: bool
    body_bytes: int

    @property
    def elements(self) -> int:
        """Return the number of elements of the decoded tensor."""
        return math.prod(self.shape)


def encode(x: np.ndarray, bits: int, *, rate_bps: float = math.inf) -> bytes:
    """Return a tensor as a payload, with 32 (exact), 16, 12, 8 or 4 bits per element.

    Some tensors stay exact whatever `bits` says: integers, types that have no more bits anyway, and tensors with NaN or
    infinity or with values too close or too far apart for a scale.

    Args:
        x: any shape of at most `MAX_DIMS` axes; not changed.
        bits: per element, one of `WIRE_BITS`.
        rate_bps: of the link that will carry it; the lossless stage is used only if it shortens the transfer. Infinite
            turns that stage off.

    Raises:
        CodecError: if dtype, dimensions, bits or rate are not allowed.
    """
    x = np.asarray(x, order="C")
    x = x.astype(x.dtype.newbyteorder("<"), copy=False)
    if x.dtype not in DTYPES or x.ndim > MAX_DIMS:
        raise CodecError(f"cannot encode {x.dtype} with {x.ndim} dimensions; expected real numbers, at most {MAX_DIMS}")
    if bits not in WIRE_BITS:
        raise CodecError(f"cannot encode with {bits} bits; expected one of {WIRE_BITS_TEXT}")
    quantisable = bits < min(FLOAT32_BITS, x.dtype.itemsize * BITS_PER_BYTE) and x.dtype.kind == "f" and x.size > 0
    scale = packing.scale_of(x, bits) if quantisable else None
    if scale is None:
        body = x.reshape(-1).view(np.uint8)
        return _build_payload(RAW, x.dtype, x.dtype.itemsize * BITS_PER_BYTE, x.shape, (), body, rate_bps)
    body = np.empty(packing.packed_bytes(x.size, bits), np.uint8)
    packing.quantise(x.reshape(-1), bits, scale, body)
    return _build_payload(MINMAX, x.dtype, bits, x.shape, (scale,), body, rate_bps)


def encode_image(
    pixels: np.ndarray, image: ImageInput, jpeg_quality: int | None = None, *, rate_bps: float = math.inf
) -> bytes:
    """Return a picture as a payload that decodes to the network's float32 input [1, 3, height, width].

    Args:
        pixels: uint8 [height, width, 3], at the network's size (`images.to_pixels`).
        image: size, mean and deviation of the network's input.
        jpeg_quality: 1 to 95 for a JPEG; without it the pixels travel as they are and the input is bit-identical.
        rate_bps: of the link that will carry it (`encode`); a JPEG is never compressed again.

    Raises:
        CodecError: if the picture does not fit the network, or the quality is out of range.
        ImageError: if the pixels are not uint8 [height, width, 3].
    """
    check_pixels(pixels)
    if pixels.shape[:2] != (image.height, image.width):
        raise CodecError(
            f"the picture is {pixels.shape[0]}x{pixels.shape[1]}, the network takes {image.height}x{image.width}; "
            "scale it with to_pixels first"
        )
    if not len(image.mean) == len(image.std) == 3:
        raise CodecError(
            f"the network takes {len(image.mean)} channels; pictures have 3, so send its input as a tensor"
        )
    scales = tuple(zip(image.mean, image.std, strict=True))
    shape = (1, 3, image.height, image.width)
    if jpeg_quality is None:
        return _build_payload(
            PIXELS, np.dtype("<f4"), 8, shape, scales, np.ascontiguousarray(pixels).reshape(-1), rate_bps
        )
    if not 1 <= jpeg_quality <= 95:
        raise CodecError(f"JPEG quality {jpeg_quality} is not between 1 and 95")
    file = io.BytesIO()
    Image.fromarray(np.ascontiguousarray(pixels)).save(file, "JPEG", quality=jpeg_quality)
    return _build_payload(JPEG, np.dtype("<f4"), 8, shape, scales, np.frombuffer(file.getvalue(), np.uint8), math.inf)


def decode(payload: bytes, *, limit_bytes: int = LIMIT_BYTES) -> np.ndarray:
    """Return the tensor of a payload; an exact one may be a read-only view of it.

    Args:
        payload: may come from a hostile sender.
        limit_bytes: largest decoded tensor.

    Raises:
        PayloadTooLarge: if it would decode to more than `limit_bytes`; nothing that large is allocated.
        CodecError: if it is damaged, or no payload.
    """
    header, body = _parse(memoryview(payload).cast("B"))
    size_bytes = math.prod(max(side, 1) for side in header.shape) * header.dtype.itemsize
    if size_bytes > limit_bytes:
        raise PayloadTooLarge(f"payload decodes to {size_bytes} bytes, at most {limit_bytes} are allowed")
    if header.kind == JPEG:
        return normalise(_jpeg_pixels(body, header), *zip(*header.scales, strict=True))
    raw = _decompress(body, header) if header.lossless else body
    if len(raw) != _raw_bytes(header):
        raise CodecError(f"payload of shape {list(header.shape)} holds {len(raw)} bytes, expected {_raw_bytes(header)}")
    values = np.frombuffer(raw, np.uint8)
    if header.kind == PIXELS:
        return normalise(values.reshape(*header.shape[2:], 3), *zip(*header.scales, strict=True))
    if header.kind == RAW:
        if header.dtype == np.bool_ and (values > 1).any():
            raise CodecError("payload of truth values holds bytes other than 0 and 1")
        tensor = values.view(header.dtype).reshape(header.shape)
        return tensor if tensor.flags.aligned else tensor.copy()
    out = np.empty(header.elements, header.dtype)
    packing.dequantise(values, header.bits, packing.Scale(*header.scales[0]), out)
    return out.reshape(header.shape)


def read_header(payload: bytes) -> Header:
    """Return what a payload says about itself, without decoding it; checksum and consistency are verified.

    Args:
        payload: as `encode` returned it.

    Raises:
        CodecError: if it is damaged, or no payload.
    """
    return _parse(memoryview(payload).cast("B"))[0]


def compression_pays(raw_bytes: float, ratio: float, speed_bytes_per_s: float, rate_bps: float) -> bool:
    """Return true if the lossless stage shortens a transfer: it saves more time on the link than both of its ends cost.

    Args:
        raw_bytes: size without it.
        ratio: compressed size over `raw_bytes`.
        speed_bytes_per_s: of compressing.
        rate_bps: of the link; above 0.
    """
    saved_s = raw_bytes * (1 - ratio) * BITS_PER_BYTE / rate_bps
    return saved_s > raw_bytes / speed_bytes_per_s * (1 + 1 / ZSTD_DECODE_SPEEDUP)


def payload_bytes(elements: int, bits: int, dims: int = 4) -> int:
    """Return the size of a float32 tensor's payload before the lossless stage, which is its largest.

    Args:
        elements: of the tensor.
        bits: per element.
        dims: axes of the tensor.
    """
    return _header_bytes(dims, int(bits < FLOAT32_BITS)) + packing.packed_bytes(elements, bits)


class _Zstd(threading.local):
    """Each thread's own zstd contexts: two threads must not use one at the same time."""

    def __init__(self) -> None:
        self.compressor = zstandard.ZstdCompressor(level=ZSTD_LEVEL)
        self.decompressor = zstandard.ZstdDecompressor()


_zstd = _Zstd()


def _build_payload(
    kind: int,
    dtype: np.dtype,
    bits: int,
    shape: tuple[int, ...],
    scales: Sequence[tuple[float, float]],
    raw: np.ndarray,
    rate_bps: float,
) -> bytes:
    """Put header, checksum and body together."""
    body, lossless = _compress(raw.data, rate_bps)
    rest = struct.pack(f"<{len(shape)}I{2 * len(scales)}d", *shape, *(value for pair in scales for value in pair))
    fields = (VERSION, kind, DTYPES.index(dtype), bits, len(shape), len(scales), lossless, 0, len(body))
    head = (_FIXED.pack(MAGIC, 0, *fields) + rest).ljust(_header_bytes(len(shape), len(scales)), b"\0")
    digest = xxhash.xxh3_64(head[_CHECKED_FROM:])
    digest.update(body)
    return b"".join((MAGIC, struct.pack("<Q", digest.intdigest()), head[_CHECKED_FROM:], body))


def _compress(raw: memoryview, rate_bps: float) -> tuple[memoryview | bytes, bool]:
    """Return the body after the lossless stage, and whether the stage was used."""
    if not rate_bps >= 0:
        raise CodecError(f"link rate {rate_bps} is no rate; expected bits per second, at least 0")
    if math.isinf(rate_bps) or len(raw) == 0:
        return raw, False
    sample = _sample(raw)
    began_s = time.perf_counter()
    packed = _zstd.compressor.compress(sample)
    speed = len(sample) / max(time.perf_counter() - began_s, 1e-9)
    ratio = len(packed) / len(sample)
    if rate_bps > 0 and not compression_pays(len(raw), ratio, speed, rate_bps):
        return raw, False
    if sample is not raw:
        packed = _zstd.compressor.compress(raw)
    return (packed, True) if len(packed) < len(raw) else (raw, False)


def _sample(raw: memoryview) -> memoryview | bytes:
    """Return evenly spaced blocks of the body, or all of a small one."""
    if len(raw) <= SAMPLE_BLOCKS * SAMPLE_BLOCK_BYTES:
        return raw
    gap = (len(raw) - SAMPLE_BLOCK_BYTES) // (SAMPLE_BLOCKS - 1)
    return b"".join(raw[i * gap : i * gap + SAMPLE_BLOCK_BYTES] for i in range(SAMPLE_BLOCKS))


def _header_bytes(dims: int, scales: int) -> int:
    used = _FIXED.size + 4 * dims + 16 * scales
    return -(-used // _ALIGN) * _ALIGN


def _parse(payload: memoryview) -> tuple[Header, memoryview]:
    """Return header and body of a whole, undamaged and consistent payload."""
    if len(payload) < _FIXED.size:
        raise CodecError(f"payload is truncated: {len(payload)} bytes, expected at least {_FIXED.size}")
    magic, checksum, version, kind, dtype, bits, dims, scales, lossless, _, body_bytes = _FIXED.unpack_from(payload)
    if magic != MAGIC:
        raise CodecError(f"not a codec payload: it starts with {bytes(magic)!r}, expected {MAGIC!r}")
    if version != VERSION:
        raise CodecError(
            f"payload is of version {version}, this node reads {VERSION}; install the same coinfer on both"
        )
    start = _header_bytes(dims, scales)
    if len(payload) != start + body_bytes:
        raise CodecError(f"payload is truncated or padded: {len(payload)} bytes, expected {start + body_bytes}")
    if xxhash.xxh3_64_intdigest(payload[_CHECKED_FROM:]) != checksum:
        raise CodecError("payload was damaged on its way (checksum); send it again")
    if dims > MAX_DIMS or dtype >= len(DTYPES) or kind > JPEG or lossless > 1:
        raise CodecError(f"payload header is wrong: kind {kind}, dtype {dtype}, {dims} dimensions, lossless {lossless}")
    numbers = struct.unpack_from(f"<{dims}I{2 * scales}d", payload, _FIXED.size)
    pairs = tuple(zip(numbers[dims::2], numbers[dims + 1 :: 2], strict=True))
    header = Header(kind, DTYPES[dtype], bits, numbers[:dims], pairs, bool(lossless), body_bytes)
    _CHECK[kind](header)
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
    shaped = len(header.shape) == 4 and header.shape[:2] == (1, 3) and 0 not in header.shape
    if not shaped or header.dtype != np.float32 or header.bits != 8 or len(header.scales) != 3:
        raise CodecError(f"picture payload is {header.dtype} {list(header.shape)}, expected float32 [1, 3, H, W]")
    largest = float(np.finfo(np.float32).max) / 2
    if not all(std > 0 and abs(mean) + 1 <= largest * min(std, 1.0) for mean, std in header.scales):
        raise CodecError(f"picture payload has a mean or deviation that float32 cannot hold: {header.scales}")


_CHECK = (_check_raw, _check_minmax, _check_picture, _check_picture)


def _raw_bytes(header: Header) -> int:
    return packing.packed_bytes(header.elements, header.bits)


def _decompress(body: memoryview, header: Header) -> bytes:
    """Undo the lossless stage; the frame must announce its exact size before memory is allocated."""
    expected = _raw_bytes(header)
    try:
        announced = zstandard.frame_content_size(body)
        if announced != expected:
            raise CodecError(f"payload announces {announced} bytes, expected {expected} for {list(header.shape)}")
        return _zstd.decompressor.decompress(body, allow_extra_data=False)
    except zstandard.ZstdError as error:
        raise CodecError(f"payload's lossless stage is damaged: {error}") from None


def _jpeg_pixels(body: memoryview, header: Header) -> np.ndarray:
    """Return a JPEG's pixels; size and kind are checked before a pixel is decoded.

    A progressive file is refused: its many scans would make a small file slow.
    """
    height, width = header.shape[2:]
    try:
        with Image.open(io.BytesIO(body), formats=("JPEG",)) as picture:
            if picture.size != (width, height) or picture.mode != "RGB" or "progressive" in picture.info:
                kind = f"{picture.mode} {picture.height}x{picture.width}"
                raise CodecError(f"JPEG payload is {kind}, expected RGB {height}x{width}, not progressive")
            return np.asarray(picture)
    except CodecError:
        raise
    except Exception as error:  # Pillow's plugins raise many kinds on hostile files
        raise CodecError(f"JPEG payload cannot be read ({type(error).__name__})") from None
