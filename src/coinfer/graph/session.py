"""Opens a segment in ONNX Runtime. The weights stay where the graph holds them, so they are in memory once."""

import platform
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import onnx
import onnxruntime as ort

from coinfer.graph.ir import GraphError, ModelGraph

if TYPE_CHECKING:
    from coinfer.graph.segment import Segment

CPU = "CPUExecutionProvider"
HELD = "/held"
"""Ends the name of a tensor that `hold_layout` adds."""
_ERRORS_ONLY = 3
_BLOCKED_LAYOUT = platform.machine().lower() in {"x86_64", "amd64"}


class Session(ort.InferenceSession):
    """An ONNX Runtime session that keeps alive the weights whose memory it borrows."""

    def __init__(
        self, model: bytes, options: ort.SessionOptions, providers: Sequence[str], weights: Mapping[str, np.ndarray]
    ) -> None:
        self.borrowed = [ort.OrtValue.ortvalue_from_numpy(np.asarray(w, order="C")) for w in weights.values()]
        if weights:
            options.add_external_initializers(list(weights), self.borrowed)
        super().__init__(model, options, providers=list(providers))


def open_session(
    graph: ModelGraph,
    segment: "Segment",
    threads: int = 1,
    providers: Sequence[str] = (CPU,),
    profile_prefix: Path | None = None,
) -> Session:
    """Return a session that runs a segment.

    Spinning is off: with other work on the cores, threads that spin lose a factor of 2 to 10.

    Args:
        graph: the network, which holds the weights.
        segment: of that network.
        threads: threads within an operation; operations run one after another.
        providers: ONNX Runtime's execution providers, the preferred one first.
        profile_prefix: ONNX Runtime writes a profile to a file whose name starts with it; None writes none.

    Raises:
        GraphError: if ONNX Runtime lacks a provider or refuses the segment.
    """
    missing = [name for name in providers if name not in ort.get_available_providers()]
    if missing:
        known = ", ".join(ort.get_available_providers())
        raise GraphError(f"{graph.name}: no execution provider {missing[0]!r} in this ONNX Runtime; it has {known}")
    options = session_options(threads)
    if profile_prefix is not None:
        options.enable_profiling = True
        options.profile_file_prefix = str(profile_prefix)
    weights = {name: graph.weights[name] for name in segment.weights}
    proto = hold_layout(segment.proto) if providers[0] == CPU and _BLOCKED_LAYOUT else segment.proto
    try:
        return Session(proto.SerializeToString(), options, providers, weights)
    except Exception as error:  # ONNX Runtime's exceptions share no base class below this one
        reason = " ".join(str(error).split())
        raise GraphError(f"{graph.name}: ONNX Runtime refuses segment {segment.name}: {reason}") from error


def hold_layout(proto: onnx.ModelProto) -> onnx.ModelProto:
    """Return the segment, changed so that a residual sum at its start keeps the channel-blocked layout of convolutions.

    ONNX Runtime adds in that layout only tensors that another operation brought into it. If a segment's input goes into
    a sum, that sum and every later one of the stage fall back to the plain layout (up to 3 % of ResNet-50's time). A
    pooling over single pixels changes no value and brings the input into the layout once for all.

    Args:
        proto: a segment's model; it stays as it is, and is returned itself if nothing has to change.
    """
    if not any(node.op_type == "Conv" for node in proto.graph.node):
        return proto
    summands = {name for node in proto.graph.node if node.op_type in {"Add", "Sum"} for name in node.input}
    inputs = (value.name for value in proto.graph.input if _may_block(value))
    new_name_of = {name: f"{name}{HELD}" for name in inputs if name in summands}
    if not new_name_of:
        return proto
    changed = onnx.ModelProto()
    changed.CopyFrom(proto)
    for node in changed.graph.node:
        node.input[:] = [new_name_of.get(name, name) for name in node.input]
    for name, new in new_name_of.items():
        changed.graph.node.insert(0, onnx.helper.make_node("MaxPool", [name], [new], new, kernel_shape=[1, 1]))
    return changed


def _may_block(value: onnx.ValueInfoProto) -> bool:
    """Return true if ONNX Runtime may block the tensor, by 8 or 16 channels."""
    kind = value.type.tensor_type
    return kind.elem_type == onnx.TensorProto.FLOAT and len(dim := kind.shape.dim) == 4 and dim[1].dim_value % 16 == 0


def session_options(threads: int = 1) -> ort.SessionOptions:
    """Return options for a session with its own thread pool, which never spins, and operations in sequence.

    Args:
        threads: threads within an operation.
    """
    options = ort.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    options.execution_mode = ort.ExecutionMode.ORT_SEQUENTIAL
    options.log_severity_level = _ERRORS_ONLY
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    return options
