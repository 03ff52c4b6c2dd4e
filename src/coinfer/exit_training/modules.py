"""A `ModelGraph` as a PyTorch module that can be trained, and its trained weights back in the graph.

Networks of the zoo have their batch norm folded into the convolutions, as deployed networks do. Trained like that they
learn slowly or not at all, so while training a batch norm stands behind every convolution; `graph()` folds it again.
"""

import math
from collections.abc import Mapping
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
    """Computes the graph's outputs from its one input.

    Parameters are called like the graph's weights, with `/` for `.`; an inserted batch norm like its convolution.

    Args:
        norm: insert a batch norm behind every convolution; its own bias is then left out. The module no longer computes
            what the graph does until it has seen data (`init` and training, or `graph()` after them).

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
        """Where dropout draws from; PyTorch's own generator without it."""
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
        for op, node in zip(graph.ops, graph.proto.graph.node, strict=True):
            if op.kind not in OPERATIONS or len(op.outputs) != 1:
                known = ", ".join(sorted(OPERATIONS))
                raise GraphError(f"{graph.name}: cannot train operation {op.kind} ({op.name!r}); can train {known}")
            if norm and op.kind == "Conv" and not self._normed(op):
                channels = graph.weights[node.input[1]].shape[0]
                self.norms[parameter_name(op.name)] = nn.BatchNorm2d(channels, EPS, NORM_MOMENTUM)
                if len(node.input) > 2:
                    self.weights[parameter_name(node.input[2])].requires_grad_(False)
            self._steps.append((op.outputs[0], OPERATIONS[op.kind](self, node)))

    def forward(self, x: Tensor) -> list[Tensor]:
        """Return every output of the graph, in its order; x is the graph's input [N, ..]."""
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
        """Return the graph with these weights, batch norms folded into their convolutions."""
        weights = {
            name_: self.weights[parameter_name(name_)].detach().float().cpu().numpy().copy()
            for name_ in self.source.weights
        }
        for op, node in zip(self.source.ops, self.source.proto.graph.node, strict=True):
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
        """Return a constant that sets how an operation works.

        Raises:
            GraphError: if it is computed while running.
        """
        if name not in self._settings:
            raise GraphError(f"{self.source.name}: {name!r} is computed while running; training takes constants only")
        return self._settings[name]

    def read(self, values: Mapping[str, Tensor], name: str) -> Tensor:
        """Return an activation, a weight, or a constant."""
        if name in values:
            return values[name]
        if name in self.source.weights:
            return self.weights[parameter_name(name)]
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
    """Return the same structure with other weights.

    Raises:
        GraphError: if a weight is missing or has another shape.
    """
    for key, value in graph.weights.items():
        if key not in weights or weights[key].shape != value.shape:
            found = list(weights[key].shape) if key in weights else "nothing"
            raise GraphError(f"{graph.name}: weight {key!r} is {found}; expected {list(value.shape)}")
    kept = {key: np.ascontiguousarray(weights[key], value.dtype) for key, value in graph.weights.items()}
    return replace(graph, name=name or graph.name, weights=kept)
