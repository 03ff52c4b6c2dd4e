import numpy as np
import pytest
from onnx import helper
from tests.graph.small_graphs import model

from coinfer.graph.onnx.load import from_proto


def flop(kind: str, inputs: dict[str, list[int]], weights: dict[str, tuple[int, ...]], **attributes: object) -> float:
    """Work of one operation that reads these tensors and weights, in order."""
    node = helper.make_node(kind, [*inputs, *weights], ["y"], **attributes)
    values = {name: np.ones(shape, np.float32) for name, shape in weights.items()}
    return from_proto(model([node], inputs, ["y"], values, opset=18), kind).work_flop


X = {"x": [1, 4, 6, 6]}


@pytest.mark.parametrize(
    ("expected", "kind", "inputs", "weights", "attributes"),
    [
        # 16 x 4 x 4 outputs, each 4 channels x 3 x 3 multiply-adds
        (2 * 16 * 4 * 4 * 4 * 9, "Conv", X, {"w": (16, 4, 3, 3)}, {}),
        (2 * 8 * 6 * 6 * 1 * 9, "Conv", X, {"w": (8, 1, 3, 3)}, {"group": 4, "pads": [1] * 4}),
        (2 * 8 * 3 * 3 * 4, "Conv", X, {"w": (8, 4, 1, 1)}, {"strides": [2, 2]}),
        # each of 4 x 6 x 6 inputs spread over 2 channels x 2 x 2
        (2 * 4 * 6 * 6 * 2 * 4, "ConvTranspose", X, {"w": (4, 2, 2, 2)}, {"strides": [2, 2]}),
        (2 * 3 * 7 * 5, "Gemm", {"x": [3, 7]}, {"w": (7, 5)}, {}),
        (2 * 3 * 7 * 5, "Gemm", {"x": [7, 3]}, {"w": (5, 7)}, {"transA": 1, "transB": 1}),
        (2 * 2 * 3 * 7 * 5, "MatMul", {"x": [2, 3, 7], "z": [2, 7, 5]}, {}, {}),
        (2 * 2 * 3 * 7 * 5, "Einsum", {"x": [2, 3, 7], "z": [2, 7, 5]}, {}, {"equation": "bij,bjk->bik"}),
        (2 * 2 * 3 * 7 * 5, "Einsum", {"x": [2, 3, 7], "z": [2, 7, 5]}, {}, {"equation": "...ij,...jk->...ik"}),
        (4 * 3 * 3 * 4, "MaxPool", X, {}, {"kernel_shape": [2, 2], "strides": [2, 2]}),
        (4 * 6 * 6, "GlobalAveragePool", X, {}, {}),
        (4 * 6 * 6, "Relu", X, {}, {}),
        (0, "Transpose", X, {}, {}),
        (0, "Flatten", X, {}, {}),
        (2 * 4 * 6 * 6, "BatchNormalization", X, {name: (4,) for name in "abcd"}, {}),
        (8 * 4 * 6 * 6, "LRN", X, {}, {"size": 5}),
        # 10 steps, batch 2, 4 gates x 8 hidden, each sees 3 inputs and 8 of its own
        (2 * 10 * 2 * 32 * (3 + 8), "LSTM", {"x": [10, 2, 3]}, {"w": (1, 32, 3), "r": (1, 32, 8)}, {"hidden_size": 8}),
    ],
)
def test_work_of_one_operation(
    expected: float, kind: str, inputs: dict, weights: dict[str, tuple[int, ...]], attributes: dict
) -> None:
    assert flop(kind, inputs, weights, **attributes) == expected


def test_attention_counts_both_products() -> None:
    sizes = {"q": [2, 4, 10, 8], "k": [2, 4, 6, 8], "v": [2, 4, 6, 16]}
    node = helper.make_node("Attention", list(sizes), ["y"])
    graph = from_proto(model([node], sizes, ["y"], opset=23), "attention")
    assert graph.work_flop == 2 * 2 * 4 * 10 * 6 * (8 + 16)


def test_parameters_are_counted_once_per_network_and_for_each_reader() -> None:
    nodes = [helper.make_node("Gemm", ["x", "w"], ["a"]), helper.make_node("Gemm", ["a", "w"], ["y"])]
    graph = from_proto(model(nodes, {"x": ["N", 4]}, ["y"], {"w": np.eye(4, dtype=np.float32)}), "shared")
    assert [op.params for op in graph.ops] == [16, 16]
    assert graph.params == 16
