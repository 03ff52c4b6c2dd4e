import numpy as np
import pytest
from onnx import TensorProto, helper, numpy_helper

from coinfer.graph.ir import ModelGraph
from coinfer.graph.onnx.load import from_proto
from coinfer.profile.samples import random_samples, workable_samples
from coinfer.profile.table import ProfileError

NODE = helper.make_node


def of(nodes, inputs: dict[str, int], weights: dict[str, np.ndarray]) -> ModelGraph:
    """Inputs [1, 6] of the given types."""
    graph = helper.make_graph(
        nodes,
        "g",
        [helper.make_tensor_value_info(name, kind, [1, 6]) for name, kind in inputs.items()],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, None)],
        [numpy_helper.from_array(value, name) for name, value in weights.items()],
    )
    return from_proto(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), "g")


def tokens() -> ModelGraph:
    """Two tables, the second of two rows only, and a mask."""
    nodes = [
        NODE("Gather", ["words", "ids"], ["a"]),
        NODE("Gather", ["kinds", "types"], ["b"]),
        NODE("Cast", ["mask"], ["m"], to=TensorProto.FLOAT),
        NODE("Add", ["a", "b"], ["c"]),
        NODE("Unsqueeze", ["m", "last"], ["n"]),
        NODE("Mul", ["c", "n"], ["y"]),
    ]
    weights = {"words": np.ones((50, 4), np.float32), "kinds": np.ones((2, 4), np.float32), "last": np.array([2])}
    return of(nodes, dict.fromkeys(("ids", "types", "mask"), TensorProto.INT64), weights)


def test_whole_numbers_select_rows_that_the_tables_have_and_masks_are_ones():
    graph = tokens()
    samples = random_samples(graph, 20)
    assert {int(v) for s in samples for v in s["types"].flat} == {0, 1}
    ids = {int(v) for s in samples for v in s["ids"].flat}
    assert 2 < max(ids) < 50
    assert min(ids) >= 0
    assert all((s["mask"] == 1).all() for s in samples)


def test_a_network_that_takes_no_noise_gets_what_it_takes():
    """The exponent of a float input counts rows of a table of three: noise is out of range in one case of many."""
    nodes = [
        NODE("Mul", ["x", "far"], ["z"]),
        NODE("Cast", ["z"], ["i"], to=TensorProto.INT64),
        NODE("Gather", ["t", "i"], ["y"]),
    ]
    graph = of(nodes, {"x": TensorProto.FLOAT}, {"t": np.ones((3, 2), np.float32), "far": np.float32(1000).reshape(1)})
    (sample,) = workable_samples(graph)
    assert (sample["x"] == 0).all()


def test_a_network_that_takes_nothing_of_it_says_how_to_give_inputs():
    nodes = [
        NODE("Add", ["x", "far"], ["z"]),
        NODE("Cast", ["z"], ["i"], to=TensorProto.INT64),
        NODE("Gather", ["t", "i"], ["y"]),
    ]
    graph = of(nodes, {"x": TensorProto.FLOAT}, {"t": np.ones((3, 2), np.float32), "far": np.float32(900).reshape(1)})
    with pytest.raises(ProfileError, match=r"takes neither noise nor zeros nor ones .*--samples FILE\.npz"):
        workable_samples(graph)


def test_the_operation_that_refuses_is_named_and_known_inputs_are_tried_last():
    nodes = [NODE("Sub", ["x", "far"], ["i"]), NODE("Gather", ["t", "i"], ["y"], name="pick")]
    graph = of(nodes, {"x": TensorProto.INT64}, {"t": np.ones((1, 2), np.float32), "far": np.array([900])})
    with pytest.raises(ProfileError, match=r"\(Gather 'pick': indices element out of data bounds, idx=-89\d "):
        workable_samples(graph)
    known = {"x": np.full((1, 6), 900)}
    assert workable_samples(graph, [{"x": np.zeros(3)}, {}, known]) == [known]
