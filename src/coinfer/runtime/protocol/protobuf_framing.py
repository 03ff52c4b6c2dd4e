"""The outer layer of a protobuf message, by hand, so that the library copies no tensor.

A protobuf message is its fields one after the other in any order. So the fields that hold tensors can be appended to
what the library writes, and taken out of what it reads.
"""

from collections.abc import Sequence

from coinfer.runtime.protocol.messages import ALIGNMENT

MAX_FIELDS = 1024
"""Top-level fields of a message; bounds the time that a hostile one takes to scan."""

ALIGNED_FROM = 1024
"""Blobs under this size are not worth aligning."""

_VARINT, _FIXED64, _BYTES, _FIXED32 = 0, 1, 2, 5


class FramingError(ValueError):
    """Bytes that are no protobuf message."""


def join(header: bytes, field: int, blobs: Sequence[bytes | memoryview]) -> bytes:
    """Return the message `header` with a field of bytes for each blob.

    Large blobs begin at a multiple of `ALIGNMENT`, so that a receiver can compute on them in place.

    Args:
        header: a whole message.
        field: number of the field that holds the blobs.
        blobs: in the order in which a reader shall find them.
    """
    parts: list[bytes | memoryview] = [header]
    for prefix, blob in zip(_prefixes(len(header), field, blobs), blobs, strict=True):
        parts += [prefix, blob]
    return b"".join(parts)


def joined_bytes(header_bytes: int, field: int, blobs: Sequence[bytes | memoryview]) -> int:
    """Return the size in bytes of what `join` would return.

    Args:
        header_bytes: size of the header.
        field: number of the field that holds the blobs.
        blobs: only their sizes count.
    """
    return header_bytes + sum(map(len, _prefixes(header_bytes, field, blobs))) + sum(map(len, blobs))


def split(message: bytes, field: int) -> tuple[bytes, list[memoryview]]:
    """Return the other fields as one message, and the blobs as views of it: the inverse of `join`.

    Args:
        message: may come from a hostile client.
        field: number of the field that holds the blobs.

    Raises:
        FramingError: if the fields do not fill the message exactly, or are more than `MAX_FIELDS`.
    """
    view, at = memoryview(message), 0
    rest: list[memoryview] = []
    blobs: list[memoryview] = []
    for _ in range(MAX_FIELDS):
        if at == len(view):
            return b"".join(rest), blobs
        start = at
        tag, at = _read_varint(view, at)
        begin, at = _value_span(view, at, tag & 7)
        if at > len(view):
            raise FramingError("it ends within a field")
        if tag == (field << 3 | _BYTES):
            blobs.append(view[begin:at])
        else:
            rest.append(view[start:at])
    raise FramingError(f"it has more than {MAX_FIELDS} fields")


def _value_span(view: memoryview, at: int, kind: int) -> tuple[int, int]:
    """Return where a field's value begins and ends."""
    if kind == _BYTES:
        size, at = _read_varint(view, at)
        return at, at + size
    if kind == _VARINT:
        return at, _read_varint(view, at)[1]
    if kind in (_FIXED64, _FIXED32):
        return at, at + (8 if kind == _FIXED64 else 4)
    raise FramingError(f"it has a field of kind {kind}")


def _read_varint(view: memoryview, at: int) -> tuple[int, int]:
    if at < len(view) and view[at] < 0x80:  # most are a single byte
        return view[at], at + 1
    value = 0
    for shift, byte in zip(range(0, 70, 7), view[at : at + 10], strict=False):
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value, at + shift // 7 + 1
    raise FramingError("it has a number that does not end")


def _prefixes(at: int, field: int, blobs: Sequence[bytes | memoryview]) -> list[bytes]:
    """Return what precedes each blob: its tag and size, and before a large one a padding field that readers skip."""
    prefixes: list[bytes] = []
    for blob in blobs:
        prefix = _varint(field << 3 | _BYTES) + _varint(len(blob))
        if len(blob) >= ALIGNED_FROM:
            gap = -(at + len(prefix) + len(_PADDING) + 1) % ALIGNMENT
            prefix = _PADDING + _varint(gap) + bytes(gap) + prefix
        prefixes.append(prefix)
        at += len(prefix) + len(blob)
    return prefixes


def _varint(value: int) -> bytes:
    out = bytearray()
    while value > 0x7F:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    out.append(value)
    return bytes(out)


_PADDING = _varint(2000 << 3 | _BYTES)
"""Tag of a field that the protocol does not have; readers skip it."""
