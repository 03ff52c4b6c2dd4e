"""Arrays to tensors on the wire and back, through the codec if a number of bits is given."""

import math
from typing import cast

import numpy as np

from coinfer.runtime.codec import codec
from coinfer.runtime.codec.payload import CodecError
from coinfer.runtime.codec.symbols import SymbolCodec
from coinfer.runtime.protocol.messages import (
    DEFAULT_LIMIT_BYTES,
    WireError,
    WireTensor,
    bad_request,
    from_array,
    to_array,
)


def pack(name: str, array: np.ndarray, bits: int | None, rate_bps: float = math.inf) -> WireTensor:
    """Return an array as a tensor for the wire.

    Args:
        name: of the tensor in the network.
        array: shares its memory with a plain tensor.
        bits: per element, for a payload of the codec; None sends a plain tensor.
        rate_bps: of the link that will carry it (`codec.encode`).

    Raises:
        WireError: INVALID_ARGUMENT if a plain tensor cannot have this dtype.
        CodecError: if the codec cannot encode it.
    """
    if bits is None:
        return from_array(name, array)
    payload = codec.encode(array, bits, rate_bps=rate_bps)
    return WireTensor(name, "UINT8", (len(payload),), payload, codec=True)


def unpack(
    tensor: WireTensor, limit_bytes: int = DEFAULT_LIMIT_BYTES, symbols: SymbolCodec | None = None
) -> np.ndarray:
    """Return the array of a tensor from the wire.

    Args:
        tensor: plain, or a payload of the codec.
        limit_bytes: largest decoded array.
        symbols: decodes it if it holds symbols of a bottleneck; None if this tensor holds none.

    Raises:
        WireError: RESOURCE_EXHAUSTED if it would decode to more than the limit, INVALID_ARGUMENT if it is damaged.
    """
    array = to_array(tensor)
    if not tensor.codec:
        return array
    if array.dtype != np.uint8 or array.ndim != 1:
        raise bad_request(f"input {tensor.name!r}: a codec payload travels as UINT8 of one dimension")
    try:
        if symbols is not None:
            return symbols.decode(cast(bytes, tensor.data), limit_bytes=limit_bytes)
        return codec.decode(cast(bytes, tensor.data), limit_bytes=limit_bytes)
    except codec.PayloadTooLarge as error:
        text = f"input {tensor.name!r}: {error}"
        raise WireError("RESOURCE_EXHAUSTED", text, "too_large", pushback_s=-1.0) from None
    except CodecError as error:
        raise WireError("INVALID_ARGUMENT", f"input {tensor.name!r}: {error}", "bad_payload") from None
