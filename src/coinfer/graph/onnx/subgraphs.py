"""Operations that hold graphs of their own (If, Loop, Scan): what these read from outside, and their weights."""

import itertools
import math
from collections.abc import Callable, Iterator, Mapping

import onnx

_FEW = 64
"""Elements of a weight that stays inside a graph."""


def graphs_of(node: onnx.NodeProto) -> Iterator[onnx.GraphProto]:
    """Yield the graphs that an operation holds, not those deeper inside.

    Args:
        node: of any graph.
    """
    for attribute in node.attribute:
        if attribute.type == onnx.AttributeProto.GRAPH:
            yield attribute.g
        elif attribute.type == onnx.AttributeProto.GRAPHS:
            yield from attribute.graphs


def reads(node: onnx.NodeProto) -> list[str]:
    """Return the tensors that an operation needs, each once: its inputs, and what its graphs take from outside.

    Args:
        node: of any graph.
    """
    names = dict.fromkeys(filter(None, node.input))
    for graph in graphs_of(node):
        names |= dict.fromkeys(captured(graph))
    return list(names)


def captured(graph: onnx.GraphProto) -> list[str]:
    """Return the tensors that a graph takes from outside, each once.

    Args:
        graph: held by an operation.
    """
    own = {value.name for value in (*graph.input, *graph.initializer)}
    outside: dict[str, None] = {}
    for node in graph.node:
        outside |= dict.fromkeys(name for name in reads(node) if name not in own)
        own.update(node.output)
    return list(outside | dict.fromkeys(value.name for value in graph.output if value.name not in own))


def rename(graph: onnx.GraphProto, name_of: Mapping[str, str]) -> None:
    """Rename tensors in a graph and in all graphs inside it; names that a graph inside makes anew stay its own.

    Args:
        graph: is changed.
        name_of: new names by old ones.
    """
    for node in graph.node:
        rename_node(node, name_of)
    for values in (graph.input, graph.output, graph.initializer, graph.value_info):
        for value in values:
            value.name = name_of.get(value.name, value.name)


def rename_node(node: onnx.NodeProto, name_of: Mapping[str, str]) -> None:
    """Rename the tensors that a node reads and makes.

    Args:
        node: is changed.
        name_of: new names by old ones.
    """
    node.input[:] = [name_of.get(name, name) for name in node.input]
    node.output[:] = [name_of.get(name, name) for name in node.output]
    for graph in graphs_of(node):
        own = {value.name for value in (*graph.input, *graph.initializer)}
        own.update(name for inner in graph.node for name in inner.output)
        rename(graph, {old: new for old, new in name_of.items() if old not in own})


def walk(graph: onnx.GraphProto) -> Iterator[onnx.GraphProto]:
    """Yield a graph and all graphs inside it.

    Args:
        graph: of a model.
    """
    pending = [graph]
    while pending:
        here = pending.pop()
        yield here
        pending += [inner for node in here.node for inner in graphs_of(node)]


def inlined(
    branch: onnx.GraphProto, node: onnx.NodeProto, fresh: Callable[[str], str]
) -> tuple[list[onnx.NodeProto], dict[str, onnx.TensorProto]]:
    """Return a branch as nodes and weights of the graph around it, in place of the operation that holds it.

    Args:
        branch: with one output for each of the operation's.
        node: the operation; its outputs keep their names.
        fresh: returns a name that nothing has yet.
    """
    copy = onnx.GraphProto()
    copy.CopyFrom(branch)
    made = {name for inner in copy.node for name in inner.output if name} | {w.name for w in copy.initializer}
    name_of = {name: fresh(name) for name in sorted(made)}
    for inside, outside in zip(branch.output, node.output, strict=False):
        is_first = list(name_of.values()).count(outside) == 0
        if outside and inside.name in made and is_first and not any(w.name == inside.name for w in copy.initializer):
            name_of[inside.name] = outside
    for inner in copy.node:
        rename_node(inner, name_of)
        inner.name = ""
    nodes = list(copy.node)
    for inside, outside in zip(branch.output, node.output, strict=False):
        source = name_of.get(inside.name, inside.name)
        if outside and source != outside:
            nodes.append(onnx.helper.make_node("Identity", [source], [outside]))
    return nodes, {name_of[weight.name]: weight for weight in copy.initializer}


def hoist(model: onnx.ModelProto) -> onnx.ModelProto:
    """Return a model in which operations' graphs read their large weights, and those in other files, from outside.

    Args:
        model: stays as it is; it is returned itself if nothing has to move.
    """
    if not any(_moves(weight) for graph in list(walk(model.graph))[1:] for weight in _weights(graph)):
        return model
    copy = onnx.ModelProto()
    copy.CopyFrom(model)
    taken = {name for graph in walk(copy.graph) for node in graph.node for name in (*node.input, *node.output)}
    taken |= {value.name for graph in walk(copy.graph) for value in (*graph.input, *graph.initializer)}
    for graph in list(walk(copy.graph))[1:]:
        ends = {value.name for value in graph.output}
        moved = {weight.name: weight for weight in _weights(graph) if _moves(weight) and weight.name not in ends}
        name_of = {}
        for name, weight in moved.items():
            new = next(new for i in itertools.count() if (new := f"{name}^{i}") not in taken)
            taken.add(new)
            name_of[name] = new
            weight.name = new
            copy.graph.initializer.append(weight)
        for i in reversed(range(len(graph.initializer))):
            if graph.initializer[i].name in moved:
                del graph.initializer[i]
        for i in reversed(range(len(graph.node))):
            if graph.node[i].op_type == "Constant" and graph.node[i].output[0] in moved:
                del graph.node[i]
        rename(graph, name_of)
    return copy


def _weights(graph: onnx.GraphProto) -> Iterator[onnx.TensorProto]:
    """Yield the graph's weights, those of constant operations too; these are named after what they make."""
    for weight in graph.initializer:
        yield onnx.TensorProto.FromString(weight.SerializeToString())
    for node in graph.node:
        if node.op_type == "Constant" and node.attribute[0].name == "value":
            weight = onnx.TensorProto.FromString(node.attribute[0].t.SerializeToString())
            weight.name = node.output[0]
            yield weight


def _moves(weight: onnx.TensorProto) -> bool:
    is_outside = weight.data_location == onnx.TensorProto.EXTERNAL or bool(weight.external_data)
    return is_outside or math.prod(weight.dims) > _FEW
