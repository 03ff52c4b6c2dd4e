"""Makes a network of an ONNX model whose constants are folded and whose shapes are known."""

import math
from collections.abc import Iterable, Mapping, Sequence, Set
from typing import NamedTuple

import numpy as np
import onnx
from onnx.helper import make_tensor_value_info, np_dtype_to_tensor_dtype

from coinfer.graph.flops import OpShapes, op_flop
from coinfer.graph.ir import GraphError, ModelGraph
from coinfer.graph.onnx import axes
from coinfer.graph.onnx.evaluate import IR_VERSION, single_model
from coinfer.graph.onnx.limits import Limits, raise_it
from coinfer.graph.onnx.operators import domain_of, label
from coinfer.graph.onnx.shapes import InferredShapes
from coinfer.graph.onnx.subgraphs import graphs_of, reads, walk
from coinfer.graph.onnx.weights import DTYPES, PLAIN
from coinfer.graph.parts import ImportNotes, Op, Tensor
from coinfer.graph.pictures import image_of
from coinfer.units import GIGA

WEIGHTS = "weights"
"""Location that the structure states for its weights; ONNX Runtime gets them from memory under this name."""
TAIL = "Tail"
"""Kind of the operation that stands for everything whose sizes depend on values."""

_SETTING_KINDS = """
CenterCropPad Clip ConstantOfShape CumSum DFT Dropout Expand OneHot Pad Range ReduceL1 ReduceL2 ReduceLogSum
ReduceLogSumExp ReduceMax ReduceMean ReduceMin ReduceProd ReduceSum ReduceSumSquare Reshape Resize Slice Split Squeeze
Tile TopK Trilu Unsqueeze Upsample
"""
_SETTING_INPUTS = frozenset(_SETTING_KINDS.split())
"""Operations that constants configure; their values belong to the structure."""
_MAX_SETTING_BYTES = 65_536


class Model(NamedTuple):
    """A validated model and what is said about it."""

    proto: onnx.ModelProto
    name: str
    where: str
    outputs: tuple[str, ...]
    versions: Mapping[str, int]
    limits: Limits
    labels: Mapping[str, str]
    """The file's own names of tensors that were renamed."""


def assemble(inferred: InferredShapes, resolved: axes.ResolvedAxes, model: Model) -> ModelGraph:
    """Return the network.

    Args:
        inferred: nodes, constants and shapes; only nodes that the outputs need.
        resolved: sizes of the inputs.
        model: that they come from.

    Raises:
        GraphError: if an output cannot be sent, an operation depends on nothing, or the network takes too much work.
    """
    nodes = _tail_last(inferred)
    first_tail = len(nodes) - sum(_is_tail(node, inferred) for node in nodes)
    inputs_of = [reads(node) for node in nodes]
    read = {name for names in inputs_of for name in names}
    used = _used(inferred, resolved, model, nodes, read)
    ends = tuple(v.name for v in model.proto.graph.input if v.name in used and v.name not in inferred.constants)
    weights, proto = _structure(nodes, inferred.constants, read, model)
    shape_of = {name: tensor.shape for name, tensor in inferred.tensors[0].items() if name not in inferred.unsized}
    shape_of |= {name: value.shape for name, value in inferred.constants.items()}
    makers = {name: i for i, node in enumerate(nodes) for name in node.output if name in inferred.frozen}
    ops = []
    for indices in [(i,) for i in range(first_tail)] + [tuple(range(first_tail, len(nodes)))]:
        if indices and not (len(indices) == 1 and makers.get(_first_output(nodes[indices[0]])) == indices[0]):
            ops.append(_op(proto, _with_frozen(indices, inputs_of, makers), indices, used, weights, shape_of, model))
    work_flop = sum(op.work_flop for op in ops)
    if work_flop > model.limits.gflop * GIGA:
        raise GraphError(
            f"{model.where}: {work_flop:.3g} operations per input; at most {model.limits.gflop * GIGA:.0e} are "
            f"allowed; {raise_it('gflop', work_flop / GIGA)}"
        )
    batches = {axis.name for axis in resolved.free if axis.is_batch}
    has_graphs = any(True for node in nodes for _ in graphs_of(node))
    values = {name: _value(tensor, batches, sized=not has_graphs) for name, tensor in used.items()}
    proto.graph.input.extend(values[name] for name in ends)
    proto.graph.output.extend(values[name] for name in model.outputs)
    proto.graph.value_info.extend(v for n, v in values.items() if n not in ends and n not in model.outputs)
    image = image_of(model.proto.metadata_props, [used[end] for end in ends], model.where)
    reasons = dict.fromkeys(
        inferred.unsized[name] for node in nodes for name in node.output if name in inferred.unsized
    )
    return ModelGraph(
        model.name,
        tuple(ops),
        used,
        ends,
        model.outputs,
        proto,
        weights,
        resolved.free,
        resolved.fixed,
        image,
        model.labels,
        ImportNotes(tuple(inferred.notes), tuple(reasons)),
    )


def _is_tail(node: onnx.NodeProto, inferred: InferredShapes) -> bool:
    return any(name in inferred.unsized for name in node.output)


def _first_output(node: onnx.NodeProto) -> str:
    return next(filter(None, node.output))


def _tail_last(inferred: InferredShapes) -> list[onnx.NodeProto]:
    """Return the nodes, those whose sizes depend on values at the end; everything that reads these is among them."""
    return [node for last in (False, True) for node in inferred.nodes if _is_tail(node, inferred) == last]


def _used(
    inferred: InferredShapes, resolved: axes.ResolvedAxes, model: Model, nodes: Sequence[onnx.NodeProto], read: Set[str]
) -> dict[str, Tensor]:
    """Return the activations: inputs and what operations outside the tail make, and the network's outputs."""
    at_one = inferred.tensors[0]
    names = [v.name for v in model.proto.graph.input if v.name in at_one and v.name in {*read, *model.outputs}]
    wanted = {*read, *model.outputs}
    for node in nodes:
        needed = model.outputs if _is_tail(node, inferred) else wanted
        names += [name for name in node.output if name in needed and name not in inferred.frozen]
    probes = axes.probes(resolved.free)
    types = _declared(inferred, nodes, model) if inferred.unsized else {}
    used = {}
    for name in names:
        if name in inferred.unsized:
            used[name] = _output_of_tail(name, inferred.unsized[name], types[name], inferred, model)
        else:
            free = axes.axis_names(name, inferred.tensors, probes) if resolved.free else ()
            used[name] = at_one[name]._replace(axes=free)
    return used


def _declared(inferred: InferredShapes, nodes: Sequence[onnx.NodeProto], model: Model) -> dict[str, onnx.TypeProto]:
    """Return the types of the network's outputs as far as its file, or ONNX's inference of the tail, says them."""
    tail = [node for node in nodes if _is_tail(node, inferred)]
    graph = onnx.GraphProto(name="tail", node=tail)
    made = {name for node in tail for name in node.output}
    for name in dict.fromkeys(name for node in tail for name in reads(node) if name not in made):
        constant = inferred.constants.get(name)
        if constant is not None and constant.nbytes <= _MAX_SETTING_BYTES:
            graph.initializer.append(onnx.numpy_helper.from_array(constant, name))
        else:
            known = inferred.tensors[0].get(name)
            dtype, shape = known[1:3] if known else (inferred.constants[name].dtype, inferred.constants[name].shape)
            graph.input.append(make_tensor_value_info(name, np_dtype_to_tensor_dtype(dtype), shape))
    graph.output.extend(value for value in model.proto.graph.output if value.name in made)
    typed = onnx.shape_inference.infer_shapes(single_model(graph, model.versions), data_prop=True).graph
    types = {value.name: value.type for value in model.proto.graph.output}
    for value in typed.output:
        declared = types[value.name]
        if not declared.HasField("tensor_type") or not declared.tensor_type.HasField("shape"):
            types[value.name] = value.type
    return types


def _output_of_tail(name: str, reason: str, kind: onnx.TypeProto, inferred: InferredShapes, model: Model) -> Tensor:
    """Return an output whose sizes are not known: 0 stands for those."""
    problem = f"{model.where}: output {model.labels.get(name, name)!r}"
    if not kind.HasField("tensor_type"):
        what = (kind.WhichOneof("value") or "value of unknown").removesuffix("_type")
        raise GraphError(
            f"{problem} is a {what} and no tensor, so it cannot be sent ({reason}); export the network without it, or "
            "with tensors in its place (zipmap=False in skl2onnx)"
        )
    element = kind.tensor_type.elem_type
    if element == onnx.TensorProto.UNDEFINED:
        raise GraphError(f"{problem} states no type of numbers; export the network with types")
    if element not in DTYPES:
        name_of_type = onnx.TensorProto.DataType.Name(element)
        raise GraphError(f"{problem} has type {name_of_type}, which cannot be sent; cast it to FLOAT when exporting")
    known = inferred.tensors[0].get(name)
    dims = kind.tensor_type.shape.dim
    shape = known.shape if known else tuple(max(dim.dim_value, 0) for dim in dims)
    return Tensor(name, DTYPES[element], shape, tuple("" if size else "?" for size in shape))


def _with_frozen(
    indices: Iterable[int], inputs_of: Sequence[Sequence[str]], makers: Mapping[str, int]
) -> tuple[int, ...]:
    """Return some nodes and all nodes on constants alone that these need, ascending."""
    found, pending = set(indices), list(indices)
    while pending:
        for name in inputs_of[pending.pop()]:
            if name in makers and makers[name] not in found:
                found.add(makers[name])
                pending.append(makers[name])
    return tuple(sorted(found))


def _settings(nodes: Sequence[onnx.NodeProto], constants: Mapping[str, np.ndarray], read: Set[str]) -> set[str]:
    """Return the constants that stay inside the structure: small ones that training did not make, and packed ones."""
    names = {name for node in nodes if node.op_type in _SETTING_INPUTS for name in node.input if name in constants}
    names |= {name for name, value in constants.items() if value.ndim == 0 or value.dtype in (np.int64, np.bool_)}
    small = {name for name in names if constants[name].nbytes <= _MAX_SETTING_BYTES}
    return small | {name for name in read if name in constants and constants[name].dtype not in PLAIN}


def _structure(
    nodes: Sequence[onnx.NodeProto], constants: Mapping[str, np.ndarray], read: Set[str], model: Model
) -> tuple[dict[str, np.ndarray], onnx.ModelProto]:
    """Return the weights, and nodes with unique names and without notes; inputs and outputs are added later."""
    settings = _settings(nodes, constants, read)
    weights = {n: np.ascontiguousarray(v) for n, v in constants.items() if n in read and n not in settings}
    proto = onnx.ModelProto(ir_version=IR_VERSION, metadata_props=model.proto.metadata_props)
    proto.graph.name = model.proto.graph.name or "network"
    names = set[str]()
    for i, node in enumerate(nodes):
        copy = proto.graph.node.add()
        copy.CopyFrom(node)
        choices = (node.name, _first_output(node), f"{node.op_type}#{i}")
        copy.name = next(choice for choice in choices if choice and choice not in names)
        copy.ClearField("doc_string")
        copy.ClearField("metadata_props")
        names.add(copy.name)
    for name, value in constants.items():
        if name in weights:
            proto.graph.initializer.append(reference(name, value))
        elif name in read:
            proto.graph.initializer.append(onnx.numpy_helper.from_array(value, name))
    domains = {domain_of(node) for graph in walk(proto.graph) for node in graph.node}
    for domain, version in model.versions.items():
        if domain == "" or domain in domains:
            proto.opset_import.add(domain=domain, version=version)
    return weights, proto


def reference(name: str, value: np.ndarray) -> onnx.TensorProto:
    """Return an initializer whose value is handed over in memory.

    Args:
        name: of the weight.
        value: sets type and shape only.
    """
    kind = np_dtype_to_tensor_dtype(value.dtype)
    tensor = onnx.TensorProto(name=name, data_type=kind, dims=value.shape, data_location=onnx.TensorProto.EXTERNAL)
    tensor.external_data.add(key="location", value=WEIGHTS)
    return tensor


def _op(
    proto: onnx.ModelProto,
    indices: tuple[int, ...],
    main: tuple[int, ...],
    used: Mapping[str, Tensor],
    weights: Mapping[str, np.ndarray],
    shape_of: Mapping[str, tuple[int, ...]],
    model: Model,
) -> Op:
    """Return the operation of some nodes; the main ones make its outputs, the others what these need of constants."""
    nodes = [proto.graph.node[i] for i in indices]
    node = proto.graph.node[main[0]]
    made = {name for one in nodes for name in one.output}
    read = list(dict.fromkeys(name for one in nodes for name in reads(one)))
    own = tuple(name for name in read if name in weights)
    activations = tuple(name for name in read if name in used and name not in made)
    outputs = tuple(name for i in main for name in proto.graph.node[i].output if name in used)
    kind = TAIL if len(main) > 1 else node.op_type
    flop = sum(node_flop(proto.graph.node[i], shape_of, model.where) for i in main)
    return Op(node.name, kind, activations, outputs, own, flop, sum(math.prod(weights[n].shape) for n in own), indices)


def node_flop(node: onnx.NodeProto, shape_of: Mapping[str, tuple[int, ...]], where: str) -> float:
    """Return the floating-point operations of a node; 0 if a size that it reads or makes is not known.

    Args:
        node: of the model.
        shape_of: shapes of tensors and constants by name.
        where: what messages call the model.

    Raises:
        GraphError: if the node does not fit the shapes.
    """
    ends = [name for name in (*node.input, *node.output) if name]
    if any(True for _ in graphs_of(node)) or not all(name in shape_of for name in ends):
        return 0.0
    sizes = [shape_of[name] if name else () for name in node.input]
    try:
        return op_flop(OpShapes(node, sizes, [shape_of[name] for name in node.output if name]))
    except (IndexError, ValueError, TypeError, AttributeError) as error:
        raise GraphError(f"{where}: {label(node)} does not fit its inputs {sizes}") from error


def _value(tensor: Tensor, batches: Set[str], *, sized: bool) -> onnx.ValueInfoProto:
    """Return the tensor's type; free axes have the name of their size, or none.

    No axis has a size where operations hold graphs: ONNX Runtime would refuse branches for other sizes, not taken.
    """
    free = {"?": None} | dict.fromkeys(batches, axes.BATCH)
    names = tensor.axes or ("",) * len(tensor.shape)
    fixed = tensor.shape if sized else [None] * len(tensor.shape)
    dims = [free.get(axis, axis) if axis else size for size, axis in zip(fixed, names, strict=True)]
    return make_tensor_value_info(tensor.name, np_dtype_to_tensor_dtype(tensor.dtype), dims)
