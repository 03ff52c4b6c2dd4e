"""Shapes of all tensors, and values that are known before there is any input: constants and what follows from them."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import onnx
import onnxruntime as ort
from onnx import helper, numpy_helper

from coinfer.graph.flops import OpShapes, op_flop
from coinfer.graph.ir import GraphError, Tensor
from coinfer.graph.onnx.validate import DTYPES
from coinfer.graph.session import CPU, session_options
from coinfer.units import BITS_PER_BYTE, GIGA, MIB

IR_VERSION = 10
"""Version of the format that ONNX Runtime reads in all versions that we support."""
MAX_TENSOR_BYTES = 1024 * MIB
MAX_CONSTANT_BYTES = 1024 * MIB
_MAX_CONSTANT_FLOP = 10 * GIGA
"""Most work for all constants of a model together; the file may be hostile."""
_FATAL_ONLY = 4
"""Log level of ONNX Runtime: errors are raised, so it need not print them too."""
_INLINE_ELEMENTS = 1024
"""Larger constants cannot set a shape, so inference need not see their values."""

Values = dict[str, np.ndarray]


class InferredShapes(NamedTuple):
    """A model with its constants folded and all its shapes known."""

    nodes: list[onnx.NodeProto]
    """Operations that depend on the inputs."""
    constants: Values
    """Values by name."""
    tensors: list[dict[str, Tensor]]
    """By name, once for each input size."""


def infer_shapes(
    nodes: Sequence[onnx.NodeProto], initializers: Values, inputs: Sequence[Sequence[Tensor]], opset: int, where: str
) -> InferredShapes:
    """Return the model with constants folded and all shapes known, for each of several input sizes.

    It proceeds operation by operation so that no absurd shape is passed on: the library that infers shapes ends the
    whole process on some negative sizes.

    Args:
        nodes: operations in topological order.
        initializers: values of constants by name.
        inputs: the graph inputs, once for each combination of sizes; what differs between these is not constant.
        opset: version of the ai.onnx operations.
        where: what messages call the model.

    Raises:
        GraphError: if an operation does not fit its inputs, a tensor would be huge or its shape unknown, or constants
            would be large or take long to compute.
    """
    known = [dict(initializers) for _ in inputs]
    tensors = [{tensor.name: tensor for tensor in sizes} for sizes in inputs]
    budget = _Budget(MAX_CONSTANT_BYTES, _MAX_CONSTANT_FLOP)
    for node in nodes:
        read = [name for name in node.input if name]
        if node.op_type in {"Shape", "Size"} and all(read[0] in by_name for by_name in tensors):
            for values, by_name in zip(known, tensors, strict=True):
                values[node.output[0]] = _measure(node, by_name[read[0]].shape)
        elif all(name in known[0] for name in read):
            shared = all(_same(known, name) for name in read)
            first = _run(node, known[0], opset, where, budget)
            for values in known:
                values |= first if shared or values is known[0] else _run(node, values, opset, where, budget)
        else:
            for values, by_name in zip(known, tensors, strict=True):
                by_name |= _infer(node, values, by_name, opset, where)
    constants = {name: value for name, value in known[0].items() if _same(known, name)}
    for values, by_name in zip(known, tensors, strict=True):
        by_name |= {name: Tensor(name, v.dtype, v.shape) for name, v in values.items() if name not in constants}
    remaining = [node for node in nodes if not all(name in constants for name in node.output if name)]
    return InferredShapes(
        [_with_constant_target(node, known, constants, tensors) for node in remaining], constants, tensors
    )


def _with_constant_target(
    node: onnx.NodeProto, known: Sequence[Values], constants: Values, tensors: Sequence[Mapping[str, Tensor]]
) -> onnx.NodeProto:
    """Return the node; a reshape whose target differs between sizes on one axis only gets a constant target.

    `0` or `-1` then stands for that size. Exporters compute such targets with a chain of small operations, which a cut
    would otherwise cross.
    """
    if node.op_type != "Reshape" or node.input[1] in constants or node.input[1] not in known[0]:
        return node
    targets = [values[node.input[1]] for values in known]
    differ = np.flatnonzero(np.any([target != targets[0] for target in targets], axis=0))
    if len(differ) != 1 or any(attribute.name == "allowzero" and attribute.i for attribute in node.attribute):
        return node
    axis, sources = int(differ[0]), [by_name[node.input[0]].shape for by_name in tensors if node.input[0] in by_name]
    is_copied = len(sources) == len(targets) and all(
        axis < len(shape) and shape[axis] == target[axis] for shape, target in zip(sources, targets, strict=True)
    )
    if not is_copied and -1 in targets[0]:
        return node
    target = targets[0].copy()
    target[axis] = 0 if is_copied else -1
    changed = onnx.NodeProto()
    changed.CopyFrom(node)
    changed.input[1] = f"{node.output[0]}/shape"
    constants[changed.input[1]] = target
    return changed


def _same(known: Sequence[Values], name: str) -> bool:
    first = known[0][name]
    return all(v[name] is first or (v[name].dtype == first.dtype and np.array_equal(v[name], first)) for v in known)


@dataclass
class _Budget:
    """What computing constants may still take."""

    size_bytes: float
    work_flop: float


def _measure(node: onnx.NodeProto, shape: tuple[int, ...]) -> np.ndarray:
    if node.op_type == "Size":
        return np.array(np.prod(shape, dtype=np.int64))
    ends = {attribute.name: attribute.i for attribute in node.attribute}
    return np.array(shape[ends.get("start", 0) : ends.get("end", len(shape))], dtype=np.int64)


def _run(node: onnx.NodeProto, values: Values, opset: int, where: str, budget: _Budget) -> Values:
    """Return the outputs of one operation on constants, if the budget allows."""
    label = f"{where}: operation {node.op_type} ({node.name or node.output[0]!r})"
    read = {name: values[name] for name in node.input if name}
    outputs = [name for name in node.output if name]
    inferred = _infer(node, values, {}, opset, where)
    if node.op_type != "NonZero":  # whose size depends on the values, but is bounded by its input
        if any(name not in inferred for name in outputs[:1]):
            raise GraphError(f"{label} makes a constant whose shape cannot be told; fold constants when exporting")
        shapes = [values[name].shape if name else () for name in node.input]
        budget.size_bytes -= sum(inferred[name].size_bits for name in outputs if name in inferred) / BITS_PER_BYTE
        budget.work_flop -= op_flop(
            OpShapes(node, shapes, [inferred[name].shape for name in outputs if name in inferred])
        )
        if budget.size_bytes < 0 or budget.work_flop < 0:
            raise GraphError(f"{label} makes constants too large or costly; fold constants when exporting")
    graph = helper.make_graph(
        [node], "constant", [onnx.ValueInfoProto(name=name, type=_type(v.dtype, v.shape)) for name, v in read.items()],
        [onnx.ValueInfoProto(name=name) for name in outputs],
    )  # fmt: skip
    options = session_options()
    options.log_severity_level = _FATAL_ONLY
    try:
        session = ort.InferenceSession(_model(graph, opset).SerializeToString(), options, [CPU])
        return {name: np.asarray(value) for name, value in zip(outputs, session.run(outputs, read), strict=True)}
    except Exception as error:  # ONNX Runtime's exceptions share no base class below this one
        raise GraphError(f"{label} cannot be computed: {error}") from error


def _infer(
    node: onnx.NodeProto, values: Values, tensors: Mapping[str, Tensor], opset: int, where: str
) -> dict[str, Tensor]:
    """Return the outputs of one operation, as far as their shapes are known before it runs."""
    label = f"{where}: operation {node.op_type} ({node.name or node.output[0]!r})"
    read = [name for name in node.input if name]
    unknown = [name for name in read if name not in values and name not in tensors]
    if unknown:
        raise GraphError(f"{label} reads {unknown[0]!r}, whose shape is not known; export with fixed shapes")
    types = {name: _type(*(tensors[name][1:3] if name in tensors else _kind(values[name]))) for name in read}
    small = {name: values[name] for name in read if name in values and values[name].size <= _INLINE_ELEMENTS}
    data = {name: numpy_helper.from_array(value, name) for name, value in small.items()}
    schema = onnx.defs.get_schema(node.op_type, opset)
    versions = [helper.make_opsetid("", opset)]
    try:
        types_of = onnx.shape_inference.infer_node_outputs(
            schema, node, types, data, opset_imports=versions, ir_version=IR_VERSION
        )
        if not all(kind.tensor_type.HasField("shape") for kind in types_of.values()):
            types_of = _infer_function(node, types, opset)
    except Exception as error:  # InferenceError and others, by what is wrong
        raise GraphError(f"{label} does not fit its inputs: {error}") from error
    return _tensors(types_of, label)


def _infer_function(node: onnx.NodeProto, types: Mapping[str, onnx.TypeProto], opset: int) -> dict[str, onnx.TypeProto]:
    """Return the types of operations that ONNX defines by others; it infers these only within a model."""
    sources = [onnx.ValueInfoProto(name=name, type=kind) for name, kind in types.items()]
    graph = helper.make_graph([node], "one", sources, [onnx.ValueInfoProto(name=name) for name in node.output if name])
    inferred = onnx.shape_inference.infer_shapes(_model(graph, opset)).graph
    return {value.name: value.type for value in (*inferred.value_info, *inferred.output)}


def _tensors(types: Mapping[str, onnx.TypeProto], label: str) -> dict[str, Tensor]:
    """Return the tensors whose shape is known."""
    tensors = {}
    for name, kind in types.items():
        dims = kind.tensor_type.shape.dim
        sized = kind.tensor_type.HasField("shape") and all(dim.HasField("dim_value") for dim in dims)
        if name and sized and kind.tensor_type.elem_type in DTYPES:
            shape = tuple(dim.dim_value for dim in dims)
            tensors[name] = Tensor(name, DTYPES[kind.tensor_type.elem_type], shape)
            size_bytes = tensors[name].size_bits / BITS_PER_BYTE
            if min(shape, default=0) < 0 or size_bytes > MAX_TENSOR_BYTES:
                raise GraphError(f"{label} makes {name!r} of shape {list(shape)}; at most 1024 MiB are allowed")
    return tensors


def _model(graph: onnx.GraphProto, opset: int) -> onnx.ModelProto:
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=IR_VERSION)


def _type(dtype: np.dtype, shape: tuple[int, ...]) -> onnx.TypeProto:
    return helper.make_tensor_type_proto(helper.np_dtype_to_tensor_dtype(dtype), shape)


def _kind(value: np.ndarray) -> tuple[np.dtype, tuple[int, ...]]:
    return value.dtype, value.shape
