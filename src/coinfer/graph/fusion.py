"""Which operations executors run as one: no useful cut falls between them."""

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
    """What the rule needs to know of an operation, as `ir.Op` has it."""

    @property
    def kind(self) -> str: ...

    @property
    def inputs(self) -> tuple[str, ...]: ...

    @property
    def outputs(self) -> tuple[str, ...]: ...

    @property
    def weights(self) -> tuple[str, ...]: ...


class Dataflow(NamedTuple):
    """What the rule needs to know of a network; fields as `ir.ModelGraph` has them."""

    ops: Sequence[Operation]
    outputs: tuple[str, ...]
    producer: Mapping[str, int]
    consumers: Mapping[str, tuple[int, ...]]


def fused_groups(graph: Dataflow) -> tuple[tuple[int, ...], ...]:
    """Return the operations that belong together, as indices in ascending order, ordered by the last of each group.

    The rule follows what ONNX Runtime fuses on processors: a convolution, product or sum takes in the activation, batch
    norm, clip or constant bias that follows it; a residual sum joins the convolution that feeds it, if nothing else
    reads that one. What only renames elements (flatten, reshape, dropout) joins its source. Inside a group every
    tensor has one reader, so a group is always convex.
    """
    groups: list[list[int]] = []
    home: list[int] = []
    for i, op in enumerate(graph.ops):
        source = _host(graph, i, op)
        if source is None:
            home.append(len(groups))
            groups.append([i])
        else:
            home.append(home[source])
            groups[home[source]].append(i)
    return tuple(sorted((tuple(group) for group in groups), key=lambda group: group[-1]))


def _host(graph: Dataflow, index: int, op: Operation) -> int | None:
    """Return the operation that takes this one in."""
    read = [name for name in op.inputs if name in graph.producer and _feeds_only(graph, name, index)]
    makers = [graph.producer[name] for name in read]
    if op.kind in _RENAMING and op.inputs:
        return next((i for i in makers if op.inputs[0] in graph.ops[i].outputs), None)
    if len(op.inputs) == 1 and (op.kind in _ACTIVATION or (op.kind == "Add" and op.weights)):
        wanted = _LINEAR if op.kind == "Add" else _FUSING
        return next((i for i in makers if graph.ops[i].kind in wanted), None)
    if len(op.inputs) == 2 and op.kind in {"Add", "Sum"}:
        return next((i for i in makers if graph.ops[i].kind == "Conv"), None)
    return None


def _feeds_only(graph: Dataflow, name: str, index: int) -> bool:
    """Return true if operation `index` alone reads this tensor, and its maker makes no other."""
    alone = graph.consumers[name] == (index,) and len(graph.ops[graph.producer[name]].outputs) == 1
    return alone and name not in graph.outputs
