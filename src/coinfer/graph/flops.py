"""How much arithmetic an operation does, from its shapes alone. A multiply-add counts as two operations."""

import math
from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple, TypeVar

import onnx

Shape = tuple[int, ...]
Value = TypeVar("Value")


class OpShapes(NamedTuple):
    """A node with the shapes of its inputs and outputs."""

    node: onnx.NodeProto
    inputs: Sequence[Shape]
    """Shapes of all inputs in ONNX's order, weights included; empty for an optional input that is left out."""
    outputs: Sequence[Shape]


def op_flop(shapes: OpShapes) -> float:
    """Return the floating-point operations of one node at the given shapes.

    The count is exact for linear operations. The others count one operation for each element that they make (or read,
    if that is more, as in reductions); operations that only move or rename elements count none.

    Args:
        shapes: the node with its shapes, at the batch size that is to be counted.
    """
    kind = shapes.node.op_type
    return float(_RULES.get(kind, _elementwise)(shapes)) if kind not in _MOVING else 0.0


_MOVING_KINDS = """
Cast CastLike Compress Concat ConstantOfShape DepthToSpace Dropout Expand EyeLike Flatten Gather GatherElements
GatherND Identity OneHot Pad Range Reshape ReverseSequence ScatterElements ScatterND Shape Size Slice SpaceToDepth
Split Squeeze Tile Transpose Trilu Unsqueeze Where
"""
_MOVING = frozenset(_MOVING_KINDS.split())


def _elements(shape: Shape) -> int:
    return math.prod(shape)


def _elementwise(s: OpShapes) -> int:
    return max((_elements(shape) for shape in (*s.inputs[:1], *s.outputs)), default=0)


def _per_element(count: int) -> Callable[[OpShapes], int]:
    return lambda s: count * _elements(s.outputs[0])


def _convolution(s: OpShapes) -> int:
    """The weight is [out, in / group, kernel..]: one multiply-add per output element and weight of its filter."""
    return 2 * _elements(s.outputs[0]) * _elements(_weight(s)[1:])


def _transposed_convolution(s: OpShapes) -> int:
    """The weight is [in, out / group, kernel..]: every input element is spread over one filter."""
    return 2 * _elements(s.inputs[0]) * _elements(_weight(s)[1:])


def _weight(s: OpShapes) -> Shape:
    return s.inputs[3] if s.node.op_type == "QLinearConv" else s.inputs[1]


def _gemm(s: OpShapes) -> int:
    left = s.inputs[0]
    return 2 * _elements(s.outputs[0]) * left[0 if _attribute(s.node, "transA", 0) else -1]


def _matmul(s: OpShapes) -> int:
    return 2 * _elements(s.outputs[0]) * s.inputs[0][-1]


def _pool(s: OpShapes) -> int:
    return _elements(s.outputs[0]) * _elements(_attribute(s.node, "kernel_shape", ()))


def _recurrent(gates: int) -> Callable[[OpShapes], int]:
    """X is [steps, batch, in], W is [directions, gates * hidden, in], R is [directions, gates * hidden, hidden]."""

    def flop(s: OpShapes) -> int:
        steps, batch, width = s.inputs[0]
        directions, _, hidden = s.inputs[2]
        return 2 * steps * batch * directions * gates * hidden * (width + hidden)

    return flop


def _attention(s: OpShapes) -> int:
    """Queries times keys, then weights times values, over keys' length; heads may be an axis or folded into width."""
    keys = s.inputs[1][-2]
    return 2 * keys * (_elements(s.inputs[0]) + _elements(s.outputs[0]))


def _einsum(s: OpShapes) -> int:
    """One multiply-add per point of the space that the letters span; an ellipsis stands for letters of its own."""
    terms = _attribute(s.node, "equation", b"").decode().replace(" ", "").split("->")[0].split(",")
    sizes: dict[str, int] = {}
    for term, shape in zip(terms, s.inputs, strict=False):
        left, _, right = term.partition("...")
        hidden = (f".{i}" for i in reversed(range(len(shape) - len(left) - len(right))))
        sizes |= dict(zip([*left, *hidden, *right], shape, strict=False))
    return 2 * math.prod(sizes.values())


def _local_response(s: OpShapes) -> int:
    return (int(_attribute(s.node, "size", 1)) + 3) * _elements(s.outputs[0])


def _attribute(node: onnx.NodeProto, name: str, default: Value) -> Value:
    attribute = next((a for a in node.attribute if a.name == name), None)
    return default if attribute is None else onnx.helper.get_attribute_value(attribute)


_RULES: Mapping[str, Callable[[OpShapes], int]] = {
    "Attention": _attention,
    "AveragePool": _pool,
    "BatchNormalization": _per_element(2),
    "Conv": _convolution,
    "ConvInteger": _convolution,
    "ConvTranspose": _transposed_convolution,
    "Einsum": _einsum,
    "GRU": _recurrent(3),
    "Gemm": _gemm,
    "InstanceNormalization": _per_element(5),
    "LRN": _local_response,
    "LSTM": _recurrent(4),
    "LayerNormalization": _per_element(5),
    "LogSoftmax": _per_element(3),
    "LpPool": _pool,
    "MatMul": _matmul,
    "MatMulInteger": _matmul,
    "MaxPool": _pool,
    "QLinearConv": _convolution,
    "QLinearMatMul": _matmul,
    "RNN": _recurrent(1),
    "Softmax": _per_element(3),
}
