"""ONNX models as graphs: read, validated, with constants folded and the shape of every tensor known."""

import math
from collections.abc import Mapping, Sequence, Set
from pathlib import Path
from types import MappingProxyType

import numpy as np
import onnx

from coinfer.graph.flops import OpShapes, op_flop
from coinfer.graph.ir import GraphError, ModelGraph, Op, Tensor
from coinfer.graph.onnx import axes, shapes, validate
from coinfer.graph.pictures import image_of

WEIGHTS = "weights"
"""Location that the structure states for its weights; ONNX Runtime gets them from memory under this name."""
MAX_WORK_FLOP = 1e14
"""At batch 1; a hundred times a large vision transformer. A hostile file could take years."""

_SETTING_KINDS = """
CenterCropPad Clip ConstantOfShape CumSum DFT Dropout Expand OneHot Pad Range ReduceL1 ReduceL2 ReduceLogSum
ReduceLogSumExp ReduceMax ReduceMean ReduceMin ReduceProd ReduceSum ReduceSumSquare Reshape Resize Slice Split Squeeze
Tile TopK Trilu Unsqueeze Upsample
"""
_SETTING_INPUTS = frozenset(_SETTING_KINDS.split())
"""Operations that constants configure; their values belong to the structure."""
_MAX_SETTING_BYTES = 65_536


def load(path: str | Path, sizes: axes.Shapes = MappingProxyType({})) -> ModelGraph:
    """Return the network in an ONNX file; weights in other files beside it are read too.

    Args:
        path: of the file; its stem becomes the network's name.
        sizes: of free axes, by name of an axis or of an input (`axes.Shapes`); a batch needs none.

    Raises:
        GraphError: if the file is missing or no ONNX model, `validate` refuses it, it takes too much work, or shapes
            are not known before it runs.
    """
    path = Path(path)
    try:
        return from_proto(validate.read_proto(path), path.stem, directory=path.parent, where=str(path), sizes=sizes)
    except UnicodeDecodeError as error:
        raise GraphError(f"{path}: holds a name that is no text; the file is damaged") from error


def from_proto(
    model: onnx.ModelProto,
    name: str,
    weights: Mapping[str, np.ndarray] | None = None,
    directory: Path | None = None,
    where: str | None = None,
    sizes: axes.Shapes = MappingProxyType({}),
) -> ModelGraph:
    """Return a model in memory as a network.

    Args:
        model: validated here; it stays as it is.
        name: of the network.
        weights: values of initializers that the model only refers to, by name.
        directory: folder below which other files with weights may lie; None reads none.
        where: what messages call the model; None takes `name`.
        sizes: of free axes, by name of an axis or of an input; a batch needs none.

    Raises:
        GraphError: if `validate` refuses the model, it takes too much work, or shapes are not known before it runs.
    """
    where = where or name
    validate.check_proto(model, where)
    referenced = weights or {}
    inline = [value for value in model.graph.initializer if value.name not in referenced]
    values = {**referenced, **validate.read_weights(inline, where, directory)}
    opset = next(opset.version for opset in model.opset_import if opset.domain in {"", "ai.onnx"})
    nodes, outputs = list(model.graph.node), tuple(value.name for value in model.graph.output)
    _check_names(model.graph, where)
    _check_order(nodes, {*values, *(value.name for value in model.graph.input)}, outputs, where)
    sources = [value for value in model.graph.input if value.name not in values]
    resolved = axes.resolve([_input(value, where) for value in sources], sizes, where)
    resolved, inferred = _infer_shapes(_needed_nodes(nodes, outputs), values, resolved, outputs, opset, where)
    for output in outputs:
        if output in inferred.constants:
            raise GraphError(f"{where}: output {output!r} does not depend on the input; drop it when exporting")
        if output not in inferred.tensors[0]:
            raise GraphError(f"{where}: the shape of output {output!r} is not known; export with fixed shapes")
    inferred = inferred._replace(nodes=_needed_nodes(inferred.nodes, outputs))
    return _assemble(inferred, resolved, outputs, model, name, where)


def _infer_shapes(
    nodes: Sequence[onnx.NodeProto],
    values: dict[str, np.ndarray],
    resolved: axes.ResolvedAxes,
    outputs: Sequence[str],
    opset: int,
    where: str,
) -> tuple[axes.ResolvedAxes, shapes.InferredShapes]:
    """Return shapes at several sizes of the free axes; networks that only claim a free batch are fixed at one."""

    def infer(known: axes.ResolvedAxes, sizes: Sequence[Mapping[str, int]]) -> shapes.InferredShapes:
        return shapes.infer_shapes(nodes, values, [known.tensors(each) for each in sizes], opset, where)

    probes = axes.probes(resolved.free)
    batch = next((axis.name for axis in resolved.free if axis.is_batch), None)
    if batch is None:
        return resolved, infer(resolved, probes)
    one = resolved.fix({batch: 1})
    try:
        inferred = infer(resolved, probes)
    except GraphError:
        return one, infer(one, axes.probes(one.free))
    if all(batch in axes.axis_names(name, inferred.tensors, probes) for name in outputs):
        return resolved, inferred
    return one, infer(one, axes.probes(one.free))


def _check_names(graph: onnx.GraphProto, where: str) -> None:
    for role, values in (("input", graph.input), ("output", graph.output), ("weight", graph.initializer)):
        names = {""}
        for value in values:
            if value.name in names:
                raise GraphError(f"{where}: {role} {value.name!r} is nameless or named twice")
            names.add(value.name)


def _check_order(nodes: Sequence[onnx.NodeProto], known: set[str], outputs: Sequence[str], where: str) -> None:
    """Refuse operations that read a tensor before it is made, or make one twice."""
    for node in nodes:
        for source in node.input:
            if source and source not in known:
                raise GraphError(
                    f"{where}: operation {node.op_type} ({node.name!r}) reads {source!r} before it is made"
                )
        for output in filter(None, node.output):
            if output in known:
                raise GraphError(f"{where}: tensor {output!r} is made twice")
            known.add(output)
    missing = [output for output in outputs if output not in known]
    if missing:
        raise GraphError(f"{where}: nothing makes the output {missing[0]!r}")


def _input(value: onnx.ValueInfoProto, where: str) -> axes.InputAxes:
    kind = value.type.tensor_type
    if kind.elem_type not in validate.DTYPES or not kind.HasField("shape"):
        raise GraphError(f"{where}: input {value.name!r} is no tensor of numbers with a known shape; export it so")
    dims = tuple(
        dim.dim_value if dim.dim_value > 0 else dim.dim_param or f"{value.name}.{axis}"
        for axis, dim in enumerate(kind.shape.dim)
    )
    return axes.InputAxes(value.name, validate.DTYPES[kind.elem_type], dims)


def _needed_nodes(nodes: Sequence[onnx.NodeProto], outputs: Sequence[str]) -> list[onnx.NodeProto]:
    """Return the nodes that the outputs need."""
    names, needed = set(outputs), []
    for node in reversed(nodes):
        if names.intersection(node.output):
            names.update(node.input)
            needed.append(node)
    return needed[::-1]


def _assemble(
    inferred: shapes.InferredShapes,
    resolved: axes.ResolvedAxes,
    outputs: tuple[str, ...],
    model: onnx.ModelProto,
    name: str,
    where: str,
) -> ModelGraph:
    nodes, constants, tensors = inferred
    at_one = tensors[0]
    read = {source for node in nodes for source in node.input}
    sources = [value.name for value in model.graph.input if value.name in at_one]
    ends = tuple(source for source in sources if source in read or source in outputs)
    used = {source: at_one[source] for source in ends}
    for node in nodes:
        used |= {output: at_one[output] for output in node.output if output in read or output in outputs}
    settings = _settings(nodes, constants)
    weights = {n: np.ascontiguousarray(v) for n, v in constants.items() if n in read and n not in settings}
    proto = _structure(nodes, constants, weights, read, model)
    ops = tuple(_op(node, used, weights, constants, at_one, where) for node in proto.graph.node)
    work_flop = sum(op.work_flop for op in ops)
    if work_flop > MAX_WORK_FLOP:
        raise GraphError(f"{where}: {work_flop:.3g} operations per input; at most {MAX_WORK_FLOP:.0e} are allowed")
    if resolved.free:
        probes = axes.probes(resolved.free)
        used = {n: t._replace(axes=axes.axis_names(n, tensors, probes)) for n, t in used.items()}
    batches = {axis.name for axis in resolved.free if axis.is_batch}
    values = {tensor: _value(used[tensor], batches) for tensor in used}
    proto.graph.input.extend(values[tensor] for tensor in ends)
    proto.graph.output.extend(values[tensor] for tensor in outputs)
    proto.graph.value_info.extend(v for tensor, v in values.items() if tensor not in ends and tensor not in outputs)
    image = image_of(model.metadata_props, [used[end] for end in ends], where)
    return ModelGraph(name, ops, used, ends, outputs, proto, weights, resolved.free, resolved.fixed, image)


def _settings(nodes: Sequence[onnx.NodeProto], constants: Mapping[str, np.ndarray]) -> set[str]:
    """Return the constants that stay inside the structure: small ones that training did not make."""
    read = {name for node in nodes if node.op_type in _SETTING_INPUTS for name in node.input if name in constants}
    read |= {name for name, value in constants.items() if value.ndim == 0 or value.dtype in (np.int64, np.bool_)}
    return {name for name in read if constants[name].nbytes <= _MAX_SETTING_BYTES}


def _structure(
    nodes: Sequence[onnx.NodeProto],
    constants: Mapping[str, np.ndarray],
    weights: Mapping[str, np.ndarray],
    read: set[str],
    model: onnx.ModelProto,
) -> onnx.ModelProto:
    """Return nodes with unique names and without notes, with their constants; inputs and outputs are added later."""
    opset = next(opset for opset in model.opset_import if opset.domain in {"", "ai.onnx"})
    proto = onnx.ModelProto(ir_version=shapes.IR_VERSION, metadata_props=model.metadata_props)
    proto.opset_import.add(domain="", version=opset.version)
    proto.graph.name = model.graph.name or "network"
    names = set[str]()
    for i, node in enumerate(nodes):
        copy = proto.graph.node.add()
        copy.CopyFrom(node)
        choices = (node.name, next(filter(None, node.output)), f"{node.op_type}#{i}")
        copy.name = next(choice for choice in choices if choice and choice not in names)
        copy.ClearField("doc_string")
        copy.ClearField("metadata_props")
        names.add(copy.name)
    for name, value in constants.items():
        if name in weights:
            proto.graph.initializer.append(reference(name, value))
        elif name in read:
            proto.graph.initializer.append(onnx.numpy_helper.from_array(value, name))
    return proto


def reference(name: str, value: np.ndarray) -> onnx.TensorProto:
    """Return an initializer whose value is handed over in memory.

    Args:
        name: of the weight.
        value: sets type and shape only.
    """
    kind = onnx.helper.np_dtype_to_tensor_dtype(value.dtype)
    tensor = onnx.TensorProto(name=name, data_type=kind, dims=value.shape, data_location=onnx.TensorProto.EXTERNAL)
    tensor.external_data.add(key="location", value=WEIGHTS)
    return tensor


def _op(
    node: onnx.NodeProto,
    used: Mapping[str, Tensor],
    weights: Mapping[str, np.ndarray],
    constants: Mapping[str, np.ndarray],
    tensors: Mapping[str, Tensor],
    where: str,
) -> Op:
    read = list(dict.fromkeys(filter(None, node.input)))
    own = tuple(name for name in read if name in weights)
    activations = tuple(name for name in read if name in used)
    if not activations:
        raise GraphError(f"{where}: operation {node.op_type} ({node.name!r}) reads no tensor that the input leads to")
    sizes = [constants[n].shape if n in constants else tensors[n].shape if n else () for n in node.input]
    try:
        flop = op_flop(OpShapes(node, sizes, [tensors[n].shape for n in node.output if n in tensors]))
    except (IndexError, ValueError, TypeError, AttributeError) as error:
        raise GraphError(
            f"{where}: operation {node.op_type} ({node.name!r}) does not fit its inputs {sizes}"
        ) from error
    params = sum(math.prod(weights[name].shape) for name in own)
    return Op(node.name, node.op_type, activations, tuple(n for n in node.output if n in used), own, flop, params)


def _value(tensor: Tensor, batches: Set[str]) -> onnx.ValueInfoProto:
    """Return the tensor's type; free axes have the name of their size, or none."""
    free = {"?": None} | dict.fromkeys(batches, axes.BATCH)
    names = tensor.axes or ("",) * len(tensor.shape)
    dims = [free.get(axis, axis) if axis else size for size, axis in zip(tensor.shape, names, strict=True)]
    return onnx.helper.make_tensor_value_info(tensor.name, onnx.helper.np_dtype_to_tensor_dtype(tensor.dtype), dims)
