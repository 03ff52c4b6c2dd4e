"""Which operations executors run as one, so that no useful cut lies between them."""

from collections.abc import Mapping, Sequence
from typing import NamedTuple, Protocol

_LINEAR = frozenset({"Conv", "ConvTranspose", "Gemm", "MatMul", "QLinearConv", "QLinearMatMul"})
_FUSING = _LINEAR | {"Add", "Sum", "BatchNormalization"}
_ACTIVATION_KINDS = """
BatchNormalization Celu Clip Elu Gelu HardSigmoid HardSwish LeakyRelu Mish PRelu Relu Selu Sigmoid Softplus Swish Tanh
"""
_ACTIVATION = frozenset(_ACTIVATION_KINDS.split())
_RENAMING = frozenset({"Dropout", "Flatten", "Identity", "Reshape", "Squeeze", "Unsqueeze"})


class Operation(Protocol):
    """What the fusion rule needs to know about an operation; `ir.Op` has it."""

    @property
    def kind(self) -> str:
        """Return the ONNX operator type, such as `Conv`."""
        ...

    @property
    def inputs(self) -> tuple[str, ...]:
        """Return the names of the activations that the operation reads."""
        ...

    @property
    def outputs(self) -> tuple[str, ...]:
        """Return the names of the activations that it makes."""
        ...

    @property
    def weights(self) -> tuple[str, ...]:
        """Return the names of the weights that it reads."""
        ...


class Dataflow(NamedTuple):
    """What the fusion rule needs to know about a network; the fields are those of `ir.ModelGraph`."""

    ops: Sequence[Operation]
    outputs: tuple[str, ...]
    producer: Mapping[str, int]
    consumers: Mapping[str, tuple[int, ...]]


def fused_groups(graph: Dataflow) -> tuple[tuple[int, ...], ...]:
    """Return the groups of operations that run as one, ordered by their last operation; each is ascending indices.

    The rule follows what ONNX Runtime fuses on processors: a convolution, product or sum absorbs the activation, batch
    norm, clip or constant bias that follows it; a residual sum joins the convolution that feeds it, if nothing else
    reads the convolution's output. Operations that only rename elements (flatten, reshape, dropout) join their source.
    A `QuantizeLinear` joins the operation that feeds it, which then computes in integers.
    Inside a group every tensor has one reader, so a group is always convex.

    Args:
        graph: operations in topological order.
    """
    groups: list[list[int]] = []
    group_of: list[int] = []
    for i, op in enumerate(graph.ops):
        host = _host(graph, i, op)
        if host is None:
            group_of.append(len(groups))
            groups.append([i])
        else:
            group_of.append(group_of[host])
            groups[group_of[host]].append(i)
    return tuple(sorted((tuple(group) for group in groups), key=lambda group: group[-1]))


def _host(graph: Dataflow, index: int, op: Operation) -> int | None:
    """Return the operation that absorbs this one, or None."""
    read = [name for name in op.inputs if name in graph.producer and _feeds_only(graph, name, index)]
    producers = [graph.producer[name] for name in read]
    if op.kind in _RENAMING and op.inputs:
        return next((i for i in producers if op.inputs[0] in graph.ops[i].outputs), None)
    if op.kind == "QuantizeLinear":
        return next((i for i in producers if graph.ops[i].kind != "DequantizeLinear"), None)
    if len(op.inputs) == 1 and (op.kind in _ACTIVATION or (op.kind == "Add" and op.weights)):
        kinds = _LINEAR if op.kind == "Add" else _FUSING
        return next((i for i in producers if graph.ops[i].kind in kinds), None)
    if len(op.inputs) == 2 and op.kind in {"Add", "Sum"}:
        return next((i for i in producers if graph.ops[i].kind == "Conv"), None)
    return None


def _feeds_only(graph: Dataflow, name: str, index: int) -> bool:
    """Return true if operation `index` alone reads this tensor, and its maker makes no other."""
    alone = graph.consumers[name] == (index,) and len(graph.ops[graph.producer[name]].outputs) == 1
    return alone and name not in graph.outputs
