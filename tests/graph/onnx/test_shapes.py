"""Constants are folded, and shapes that follow from the batch are constants too."""

import numpy as np
import onnx
import pytest
from onnx import helper, numpy_helper
from tests.graph.small_graphs import model, run

from coinfer.graph.ir import GraphError, ModelGraph
from coinfer.graph.onnx.load import from_proto

node = helper.make_node


def constant(name: str, value: np.ndarray) -> onnx.NodeProto:
    return node("Constant", [], [name], value=numpy_helper.from_array(value, name))


def kinds(graph: ModelGraph) -> list[str]:
    return [op.kind for op in graph.ops]


def test_operations_on_constants_are_folded() -> None:
    nodes = [
        constant("c", np.array([1, 2, 3, 4], np.float32)),
        node("Mul", ["c", "w"], ["d"]),
        node("Exp", ["d"], ["e"]),
        node("Add", ["x", "e"], ["y"]),
    ]
    graph = from_proto(model(nodes, {"x": ["N", 4]}, ["y"], {"w": np.full(4, 0.5, np.float32)}), "folded")
    assert kinds(graph) == ["Add"]
    assert list(graph.weights) == ["e"]
    x = np.ones((2, 4), np.float32)
    np.testing.assert_allclose(run(graph, {"x": x}, ("y",))["y"], x + np.exp([0.5, 1, 1.5, 2]), rtol=1e-6)


def test_a_view_that_computes_its_shape_becomes_a_reshape() -> None:
    """What older exporters write for `x.view(x.size(0), -1)`; the batch stays free."""
    nodes = [
        node("Tanh", ["x"], ["t"]),
        node("Shape", ["t"], ["s"]),
        constant("zero", np.array([0])),
        node("Gather", ["s", "zero"], ["n"]),
        constant("rest", np.array([-1])),
        node("Concat", ["n", "rest"], ["target"], axis=0),
        node("Reshape", ["t", "target"], ["f"]),
        node("Relu", ["f"], ["y"]),
    ]
    graph = from_proto(model(nodes, {"x": ["N", 2, 3]}, ["y"]), "view")
    assert kinds(graph) == ["Tanh", "Reshape", "Relu"]
    assert graph.dynamic_batch
    assert [cut.tensors for cut in graph.single_cuts()] == [("x",), ("t",), ("f",), ("y",)]
    for batch in (1, 2, 5):
        x = np.random.default_rng(batch).standard_normal((batch, 2, 3)).astype(np.float32)
        output = run(graph, run(graph, {"x": x}, ("t",)), ("y",))["y"]
        np.testing.assert_allclose(output, np.maximum(np.tanh(x), 0).reshape(batch, 6), rtol=1e-5, atol=1e-7)


def test_a_reshape_that_merges_the_batch_keeps_it_free() -> None:
    """[N, 2, 3] -> [2 N, 3] by a computed target; its first axis is no longer the batch."""
    nodes = [
        node("Shape", ["x"], ["n"], start=0, end=1),
        constant("two", np.array([2])),
        node("Mul", ["n", "two"], ["m"]),
        constant("three", np.array([3])),
        node("Concat", ["m", "three"], ["target"], axis=0),
        node("Reshape", ["x", "target"], ["flat"]),
        node("Relu", ["flat"], ["r"]),
        node("Reshape", ["r", "back"], ["y"]),
    ]
    graph = from_proto(model(nodes, {"x": ["N", 2, 3]}, ["y"], {"back": np.array([-1, 2, 3])}), "merge")
    assert kinds(graph) == ["Reshape", "Relu", "Reshape"]
    assert graph.dynamic_batch
    assert graph.tensors["flat"].shape == (2, 3)
    x = np.random.default_rng(0).standard_normal((4, 2, 3)).astype(np.float32)
    middle = run(graph, {"x": x}, ("r",))
    assert middle["r"].shape == (8, 3)
    np.testing.assert_array_equal(run(graph, middle, ("y",))["y"], np.maximum(x, 0))


def test_what_needs_the_batch_at_run_time_stays() -> None:
    nodes = [
        node("Shape", ["x"], ["n"], start=0, end=1),
        constant("rest", np.array([4])),
        node("Concat", ["n", "rest"], ["size"], axis=0),
        node("Expand", ["token", "size"], ["t"]),
        node("Add", ["x", "t"], ["y"]),
    ]
    token = np.array([[1, 2, 3, 4]], np.float32)
    graph = from_proto(model(nodes, {"x": ["N", 4]}, ["y"], {"token": token}), "token")
    assert kinds(graph) == ["Shape", "Concat", "Expand", "Add"]
    x = np.zeros((3, 4), np.float32)
    np.testing.assert_array_equal(run(graph, {"x": x}, ("y",))["y"], token.repeat(3, axis=0))


def test_sizes_of_a_fixed_input_are_constants() -> None:
    nodes = [node("Size", ["x"], ["n"]), node("Cast", ["n"], ["f"], to=1), node("Div", ["x", "f"], ["y"])]
    graph = from_proto(model(nodes, {"x": [2, 4]}, ["y"]), "mean")
    assert kinds(graph) == ["Div"]
    assert not graph.dynamic_batch
    np.testing.assert_array_equal(run(graph, {"x": np.full((2, 4), 16, np.float32)}, ("y",))["y"], np.full((2, 4), 2))


def test_a_reshape_to_one_sample_fixes_the_batch() -> None:
    nodes = [node("Relu", ["x"], ["r"]), node("Reshape", ["r", "target"], ["y"])]
    graph = from_proto(model(nodes, {"x": ["N", 2, 3]}, ["y"], {"target": np.array([1, 6])}), "one")
    assert not graph.dynamic_batch
    assert graph.tensors["x"].shape == (1, 2, 3)
    assert graph.proto.graph.input[0].type.tensor_type.shape.dim[0].dim_value == 1


def test_an_operation_that_only_fits_one_sample_fixes_the_batch() -> None:
    nodes = [node("Concat", ["x", "w"], ["c"], axis=1), node("Relu", ["c"], ["y"])]
    graph = from_proto(model(nodes, {"x": ["N", 4]}, ["y"], {"w": np.ones((1, 2), np.float32)}), "one")
    assert not graph.dynamic_batch
    assert graph.tensors["y"].shape == (1, 6)


def test_nonzero_of_a_constant_is_folded() -> None:
    nodes = [node("NonZero", ["w"], ["i"]), node("Squeeze", ["i"], ["j"]), node("Gather", ["x", "j"], ["y"], axis=1)]
    weights = {"w": np.array([0, 1, 0, 1], np.float32)}
    graph = from_proto(model(nodes, {"x": ["N", 4]}, ["y"], weights), "pick")
    assert kinds(graph) == ["Gather"]
    x = np.arange(8, dtype=np.float32).reshape(2, 4)
    np.testing.assert_array_equal(run(graph, {"x": x}, ("y",))["y"], x[:, [1, 3]])


def test_an_operation_that_fails_on_its_constants_is_named() -> None:
    nodes = [node("Gather", ["w", "i"], ["c"], "lookup"), node("Add", ["x", "c"], ["y"])]
    weights = {"w": np.ones(4, np.float32), "i": np.array([9])}
    with pytest.raises(GraphError, match=r"Gather \('lookup'\) cannot be computed"):
        from_proto(model(nodes, {"x": ["N", 1]}, ["y"], weights), "bad")
