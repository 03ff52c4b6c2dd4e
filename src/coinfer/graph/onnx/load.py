"""ONNX models as graphs: read, validated, with constants folded and the shape of every tensor known."""

import contextlib
import heapq
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import MappingProxyType

import numpy as np
import onnx

from coinfer.graph.ir import GraphError, ModelGraph
from coinfer.graph.onnx import axes, shapes, validate
from coinfer.graph.onnx.assemble import Model, assemble
from coinfer.graph.onnx.limits import DEFAULT_LIMITS, Limits
from coinfer.graph.onnx.operators import label
from coinfer.graph.onnx.rewrite import inline_functions, shorten
from coinfer.graph.onnx.subgraphs import hoist, reads
from coinfer.graph.onnx.weights import DTYPES, read_weights
from coinfer.graph.parts import Tensor


def load(path: str | Path, sizes: axes.Shapes = MappingProxyType({}), limits: Limits = DEFAULT_LIMITS) -> ModelGraph:
    """Return the network in an ONNX file; weights in other files beside it are read too.

    Args:
        path: of the file; its stem becomes the network's name.
        sizes: of free axes, by name of an axis or of an input (`axes.Shapes`); a batch needs none.
        limits: of what the file may take.

    Raises:
        GraphError: if the file is missing or no ONNX model, `validate` refuses it, it takes too much work, or an axis
            has no size.
    """
    path = Path(path)
    try:
        model = validate.read_proto(path)
        return from_proto(model, path.stem, directory=path.parent, where=str(path), sizes=sizes, limits=limits)
    except UnicodeDecodeError as error:
        raise GraphError(f"{path}: holds a name that is no text; the file is damaged") from error


def declared_inputs(model: onnx.ModelProto, where: str, sizes: axes.Shapes) -> list[axes.InputAxes]:
    """Return the inputs of a model as its file declares them, those that initializers give a value left out.

    Args:
        model: nothing in it need be valid.
        where: what messages call the model.
        sizes: of free axes; those of inputs that state no shape count.

    Raises:
        GraphError: if an input is no tensor, or states no shape and has none in `sizes`.
    """
    known = {value.name for value in model.graph.initializer}
    return [_input(value, sizes, where) for value in model.graph.input if value.name not in known]


def from_proto(
    model: onnx.ModelProto,
    name: str,
    weights: Mapping[str, np.ndarray] | None = None,
    directory: Path | None = None,
    where: str | None = None,
    sizes: axes.Shapes = MappingProxyType({}),
    limits: Limits = DEFAULT_LIMITS,
) -> ModelGraph:
    """Return a model in memory as a network.

    Args:
        model: validated here; it stays as it is.
        name: of the network.
        weights: values of initializers that the model only refers to, by name.
        directory: folder below which other files with weights may lie; None reads none.
        where: what messages call the model; None takes `name`.
        sizes: of free axes, by name of an axis or of an input; a batch needs none.
        limits: of what the model may take.

    Raises:
        GraphError: if `validate` refuses the model, it takes too much work, or an axis has no size.
    """
    where = where or name
    model = inline_functions(model, where, limits)
    validate.check_proto(model, where, limits)
    model, labels = shorten(hoist(model))
    referenced = weights or {}
    inline = [value for value in model.graph.initializer if value.name not in referenced]
    values = {**referenced, **read_weights(inline, where, directory, limits)}
    outputs = tuple(value.name for value in model.graph.output)
    _check_names(model.graph, where)
    nodes = _in_order(model.graph.node, {*values, *(value.name for value in model.graph.input)}, outputs, where)
    sources = [value for value in model.graph.input if value.name not in values]
    resolved = axes.resolve([_input(value, sizes, where) for value in sources], sizes, where)
    whole = Model(model, name, where, outputs, validate.versions_of(model, where), limits, labels)
    resolved, inferred = _infer_shapes(_needed_nodes(nodes, outputs), values, resolved, whole)
    inferred = _with_constant_outputs(inferred, outputs)
    return assemble(inferred._replace(nodes=_needed_nodes(inferred.nodes, outputs)), resolved, whole)


def _with_constant_outputs(inferred: shapes.InferredShapes, outputs: Sequence[str]) -> shapes.InferredShapes:
    """Return the model with an operation that hands out each output which depends on constants alone."""
    frozen = inferred.frozen.difference(outputs)
    nodes = list(inferred.nodes)
    for output in (name for name in outputs if name in inferred.constants):
        value = inferred.constants.pop(output)
        inferred.constants[f"{output}/value"] = value
        nodes.append(onnx.helper.make_node("Identity", [f"{output}/value"], [output]))
        for by_name in inferred.tensors:
            by_name[output] = Tensor(output, value.dtype, value.shape)
    return inferred._replace(nodes=nodes, frozen=frozen)


def _infer_shapes(
    nodes: Sequence[onnx.NodeProto], values: dict[str, np.ndarray], resolved: axes.ResolvedAxes, whole: Model
) -> tuple[axes.ResolvedAxes, shapes.InferredShapes]:
    """Return shapes at several sizes of the free axes; networks that only claim a free batch are fixed at one."""

    def infer(known: axes.ResolvedAxes, sizes: Sequence[Mapping[str, int]]) -> shapes.InferredShapes:
        if len(sizes) > axes.PROBES:
            with contextlib.suppress(GraphError):
                return infer_all(known, sizes)
        return infer_all(known, sizes[: axes.PROBES])

    def infer_all(known: axes.ResolvedAxes, sizes: Sequence[Mapping[str, int]]) -> shapes.InferredShapes:
        inputs = [known.tensors(each) for each in sizes]
        try:
            return shapes.infer_shapes(nodes, values, inputs, whole.versions, whole.where, whole.limits)
        except GraphError as error:
            if not known.fixed and all(axis.is_batch for axis in known.free):
                raise
            said = ", ".join(f"{tensor.name} {list(tensor.shape)}" for tensor in inputs[0])
            raise GraphError(f"{error}; does the network take inputs of the sizes {said}?") from error

    probes = axes.probes(resolved.free)
    batch = next((axis.name for axis in resolved.free if axis.is_batch), None)
    if batch is None:
        return resolved, infer(resolved, probes)
    one = resolved.fix({batch: 1})
    try:
        inferred = infer(resolved, probes)
    except GraphError:
        return one, infer(one, axes.probes(one.free))
    fixed = {*inferred.unsized, *inferred.constants, *inferred.frozen}
    sized = [name for name in whole.outputs if name not in fixed]
    if not inferred.branches_on_size and all(batch in axes.axis_names(n, inferred.tensors, probes) for n in sized):
        return resolved, inferred
    return one, infer(one, axes.probes(one.free))


def _check_names(graph: onnx.GraphProto, where: str) -> None:
    for role, values in (("input", graph.input), ("output", graph.output), ("weight", graph.initializer)):
        names = {""}
        for value in values:
            if value.name in names:
                raise GraphError(f"{where}: {role} {value.name!r} is nameless or named twice")
            names.add(value.name)


def _in_order(
    nodes: Sequence[onnx.NodeProto], known: set[str], outputs: Sequence[str], where: str
) -> list[onnx.NodeProto]:
    """Return the nodes in topological order, else as in the file; refuse those that read what nothing makes before."""
    made: set[str] = set()
    for output in (name for node in nodes for name in node.output if name):
        if output in known or output in made:
            raise GraphError(f"{where}: tensor {output!r} is made twice")
        made.add(output)
    waiting: dict[str, list[int]] = {}
    missing = [{name for name in reads(node) if name not in known} for node in nodes]
    for i, names in enumerate(missing):
        for name in names:
            waiting.setdefault(name, []).append(i)
    ready = [i for i, names in enumerate(missing) if not names]
    ordered = []
    while ready:
        node = nodes[heapq.heappop(ready)]
        ordered.append(node)
        for name in filter(None, node.output):
            for i in waiting.pop(name, ()):
                missing[i].discard(name)
                if not missing[i]:
                    heapq.heappush(ready, i)
    if len(ordered) < len(nodes):
        node, names = next((node, names) for node, names in zip(nodes, missing, strict=True) if names)
        raise GraphError(f"{where}: {label(node)} reads {min(names)!r} before it is made, or nothing makes it")
    absent = [output for output in outputs if output not in known | made]
    if absent:
        raise GraphError(f"{where}: nothing makes the output {absent[0]!r}")
    return ordered


def _input(value: onnx.ValueInfoProto, sizes: axes.Shapes, where: str) -> axes.InputAxes:
    kind, name = value.type.tensor_type, value.name
    if kind.elem_type not in DTYPES:
        raise GraphError(f"{where}: input {name!r} is no tensor of numbers, so it cannot be sent; export it as one")
    if not kind.HasField("shape"):
        said = sizes.get(name)
        if said is None or isinstance(said, int):
            raise GraphError(f"{where}: input {name!r} states no shape; add one, such as --shape {name}=1,3,224,224")
        rank = len(said.split(",") if isinstance(said, str) else said)
        return axes.InputAxes(name, DTYPES[kind.elem_type], tuple(f"{name}.{axis}" for axis in range(rank)))
    names = [dim.dim_param.strip() for dim in kind.shape.dim]
    dims = tuple(
        dim.dim_value if dim.dim_value > 0 else names[axis] if names[axis].strip("?") else f"{name}.{axis}"
        for axis, dim in enumerate(kind.shape.dim)
    )
    return axes.InputAxes(name, DTYPES[kind.elem_type], dims)


def _needed_nodes(nodes: Sequence[onnx.NodeProto], outputs: Sequence[str]) -> list[onnx.NodeProto]:
    """Return the nodes that the outputs need."""
    names, needed = set(outputs), []
    for node in reversed(nodes):
        if names.intersection(node.output):
            names.update(reads(node))
            needed.append(node)
    return needed[::-1]
