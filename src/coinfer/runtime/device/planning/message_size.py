"""What a request and its reply weigh beside the tensors; it counts where tensors are small or links are slow."""

import numpy as np

from coinfer.graph.ir import ModelGraph
from coinfer.options.table import Options, Piece
from coinfer.runtime.codec.tensors import pack
from coinfer.runtime.protocol.messages import ExecutedHop, InferReply, InferRequest, LoadReport, WireTensor
from coinfer.runtime.protocol.protobuf import reply_bits, request_bits

_SECONDS = 0.1
"""Any will do: numbers have the same size on the wire, or nearly."""


def message_bits(graph: ModelGraph, piece: Piece) -> float:
    """Return the bits of the request without its payloads, and of the whole reply."""
    cut, outputs = piece
    inputs = tuple(WireTensor(name, "UINT8", (1000,), b"", codec=True) for name in cut)
    asked = InferRequest(graph.name, inputs, outputs, fingerprint=graph.fingerprint, deadline_s=_SECONDS)
    answers = tuple(
        pack(name, np.zeros(graph.tensors[name].shape, graph.tensors[name].dtype), None) for name in outputs
    )
    done = (ExecutedHop("127.0.0.1:8001", outputs, _SECONDS, _SECONDS),)
    load, name = LoadReport(_SECONDS, 1, 1), graph.name
    reply = InferReply(name, answers, queue_s=_SECONDS, server_s=_SECONDS, codec_s=_SECONDS, load=load, executed=done)
    return float(request_bits(asked) + reply_bits(reply))


def with_messages(options: Options, graph: ModelGraph) -> Options:
    """Return the options with an upload that counts all that the link carries for them."""
    around = {piece: message_bits(graph, piece) for piece in dict.fromkeys(options.pieces)}
    bits = np.array([around[piece] for piece in options.pieces])
    return options._replace(upload_bits=options.upload_bits + np.where(options.upload_bits > 0, bits, 0.0))
