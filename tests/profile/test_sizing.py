import itertools

import numpy as np
import pytest
from onnx import TensorProto, helper, numpy_helper
from tests.graph.small_graphs import model, perceptron
from tests.tables import analytic_table

from coinfer.graph.ir import FreeAxis, GraphError
from coinfer.graph.onnx.load import from_proto
from coinfer.graph.segment import segment
from coinfer.graph.session import open_session
from coinfer.graph.zoo import networks
from coinfer.profile.samples import random_samples
from coinfer.profile.sizing import (
    at_sizes,
    interpolation_error,
    measure_sizes,
    rounded_sizes,
    stretched,
    time_ratio,
)

GRAPH = networks.build("alexnet-cifar")
TABLE = analytic_table(GRAPH).model_copy(update={"sizes": {"N": {1: 1.0, 2: 1.8, 8: 6.0}}, "call_s": 0.0})


def test_measured_sizes_are_met_and_sizes_between_and_beyond_follow():
    assert [time_ratio(TABLE.sizes, {"N": size}) for size in (1, 2, 8)] == pytest.approx([1.0, 1.8, 6.0])
    between, beyond = time_ratio(TABLE.sizes, {"N": 4}), time_ratio(TABLE.sizes, {"N": 16})
    assert between == pytest.approx((1.8 * 6.0) ** 0.5)
    assert beyond == pytest.approx(6.0 * 2 ** (np.log(6.0 / 1.8) / np.log(4)))
    assert time_ratio({"h": {32: 1.0, 64: 4.0}, "w": {32: 1.0, 64: 2.0}}, {"h": 64, "w": 64}) == pytest.approx(8.0)


def test_an_axis_that_was_not_measured_grows_with_its_size():
    assert time_ratio({"N": {1: 1.0}}, {"N": 5}) == 5.0


def test_the_stated_error_is_that_of_a_size_left_out():
    assert interpolation_error({"N": {1: 1.0, 2: 2.0, 8: 8.0}}) == pytest.approx(0.0)
    assert interpolation_error({"N": {1: 1.0, 2: 3.0, 8: 8.0}}) == pytest.approx(1 / 3)
    assert interpolation_error({"N": {1: 1.0}}) == 0.0


def test_bits_follow_the_batch_exactly_and_times_as_measured():
    graph, table = at_sizes(GRAPH, TABLE, {"N": 8})
    assert table.whole_s == pytest.approx(6.0 * TABLE.whole_s)
    assert table.call_s + sum(table.op_s) == pytest.approx(table.whole_s)
    for name, by_bits in TABLE.payload_bits.items():
        assert table.payload_bits[name] == pytest.approx({bits: 8 * size for bits, size in by_bits.items()})
    assert graph.tensors["pool1"].shape[0] == 8
    table.check(graph)
    assert at_sizes(GRAPH, TABLE, {}) == (GRAPH, TABLE)


def test_outputs_whose_number_depends_on_values_do_not_grow():
    """A network that finds: what it finds has no size before it runs."""
    nodes = [
        helper.make_node("MatMul", ["x", "w"], ["h"]),
        helper.make_node("NonZero", ["h"], ["found"]),
    ]
    proto = model(nodes, {"x": [1, "length", 4]}, ["found"], {"w": np.eye(4, dtype=np.float32)})
    proto.graph.output[0].type.tensor_type.elem_type = TensorProto.INT64
    graph = from_proto(proto, "finder", sizes={"length": "2.."})
    assert graph.tensors["found"].elements == 0
    table = analytic_table(graph).model_copy(update={"sizes": {"length": {2: 1.0, 4: 2.0}}})
    sized, larger = at_sizes(graph, table, {"length": 4})
    assert sized.tensors["h"].shape == (1, 4, 4)
    assert larger.whole_s == pytest.approx(2 * table.whole_s)


def test_sizes_that_the_network_does_not_have_are_refused():
    with pytest.raises(GraphError, match="no free axis 'height'"):
        at_sizes(GRAPH, TABLE, {"height": 8})


def test_sizes_are_measured_beside_the_smallest_one():
    """Every run takes one second of a clock that only counts: all sizes take as long as one."""
    graph = from_proto(perceptron(), "perceptron")
    ticks = itertools.count()
    session = open_session(graph, segment(graph, graph.inputs, graph.outputs))
    found = measure_sizes(graph, random_samples(graph)[0], session, lambda: float(next(ticks)))
    assert found == {graph.batch: {1: 1.0, 2: 1.0}}, "two sizes take so long that no third is measured"


def test_samples_are_repeated_along_the_axis():
    axis = FreeAxis("seq", 2, 8, (("ids", 1), ("mask", 1)))
    sample = {"ids": np.array([[7, 9]]), "mask": np.array([[1, 0]]), "state": np.zeros(3)}
    found = stretched(sample, axis, 5)
    assert found["ids"].tolist() == [[7, 9, 7, 9, 7]]
    assert found["mask"].tolist() == [[1, 0, 1, 0, 1]]
    assert found["state"] is sample["state"]


def test_requests_of_nearly_one_size_share_a_plan():
    assert rounded_sizes({"N": 7, "w": 640, "h": 333}) == {"N": 7, "w": 640, "h": 320}
    assert all(abs(rounded_sizes({"n": n})["n"] / n - 1) < 1 / 15 for n in range(1, 3000))


def test_a_size_that_the_network_does_not_take_is_left_out_silently(capfd: pytest.CaptureFixture[str]):
    """The state is declared for one sample, so the network takes no other batch than one."""
    node = helper.make_node("Sum", ["x", "h"], ["s"])
    nodes = [node, helper.make_node("RNN", ["s", "w", "r", "", "", "h0"], ["y"], hidden_size=2)]
    values = [("x", [3, "batch", 2]), ("h", [3, 1, 2]), ("h0", [1, 1, 2])]
    inputs = [helper.make_tensor_value_info(name, TensorProto.FLOAT, shape) for name, shape in values]
    output = helper.make_tensor_value_info("y", TensorProto.FLOAT, None)
    weights = [numpy_helper.from_array(np.ones((1, 2, 2), np.float32), name) for name in ("w", "r")]
    proto = helper.make_graph(nodes, "g", inputs, [output], weights)
    graph = from_proto(helper.make_model(proto, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), "g")
    session = open_session(graph, segment(graph, graph.inputs, graph.outputs))
    found = measure_sizes(graph, random_samples(graph)[0], session, itertools.count().__next__)
    assert found == {"batch": {1: 1.0}}
    assert not capfd.readouterr().err
