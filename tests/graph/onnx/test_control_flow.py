"""Branches that are known are inlined; others, loops and scans run whole, with what they take from outside."""

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper
from tests.graph.onnx.agreement import opened
from tests.graph.small_graphs import model

from coinfer.graph.ir import GraphError
from coinfer.graph.onnx.limits import parse_limits
from coinfer.graph.onnx.load import from_proto

node = helper.make_node
ONE = np.array([1])
SHAPES = {"one": ONE, "zero": np.array([0])}
RANDOM = np.random.default_rng(0)


def graph_of(nodes: list[onnx.NodeProto], outputs: list[str], *weights: onnx.TensorProto) -> onnx.GraphProto:
    ends = [helper.make_tensor_value_info(name, TensorProto.FLOAT, None) for name in outputs]
    return helper.make_graph(nodes, "inner", [], ends, weights)


def batch(size: int, *shape: int) -> dict[str, np.ndarray]:
    return {"x": RANDOM.standard_normal((size, *shape)).astype(np.float32)}


def squeeze_if_one(axis: str, source: str = "a", output: str = "b") -> list[onnx.NodeProto]:
    """What PyTorch writes for x.squeeze(): the branch depends on a size."""
    return [
        node("Shape", [source], [f"{output}/s"]),
        node("Gather", [f"{output}/s", axis], [f"{output}/d"]),
        node("Equal", [f"{output}/d", "one"], [f"{output}/c"]),
        node(
            "If",
            [f"{output}/c"],
            [output],
            then_branch=graph_of([node("Squeeze", [source, axis], ["t"])], ["t"]),
            else_branch=graph_of([node("Identity", [source], ["e"])], ["e"]),
        ),
    ]


def test_a_branch_that_sizes_decide_is_inlined() -> None:
    nodes = [node("Relu", ["x"], ["a"]), *squeeze_if_one("one"), node("Tanh", ["b"], ["y"])]
    graph = opened(model(nodes, {"x": ["N", 1]}, ["y"], SHAPES), batch(1, 1), batch(3, 1))
    assert [op.kind for op in graph.ops] == ["Relu", "Squeeze", "Tanh"]
    assert graph.dynamic_batch
    assert "1 branches with a known condition were replaced by the one taken" in graph.notes.folded
    other = from_proto(model(nodes, {"x": ["N", 2]}, ["y"], SHAPES), "other")  # which ONNX Runtime refuses unfolded
    assert [op.kind for op in other.ops] == ["Relu", "Identity", "Tanh"]


def test_a_branch_that_the_batch_decides_fixes_the_batch() -> None:
    nodes = [node("Relu", ["x"], ["a"]), *squeeze_if_one("zero"), node("Tanh", ["b"], ["y"])]
    graph = opened(model(nodes, {"x": ["N", 4]}, ["y"], SHAPES), batch(1, 4))
    assert [op.kind for op in graph.ops] == ["Relu", "Squeeze", "Tanh"]
    assert not graph.dynamic_batch


def test_a_branch_inside_a_branch_with_weights_and_names_of_its_own() -> None:
    """Both branches call their tensors alike, as exporters do, and one hands a tensor through."""
    weight = numpy_helper.from_array(np.full(4, 2, np.float32), "w")
    inner = node(
        "If",
        ["yes"],
        ["t"],
        then_branch=graph_of([node("Mul", ["m", "w"], ["a"])], ["a"]),
        else_branch=graph_of([node("Identity", ["m"], ["a"])], ["a"]),
    )
    taken = graph_of([node("Neg", ["x"], ["m"]), inner, node("Identity", ["r"], ["u"])], ["t", "u"], weight)
    dropped = graph_of([node("Tanh", ["x"], ["m"]), node("Tanh", ["m"], ["t"])], ["t", "m"])
    nodes = [
        node("Relu", ["x"], ["r"]),
        node("If", ["yes"], ["b", "c"], then_branch=taken, else_branch=dropped),
        node("Add", ["b", "c"], ["m"]),
        node("Tanh", ["m"], ["y"]),
    ]
    proto = model(nodes, {"x": ["N", 4]}, ["y"], {"yes": np.array([True])})
    graph = opened(proto, batch(1, 4), batch(5, 4))
    assert [op.kind for op in graph.ops] == ["Relu", "Neg", "Mul", "Identity", "Add", "Tanh"]
    assert len({name for op in graph.ops for name in op.outputs}) == 6
    assert graph.dynamic_batch


def data_branch() -> onnx.ModelProto:
    """The sign of the mean decides; both branches read an outer activation and an outer weight."""
    nodes = [
        node("MatMul", ["x", "w"], ["a"]),
        node("ReduceMean", ["a"], ["mean"], keepdims=0),
        node("Greater", ["mean", "none"], ["c"]),
        node(
            "If",
            ["c"],
            ["b"],
            then_branch=graph_of([node("MatMul", ["a", "w"], ["t"])], ["t"]),
            else_branch=graph_of([node("Neg", ["a"], ["e"])], ["e"]),
        ),
        node("Tanh", ["b"], ["y"]),
    ]
    weights = {"w": RANDOM.standard_normal((4, 4)).astype(np.float32), "none": np.array(0, np.float32)}
    return model(nodes, {"x": [2, 4]}, ["y"], weights)


def test_a_branch_that_values_decide_is_one_operation() -> None:
    graph = opened(data_branch(), *(batch(2, 4) for _ in range(4)))
    assert [op.kind for op in graph.ops] == ["MatMul", "ReduceMean", "Greater", "If", "Tanh"]
    branch = graph.ops[3]
    assert (branch.inputs, branch.weights) == (("c", "a"), ("w",))
    assert [cut.tensors for cut in graph.useful_cuts()] == [("x",), ("a",), ("b",), ("y",)]


def loop(steps: str, condition: str = "") -> onnx.ModelProto:
    """x -> tanh(x) as often as `steps` says, with an outer weight."""
    body = helper.make_graph(
        [node("Mul", ["h", "w"], ["m"]), node("Tanh", ["m"], ["h2"]), node("Identity", ["go"], ["go2"])],
        "body",
        [
            helper.make_tensor_value_info("i", TensorProto.INT64, []),
            helper.make_tensor_value_info("go", TensorProto.BOOL, []),
            helper.make_tensor_value_info("h", TensorProto.FLOAT, None),
        ],
        [
            helper.make_tensor_value_info("go2", TensorProto.BOOL, []),
            helper.make_tensor_value_info("h2", TensorProto.FLOAT, None),
        ],
    )
    nodes = [
        node("Relu", ["x"], ["r"]),
        node("ReduceSum", ["r"], ["total"], keepdims=0),
        node("Cast", ["total"], ["count"], to=TensorProto.INT64),
        node("Loop", [steps, condition, "r"], ["l"], body=body),
        node("Neg", ["l"], ["y"]),
    ]
    weights = {"w": np.full(4, 0.5, np.float32), "three": np.array(3), "endless": np.array(2**62)}
    return model(nodes, {"x": ["N", 4]}, ["y"], weights | {"yes": np.array(True)})


def test_a_loop_of_known_length_is_one_operation_that_keeps_its_shape() -> None:
    graph = opened(loop("three"), batch(1, 4), batch(3, 4))
    assert [op.kind for op in graph.ops] == ["Relu", "Loop", "Neg"]
    assert graph.ops[1].inputs == ("r",)
    assert graph.free_shape("l") == ("N", 4)
    assert ("l",) in [cut.tensors for cut in graph.useful_cuts()]


@pytest.mark.parametrize(("steps", "condition"), [("endless", ""), ("count", ""), ("", "yes")])
def test_loops_without_a_known_end_open_only_when_trusted(steps: str, condition: str) -> None:
    proto = loop(steps, condition)
    with pytest.raises(
        GraphError, match=r"operation Loop \('l'\) may take more than 100000 steps.*--limit loop-steps=0"
    ):
        from_proto(proto, "net")
    graph = from_proto(proto, "net", limits=parse_limits({"loop-steps": 0}))
    assert "Loop" in [op.kind for op in graph.ops]


def test_a_scan_is_one_operation() -> None:
    body = helper.make_graph(
        [node("Add", ["s", "v"], ["s2"]), node("Identity", ["s2"], ["out"])],
        "body",
        [helper.make_tensor_value_info(name, TensorProto.FLOAT, [4]) for name in ("s", "v")],
        [helper.make_tensor_value_info(name, TensorProto.FLOAT, [4]) for name in ("s2", "out")],
    )
    nodes = [
        node("Relu", ["x"], ["r"]),
        node("Scan", ["start", "r"], ["last", "all"], body=body, num_scan_inputs=1),
        node("Tanh", ["all"], ["y"]),
    ]
    graph = opened(model(nodes, {"x": [5, 4]}, ["y"], {"start": np.zeros(4, np.float32)}), batch(5, 4))
    assert [op.kind for op in graph.ops] == ["Relu", "Scan", "Tanh"]
    assert graph.tensors["all"].shape == (5, 4)


def test_weights_inside_branches_count_and_stay_out_of_the_structure() -> None:
    """Two branches call their weights alike; one weight, inside a branch inside, is a constant operation."""
    big, other = (RANDOM.standard_normal((16, 16)).astype(np.float32) for _ in range(2))
    constant = node("Constant", [], ["v"], value=numpy_helper.from_array(other, "value"))
    inner = node(
        "If",
        ["c"],
        ["t"],
        then_branch=graph_of([constant, node("MatMul", ["x", "v"], ["r"])], ["r"]),
        else_branch=graph_of([node("MatMul", ["x", "w"], ["r"])], ["r"]),
    )
    weight = numpy_helper.from_array(big, "w")
    nodes = [
        node("ReduceSum", ["x"], ["s"], keepdims=0),
        node("Greater", ["s", "none"], ["c"]),
        node(
            "If",
            ["c"],
            ["y"],
            then_branch=graph_of([inner], ["t"], weight),
            else_branch=graph_of([node("MatMul", ["x", "w"], ["e"])], ["e"], numpy_helper.from_array(other, "w")),
        ),
    ]
    proto = model(nodes, {"x": [2, 16]}, ["y"], {"none": np.array(0, np.float32)})
    graph = opened(proto, *(batch(2, 16) for _ in range(4)))
    assert graph.params == 3 * 256
    assert graph.ops[-1].params == 3 * 256
    assert len(graph.proto.SerializeToString()) < 3000
