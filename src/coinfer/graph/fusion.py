"""Which operations executors run as one: no useful cut falls between them."""

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from coinfer.graph.ir import ModelGraph, Op

_LINEAR = frozenset({"Conv", "ConvTranspose", "Gemm", "MatMul", "QLinearConv", "QLinearMatMul"})
_FUSING = _LINEAR | {"Add", "Sum", "BatchNormalization"}
_ACTIVATION_KINDS = """
BatchNormalization Celu Clip Elu Gelu HardSigmoid HardSwish LeakyRelu Mish PRelu Relu Selu Sigmoid Softplus Swish Tanh
"""
_ACTIVATION = frozenset(_ACTIVATION_KINDS.split())
_RENAMING = frozenset({"Dropout", "Flatten", "Identity", "Reshape", "Squeeze", "Unsqueeze"})


def fused_groups(graph: "ModelGraph") -> tuple[tuple[int, ...], ...]:
    """Operations that belong together, as indices in ascending order; the groups are ordered by their last operation.

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


def _host(graph: "ModelGraph", index: int, op: "Op") -> int | None:
    """The operation that takes this one in."""
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


def _feeds_only(graph: "ModelGraph", name: str, index: int) -> bool:
    """True where operation `index` alone reads this tensor, and its maker makes no other."""
    alone = graph.consumers[name] == (index,) and len(graph.ops[graph.producer[name]].outputs) == 1
    return alone and name not in graph.outputs
