"""The lossless stage of the codec: zstd, used if it shortens the transfer."""

import math
import threading
import time

import zstandard

from coinfer.runtime.codec.payload import CodecError, Header
from coinfer.units import BITS_PER_BYTE

ZSTD_LEVEL = 1
SAMPLE_BLOCKS, SAMPLE_BLOCK_BYTES = 4, 8 * 1024
ZSTD_DECODE_SPEEDUP = 3.0
"""How many times faster decompressing is than compressing at level 1; measured on activations: 3.5 to 4."""


class _Zstd(threading.local):
    """Each thread's own zstd contexts: two threads must not use one at the same time."""

    def __init__(self) -> None:
        self.compressor = zstandard.ZstdCompressor(level=ZSTD_LEVEL)
        self.decompressor = zstandard.ZstdDecompressor()


_zstd = _Zstd()


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


def compress(raw: memoryview, rate_bps: float) -> tuple[memoryview | bytes, bool]:
    """Return the body after the lossless stage, and whether the stage was used.

    Args:
        raw: the body before it.
        rate_bps: of the link; infinite turns the stage off, 0 uses it whenever it saves bytes.

    Raises:
        CodecError: if the rate is negative or not a number.
    """
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


def decompress(body: memoryview, header: Header) -> bytes:
    """Return the body before the lossless stage.

    Args:
        body: one zstd frame; it must announce its exact size before memory is allocated.
        header: says what that size is.

    Raises:
        CodecError: if the frame is damaged, or announces another size.
    """
    expected = header.raw_bytes
    try:
        announced = zstandard.frame_content_size(body)
        if announced != expected:
            raise CodecError(f"payload announces {announced} bytes, expected {expected} for {list(header.shape)}")
        return _zstd.decompressor.decompress(body, allow_extra_data=False)
    except zstandard.ZstdError as error:
        raise CodecError(f"payload's lossless stage is damaged: {error}") from None
