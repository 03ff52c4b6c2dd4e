"""A `ModelGraph` as a PyTorch module that can be trained, and its trained weights back in the graph.

Networks of the zoo have their batch norm folded into the convolutions, as deployed networks do. Trained like that they
learn slowly or not at all, so while training a batch norm stands behind every convolution; `graph()` folds it again.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import onnx
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from coinfer.graph.ir import GraphError, ModelGraph, Op

EPS = 1e-5
NORM_MOMENTUM = 0.1
"""Weight of the newest batch in the running mean and variance of inserted batch norms."""

Step = Callable[[dict[str, Tensor]], Tensor]


class GraphModule(nn.Module):
    """Computes the graph's outputs from its one input.

    Parameters are called like the graph's weights, with `/` for `.`; an inserted batch norm like its convolution.

    Args:
        norm: insert a batch norm behind every convolution; its own bias is then left out. The module no longer computes
            what the graph does until it has seen data (`init` and training, or `graph()` after them).

    Raises:
        GraphError: where an operation cannot be trained here; the message names it and lists those that can.
    """

    def __init__(self, graph: ModelGraph, norm: bool = False) -> None:
        super().__init__()
        if len(graph.inputs) != 1:
            raise GraphError(f"{graph.name}: training takes networks of one input; it has {', '.join(graph.inputs)}")
        self.source = graph
        self.norms = nn.ModuleDict()
        self.weights = nn.ParameterDict()
        self.generator: torch.Generator | None = None
        """Where dropout draws from; PyTorch's own generator without it."""
        constants = {value.name: value for value in graph.proto.graph.initializer if value.name not in graph.weights}
        self._settings = {name: onnx.numpy_helper.to_array(value) for name, value in constants.items()}
        for name, value in graph.weights.items():
            if value.dtype.kind != "f":
                raise GraphError(
                    f"{graph.name}: weight {name!r} is {value.dtype}; only floating weights can be trained"
                )
            self.weights[_key(name)] = nn.Parameter(torch.from_numpy(np.array(value, np.float32)))
        self._constants = dict[str, Tensor]()
        self._steps: list[tuple[str, Step]] = []
        for op, node in zip(graph.ops, graph.proto.graph.node, strict=True):
            if op.kind not in _STEPS or len(op.outputs) != 1:
                known = ", ".join(sorted(_STEPS))
                raise GraphError(f"{graph.name}: cannot train operation {op.kind} ({op.name!r}); can train {known}")
            if norm and op.kind == "Conv" and not self._normed(op):
                channels = graph.weights[node.input[1]].shape[0]
                self.norms[_key(op.name)] = nn.BatchNorm2d(channels, EPS, NORM_MOMENTUM)
                if len(node.input) > 2:
                    self.weights[_key(node.input[2])].requires_grad_(False)
            self._steps.append((op.outputs[0], _STEPS[op.kind](self, node)))

    def forward(self, x: Tensor) -> list[Tensor]:
        """Every output of the graph, in its order; x is the graph's input, [N, ..]."""
        values = {self.source.inputs[0]: x}
        for name, step in self._steps:
            values[name] = step(values)
        return [values[name] for name in self.source.outputs]

    @torch.no_grad()
    def init(self, generator: torch.Generator) -> None:
        """Draw all weights anew: normal with variance 2 / fan-in (He et al., ICCV 2015), biases 0, norms at rest.

        Layers that answer start small, so that the first losses are those of guessing.
        """
        last = {self._maker(name) for name in self.source.outputs}
        for op, node in zip(self.source.ops, self.source.proto.graph.node, strict=True):
            for place, name in enumerate(node.input):
                if name not in self.source.weights:
                    continue
                weight = self.weights[_key(name)]
                if weight.ndim < 2:
                    weight.fill_(1.0 if op.kind == "BatchNormalization" and place in (1, 4) else 0.0)
                    continue
                outputs_first = op.kind == "Conv" or bool(_attributes(node).get("transB", 0))
                fan_in = weight[0].numel() if outputs_first else weight.shape[0]
                std = math.sqrt((1 if op.name in last else 2) / fan_in) * (0.1 if op.name in last else 1.0)
                weight.copy_(torch.randn(weight.shape, generator=generator) * std)
        for norm in self.norms.values():
            assert isinstance(norm, nn.BatchNorm2d)
            norm.reset_parameters()

    def graph(self, name: str | None = None) -> ModelGraph:
        """The same network with these weights, batch norms folded into their convolutions."""
        weights = {key: self.weights[_key(key)].detach().float().cpu().numpy().copy() for key in self.source.weights}
        for op, node in zip(self.source.ops, self.source.proto.graph.node, strict=True):
            if _key(op.name) not in self.norms:
                continue
            norm = self.norms[_key(op.name)]
            mean, var, gain, shift = (
                norm.get_buffer(key).double().cpu().numpy()
                if key.startswith("running")
                else norm.get_parameter(key).detach().double().cpu().numpy()
                for key in ("running_mean", "running_var", "weight", "bias")
            )
            scale = gain / np.sqrt(var + EPS)
            kernel, bias = node.input[1], node.input[2]
            weights[kernel] = (weights[kernel] * scale[:, None, None, None]).astype(np.float32)
            weights[bias] = (shift - mean * scale).astype(np.float32)
        return with_weights(self.source, weights, name)

    def setting(self, name: str) -> np.ndarray:
        """A constant that sets how an operation works."""
        if name not in self._settings:
            raise GraphError(f"{self.source.name}: {name!r} is computed while running; training takes constants only")
        return self._settings[name]

    def read(self, values: Mapping[str, Tensor], name: str) -> Tensor:
        """An activation, a weight, or a constant."""
        if name in values:
            return values[name]
        if name in self.source.weights:
            return self.weights[_key(name)]
        if name not in self._constants:
            self._constants[name] = torch.from_numpy(np.array(self.setting(name))).to(
                next(iter(values.values())).device
            )
        return self._constants[name]

    def _normed(self, op: Op) -> bool:
        """Whether the graph itself has a batch norm behind this operation."""
        readers = [self.source.ops[i].kind for i in self.source.consumers[op.outputs[0]]]
        return readers == ["BatchNormalization"]

    def _maker(self, output: str) -> str:
        return self.source.ops[self.source.producer[output]].name


def with_weights(graph: ModelGraph, weights: Mapping[str, np.ndarray], name: str | None = None) -> ModelGraph:
    """The same structure with other values.

    Raises:
        GraphError: where a weight is missing or has another shape.
    """
    for key, value in graph.weights.items():
        if key not in weights or weights[key].shape != value.shape:
            found = list(weights[key].shape) if key in weights else "nothing"
            raise GraphError(f"{graph.name}: weight {key!r} is {found}; expected {list(value.shape)}")
    kept = {key: np.ascontiguousarray(weights[key], value.dtype) for key, value in graph.weights.items()}
    return replace(graph, name=name or graph.name, weights=kept)


def _key(name: str) -> str:
    return name.replace(".", "/")


def _attributes(node: onnx.NodeProto) -> dict[str, Any]:
    return {attribute.name: onnx.helper.get_attribute_value(attribute) for attribute in node.attribute}


def _padded(x: Tensor, pads: Sequence[int], value: float) -> Tensor:
    """ONNX order (all begins, then all ends) to PyTorch's (last axis first, begin and end)."""
    axes = len(pads) // 2
    order = [side for axis in reversed(range(axes)) for side in (pads[axis], pads[axis + axes])]
    return F.pad(x, order, value=value) if any(order) else x


def _window(module: GraphModule, node: onnx.NodeProto) -> dict[str, Any]:
    """Sizes of a two-dimensional window operation."""
    found = _attributes(node)
    if found.get("auto_pad", b"NOTSET") not in (b"NOTSET", b""):
        raise GraphError(f"{module.source.name}: {node.name!r} pads by itself (auto_pad); export explicit pads")
    pads = list(found.get("pads", [0] * 4))
    if len(pads) != 4:
        raise GraphError(f"{module.source.name}: {node.name!r} is no operation on pictures; only those can be trained")
    strides, dilations = (list(found.get(key, [1, 1])) for key in ("strides", "dilations"))
    return found | {"pads": pads, "strides": strides, "dilations": dilations}


def _conv(module: GraphModule, node: onnx.NodeProto) -> Step:
    sizes = _window(module, node)
    pads, groups = sizes["pads"], sizes.get("group", 1)
    even = pads[:2] == pads[2:]
    key = _key(node.name)

    def step(values: dict[str, Tensor]) -> Tensor:
        norm = module.norms[key] if key in module.norms else None  # noqa: SIM401
        bias = module.read(values, node.input[2]) if len(node.input) > 2 and norm is None else None
        x = values[node.input[0]] if even else _padded(values[node.input[0]], pads, 0.0)
        kernel = module.read(values, node.input[1])
        padding = pads[:2] if even else 0
        x = F.conv2d(x, kernel, bias, sizes["strides"], padding, sizes["dilations"], groups)
        return x if norm is None else norm(x)

    if key in module.norms and len(node.input) < 3:
        raise GraphError(
            f"{module.source.name}: {node.name!r} has no bias to fold a batch norm into; export it with one"
        )
    return step


def _max_pool(module: GraphModule, node: onnx.NodeProto) -> Step:
    sizes = _window(module, node)
    kernel, ceil = sizes["kernel_shape"], bool(sizes.get("ceil_mode", 0))

    def step(values: dict[str, Tensor]) -> Tensor:
        x = _padded(values[node.input[0]], sizes["pads"], -math.inf)
        return F.max_pool2d(x, kernel, sizes["strides"], 0, sizes["dilations"], ceil)

    return step


def _average_pool(module: GraphModule, node: onnx.NodeProto) -> Step:
    sizes = _window(module, node)
    pads = sizes["pads"]
    if pads[:2] != pads[2:]:
        raise GraphError(f"{module.source.name}: {node.name!r} averages over uneven pads; they cannot be trained here")
    counted = bool(sizes.get("count_include_pad", 0))
    kernel, ceil = sizes["kernel_shape"], bool(sizes.get("ceil_mode", 0))
    return lambda values: F.avg_pool2d(values[node.input[0]], kernel, sizes["strides"], pads[:2], ceil, counted)


def _gemm(module: GraphModule, node: onnx.NodeProto) -> Step:
    found = _attributes(node)
    if found.get("alpha", 1.0) != 1.0 or found.get("beta", 1.0) != 1.0 or found.get("transA", 0):
        raise GraphError(f"{module.source.name}: {node.name!r} scales or turns its input; export a plain linear layer")
    turned = bool(found.get("transB", 0))

    def step(values: dict[str, Tensor]) -> Tensor:
        weight = module.read(values, node.input[1])
        bias = module.read(values, node.input[2]) if len(node.input) > 2 and node.input[2] else None
        return F.linear(values[node.input[0]], weight if turned else weight.T, bias)

    return step


def _batch_norm(module: GraphModule, node: onnx.NodeProto) -> Step:
    found = _attributes(node)
    eps, kept = found.get("epsilon", 1e-5), found.get("momentum", 0.9)
    for name in node.input[3:5]:
        module.weights[_key(name)].requires_grad_(False)

    def step(values: dict[str, Tensor]) -> Tensor:
        gain, shift, mean, var = (module.read(values, name) for name in node.input[1:5])
        x = values[node.input[0]]
        return F.batch_norm(x, mean.detach(), var.detach(), gain, shift, module.training, 1 - kept, eps)

    return step


def _clip(module: GraphModule, node: onnx.NodeProto) -> Step:
    low, high = (
        float(module.setting(node.input[i])) if len(node.input) > i and node.input[i] else None for i in (1, 2)
    )
    return lambda values: torch.clamp(values[node.input[0]], low, high)


def _dropout(module: GraphModule, node: onnx.NodeProto) -> Step:
    share = float(module.setting(node.input[1])) if len(node.input) > 1 and node.input[1] else 0.5

    def step(values: dict[str, Tensor]) -> Tensor:
        x = values[node.input[0]]
        if not module.training or share == 0:
            return x
        kept = torch.rand(x.shape, device=x.device, generator=module.generator) >= share
        return x * kept / (1 - share)

    return step


def _flatten(module: GraphModule, node: onnx.NodeProto) -> Step:
    if _attributes(node).get("axis", 1) != 1:
        raise GraphError(f"{module.source.name}: {node.name!r} flattens from another axis than 1")
    return lambda values: values[node.input[0]].flatten(1)


def _reshape(module: GraphModule, node: onnx.NodeProto) -> Step:
    shape = [int(side) for side in module.setting(node.input[1])]

    def step(values: dict[str, Tensor]) -> Tensor:
        x = values[node.input[0]]
        sides = [x.shape[i] if side == 0 else side for i, side in enumerate(shape)]
        return x.reshape(-1 if sides[0] == 1 and -1 not in sides else sides[0], *sides[1:])

    return step


def _slice(module: GraphModule, node: onnx.NodeProto) -> Step:
    starts, ends = (module.setting(node.input[i]).tolist() for i in (1, 2))
    axes = module.setting(node.input[3]).tolist() if len(node.input) > 3 else list(range(len(starts)))
    steps = module.setting(node.input[4]).tolist() if len(node.input) > 4 else [1] * len(starts)
    if min(steps) < 1:
        raise GraphError(f"{module.source.name}: {node.name!r} runs backwards; that cannot be trained here")
    places = [slice(None)] * (max(axes) + 1)
    for axis, *ends_ in zip(axes, starts, ends, steps, strict=True):
        places[axis] = slice(*ends_)
    return lambda values: values[node.input[0]][tuple(places)]


def _pad(module: GraphModule, node: onnx.NodeProto) -> Step:
    if _attributes(node).get("mode", b"constant") != b"constant" or len(node.input) > 3:
        raise GraphError(f"{module.source.name}: {node.name!r} pads with other than a constant on all axes")
    pads = module.setting(node.input[1]).tolist()
    value = float(module.setting(node.input[2])) if len(node.input) > 2 and node.input[2] else 0.0
    return lambda values: _padded(values[node.input[0]], pads, value)


def _concat(module: GraphModule, node: onnx.NodeProto) -> Step:
    axis = _attributes(node)["axis"]
    return lambda values: torch.cat([module.read(values, name) for name in node.input], axis)


def _local_norm(module: GraphModule, node: onnx.NodeProto) -> Step:
    found = _attributes(node)
    alpha, beta, bias = (found.get(key, default) for key, default in (("alpha", 1e-4), ("beta", 0.75), ("bias", 1.0)))
    return lambda values: F.local_response_norm(values[node.input[0]], found["size"], alpha, beta, bias)


def _two(compute: Callable[[Tensor, Tensor], Tensor]) -> Callable[[GraphModule, onnx.NodeProto], Step]:
    """An operation of two operands."""
    return lambda module, node: lambda values: compute(*(module.read(values, name) for name in node.input))


def _one(compute: Callable[[Tensor], Tensor]) -> Callable[[GraphModule, onnx.NodeProto], Step]:
    """An operation of one operand."""
    return lambda module, node: lambda values: compute(values[node.input[0]])


_STEPS: Mapping[str, Callable[[GraphModule, onnx.NodeProto], Step]] = {
    "Add": _two(torch.add),
    "AveragePool": _average_pool,
    "BatchNormalization": _batch_norm,
    "Clip": _clip,
    "Concat": _concat,
    "Conv": _conv,
    "Dropout": _dropout,
    "Flatten": _flatten,
    "Gemm": _gemm,
    "GlobalAveragePool": _one(lambda x: x.mean((2, 3), keepdim=True)),
    "Identity": _one(lambda x: x),
    "LRN": _local_norm,
    "MatMul": _two(torch.matmul),
    "MaxPool": _max_pool,
    "Mul": _two(torch.mul),
    "Pad": _pad,
    "Relu": _one(torch.relu),
    "Reshape": _reshape,
    "Sigmoid": _one(torch.sigmoid),
    "Slice": _slice,
    "Tanh": _one(torch.tanh),
}
