"""Pieces of a network that run by themselves. They hold only structure, a few kB; the weights stay with the graph."""

import re
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path
from typing import NamedTuple

import numpy as np
import onnx
from onnx import TensorProto

from coinfer.files import write_atomic
from coinfer.graph.ir import Cut, GraphError, ModelGraph
from coinfer.units import MIB

_ALIGNMENT_BYTES = 4096
_MAX_INLINE_BYTES = 2000 * MIB


class Segment(NamedTuple):
    """A piece of a network that computes some tensors from others."""

    name: str
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    proto: onnx.ModelProto
    """Runnable once the weights are given; see `session.open_session`."""
    weights: tuple[str, ...]
    """Names of the `ModelGraph.weights` it needs."""


def segment(graph: ModelGraph, inputs: Sequence[str], outputs: Sequence[str]) -> Segment:
    """Return the smallest piece that computes `outputs` from `inputs`.

    Args:
        graph: the network.
        inputs: names of any tensors; those that the outputs do not need are accepted and ignored.
        outputs: names of any tensors; one that is also an input is passed through.

    Raises:
        GraphError: if a tensor is unknown or named twice, there are no outputs, or they need more than these inputs.
    """
    for names in (inputs, outputs):
        repeated = next((name for i, name in enumerate(names) if name in names[:i]), None)
        if repeated is not None:
            raise GraphError(f"{graph.name}: tensor {repeated!r} is named twice")
    if not outputs:
        raise GraphError(f"{graph.name}: no outputs asked for; the network's own are {', '.join(graph.outputs)}")
    proto = graph.structure(inputs, outputs)
    weights = tuple(value.name for value in proto.graph.initializer if value.name in graph.weights)
    name = f"{graph.name}: {', '.join(inputs)} -> {', '.join(outputs)}"
    return Segment(name, tuple(inputs), tuple(outputs), proto, weights)


def split(graph: ModelGraph, cuts: Sequence[Cut | Sequence[str]], exit: int = 0) -> tuple[Segment, ...]:
    """Return the network in one segment more than there are cuts, from its inputs to one of its outputs.

    Args:
        graph: the network.
        cuts: in order, as cuts of `graph.pruned((graph.outputs[exit],))` or as names of the tensors that cross.
        exit: index of the output.

    Raises:
        GraphError: if there is no such output, or a cut does not follow from the one before it.
    """
    if not 0 <= exit < len(graph.outputs):
        raise GraphError(f"{graph.name}: no exit {exit}; it has exits 0 to {len(graph.outputs) - 1}")
    answer = (graph.outputs[exit],)
    names = [cut.tensors if isinstance(cut, Cut) else tuple(cut) for cut in cuts]
    ends = [graph.pruned(answer).inputs, *names, answer]
    return tuple(segment(graph, first, last) for first, last in pairwise(ends))


def save(graph: ModelGraph, segments: Sequence[Segment], directory: str | Path) -> tuple[Path, ...]:
    """Write segments as ONNX files of a few kB, and their weights once, in a file beside them.

    Args:
        graph: the network of the segments.
        segments: from `segment` or `split`.
        directory: is created if it does not exist; existing files are replaced.

    Returns:
        The paths of the ONNX files, `<network>.<index>.onnx`. They must stay beside `<network>.weights`.

    Raises:
        OSError: if a file cannot be written.
    """
    directory = Path(directory)
    directory.mkdir(parents=True, exist_ok=True)
    stem = re.sub(r"[^\w.-]", "_", graph.name)
    names = sorted({name for piece in segments for name in piece.weights})
    offset_of: dict[str, int] = {}
    with (directory / f"{stem}.weights").open("wb") as file:
        for name in names:
            file.write(bytes(-file.tell() % _ALIGNMENT_BYTES))
            offset_of[name] = file.tell()
            graph.weights[name].tofile(file)
    paths = []
    for i, piece in enumerate(segments):
        paths.append(directory / f"{stem}.{i}.onnx")
        paths[-1].write_bytes(
            _located(graph, piece, f"{stem}.weights", offset_of).SerializeToString(deterministic=True)
        )
    return tuple(paths)


def _located(graph: ModelGraph, piece: Segment, file: str, offset_of: dict[str, int]) -> onnx.ModelProto:
    """Return the segment's model, its weights referring to their places in a file."""
    proto = onnx.ModelProto()
    proto.CopyFrom(piece.proto)
    for tensor in proto.graph.initializer:
        if tensor.name in offset_of:
            size_bytes = graph.weights[tensor.name].nbytes
            del tensor.external_data[:]
            for key, value in (("location", file), ("offset", offset_of[tensor.name]), ("length", size_bytes)):
                tensor.external_data.add(key=key, value=str(value))
    return proto


def save_model(graph: ModelGraph, path: str | Path, *, half: bool = False) -> None:
    """Write the whole network as one ordinary ONNX file, weights included.

    Args:
        graph: the network.
        path: of the file; an existing one is replaced.
        half: whether to store weights as float16 that float16 holds without loss; whoever reads them casts them.

    Raises:
        GraphError: if the weights do not fit into one file (2000 MiB).
        OSError: if the file cannot be written.
    """
    size_bytes = sum(value.nbytes for value in graph.weights.values())
    if size_bytes > _MAX_INLINE_BYTES:
        raise GraphError(f"{graph.name}: {size_bytes / MIB:.0f} MiB of weights do not fit one ONNX file; use save()")
    proto = onnx.ModelProto()
    proto.CopyFrom(graph.proto)
    for tensor in proto.graph.initializer:
        if tensor.name in graph.weights:
            tensor.CopyFrom(onnx.numpy_helper.from_array(graph.weights[tensor.name], tensor.name))
    if half:
        _halve(proto.graph)
    write_atomic(path, proto.SerializeToString(deterministic=True))


def _halve(graph: onnx.GraphProto) -> None:
    """Store the float32 weights as float16 where nothing is lost."""
    casts = []
    for tensor in graph.initializer:
        value = onnx.numpy_helper.to_array(tensor)
        short = value.astype(np.float16) if value.dtype == np.float32 and value.size > 1 else value
        if short is not value and (short.astype(np.float32) == value).all():
            name = tensor.name
            tensor.CopyFrom(onnx.numpy_helper.from_array(short, f"{name}/half"))
            casts.append(onnx.helper.make_node("Cast", [f"{name}/half"], [name], f"{name}/cast", to=TensorProto.FLOAT))
    nodes = [*casts, *graph.node]
    del graph.node[:]
    graph.node.extend(nodes)
