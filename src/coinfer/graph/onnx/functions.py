"""Functions that a file defines: inlined with ONNX's own tool, but for those that would grow without end."""

import onnx
import onnx.inliner

from coinfer.errors import printable
from coinfer.graph.ir import GraphError
from coinfer.graph.onnx.limits import Limits, raise_it
from coinfer.graph.onnx.subgraphs import walk


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
