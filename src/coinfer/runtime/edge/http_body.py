"""Bodies of HTTP requests: read up to a limit, and unpacked up to the same limit."""

import asyncio
import zlib

from starlette.requests import Request

from coinfer.runtime.protocol.messages import ALIGNMENT, WireError, bad_request, check_size
from coinfer.units import MIB

_SLOW_BYTES = MIB // 64
"""Larger bodies are unpacked off the event loop; a body unpacks to a thousand times its size at most."""
_GZIP, _ZLIB, _RAW = 31, 15, -15
"""What zlib calls the three formats."""


async def read_body(request: Request, limit_bytes: int, json_bytes: int = 0) -> bytes | memoryview:
    """Return the body of a request, unpacked if it came as gzip or deflate.

    Args:
        request: one that announces too many bytes is refused before it is read.
        limit_bytes: largest body, as it comes and as it is unpacked.
        json_bytes: what follows them lies at a multiple of `ALIGNMENT` in memory if it came as it is, so that one can
            compute on it in place.

    Raises:
        WireError: RESOURCE_EXHAUSTED if it is too large, INVALID_ARGUMENT if it is damaged, UNIMPLEMENTED for another
            encoding, CANCELLED if the caller hung up.
    """
    encoding = request.headers.get("content-encoding", "identity").strip().lower()
    if encoding not in ("identity", "", "gzip", "deflate"):
        text = f"Content-Encoding {encoding[:32]!r} is not offered; expected gzip, deflate or identity"
        raise WireError("UNIMPLEMENTED", text, "encoding")
    announced = request.headers.get("content-length", "")
    if announced.isascii() and announced.isdigit():
        check_size(int(announced), limit_bytes)
    if encoding in ("identity", ""):
        padding_bytes = -json_bytes % ALIGNMENT
        return memoryview(await _received(request, limit_bytes, padding_bytes))[padding_bytes:]
    body = await _received(request, limit_bytes)
    if len(body) <= _SLOW_BYTES:
        return unpack(body, encoding, limit_bytes)
    return await asyncio.to_thread(unpack, body, encoding, limit_bytes)


def unpack(body: bytes, encoding: str, limit_bytes: int) -> bytes:
    """Return a compressed body as it was; no more than the limit is ever unpacked.

    Args:
        body: one whole stream.
        encoding: `gzip`, or `deflate`, for which the zlib format is due and the raw one common.
        limit_bytes: largest result.

    Raises:
        WireError: RESOURCE_EXHAUSTED if it would be larger, INVALID_ARGUMENT if it is damaged or not whole.
    """
    kind = _GZIP if encoding == "gzip" else _ZLIB if _has_zlib_head(body) else _RAW
    stream = zlib.decompressobj(kind)
    try:
        unpacked = stream.decompress(body, limit_bytes + 1)
    except zlib.error:
        raise bad_request(f"the body is not valid {encoding}") from None
    if len(unpacked) > limit_bytes:
        text = f"the body unpacks to more than the limit of {limit_bytes} bytes; send less at a time"
        raise WireError("RESOURCE_EXHAUSTED", text, "too_large", pushback_s=-1.0)
    if not stream.eof or stream.unused_data:
        raise bad_request(f"the body is not one whole {encoding} stream")
    return unpacked


def _has_zlib_head(body: bytes) -> bool:
    return len(body) >= 2 and body[0] & 15 == 8 and int.from_bytes(body[:2], "big") % 31 == 0


async def _received(request: Request, limit_bytes: int, padding_bytes: int = 0) -> bytes:
    """Return the body as it comes, after padding."""
    chunks, size_bytes, more = [bytes(padding_bytes)], 0, True
    while more:
        message = await request.receive()
        if message["type"] == "http.disconnect":
            raise WireError("CANCELLED", "the caller hung up in mid-request", "cancelled")
        chunks.append(message.get("body", b""))
        size_bytes += len(chunks[-1])
        check_size(size_bytes, limit_bytes)
        more = message.get("more_body", False)
    return b"".join(chunks)
