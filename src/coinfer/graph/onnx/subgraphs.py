"""Operations that hold graphs of their own (If, Loop, Scan): what these read from outside, and their weights."""

from collections.abc import Callable, Iterator, Mapping

import onnx


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
