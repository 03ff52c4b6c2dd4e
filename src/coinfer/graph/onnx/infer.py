"""Types and shapes of what one operation makes, before it runs."""

from collections.abc import Mapping

import numpy as np
import onnx
from onnx import helper, numpy_helper

from coinfer.graph.onnx.evaluate import IR_VERSION, Values, open_single, single_model
from coinfer.graph.onnx.operators import domain_of, schema_of
from coinfer.graph.onnx.subgraphs import graphs_of

Types = dict[str, onnx.TypeProto]
_ELEMENT_TYPES = {
    "float": onnx.TensorProto.FLOAT,
    "double": onnx.TensorProto.DOUBLE,
    **{name.lower(): number for name, number in onnx.TensorProto.DataType.items()},
}


def infer_types(node: onnx.NodeProto, types: Types, constants: Values, versions: Mapping[str, int]) -> Types:
    """Return the types of an operation's outputs, with their shapes as far as these are known before it runs.

    ONNX's own rules come first, for a single operation and then within a model; what these leave open, and operations
    that only ONNX Runtime knows, is asked of ONNX Runtime.

    Args:
        node: the operation.
        types: of everything that it reads.
        constants: small values among what it reads, by name.
        versions: of the operations by domain.

    Raises:
        Exception: of ONNX or ONNX Runtime, if the operation does not fit its inputs.
    """
    schema = schema_of(node, versions)
    if schema is None:
        return _by_runtime(node, types, constants, versions)
    if node.op_type == "Loop":
        return _loop(node, types, constants, versions)
    if any(True for _ in graphs_of(node)):
        return _within_model(node, types, constants, versions)
    data = {name: numpy_helper.from_array(value, name) for name, value in constants.items()}
    inferred = onnx.shape_inference.infer_node_outputs(
        schema, node, types, data, opset_imports=_imports(versions), ir_version=IR_VERSION
    )
    if domain_of(node) == "" and not all(map(_has_rank, inferred.values())):
        inferred = _within_model(node, types, {}, versions)
    if domain_of(node) and not all(map(is_sized, inferred.values())):
        inferred = _by_runtime(node, types, constants, versions)
    return inferred


def is_sized(kind: onnx.TypeProto) -> bool:
    """Return true if every axis of a tensor's type has a size.

    Args:
        kind: of any value.
    """
    return _has_rank(kind) and all(dim.HasField("dim_value") for dim in kind.tensor_type.shape.dim)


def _has_rank(kind: onnx.TypeProto) -> bool:
    return kind.HasField("tensor_type") and kind.tensor_type.HasField("shape")


def _imports(versions: Mapping[str, int]) -> list[onnx.OperatorSetIdProto]:
    return [helper.make_opsetid(name, version) for name, version in versions.items()]


def _within_model(node: onnx.NodeProto, types: Types, constants: Values, versions: Mapping[str, int]) -> Types:
    """Return what ONNX infers of a model with this operation alone."""
    graph = onnx.GraphProto(name="one", node=[node])
    graph.input.extend(onnx.ValueInfoProto(name=n, type=kind) for n, kind in types.items() if n not in constants)
    graph.output.extend(onnx.ValueInfoProto(name=name) for name in node.output if name)
    graph.initializer.extend(numpy_helper.from_array(value, name) for name, value in constants.items())
    inferred = onnx.shape_inference.infer_shapes(single_model(graph, versions), data_prop=True).graph
    return {value.name: value.type for value in (*inferred.value_info, *inferred.output)}


def _loop(node: onnx.NodeProto, types: Types, constants: Values, versions: Mapping[str, int]) -> Types:
    """Return a loop's types: what it carries keeps its shape if the body makes it from the same shape."""
    inferred = _within_model(node, types, constants, versions)
    body = next(graphs_of(node))
    carried = dict(zip(node.output, node.input[2:], strict=False))
    graph = onnx.GraphProto()
    graph.CopyFrom(body)
    del graph.value_info[:]
    own = [value.name for value in graph.input]
    for value, source in zip(graph.input[2:], node.input[2:], strict=False):
        value.type.CopyFrom(types[source])
    for value in graph.output:
        if value.type.HasField("tensor_type"):
            value.type.tensor_type.ClearField("shape")
    outside = [name for name in types if name not in own]
    graph.input.extend(onnx.ValueInfoProto(name=name, type=types[name]) for name in outside)
    made = onnx.shape_inference.infer_shapes(single_model(graph, versions), data_prop=True).graph.output
    for (output, source), value in zip(carried.items(), made[1:], strict=False):
        if output and value.type == types[source]:
            inferred[output] = types[source]
    return inferred


def _by_runtime(node: onnx.NodeProto, types: Types, constants: Values, versions: Mapping[str, int]) -> Types:
    """Return what ONNX Runtime infers when it opens the operation."""
    read = [name for name in dict.fromkeys(filter(None, node.input)) if name not in constants]
    session = open_single(node, [types[name] for name in read], versions, constants)
    names = (name for name in node.output if name)
    flat = all(not kind.tensor_type.shape.dim for kind in types.values())
    return {
        name: _type(value.type, value.shape if value.shape or flat else None)  # it says [] of an unknown rank too
        for name, value in zip(names, session.get_outputs(), strict=True)
    }


def _type(text: str, dims: list[int | str | None] | None) -> onnx.TypeProto:
    """Return the type that ONNX Runtime writes as `tensor(float)`."""
    element = _ELEMENT_TYPES.get(text.removeprefix("tensor(").removesuffix(")"), onnx.TensorProto.UNDEFINED)
    return helper.make_tensor_type_proto(element, dims)


def small(values: Mapping[str, np.ndarray], limit: int) -> Values:
    """Return the values that may set a shape: those of few numbers.

    Args:
        values: by name.
        limit: elements at most.
    """
    return {name: value for name, value in values.items() if value.size <= limit and value.dtype.kind in "biuf"}
