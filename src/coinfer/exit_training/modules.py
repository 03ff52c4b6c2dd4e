"""A `ModelGraph` as a PyTorch module that can be trained, and its trained weights back in the graph.

Networks of the zoo have their batch norm folded into the convolutions, as deployed networks do. In that form they learn
slowly or not at all, so training inserts a batch norm after every convolution; `graph()` folds it again.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy as np
import onnx
import torch
from torch import Tensor, nn

from coinfer.exit_training.operations import OPERATIONS, Step, attributes, parameter_name
from coinfer.graph.ir import GraphError, ModelGraph, Op

EPS = 1e-5
NORM_MOMENTUM = 0.1
"""Weight of the newest batch in the running mean and variance of inserted batch norms."""


class GraphModule(nn.Module):
    """A PyTorch module that computes a graph's outputs from its one input.

    Parameters have the names of the graph's weights, with `/` for `.`; an inserted batch norm has that of its
    convolution.

    Args:
        graph: the network; its weights are copied.
        norm: whether to insert a batch norm after every convolution, whose bias is then not used. The module then
            computes something else than `graph`, until it is trained and `graph()` folds the norms.

    Raises:
        GraphError: if an operation cannot be trained here; the message names it and lists those that can.
    """

    def __init__(self, graph: ModelGraph, norm: bool = False) -> None:
        super().__init__()
        if len(graph.inputs) != 1:
            raise GraphError(f"{graph.name}: training takes networks of one input; it has {', '.join(graph.inputs)}")
        self.source = graph
        self.norms = nn.ModuleDict()
        self.weights = nn.ParameterDict()
        self.generator: torch.Generator | None = None
        """Generator of dropout; None for PyTorch's own."""
        constants = {value.name: value for value in graph.proto.graph.initializer if value.name not in graph.weights}
        self._settings = {name: onnx.numpy_helper.to_array(value) for name, value in constants.items()}
        for name, value in graph.weights.items():
            if value.dtype.kind != "f":
                raise GraphError(
                    f"{graph.name}: weight {name!r} is {value.dtype}; only floating weights can be trained"
                )
            self.weights[parameter_name(name)] = nn.Parameter(torch.from_numpy(np.array(value, np.float32)))
        self._constants = dict[str, Tensor]()
        self._steps: list[tuple[str, Step]] = []
        for op, node in ((op, graph.node(op)) for op in graph.ops):
            if op.kind not in OPERATIONS or len(op.outputs) != 1:
                known = ", ".join(sorted(OPERATIONS))
                raise GraphError(f"{graph.name}: cannot train operation {op.kind} ({op.name!r}); can train {known}")
            if norm and op.kind == "Conv" and not self._has_norm(op):
                channels = graph.weights[node.input[1]].shape[0]
                self.norms[parameter_name(op.name)] = nn.BatchNorm2d(channels, EPS, NORM_MOMENTUM)
                if len(node.input) > 2:
                    self.weights[parameter_name(node.input[2])].requires_grad_(False)
            self._steps.append((op.outputs[0], OPERATIONS[op.kind](self, node)))

    def forward(self, x: Tensor) -> list[Tensor]:
        """Return the graph's outputs, in its order.

        Args:
            x: [N, ..] the graph's input.
        """
        values = {self.source.inputs[0]: x}
        for name, step in self._steps:
            values[name] = step(values)
        return [values[name] for name in self.source.outputs]

    def compute(self, values: Mapping[str, Tensor], outputs: Sequence[str]) -> list[Tensor]:
        """Return some tensors of the graph, computed from others.

        Args:
            values: the given tensors by name.
            outputs: names of the tensors to compute.

        Raises:
            GraphError: if the outputs need more than these tensors.
        """
        known = dict(values)
        for i in self.source.needed(tuple(values), outputs):
            name, step = self._steps[i]
            known[name] = step(known)
        return [known[name] for name in outputs]

    @torch.no_grad()
    def init(self, generator: torch.Generator) -> None:
        """Draw all weights anew: normal with variance 2 / fan-in (He et al., ICCV 2015), biases 0, norms reset.

        The layers of the outputs start at a tenth, so that the first losses are those of guessing.

        Args:
            generator: a generator of the CPU.
        """
        last = {self._producer(name) for name in self.source.outputs}
        for op, node in ((op, self.source.node(op)) for op in self.source.ops):
            for place, name in enumerate(node.input):
                if name not in self.source.weights:
                    continue
                weight = self.weights[parameter_name(name)]
                if weight.ndim < 2:
                    weight.fill_(1.0 if op.kind == "BatchNormalization" and place in (1, 4) else 0.0)
                    continue
                outputs_first = op.kind == "Conv" or bool(attributes(node).get("transB", 0))
                fan_in = weight[0].numel() if outputs_first else weight.shape[0]
                std = math.sqrt((1 if op.name in last else 2) / fan_in) * (0.1 if op.name in last else 1.0)
                weight.copy_(torch.randn(weight.shape, generator=generator) * std)
        for norm in self.norms.values():
            assert isinstance(norm, nn.BatchNorm2d)
            norm.reset_parameters()

    def graph(self, name: str | None = None) -> ModelGraph:
        """Return the graph with the module's weights, the inserted batch norms folded into their convolutions.

        Args:
            name: name of the new graph; None for that of the source.
        """
        weights = {
            name_: self.weights[parameter_name(name_)].detach().float().cpu().numpy().copy()
            for name_ in self.source.weights
        }
        for op, node in ((op, self.source.node(op)) for op in self.source.ops):
            if parameter_name(op.name) not in self.norms:
                continue
            norm = self.norms[parameter_name(op.name)]
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
        """Return a constant input that configures an operation, such as a shape or pads.

        Args:
            name: name of the tensor.

        Raises:
            GraphError: if the tensor is computed at run time.
        """
        if name not in self._settings:
            raise GraphError(f"{self.source.name}: {name!r} is computed while running; training takes constants only")
        return self._settings[name]

    def read(self, values: Mapping[str, Tensor], name: str) -> Tensor:
        """Return an activation, a weight, or a constant.

        Args:
            values: activations computed so far, by name.
            name: name of the tensor.

        Raises:
            GraphError: if there is no such tensor.
        """
        if name in values:
            return values[name]
        if name in self.source.weights:
            return self.weights[parameter_name(name)]
        if name not in self._constants:
            self._constants[name] = torch.from_numpy(np.array(self.setting(name))).to(
                next(iter(values.values())).device
            )
        return self._constants[name]

    def _has_norm(self, op: Op) -> bool:
        """Return whether the graph itself has a batch norm after this operation."""
        readers = [self.source.ops[i].kind for i in self.source.consumers[op.outputs[0]]]
        return readers == ["BatchNormalization"]

    def _producer(self, output: str) -> str:
        """Return the name of the operation that computes an output."""
        return self.source.ops[self.source.producer[output]].name


def with_weights(graph: ModelGraph, weights: Mapping[str, np.ndarray], name: str | None = None) -> ModelGraph:
    """Return a graph of the same structure with other weights.

    Args:
        graph: the structure.
        weights: all weights by name; they are converted to the graph's number types.
        name: name of the new graph; None for that of `graph`.

    Raises:
        GraphError: if a weight is missing or has another shape.
    """
    for key, value in graph.weights.items():
        if key not in weights or weights[key].shape != value.shape:
            shape = list(weights[key].shape) if key in weights else "nothing"
            raise GraphError(f"{graph.name}: weight {key!r} is {shape}; expected {list(value.shape)}")
    converted = {key: np.ascontiguousarray(weights[key], value.dtype) for key, value in graph.weights.items()}
    return replace(graph, name=name or graph.name, weights=converted)
