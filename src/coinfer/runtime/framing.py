"""The outer layer of a protobuf message, by hand, so that tensors are not copied into and out of the library.

A protobuf message is its fields one after the other in any order, so the fields that hold tensors can be appended to,
and taken from, what the library writes and reads.
"""

from collections.abc import Sequence

MAX_FIELDS = 1024
"""Top-level fields of a message; bounds the time that a hostile one takes to scan."""

_VARINT, _FIXED64, _BYTES, _FIXED32 = 0, 1, 2, 5


class FramingError(ValueError):
    """Bytes that are no protobuf message."""


def join(header: bytes, field: int, blobs: Sequence[bytes | memoryview]) -> bytes:
    """The message `header` with a field of bytes for each blob."""
    parts: list[bytes | memoryview] = [header]
    for blob in blobs:
        parts += [_prefix(field, len(blob)), blob]
    return b"".join(parts)


def joined_bytes(header_bytes: int, field: int, blobs: Sequence[bytes | memoryview]) -> int:
    """Size of what `join` would make."""
    return header_bytes + sum(len(_prefix(field, len(blob))) + len(blob) for blob in blobs)


def split(message: bytes, field: int) -> tuple[bytes, list[memoryview]]:
    """The inverse of `join`: all other fields, and the blobs as views of the message.

    Raises:
        FramingError: where the fields do not fill the message exactly.
    """
    view, rest, blobs, at = memoryview(message), [], [], 0
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
    """Where a field's value begins and ends."""
    if kind == _BYTES:
        size, at = _read_varint(view, at)
        return at, at + size
    if kind == _VARINT:
        return at, _read_varint(view, at)[1]
    if kind in (_FIXED64, _FIXED32):
        return at, at + (8 if kind == _FIXED64 else 4)
    raise FramingError(f"it has a field of kind {kind}")


def _read_varint(view: memoryview, at: int) -> tuple[int, int]:
    value = 0
    for shift, byte in zip(range(0, 70, 7), view[at : at + 10], strict=False):
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value, at + shift // 7 + 1
    raise FramingError("it has a number that does not end")


def _prefix(field: int, size: int) -> bytes:
    out = bytearray([field << 3 | _BYTES])
    while size > 0x7F:
        out.append(size & 0x7F | 0x80)
        size >>= 7
    out.append(size)
    return bytes(out)
