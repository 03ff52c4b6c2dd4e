"""Shapes of all tensors, and values that are known before there is any input: constants and what follows from them."""

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from typing import NamedTuple

import numpy as np
import onnx
from onnx import helper

from coinfer.errors import printable
from coinfer.graph.flops import OpShapes, op_flop
from coinfer.graph.ir import GraphError
from coinfer.graph.onnx import subgraphs
from coinfer.graph.onnx.evaluate import Evaluator, Values
from coinfer.graph.onnx.infer import infer_types, is_sized, small
from coinfer.graph.onnx.limits import DEFAULT_LIMITS, Bounds, Limits, raise_it
from coinfer.graph.onnx.operators import KEEP_QUANTISED, RANDOM, label
from coinfer.graph.onnx.targets import with_constant_target
from coinfer.graph.onnx.weights import DTYPES, PLAIN, read_weights
from coinfer.graph.parts import Tensor
from coinfer.units import BITS_PER_BYTE, GIGA, MIB

_INLINE_ELEMENTS = 1024
"""Larger constants cannot set a shape, so inference need not see their values."""
_MOVER_KINDS = "Shape Gather Slice Concat Squeeze Unsqueeze Cast Identity Reshape Split"
_MOVERS = frozenset(_MOVER_KINDS.split())
"""Operations that only move numbers: what they make of sizes is as free as the numbers that they took."""


class InferredShapes(NamedTuple):
    """A model with its constants folded and its shapes known."""

    nodes: list[onnx.NodeProto]
    """Operations that depend on the inputs, and those on constants that are not folded."""
    constants: Values
    """Values by name."""
    tensors: list[dict[str, Tensor]]
    """By name, once for each combination of input sizes."""
    frozen: set[str]
    """Tensors that follow from constants alone but are computed in every run, such as dequantised weights."""
    unsized: dict[str, str]
    """Why the sizes of these tensors are not known before the network runs, by name."""
    notes: list[str]
    """What was folded, for people."""
    branches_on_size: bool
    """True if a branch was kept whose condition follows from a free size alone."""


@dataclass
class _Walk:
    """What is known so far."""

    versions: Mapping[str, int]
    where: str
    limits: Limits
    known: list[Values]
    tensors: list[dict[str, Tensor]]
    names: set[str]
    evaluator: Evaluator
    bounds: Bounds
    constants_bytes: float
    constants_flop: float
    nodes: list[onnx.NodeProto] = field(default_factory=list[onnx.NodeProto])
    frozen: set[str] = field(default_factory=set[str])
    unsized: dict[str, str] = field(default_factory=dict[str, str])
    sizes: set[str] = field(default_factory=set[str])
    """Constants that follow from free sizes, although they may be equal at those that were tried."""
    folded: Counter[str] = field(default_factory=Counter[str])
    inlined: Counter[str] = field(default_factory=Counter[str])
    branches_on_size: bool = False


def infer_shapes(
    nodes: Sequence[onnx.NodeProto],
    initializers: Values,
    inputs: Sequence[Sequence[Tensor]],
    versions: Mapping[str, int],
    where: str,
    limits: Limits = DEFAULT_LIMITS,
) -> InferredShapes:
    """Return the model with constants folded, known branches inlined and shapes known, at several input sizes.

    It proceeds operation by operation so that no absurd shape is passed on: the library that infers shapes ends the
    whole process on some negative sizes.

    Args:
        nodes: operations in topological order.
        initializers: values of constants by name.
        inputs: the graph inputs, once for each combination of sizes; what differs between these is not constant.
        versions: of the operations by domain.
        where: what messages call the model.
        limits: of what the model may take.

    Raises:
        GraphError: if an operation does not fit its inputs, a tensor would be huge, constants would be large or take
            long to compute, or a loop may go on for ever.
    """
    walk = _Walk(
        versions,
        where,
        limits,
        known=[dict(initializers) for _ in inputs],
        tensors=[{tensor.name: tensor for tensor in sizes} for sizes in inputs],
        names={*initializers, *(name for node in nodes for name in node.output)},
        evaluator=Evaluator(versions),
        bounds=Bounds(limits),
        constants_bytes=limits.constants_mib * MIB,
        constants_flop=limits.constants_gflop * GIGA,
    )
    pending = list(reversed(nodes))
    while pending:
        node = pending.pop()
        pending += reversed(_read(walk, node))
    return _result(walk)


def _read(walk: _Walk, node: onnx.NodeProto) -> list[onnx.NodeProto]:
    """Take in an operation; return the operations that stand for it, if it is a branch that is known."""
    read = subgraphs.reads(node)
    if node.op_type == "If" and read and node.input[0] in walk.known[0]:
        return _branch(walk, node)
    if node.op_type in {"Shape", "Size"} and all(read[0] in by_name for by_name in walk.tensors):
        for values, by_name in zip(walk.known, walk.tensors, strict=True):
            values[node.output[0]] = _measure(node, by_name[read[0]].shape)
        _mark_sizes(walk, node, read)
        walk.nodes.append(node)
    elif all(name in walk.known[0] for name in read) and _is_foldable(node, walk.known[0]):
        _fold(walk, node, read)
        walk.nodes.append(node)
    else:
        _keep(walk, node, read)
    return []


def _branch(walk: _Walk, node: onnx.NodeProto) -> list[onnx.NodeProto]:
    condition = node.input[0]
    if condition in walk.sizes or not _same(walk.known, condition):
        walk.branches_on_size = True
        _keep(walk, node, subgraphs.reads(node))
        return []
    taken = "then_branch" if bool(np.all(walk.known[0][condition])) else "else_branch"
    branch = next(attribute.g for attribute in node.attribute if attribute.name == taken)
    inner, weights = subgraphs.inlined(branch, node, lambda name: _fresh(walk, name))
    named = []
    for name, weight in weights.items():
        copy = onnx.TensorProto()
        copy.CopyFrom(weight)
        copy.name = name
        named.append(copy)
    values = read_weights(named, walk.where, None, walk.limits)
    for known in walk.known:
        known |= values
    walk.inlined[taken.removesuffix("_branch")] += 1
    return inner


def _fresh(walk: _Walk, name: str) -> str:
    """Return a name that nothing has: the name itself, or with a number."""
    new, number = name, 1
    while new in walk.names or new in walk.tensors[0]:
        number += 1
        new = f"{name}#{number}"
    walk.names.add(new)
    return new


def _is_foldable(node: onnx.NodeProto, values: Values) -> bool:
    """Return true if an operation on constants can be computed now; others are left to ONNX Runtime in every run."""
    if node.op_type in RANDOM | KEEP_QUANTISED or any(True for _ in subgraphs.graphs_of(node)):
        return False
    if node.op_type == "Constant":
        return _constant(node) is not None
    dtypes = {values[name].dtype for name in node.input if name}
    if np.dtype(np.float16) in dtypes and node.op_type not in _MOVERS:
        return False  # ONNX Runtime computes it in single precision, and rounds at the end only
    return dtypes <= PLAIN


def _mark_sizes(walk: _Walk, node: onnx.NodeProto, read: Iterable[str]) -> None:
    """Note whether a constant follows from free sizes."""
    output = node.output[0]
    differs = not _same(walk.known, output)
    from_sizes = node.op_type not in _MOVERS and any(name in walk.sizes for name in read)
    if differs or from_sizes:
        walk.sizes.update(filter(None, node.output))


def _fold(walk: _Walk, node: onnx.NodeProto, read: Sequence[str]) -> None:
    shared = all(_same(walk.known, name) for name in read)
    first = _run(walk, node, walk.known[0])
    for values in walk.known:
        values |= first if shared or values is walk.known[0] else _run(walk, node, values)
    _mark_sizes(walk, node, read)
    if node.op_type != "Constant":
        walk.folded[node.op_type] += 1


def _run(walk: _Walk, node: onnx.NodeProto, values: Values) -> Values:
    """Return the outputs of one operation on constants, if the budget allows."""
    problem = f"{walk.where}: {label(node)}"
    read = {name: values[name] for name in node.input if name}
    outputs = [name for name in node.output if name]
    value = _constant(node) if node.op_type == "Constant" else None
    if value is not None:
        return {outputs[0]: value}
    inferred, unsized = _infer(walk, node, values, {})
    if node.op_type != "NonZero":  # whose size depends on the values, but is bounded by its input
        if any(name in unsized for name in outputs[:1]):
            raise GraphError(f"{problem} makes a constant whose shape cannot be told; fold constants when exporting")
        shapes = [values[name].shape if name else () for name in node.input]
        sized = [inferred[name] for name in outputs if name in inferred]
        walk.constants_bytes -= sum(tensor.size_bits for tensor in sized) / BITS_PER_BYTE
        walk.constants_flop -= op_flop(OpShapes(node, shapes, [tensor.shape for tensor in sized]))
        if walk.constants_bytes < 0:
            raise GraphError(
                f"{problem} makes constants too large: more than {walk.limits.constants_mib} MiB in all; "
                f"{raise_it('constants_mib', walk.limits.constants_mib - walk.constants_bytes / MIB)}"
            )
        if walk.constants_flop < 0:
            raise GraphError(
                f"{problem} makes constants too costly: more than {walk.limits.constants_gflop} GFLOP in all; "
                f"{raise_it('constants_gflop', walk.limits.constants_gflop - walk.constants_flop / GIGA)}"
            )
    try:
        return walk.evaluator.run(node, read)
    except Exception as error:  # ONNX Runtime's exceptions share no base class below this one
        raise GraphError(f"{problem} cannot be computed: {printable(str(error), 300)}") from error


def _constant(node: onnx.NodeProto) -> np.ndarray | None:
    """Return the value that a constant states as numbers; None if it is a tensor of a kind for ONNX Runtime."""
    attribute = node.attribute[0]
    numbers = {"value_float": np.float32, "value_floats": np.float32, "value_int": np.int64, "value_ints": np.int64}
    if attribute.name in numbers:
        return np.array(helper.get_attribute_value(attribute), numbers[attribute.name])
    if attribute.name == "value" and attribute.t.data_type in DTYPES:
        return read_weights([attribute.t], "constant", None)[attribute.t.name]
    return None


def _keep(walk: _Walk, node: onnx.NodeProto, read: Sequence[str]) -> None:
    """Take in an operation that runs with the network."""
    walk.nodes.append(node)
    outputs = [name for name in node.output if name]
    walk.bounds.check(node, walk.known[0], walk.frozen, walk.where)
    walk.bounds.add(node, read, walk.known[0])
    source = next((name for name in read if name in walk.unsized), None)
    if source is not None:
        walk.unsized |= dict.fromkeys(outputs, walk.unsized[source])
        return
    for values, by_name in zip(walk.known, walk.tensors, strict=True):
        tensors, unsized = _infer(walk, node, values, by_name)
        by_name |= tensors
        if unsized:
            walk.unsized |= dict.fromkeys(outputs, next(iter(unsized.values())))
    if node.op_type not in RANDOM and all(name in walk.known[0] or name in walk.frozen for name in read):
        walk.frozen.update(outputs)


def _infer(
    walk: _Walk, node: onnx.NodeProto, values: Values, tensors: Mapping[str, Tensor]
) -> tuple[dict[str, Tensor], dict[str, str]]:
    """Return the outputs of one operation, and why the sizes of the others are not known before it runs."""
    problem = f"{walk.where}: {label(node)}"
    read = subgraphs.reads(node)
    missing = [name for name in read if name not in values and name not in tensors]
    if missing:
        raise GraphError(f"{problem} reads {missing[0]!r}, which nothing makes")
    types = {name: _type(*(tensors[name][1:3] if name in tensors else _kind(values[name]))) for name in read}
    data = small({name: values[name] for name in read if name in values}, _INLINE_ELEMENTS)
    try:
        inferred = infer_types(node, types, data, walk.versions)
    except Exception as error:  # InferenceError and others, by what is wrong
        raise GraphError(f"{problem} does not fit its inputs: {printable(str(error), 300)}") from error
    made, unsized = {}, {}
    for name in filter(None, node.output):
        kind = inferred.get(name)
        if kind is not None and is_sized(kind) and kind.tensor_type.elem_type in DTYPES:
            made[name] = _tensor(walk, name, kind, problem)
        else:
            unsized[name] = _reason(node, kind)
    return made, unsized


def _tensor(walk: _Walk, name: str, kind: onnx.TypeProto, problem: str) -> Tensor:
    shape = tuple(dim.dim_value for dim in kind.tensor_type.shape.dim)
    tensor = Tensor(name, DTYPES[kind.tensor_type.elem_type], shape)
    size_mib = tensor.size_bits / BITS_PER_BYTE / MIB
    if min(shape, default=0) < 0:
        raise GraphError(f"{problem} makes {name!r} of shape {list(shape)}, which cannot be")
    if size_mib > walk.limits.tensor_mib:
        raise GraphError(
            f"{problem} makes {name!r} of shape {list(shape)}, {size_mib:.6g} MiB; at most {walk.limits.tensor_mib} "
            f"MiB are allowed; {raise_it('tensor_mib', size_mib)}"
        )
    return tensor


def _reason(node: onnx.NodeProto, kind: onnx.TypeProto | None) -> str:
    if kind is not None and (kind.HasField("sequence_type") or kind.HasField("optional_type")):
        return f"{label(node)} makes a sequence or an optional value"
    if kind is not None and kind.HasField("tensor_type") and kind.tensor_type.elem_type not in {0, *DTYPES}:
        name = onnx.TensorProto.DataType.Name(kind.tensor_type.elem_type)
        return f"{label(node)} makes numbers of type {name}, which cannot be sent"
    return f"the sizes that {label(node)} makes depend on values"


def _result(walk: _Walk) -> InferredShapes:
    constants = {name: value for name, value in walk.known[0].items() if _same(walk.known, name)}
    for values, by_name in zip(walk.known, walk.tensors, strict=True):
        by_name |= {name: Tensor(name, v.dtype, v.shape) for name, v in values.items() if name not in constants}
    remaining = [node for node in walk.nodes if not all(name in constants for name in node.output if name)]
    nodes = [with_constant_target(node, walk.known, constants, walk.tensors) for node in remaining]
    return InferredShapes(
        nodes, constants, walk.tensors, walk.frozen, walk.unsized, _notes(walk), walk.branches_on_size
    )


def _notes(walk: _Walk) -> list[str]:
    notes = []
    if walk.folded:
        kinds = ", ".join(f"{count} {kind}" for kind, count in walk.folded.most_common())
        notes.append(f"{sum(walk.folded.values())} operations on constants and sizes were computed once: {kinds}")
    if walk.inlined:
        notes.append(f"{sum(walk.inlined.values())} branches with a known condition were replaced by the one taken")
    return notes


def _same(known: Sequence[Values], name: str) -> bool:
    first = known[0][name]
    return all(v[name] is first or (v[name].dtype == first.dtype and np.array_equal(v[name], first)) for v in known)


def _measure(node: onnx.NodeProto, shape: tuple[int, ...]) -> np.ndarray:
    if node.op_type == "Size":
        return np.array(np.prod(shape, dtype=np.int64))
    ends = {attribute.name: attribute.i for attribute in node.attribute}
    return np.array(shape[ends.get("start", 0) : ends.get("end", len(shape))], dtype=np.int64)


@lru_cache(4096)
def _type(dtype: np.dtype, shape: tuple[int, ...]) -> onnx.TypeProto:
    return helper.make_tensor_type_proto(helper.np_dtype_to_tensor_dtype(dtype), shape)


def _kind(value: np.ndarray) -> tuple[np.dtype, tuple[int, ...]]:
    return value.dtype, value.shape
