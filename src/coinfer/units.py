"""Named constants and the few unit conversions. Everything else in coinfer is in SI units and bits."""

BITS_PER_BYTE = 8
FLOAT32_BITS = 32
IMAGE_BITS = 8
"""Bits per element of an image that is sent as its own bytes."""
WIRE_BITS = (32, 16, 12, 8, 4)
"""Numbers of bits per element with which tensors may be sent."""
WIRE_BITS_TEXT = ", ".join(map(str, WIRE_BITS))
"""The same as text, for messages."""
MEGA = 1e6
GIGA = 1e9
MILLI = 1e-3
MIB = 1024 * 1024
MESSAGE_BYTES = 64 * MIB
"""Largest message between nodes, and largest tensor in one; the first activation of VGG16 alone has 12.8 MB."""


def bits_of_bytes(size_bytes: float) -> float:
    """Return a number of bytes as bits.

    Args:
        size_bytes: at least 0; may be a fraction.
    """
    return size_bytes * BITS_PER_BYTE


def bytes_of_bits(size_bits: float) -> float:
    """Return a number of bits as bytes, not rounded.

    Args:
        size_bits: at least 0; need not be a multiple of 8.
    """
    return size_bits / BITS_PER_BYTE
