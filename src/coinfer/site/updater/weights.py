"""Whether the numbers in a policy's network are numbers."""

from collections.abc import Iterable, Iterator

import numpy as np
import onnx
from onnx.numpy_helper import from_array, to_array

from coinfer.errors import UserError

NODES_DEEP = 8
"""Networks within operations are looked at so deep; no policy that is exported here has any."""


class WeightError(UserError):
    """A network whose numbers cannot be used; the message is one line for a person."""


def check_weights(model: bytes) -> None:
    """Refuse a network that holds NaN anywhere, or an infinity that is no constant by itself, such as masks need.

    Args:
        model: content of the ONNX file, which can be loaded.

    Raises:
        WeightError: that names the first such tensor.
    """
    loaded = onnx.load_model_from_string(model)
    for name, tensor in _tensors(loaded.graph, NODES_DEEP):
        _check(name, tensor)
    for function in loaded.functions:
        for name, tensor in _of_nodes(function.node, NODES_DEEP):
            _check(name, tensor)


def _check(name: str, tensor: onnx.TensorProto) -> None:
    if tensor.data_location == onnx.TensorProto.EXTERNAL:
        raise WeightError(f"tensor {name[:64]!r} is in another file; export the policy as one")
    values = np.asarray(to_array(tensor))
    if values.dtype.kind == "f" and (np.isnan(values).any() or (values.size > 1 and np.isinf(values).any())):
        raise WeightError(f"tensor {name[:64]!r} holds NaN or infinities; no training that went well leaves those")


def _tensors(graph: onnx.GraphProto, depth: int) -> Iterator[tuple[str, onnx.TensorProto]]:
    yield from ((tensor.name, tensor) for tensor in graph.initializer)
    yield from ((sparse.values.name, sparse.values) for sparse in graph.sparse_initializer)
    yield from _of_nodes(graph.node, depth)


def _of_nodes(nodes: Iterable[onnx.NodeProto], depth: int) -> Iterator[tuple[str, onnx.TensorProto]]:
    for node in nodes:
        for attribute in node.attribute:
            name = node.name or attribute.name
            numbers = [attribute.f, *attribute.floats]
            for tensor in (attribute.t, attribute.sparse_tensor.values, *attribute.tensors):
                if tensor.data_type:
                    yield name, tensor
            if np.isnan(numbers).any():
                yield name, from_array(np.array(numbers, np.float32))
            for graph in (attribute.g, *attribute.graphs):
                if depth <= 0 and graph.node:
                    raise WeightError(f"networks within operations more than {NODES_DEEP} deep")
                yield from _tensors(graph, depth - 1) if graph.ByteSize() else ()
