"""Small networks for tests: written by hand, or random directed acyclic graphs."""

from collections.abc import Sequence

import numpy as np
import onnx
from hypothesis import strategies as st
from onnx import TensorProto, helper, numpy_helper

from coinfer.graph.ir import ModelGraph
from coinfer.graph.onnx.load import from_proto
from coinfer.graph.segment import segment
from coinfer.graph.session import open_session

WIDTH = 4


def model(
    nodes: Sequence[onnx.NodeProto],
    inputs: dict[str, Sequence[int | str]],
    outputs: Sequence[str],
    weights: dict[str, np.ndarray] | None = None,
    opset: int = 17,
) -> onnx.ModelProto:
    """A model whose outputs have the type float32 and a shape left to inference."""
    graph = helper.make_graph(
        nodes,
        "small",
        [helper.make_tensor_value_info(name, TensorProto.FLOAT, shape) for name, shape in inputs.items()],
        [helper.make_tensor_value_info(name, TensorProto.FLOAT, None) for name in outputs],
        [numpy_helper.from_array(value, name) for name, value in (weights or {}).items()],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=8)


def perceptron(seed: int = 0) -> onnx.ModelProto:
    """Two linear layers: x [N, 4] -> h [N, 8] -> relu -> y [N, 3]."""
    random = np.random.default_rng(seed)
    sizes = {"w1": (8, 4), "b1": (8,), "w2": (3, 8), "b2": (3,)}
    weights = {name: random.standard_normal(size).astype(np.float32) for name, size in sizes.items()}
    nodes = [
        helper.make_node("Gemm", ["x", "w1", "b1"], ["h"], "first", transB=1),
        helper.make_node("Relu", ["h"], ["r"], "relu"),
        helper.make_node("Gemm", ["r", "w2", "b2"], ["y"], "second", transB=1),
    ]
    return model(nodes, {"x": ["N", 4]}, ["y"], weights)


def run(graph: ModelGraph, values: dict[str, np.ndarray], outputs: Sequence[str]) -> dict[str, np.ndarray]:
    """What ONNX Runtime computes for some tensors of the graph from others."""
    session = open_session(graph, segment(graph, tuple(values), tuple(outputs)))
    return dict(zip(outputs, session.run(list(outputs), values), strict=True))


def relative_error(actual: np.ndarray, truth: np.ndarray) -> float:
    """Largest difference relative to the largest true value."""
    return float(np.abs(actual - truth).max() / np.abs(truth).max())


@st.composite
def dags(draw: st.DrawFn, max_ops: int = 7) -> ModelGraph:
    """Operations on [N, 4], each of one or two earlier tensors; whatever nobody reads is an output."""
    sources: list[tuple[int, ...]] = [
        tuple(draw(st.lists(st.integers(0, i), min_size=1, max_size=2))) for i in range(draw(st.integers(1, max_ops)))
    ]
    random = np.random.default_rng(0)
    nodes, weights = [], {}
    for i, read in enumerate(sources, 1):
        if len(read) == 2:
            kind = draw(st.sampled_from(["Add", "Mul", "Concat"]))
        else:
            kind = draw(st.sampled_from(["Tanh", "Gemm", "Split"]))
        names = [f"t{j}" for j in read]
        if kind == "Concat":  # and back to the width of all
            nodes.append(helper.make_node("Concat", names, [f"c{i}"], axis=1))
            kind, names, width = "Gemm", [f"c{i}"], 2 * WIDTH
        else:
            width = WIDTH
        if kind == "Split":  # two outputs, one operation that reads both
            nodes.append(helper.make_node("Split", names, [f"s{i}a", f"s{i}b"], axis=1, num_outputs=2))
            kind, names = "Concat", [f"s{i}b", f"s{i}a"]
            nodes.append(helper.make_node("Concat", names, [f"t{i}"], axis=1))
            continue
        if kind == "Gemm":
            weights[f"w{i}"] = random.standard_normal((width, WIDTH)).astype(np.float32)
            names.append(f"w{i}")
        nodes.append(helper.make_node(kind, names, [f"t{i}"]))
    read = {j for indices in sources for j in indices}
    outputs = [f"t{i}" for i in range(1, len(sources) + 1) if i not in read]
    return from_proto(model(nodes, {"t0": ["N", WIDTH]}, outputs, weights, opset=18), "random")
