"""Everything whose sizes depend on values runs in one place, after what can be cut."""

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper
from tests.graph.onnx.agreement import opened
from tests.graph.small_graphs import model

from coinfer.graph.ir import GraphError
from coinfer.graph.onnx.limits import parse_limits
from coinfer.graph.onnx.load import from_proto

node = helper.make_node
RANDOM = np.random.default_rng(1)


def detector() -> onnx.ModelProto:
    """Convolution, boxes and scores, non-maximum suppression, and the boxes that it selects."""
    nodes = [
        node("Conv", ["x", "w"], ["f"]),
        node("Relu", ["f"], ["r"]),
        node("Reshape", ["r", "flat"], ["all"]),
        node("Split", ["all"], ["boxes", "raw"], axis=2, num_outputs=2),
        node("ReduceMax", ["raw", "last"], ["score"]),
        node("Transpose", ["score"], ["scores"], perm=[0, 2, 1]),
        node("NonMaxSuppression", ["boxes", "scores", "most", "overlap"], ["chosen"]),
        node("Gather", ["chosen", "two"], ["index"], axis=1),
        node("Gather", ["boxes", "index"], ["found"], axis=1),
        node("Shape", ["chosen"], ["counts"]),
        node("Gather", ["counts", "none"], ["count"]),
        node("Expand", ["seven", "count"], ["labels"]),
    ]
    weights = {
        "w": RANDOM.standard_normal((8, 3, 1, 1)).astype(np.float32),
        "flat": np.array([1, 64, 8]),
        "last": np.array([2]),
        "most": np.array(5),
        "overlap": np.array(0.5, np.float32),
        "two": np.array(2),
        "none": np.array([0]),
        "seven": np.array([7]),
    }
    proto = model(nodes, {"x": [1, 3, 8, 8]}, ["found", "labels", "r"], weights, opset=18)
    proto.graph.output[1].type.tensor_type.elem_type = TensorProto.INT64
    return proto


def test_a_detector_is_cut_before_its_suppression() -> None:
    feeds = [{"x": RANDOM.standard_normal((1, 3, 8, 8)).astype(np.float32)} for _ in range(3)]
    graph = opened(detector(), *feeds)
    assert [op.kind for op in graph.ops][:6] == ["Conv", "Relu", "Reshape", "Split", "ReduceMax", "Transpose"]
    (tail,) = graph.ops[6:]
    assert (tail.kind, len(tail.nodes)) == ("Tail", 6)
    assert tail.inputs == ("boxes", "scores")
    assert tail.outputs == ("found", "labels")
    assert graph.free_shape("labels") == ("?",)
    assert ("f",) not in graph.tensors.items()
    assert graph.notes.uncut == ("the sizes that operation NonMaxSuppression ('chosen') makes depend on values",)
    assert [op.kind for op in graph.pruned(("r",)).ops] == ["Conv", "Relu"]


def test_a_part_beside_the_tail_stays_cuttable() -> None:
    nodes = [
        node("Relu", ["x"], ["a"]),
        node("NonZero", ["a"], ["places"]),
        node("Tanh", ["a"], ["b"]),
        node("Neg", ["b"], ["y"]),
    ]
    proto = model(nodes, {"x": [2, 4]}, ["places", "y"])
    proto.graph.output[0].type.tensor_type.elem_type = TensorProto.INT64
    graph = opened(proto, {"x": RANDOM.standard_normal((2, 4)).astype(np.float32)})
    assert [op.kind for op in graph.ops] == ["Relu", "Tanh", "Neg", "NonZero"]


def test_a_network_that_is_all_tail_has_two_places() -> None:
    nodes = [node("NonZero", ["x"], ["i"]), node("Cast", ["i"], ["f"], to=1), node("ReduceMean", ["f"], ["y"])]
    graph = opened(model(nodes, {"x": [2, 4]}, ["y"]), {"x": np.eye(2, 4, dtype=np.float32)})
    assert len(graph.ops) == 1
    assert [cut.tensors for cut in graph.useful_cuts()] == [("x",), ("y",)]


def test_sequences_stay_inside_and_are_refused_as_outputs_by_name() -> None:
    nodes = [
        node("Relu", ["x"], ["r"]),
        node("SplitToSequence", ["r"], ["parts"], axis=0, keepdims=0),
        node("ConcatFromSequence", ["parts"], ["y"], axis=0),
    ]
    graph = opened(model(nodes, {"x": [2, 4]}, ["y"]), {"x": RANDOM.standard_normal((2, 4)).astype(np.float32)})
    assert [op.kind for op in graph.ops] == ["Relu", "Tail"]
    proto = model(nodes[:2], {"x": [2, 4]}, ["parts"])
    proto.graph.output[0].CopyFrom(
        helper.make_value_info("parts", helper.make_sequence_type_proto(helper.make_tensor_type_proto(1, None)))
    )
    with pytest.raises(GraphError, match="output 'parts' is a sequence and no tensor, so it cannot be sent"):
        from_proto(proto, "net")


def test_maps_as_outputs_are_refused_by_name() -> None:
    nodes = [
        node("Relu", ["x"], ["r"]),
        node("ZipMap", ["r"], ["scores"], domain="ai.onnx.ml", classlabels_strings=["cat", "dog"]),
    ]
    proto = model(nodes, {"x": [1, 2]}, ["scores"])
    proto.opset_import.add(domain="ai.onnx.ml", version=1)
    kind = helper.make_map_type_proto(TensorProto.STRING, helper.make_tensor_type_proto(1, []))
    proto.graph.output[0].CopyFrom(helper.make_value_info("scores", helper.make_sequence_type_proto(kind)))
    with pytest.raises(GraphError, match=r"output 'scores' is a sequence .*ZipMap.*zipmap=False"):
        from_proto(proto, "net")


def test_sizes_that_values_of_a_request_say_open_only_when_trusted() -> None:
    nodes = [
        node("ReduceSum", ["x"], ["s"], keepdims=0),
        node("Cast", ["s"], ["n"], to=TensorProto.INT64),
        node("Unsqueeze", ["n", "none"], ["shape"]),
        node("Expand", ["one", "shape"], ["y"]),
    ]
    proto = model(nodes, {"x": [4]}, ["y"], {"none": np.array([0]), "one": np.ones(1, np.float32)})
    with pytest.raises(GraphError, match=r"Expand \('y'\) makes a tensor as large as values of a request say, 'shape'"):
        from_proto(proto, "net")
    graph = from_proto(proto, "net", limits=parse_limits({"loop-steps": 0}))
    assert graph.ops[-1].outputs == ("y",)


def test_sizes_that_grow_by_large_factors_are_no_measured_ones() -> None:
    """The number of chosen places times 2^40 is a bomb, although it follows from a size."""
    nodes = [
        node("NonZero", ["x"], ["i"]),
        node("Shape", ["i"], ["s"]),
        node("Mul", ["s", "huge"], ["shape"]),
        node("Expand", ["one", "shape"], ["y"]),
    ]
    proto = model(nodes, {"x": [4]}, ["y"], {"huge": np.array([2**40]), "one": np.ones(1, np.float32)})
    with pytest.raises(GraphError, match=r"Expand .* as large as values of a request say"):
        from_proto(proto, "net")
