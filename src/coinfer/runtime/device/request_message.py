"""The message that carries a request from the device to a server."""

from collections.abc import Mapping

import numpy as np

from coinfer.graph.ir import ModelGraph
from coinfer.runtime.codec import codec
from coinfer.runtime.codec.symbols import symbol_codec
from coinfer.runtime.codec.tensors import pack
from coinfer.runtime.protocol.messages import InferRequest, WireTensor
from coinfer.types import Route
from coinfer.units import FLOAT32_BITS


def request_message(
    graph: ModelGraph,
    route: Route,
    tensors: Mapping[str, np.ndarray],
    pixels: np.ndarray | None,
    *,
    rate_bps: float,
    deadline_s: float,
    jpeg_quality: int | None = None,
) -> InferRequest:
    """Return the message with what crosses the route's first cut, for the server of its second hop.

    Args:
        graph: the network.
        route: at least two hops, the first on the device.
        tensors: what crosses the cut, by name.
        pixels: the picture at the network's size, uint8 [height, width, channels], if an input was made from one.
        rate_bps: of the link; lossless coding is worth its time on slow ones.
        deadline_s: time from now after which an answer is useless.
        jpeg_quality: 1 to 95; None sends a picture's pixels unchanged.
    """
    hop, after, *further = route.hops
    payloads = [_payload(graph, name, tensors[name], pixels, hop.bits, rate_bps, jpeg_quality) for name in hop.cut]
    return InferRequest(
        model=graph.name,
        inputs=tuple(payloads),
        outputs=after.cut,
        fingerprint=graph.part(hop.cut).short_fingerprint,
        route=tuple(further),
        bits=after.bits if further else None,
        deadline_s=deadline_s,
        short=True,
    )


def _payload(
    graph: ModelGraph,
    name: str,
    tensor: np.ndarray,
    pixels: np.ndarray | None,
    bits: int,
    rate_bps: float,
    jpeg_quality: int | None,
) -> WireTensor:
    """Return a picture as its bytes, any other input of the network as it is, symbols of a bottleneck in its code
    words, and what else was computed in `bits`."""
    if pixels is not None and graph.image is not None and name == graph.picture_input:
        data = codec.encode_image(pixels, graph.image, jpeg_quality, rate_bps=rate_bps)
        return WireTensor(name, "UINT8", (len(data),), data, codec=True)
    symbols = symbol_codec(graph, name)
    if symbols is not None:
        data = symbols.encode(tensor)
        return WireTensor(name, "UINT8", (len(data),), data, codec=True)
    return pack(name, tensor, FLOAT32_BITS if name in graph.inputs else bits, rate_bps)
