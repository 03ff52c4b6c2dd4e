"""The size of a request and its reply besides the sent tensors; it matters if tensors are small or links are slow."""

from collections.abc import Sequence

import numpy as np

from coinfer.graph.ir import ModelGraph
from coinfer.options.table import Options, Piece
from coinfer.runtime.codec.tensors import pack
from coinfer.runtime.protocol.messages import InferReply, InferRequest, LoadReport, WireTensor
from coinfer.runtime.protocol.protobuf import reply_bits, request_bits

BETWEEN_BITS = 16
_SECONDS = 0.005
"""A time as replies hold it; ten times as long takes a byte more."""


def between_bits(allowed: Sequence[int] | None) -> int:
    """Return the bits per element with which servers send to each other: `BETWEEN_BITS`, or the most that are allowed
    if these are not.

    Args:
        allowed: by the user; None stands for those that change no answer by much.
    """
    return BETWEEN_BITS if allowed is None or BETWEEN_BITS in allowed else max(allowed)


def message_bits(graph: ModelGraph, piece: Piece) -> float:
    """Return the bits of a request without its payloads plus those of its whole reply.

    Args:
        graph: the network.
        piece: cut and outputs of what the server computes.
    """
    cut, outputs = piece
    part = graph.part(cut)
    inputs = tuple(WireTensor(name, "UINT8", (1000,), b"", codec=True) for name in cut)
    fingerprint = part.short_fingerprint
    request = InferRequest(graph.name, inputs, outputs, fingerprint=fingerprint, deadline_s=_SECONDS, short=True)
    answers = tuple(pack(name, np.zeros(part.tensors[name].shape, part.tensors[name].dtype), None) for name in outputs)
    load, name = LoadReport(_SECONDS, 1, 1), graph.name
    reply = InferReply(name, answers, queue_s=_SECONDS, server_s=_SECONDS, codec_s=_SECONDS, load=load, short=True)
    return float(request_bits(request) + reply_bits(reply))


def with_messages(options: Options, graph: ModelGraph) -> Options:
    """Return the options with uploads that count everything that the link carries for them.

    Args:
        options: O options whose `upload_bits` count the payloads only; options that send nothing stay as they are.
        graph: the network of these options.
    """
    overhead_bits = {piece: message_bits(graph, piece) for piece in dict.fromkeys(options.pieces)}
    bits = np.array([overhead_bits[piece] for piece in options.pieces])
    return options._replace(upload_bits=options.upload_bits + np.where(options.upload_bits > 0, bits, 0.0))
