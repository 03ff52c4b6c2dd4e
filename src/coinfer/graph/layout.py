"""ONNX Runtime's channel-blocked layout of convolutions, which a segment keeps where the whole network has it."""

from collections.abc import Set

import onnx

from coinfer.graph.cuts import Network
from coinfer.graph.fusion import Operation

HELD = "/held"
"""Ends the name of a tensor that `hold_layout` adds."""
_CHANNELS = 16
"""Channels come in blocks of 8 or 16."""
_CONVOLUTION_CHANNELS = 4
"""A convolution may make a block that is not full."""
_POOLING = frozenset({"AveragePool", "GlobalAveragePool", "GlobalMaxPool", "MaxPool"})
_SUMS = frozenset({"Add", "Sum"})
_ELEMENTWISE = frozenset(
    ["Add", "BatchNormalization", "Clip", "HardSigmoid", "LeakyRelu", "Mul", "Relu", "Sigmoid", "Sum", "Tanh"]
)


def hold_layout(proto: onnx.ModelProto, blocked: Set[str]) -> onnx.ModelProto:
    """Return the segment, changed so that a residual sum at its start keeps the channel-blocked layout of convolutions.

    ONNX Runtime adds in that layout only tensors that another operation brought into it. If a segment's input goes into
    a sum, that sum and every later one of the stage fall back to the plain layout (up to 3 % of ResNet-50's time), and
    round otherwise than in the whole network. An average over single pixels changes no value, infinities and NaN among
    them (a maximum would lose minus infinity), and brings the input into the layout once for all.

    Args:
        proto: a segment's model; it stays as it is, and is returned itself if nothing has to change.
        blocked: tensors that have this layout in the whole network (`blocked_tensors`).
    """
    if not any(node.op_type == "Conv" for node in proto.graph.node):
        return proto
    summands = {name for node in proto.graph.node if node.op_type in _SUMS for name in node.input} & blocked
    inputs = (value.name for value in proto.graph.input if _may_block(value))
    new_name_of = {name: f"{name}{HELD}" for name in inputs if name in summands}
    if not new_name_of:
        return proto
    changed = onnx.ModelProto()
    changed.CopyFrom(proto)
    for node in changed.graph.node:
        node.input[:] = [new_name_of.get(name, name) for name in node.input]
    for name, new in new_name_of.items():
        changed.graph.node.insert(0, onnx.helper.make_node("AveragePool", [name], [new], new, kernel_shape=[1, 1]))
    return changed


def blocked_tensors(graph: Network) -> Set[str]:
    """Return the tensors that have the channel-blocked layout while the whole network runs, as far as is known.

    Args:
        graph: the network.
    """
    blocked: set[str] = set()
    for op in graph.ops:
        if _is_blocked(graph, op, blocked):
            blocked.update(op.outputs)
    return blocked


def _is_blocked(graph: Network, op: Operation, blocked: Set[str]) -> bool:
    shape = graph.tensors[op.outputs[0]].shape
    if len(shape) != 4 or not op.inputs:
        return False
    if op.kind == "Conv":
        return shape[1] % _CONVOLUTION_CHANNELS == 0
    if op.kind in _POOLING:
        return shape[1] % _CHANNELS == 0
    return op.kind in _ELEMENTWISE and blocked >= set(op.inputs)


def _may_block(value: onnx.ValueInfoProto) -> bool:
    """Return true if ONNX Runtime may block the tensor."""
    kind, dim = value.type.tensor_type, value.type.tensor_type.shape.dim
    return kind.elem_type == onnx.TensorProto.FLOAT and len(dim) == 4 and dim[1].dim_value % _CHANNELS == 0
