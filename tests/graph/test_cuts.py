import sys

import numpy as np
import onnx
import pytest
from hypothesis import given, settings
from onnx import TensorProto, helper, numpy_helper
from tests.graph.small_graphs import WIDTH, dags, model, run

from coinfer.graph.cuts import MAX_CUTS, MAX_TENSORS, Prefix
from coinfer.graph.ir import ModelGraph
from coinfer.graph.onnx.load import from_proto

RANDOM = np.random.default_rng(0)
NODE = helper.make_node


def tensors(graph: ModelGraph) -> list[tuple[str, ...]]:
    return [cut.tensors for cut in graph.useful_cuts()]


def masked(blocks: int = 3) -> ModelGraph:
    """Blocks that all read one mask, after a person's own drawing: h -> softmax(h w + mask) v + h."""
    nodes = [
        node
        for i in range(blocks)
        for node in (
            NODE("MatMul", [f"h{i}", "w"], [f"s{i}"]),
            NODE("Add", [f"s{i}", "mask"], [f"m{i}"]),
            NODE("Softmax", [f"m{i}"], [f"p{i}"], axis=-1),
            NODE("MatMul", [f"p{i}", "v"], [f"o{i}"]),
            NODE("Add", [f"h{i}", f"o{i}"], [f"h{i + 1}"]),
        )
    ]
    weights = {name: RANDOM.standard_normal((8, 8)).astype(np.float32) for name in ("w", "v")}
    return from_proto(model(nodes, {"h0": ["N", 8], "mask": ["N", 8]}, [f"h{blocks}"], weights), "masked")


def quantised(tail: str = "Softmax") -> ModelGraph:
    """A convolution between pairs of Quantize and Dequantize, then an operation in float32, then a pair again."""

    def constant(name: str, value: float, dtype: type) -> onnx.TensorProto:
        return numpy_helper.from_array(np.array(value, dtype), name)

    values = [
        constant("s", 0.05, np.float32),
        constant("z", 128, np.uint8),
        constant("so", 0.02, np.float32),
        constant("sw", 0.01, np.float32),
        constant("zw", 0, np.int8),
        numpy_helper.from_array(RANDOM.integers(-90, 90, (8, 8, 3, 3)).astype(np.int8), "wq"),
    ]
    nodes = [
        NODE("QuantizeLinear", ["x", "s", "z"], ["q0"]),
        NODE("DequantizeLinear", ["wq", "sw", "zw"], ["w"]),
        NODE("DequantizeLinear", ["q0", "s", "z"], ["d0"]),
        NODE("Conv", ["d0", "w"], ["c"], pads=[1] * 4),
        NODE("QuantizeLinear", ["c", "so", "z"], ["q1"]),
        NODE("DequantizeLinear", ["q1", "so", "z"], ["d1"]),
        NODE(tail, ["d1"], ["e"]),
        NODE("QuantizeLinear", ["e", "so", "z"], ["q2"]),
        NODE("DequantizeLinear", ["q2", "so", "z"], ["y"]),
    ]
    x, y = (helper.make_tensor_value_info(name, TensorProto.FLOAT, [1, 8, 8, 8]) for name in ("x", "y"))
    graph = helper.make_graph(nodes, "qdq", [x], [y], values)
    return from_proto(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)], ir_version=8), "qdq")


def test_a_mask_that_every_block_reads_travels_with_the_cut():
    assert [set(names) for names in tensors(masked())] == [{"h0", "mask"}, {"h1", "mask"}, {"h2", "mask"}, {"h3"}]


def test_a_skip_connection_makes_no_cut_of_two_tensors():
    nodes = [
        NODE("Tanh", ["x"], ["a"]),
        NODE("Gemm", ["a", "w"], ["b"]),
        NODE("Tanh", ["b"], ["c"]),
        NODE("Add", ["a", "c"], ["y"]),
    ]
    graph = from_proto(model(nodes, {"x": ["N", 8]}, ["y"], {"w": np.eye(8, dtype=np.float32)}), "skip")
    assert tensors(graph) == [("x",), ("a",), ("y",)]


def test_small_results_that_wait_for_the_end_travel_along():
    weights = {"w": np.eye(32, dtype=np.float32), "v": np.ones((32, 1), np.float32)}
    nodes = [
        NODE("MatMul", ["x", "w"], ["a"]),
        NODE("MatMul", ["a", "v"], ["state"]),
        NODE("Tanh", ["a"], ["b"]),
        NODE("Softmax", ["b"], ["c"]),
        NODE("Add", ["c", "state"], ["y"]),
    ]
    graph = from_proto(model(nodes, {"x": ["N", 32]}, ["y"], weights), "state")
    assert ("state", "b") in tensors(graph)


@pytest.mark.parametrize("tail", ["Softmax", "Sigmoid"])
def test_a_quantised_network_is_cut_at_its_integers_and_answers_the_same(tail: str):
    graph = quantised(tail)
    assert tensors(graph) == [("x",), ("q0",), ("q1",), ("q2",), ("y",)]
    for seed in range(10):
        x = {"x": np.random.default_rng(seed).standard_normal((1, 8, 8, 8)).astype(np.float32)}
        whole = run(graph, x, ["y"])["y"]
        for cut in graph.useful_cuts()[1:-1]:
            sent = run(graph, x, cut.tensors)
            assert {value.dtype for value in sent.values()} == {np.dtype(np.uint8)}
            np.testing.assert_array_equal(run(graph, sent, ["y"])["y"], whole)


def test_an_input_in_another_shape_or_type_is_sent_as_it_came():
    nodes = [
        NODE("Cast", ["x"], ["f"], to=TensorProto.FLOAT),
        NODE("Transpose", ["f"], ["t"], perm=[0, 2, 1]),
        NODE("Softmax", ["t"], ["a"]),
        NODE("Tanh", ["a"], ["y"]),
    ]
    x = helper.make_tensor_value_info("x", TensorProto.UINT8, [1, 4, 6])
    y = helper.make_tensor_value_info("y", TensorProto.FLOAT, [1, 6, 4])
    made = helper.make_model(helper.make_graph(nodes, "cast", [x], [y]), opset_imports=[helper.make_opsetid("", 17)])
    assert tensors(from_proto(made, "cast")) == [("x",), ("a",), ("y",)]


def sent_by_brute_force(graph: ModelGraph, count: int) -> set[str]:
    """What operations from `count` on read of what came before, and outputs that were made before."""
    made = {*graph.inputs, *(name for op in graph.ops[:count] for name in op.outputs)}
    read = {name for op in graph.ops[count:] for name in op.inputs} | set(graph.outputs)
    return made & read


@settings(max_examples=30, deadline=None)
@given(dags())
def test_useful_cuts_send_what_is_needed_and_no_earlier_one_sends_less(graph: ModelGraph):
    useful = graph.useful_cuts()
    for cut in useful:
        assert set(cut.tensors) == sent_by_brute_force(graph, len(cut.head))
        assert cut == graph.cut(cut.head)
    for i, cut in enumerate(useful[1:-1], 1):
        assert len(cut.tensors) <= MAX_TENSORS
        assert not any(set(earlier.tensors) <= set(cut.tensors) for earlier in useful[:i])


@settings(max_examples=20, deadline=None)
@given(dags(max_ops=6))
def test_pieces_answer_bit_by_bit_as_the_whole(graph: ModelGraph):
    x = {"t0": np.random.default_rng(3).standard_normal((2, WIDTH)).astype(np.float32)}
    whole = run(graph, x, graph.outputs)
    for cut in graph.useful_cuts()[:-1]:
        rest = run(graph, run(graph, x, cut.tensors), graph.outputs)
        assert {name: value.tobytes() for name, value in rest.items()} == {
            name: value.tobytes() for name, value in whole.items()
        }


def test_cuts_of_a_long_network_are_few_and_hold_no_lists_of_operations():
    pairs = ((NODE("Tanh", [f"h{i}"], [f"a{i}"]), NODE("Softmax", [f"a{i}"], [f"h{i + 1}"])) for i in range(2000))
    nodes = [node for pair in pairs for node in pair]
    graph = from_proto(model(nodes, {"h0": ["N", 4]}, ["h2000"]), "long")
    cuts = graph.useful_cuts()
    assert (cuts[0].tensors, cuts[-1].tensors, len(cuts)) == (("h0",), ("h2000",), MAX_CUTS)
    assert all(sys.getsizeof(cut.head) < 100 for cut in graph.single_cuts())
    assert [len(cut.head) for cut in cuts] == sorted({len(cut.head) for cut in cuts})


def test_a_prefix_is_a_set():
    assert Prefix(3) == frozenset(range(3))
    assert hash(Prefix(3)) == hash(frozenset(range(3)))
    assert Prefix(4) - Prefix(2) == {2, 3}
    assert 3 not in Prefix(3)
