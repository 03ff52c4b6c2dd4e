"""Rewrites of a model before it is read: functions that it defines are inlined, and long names shortened.

Names of tensors that are too long to be sent, or are no text, get a short one inside; people see the file's own.
"""

import hashlib

import onnx
import onnx.inliner

from coinfer.errors import printable
from coinfer.graph.ir import GraphError
from coinfer.graph.onnx.limits import Limits, raise_it
from coinfer.graph.onnx.subgraphs import rename, walk

MAX_BYTES = 200
"""Of a name in UTF-8; messages between nodes carry names of at most 256 bytes."""
_KEPT = 48


def inline_functions(proto: onnx.ModelProto, where: str, limits: Limits) -> onnx.ModelProto:
    """Return a model without functions of its own; itself if it has none.

    Args:
        proto: the whole model.
        where: what messages call the model.
        limits: of what the model may take.

    Raises:
        GraphError: if the functions call each other in circles, or would become too many operations.
    """
    if not proto.functions:
        return proto
    bodies = {(f.domain, f.name): f for f in proto.functions}
    size_of: dict[tuple[str, str], int] = {}

    def size(nodes: list[onnx.NodeProto], inside: frozenset[tuple[str, str]]) -> int:
        total = 0
        for node in nodes:
            key = node.domain, node.op_type
            graph = onnx.GraphProto(node=[node])
            total += sum(len(inner.node) for inner in walk(graph))
            if key in bodies:
                if key in inside:
                    raise GraphError(f"{where}: function {node.op_type} calls itself; export it inlined")
                if key not in size_of:
                    size_of[key] = size(list(bodies[key].node), inside | {key})
                total += size_of[key]
            if total > limits.operations:
                raise GraphError(
                    f"{where}: more than {limits.operations} operations once its functions are inlined; "
                    f"{raise_it('operations', 0)}"
                )
        return total

    size([node for graph in walk(proto.graph) for node in graph.node], frozenset())
    plain = onnx.ModelProto()
    plain.CopyFrom(proto)
    weights = [onnx.TensorProto() for _ in plain.graph.initializer]
    for kept, weight in zip(weights, plain.graph.initializer, strict=True):
        kept.CopyFrom(weight)
        weight.CopyFrom(onnx.TensorProto(name=weight.name, data_type=weight.data_type, dims=weight.dims))
    try:
        typed = onnx.shape_inference.infer_shapes(plain) if _is_mixed(plain) else plain
        inlined = onnx.inliner.inline_local_functions(typed, convert_version=typed is not plain)
    except Exception as error:  # of the C++ library, without a common base class
        raise GraphError(f"{where}: its functions cannot be inlined: {printable(str(error), 300)}") from error
    del inlined.graph.value_info[:]
    del inlined.graph.initializer[:]
    inlined.graph.initializer.extend(weights)
    return inlined


def _is_mixed(proto: onnx.ModelProto) -> bool:
    """Return true if functions are written for another version of operations than the model."""
    stated = {(opset.domain, opset.version) for opset in proto.opset_import}
    return any((opset.domain, opset.version) not in stated for f in proto.functions for opset in f.opset_import)


def shorten(model: onnx.ModelProto) -> tuple[onnx.ModelProto, dict[str, str]]:
    """Return a model whose tensors have names that can be sent, and the file's own name of each that was renamed.

    Args:
        model: stays as it is; it is returned itself if no name has to change.
    """
    names = (name for graph in walk(model.graph) for node in graph.node for name in node.output)
    ends = (value.name for value in (*model.graph.input, *model.graph.output))
    renamed = {name: _short(name) for name in (*names, *ends) if not _may_stay(name)}
    if not renamed:
        return model, {}
    copy = onnx.ModelProto()
    copy.CopyFrom(model)
    rename(copy.graph, renamed)
    return copy, {new: old for old, new in renamed.items()}


def _may_stay(name: str) -> bool:
    return len(name.encode(errors="replace")) <= MAX_BYTES and (name.isprintable() or not name)


def _short(name: str) -> str:
    start = "".join(c if c.isascii() and c.isprintable() else "_" for c in name[:_KEPT])
    return f"{start}~{hashlib.sha256(name.encode(errors='replace')).hexdigest()[:12]}"
