"""The operations of a graph in differentiable PyTorch: one function for each kind of ONNX node.

Each function takes the network and one of its nodes, and returns the step that computes the node.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple, Protocol

import numpy as np
import onnx
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from coinfer.graph.ir import GraphError, ModelGraph

Step = Callable[[dict[str, Tensor]], Tensor]
"""Maps the values computed so far, by name, to the node's output."""


class Network(Protocol):
    """The network of a node, as the operations use it."""

    source: ModelGraph
    """The graph that it computes."""
    norms: nn.ModuleDict
    """Batch norms to insert, by the `parameter_name` of their convolution."""
    weights: nn.ParameterDict
    """Weights of the graph, by `parameter_name`."""
    generator: torch.Generator | None
    """Generator of dropout; None for PyTorch's own."""
    training: bool
    """Whether dropout and batch norms act as in training."""

    def setting(self, name: str) -> np.ndarray:
        """Return a constant input that configures an operation, such as a shape or pads.

        Args:
            name: name of the tensor.
        """
        ...

    def read(self, values: Mapping[str, Tensor], name: str) -> Tensor:
        """Return an activation, a weight, or a constant.

        Args:
            values: activations computed so far, by name.
            name: name of the tensor.
        """
        ...


class _Window(NamedTuple):
    """Attributes of a two-dimensional window operation."""

    kernel: list[int]
    """[2] or empty if the node does not say."""
    pads: list[int]
    """[4] all begins, then all ends."""
    strides: list[int]
    dilations: list[int]
    groups: int
    ceil: bool
    """Whether an incomplete last window counts."""
    count_pads: bool
    """Whether an average includes the pads."""


def parameter_name(name: str) -> str:
    """Return the name that a parameter has in PyTorch, which allows no dots.

    Args:
        name: name of a weight or an operation in the graph.
    """
    return name.replace(".", "/")


def attributes(node: onnx.NodeProto) -> dict[str, Any]:
    """Return a node's attributes by name: numbers, bytes, tensors or lists.

    Args:
        node: the ONNX node; attributes with default values may be absent.
    """
    return {attribute.name: onnx.helper.get_attribute_value(attribute) for attribute in node.attribute}


def _padded(x: Tensor, pads: Sequence[int], value: float) -> Tensor:
    """Return x with pads in ONNX's order: all begins, then all ends."""
    axes = len(pads) // 2
    order = [side for axis in reversed(range(axes)) for side in (pads[axis], pads[axis + axes])]
    return F.pad(x, order, value=value) if any(order) else x


def _window(module: Network, node: onnx.NodeProto) -> _Window:
    attrs = attributes(node)
    if attrs.get("auto_pad", b"NOTSET") not in (b"NOTSET", b""):
        raise GraphError(f"{module.source.name}: {node.name!r} pads by itself (auto_pad); export explicit pads")
    pads = list(attrs.get("pads", [0] * 4))
    if len(pads) != 4:
        raise GraphError(f"{module.source.name}: {node.name!r} is no operation on pictures; only those can be trained")
    return _Window(
        kernel=list(attrs.get("kernel_shape", [])),
        pads=pads,
        strides=list(attrs.get("strides", [1, 1])),
        dilations=list(attrs.get("dilations", [1, 1])),
        groups=attrs.get("group", 1),
        ceil=bool(attrs.get("ceil_mode", 0)),
        count_pads=bool(attrs.get("count_include_pad", 0)),
    )


def _conv(module: Network, node: onnx.NodeProto) -> Step:
    window = _window(module, node)
    symmetric = window.pads[:2] == window.pads[2:]
    name = parameter_name(node.name)

    def step(values: dict[str, Tensor]) -> Tensor:
        norm = module.norms[name] if name in module.norms else None  # noqa: SIM401
        bias = module.read(values, node.input[2]) if len(node.input) > 2 and norm is None else None
        x = values[node.input[0]] if symmetric else _padded(values[node.input[0]], window.pads, 0.0)
        kernel = module.read(values, node.input[1])
        padding = window.pads[:2] if symmetric else 0
        x = F.conv2d(x, kernel, bias, window.strides, padding, window.dilations, window.groups)
        return x if norm is None else norm(x)

    if name in module.norms and len(node.input) < 3:
        raise GraphError(
            f"{module.source.name}: {node.name!r} has no bias to fold a batch norm into; export it with one"
        )
    return step


def _max_pool(module: Network, node: onnx.NodeProto) -> Step:
    window = _window(module, node)

    def step(values: dict[str, Tensor]) -> Tensor:
        x = _padded(values[node.input[0]], window.pads, -math.inf)
        return F.max_pool2d(x, window.kernel, window.strides, 0, window.dilations, window.ceil)

    return step


def _average_pool(module: Network, node: onnx.NodeProto) -> Step:
    kernel, pads, strides, _, _, ceil, count_pads = _window(module, node)
    if pads[:2] != pads[2:]:
        raise GraphError(f"{module.source.name}: {node.name!r} averages over uneven pads; they cannot be trained here")
    return lambda values: F.avg_pool2d(values[node.input[0]], kernel, strides, pads[:2], ceil, count_pads)


def _gemm(module: Network, node: onnx.NodeProto) -> Step:
    attrs = attributes(node)
    if attrs.get("alpha", 1.0) != 1.0 or attrs.get("beta", 1.0) != 1.0 or attrs.get("transA", 0):
        raise GraphError(
            f"{module.source.name}: {node.name!r} scales or transposes its input; export a plain linear layer"
        )
    outputs_first = bool(attrs.get("transB", 0))

    def step(values: dict[str, Tensor]) -> Tensor:
        weight = module.read(values, node.input[1])
        bias = module.read(values, node.input[2]) if len(node.input) > 2 and node.input[2] else None
        return F.linear(values[node.input[0]], weight if outputs_first else weight.T, bias)

    return step


def _batch_norm(module: Network, node: onnx.NodeProto) -> Step:
    attrs = attributes(node)
    eps, momentum = attrs.get("epsilon", 1e-5), attrs.get("momentum", 0.9)
    for name in node.input[3:5]:
        module.weights[parameter_name(name)].requires_grad_(False)

    def step(values: dict[str, Tensor]) -> Tensor:
        gain, shift, mean, var = (module.read(values, name) for name in node.input[1:5])
        x = values[node.input[0]]
        return F.batch_norm(x, mean.detach(), var.detach(), gain, shift, module.training, 1 - momentum, eps)

    return step


def _clip(module: Network, node: onnx.NodeProto) -> Step:
    low, high = (
        float(module.setting(node.input[i])) if len(node.input) > i and node.input[i] else None for i in (1, 2)
    )
    return lambda values: torch.clamp(values[node.input[0]], low, high)


def _dropout(module: Network, node: onnx.NodeProto) -> Step:
    share = float(module.setting(node.input[1])) if len(node.input) > 1 and node.input[1] else 0.5

    def step(values: dict[str, Tensor]) -> Tensor:
        x = values[node.input[0]]
        if not module.training or share == 0:
            return x
        mask = torch.rand(x.shape, device=x.device, generator=module.generator) >= share
        return x * mask / (1 - share)

    return step


def _flatten(module: Network, node: onnx.NodeProto) -> Step:
    if attributes(node).get("axis", 1) != 1:
        raise GraphError(f"{module.source.name}: {node.name!r} flattens from another axis than 1")
    return lambda values: values[node.input[0]].flatten(1)


def _reshape(module: Network, node: onnx.NodeProto) -> Step:
    shape = [int(side) for side in module.setting(node.input[1])]

    def step(values: dict[str, Tensor]) -> Tensor:
        x = values[node.input[0]]
        sides = [x.shape[i] if side == 0 else side for i, side in enumerate(shape)]
        return x.reshape(-1 if sides[0] == 1 and -1 not in sides else sides[0], *sides[1:])

    return step


def _slice(module: Network, node: onnx.NodeProto) -> Step:
    starts, ends = (module.setting(node.input[i]).tolist() for i in (1, 2))
    axes = module.setting(node.input[3]).tolist() if len(node.input) > 3 else list(range(len(starts)))
    steps = module.setting(node.input[4]).tolist() if len(node.input) > 4 else [1] * len(starts)
    if min(steps) < 1:
        raise GraphError(f"{module.source.name}: {node.name!r} runs backwards; that cannot be trained here")
    places = [slice(None)] * (max(axes) + 1)
    for axis, *ends_ in zip(axes, starts, ends, steps, strict=True):
        places[axis] = slice(*ends_)
    return lambda values: values[node.input[0]][tuple(places)]


def _pad(module: Network, node: onnx.NodeProto) -> Step:
    if attributes(node).get("mode", b"constant") != b"constant" or len(node.input) > 3:
        raise GraphError(f"{module.source.name}: {node.name!r} pads with other than a constant on all axes")
    pads = module.setting(node.input[1]).tolist()
    value = float(module.setting(node.input[2])) if len(node.input) > 2 and node.input[2] else 0.0
    return lambda values: _padded(values[node.input[0]], pads, value)


def _concat(module: Network, node: onnx.NodeProto) -> Step:
    axis = attributes(node)["axis"]
    return lambda values: torch.cat([module.read(values, name) for name in node.input], axis)


def _local_norm(module: Network, node: onnx.NodeProto) -> Step:
    attrs = attributes(node)
    alpha, beta, bias = attrs.get("alpha", 1e-4), attrs.get("beta", 0.75), attrs.get("bias", 1.0)
    return lambda values: F.local_response_norm(values[node.input[0]], attrs["size"], alpha, beta, bias)


def _binary(compute: Callable[[Tensor, Tensor], Tensor]) -> Callable[[Network, onnx.NodeProto], Step]:
    """Return the maker of steps for an operation with two operands."""
    return lambda module, node: lambda values: compute(*(module.read(values, name) for name in node.input))


def _unary(compute: Callable[[Tensor], Tensor]) -> Callable[[Network, onnx.NodeProto], Step]:
    """Return the maker of steps for an operation with one operand."""
    return lambda module, node: lambda values: compute(values[node.input[0]])


OPERATIONS: Mapping[str, Callable[[Network, onnx.NodeProto], Step]] = {
    "Add": _binary(torch.add),
    "AveragePool": _average_pool,
    "BatchNormalization": _batch_norm,
    "Clip": _clip,
    "Concat": _concat,
    "Conv": _conv,
    "Dropout": _dropout,
    "Flatten": _flatten,
    "Gemm": _gemm,
    "GlobalAveragePool": _unary(lambda x: x.mean((2, 3), keepdim=True)),
    "Identity": _unary(lambda x: x),
    "LRN": _local_norm,
    "MatMul": _binary(torch.matmul),
    "MaxPool": _max_pool,
    "Mul": _binary(torch.mul),
    "Pad": _pad,
    "Relu": _unary(torch.relu),
    "Reshape": _reshape,
    "Sigmoid": _unary(torch.sigmoid),
    "Slice": _slice,
    "Tanh": _unary(torch.tanh),
}
"""The operations that can be trained, by the kind of ONNX node."""
