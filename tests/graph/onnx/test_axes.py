"""Sizes of free axes: what the user says, what is asked for, and what stays free."""

from collections.abc import Mapping
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import helper
from tests.graph.small_graphs import model, run

from coinfer.graph.ir import GraphError
from coinfer.graph.onnx.load import from_proto
from coinfer.graph.open_model import open_model
from coinfer.graph.sizes import sizes_of, with_sizes

node = helper.make_node


def detector(*dims: int | str) -> onnx.ModelProto:
    """A convolution and an activation on pictures of any size."""
    nodes = [node("Conv", ["images", "w"], ["c"], pads=[1] * 4), node("Relu", ["c"], ["y"])]
    return model(nodes, {"images": dims}, ["y"], {"w": np.ones((4, 3, 3, 3), np.float32)})


FREE = ("batch", 3, "height", "width")


@pytest.mark.parametrize(
    "shapes",
    [
        {"images": (1, 3, 32, 48)},
        {"images": "1,3,32,48"},
        {"height": 32, "width": 48, "batch": "1"},
        {"images.2": 32, "images.3": 48, "images.0": 1},
        {"images": ("?", 3, 32, "width"), "width": 48, "batch": 1},
    ],
)
def test_axes_are_fixed_by_name_and_by_input(shapes: Mapping) -> None:
    graph = from_proto(detector(*FREE), "net", sizes=shapes)
    assert [graph.tensors[name].shape for name in ("images", "c", "y")] == [
        (1, 3, 32, 48),
        (1, 4, 32, 48),
        (1, 4, 32, 48),
    ]
    assert (graph.axes, graph.dynamic_batch) == ((), False)
    dims = graph.proto.graph.input[0].type.tensor_type.shape.dim
    assert [dim.dim_value for dim in dims] == [1, 3, 32, 48]
    assert from_proto(detector(*FREE), "again", sizes=graph.shapes).fingerprint == graph.fingerprint


@pytest.mark.parametrize("first", [-1, "N", "batch", "d_1"])
def test_a_batch_needs_no_size_and_stays_free(first: int | str) -> None:
    graph = from_proto(detector(first, 3, 8, 8), "net")
    assert graph.dynamic_batch
    assert graph.free_shape("c") == ("N", 4, 8, 8)
    assert graph.shapes == {}


def test_an_axis_within_a_range_stays_free_in_every_piece() -> None:
    graph = from_proto(detector(*FREE), "net", sizes={"height": "16..64", "width": 24})
    assert graph.sizes == {"batch": 1, "height": 16}
    assert graph.free_shape("c") == ("N", 4, "height", 24)
    assert graph.shapes == {"height": "16..64", "width": "24"}
    for batch, height in ((1, 16), (2, 33), (3, 64)):
        x = np.random.default_rng(0).standard_normal((batch, 3, height, 24)).astype(np.float32)
        assert sizes_of(graph, {"images": x}) == {"batch": batch, "height": height}
        pieces = run(graph, run(graph, {"images": x}, ("c",)), ("y",))["y"]
        np.testing.assert_array_equal(pieces, run(graph, {"images": x}, ("y",))["y"])


def test_shapes_and_work_at_other_sizes() -> None:
    graph = from_proto(detector(*FREE), "net", sizes={"height": "16..", "width": "16.."})
    larger = with_sizes(graph, {"height": 32, "batch": 3})
    assert larger.tensors["c"].shape == (3, 4, 32, 16)
    assert larger.ops[0].work_flop == 6 * graph.ops[0].work_flop
    assert (larger.fingerprint, larger.axes) == (graph.fingerprint, graph.axes)
    assert with_sizes(larger, {}).tensors == graph.tensors
    fixed = from_proto(detector(3, 3, 32, 16), "fixed")
    assert larger.work_flop == fixed.work_flop
    assert with_sizes(graph, {"height": 16}) is graph


def test_strides_do_not_hide_that_an_axis_is_free() -> None:
    """Sizes of one to nine elements are all one after three strides of two and a filter's border."""
    convolve = [node("Conv", [f"c{i}", "w"], [f"c{i + 1}"], pads=[1] * 4, strides=[2, 2]) for i in range(4)]
    nodes = [*convolve, node("Relu", ["c4"], ["y"])]
    proto = model(nodes, {"c0": FREE}, ["y"], {"w": np.ones((3, 3, 3, 3), np.float32)})
    graph = from_proto(proto, "net", sizes={"height": "1..", "width": "1..320"})
    assert graph.free_shape("y") == graph.free_shape("c4") == ("N", 3, "?", "?")
    x = np.random.default_rng(0).standard_normal((1, 3, 64, 160)).astype(np.float32)
    pieces = run(graph, run(graph, {"c0": x}, ("c4",)), ("y",))["y"]
    np.testing.assert_array_equal(pieces, run(graph, {"c0": x}, ("y",))["y"])


def test_a_table_of_few_positions_does_not_forbid_a_free_axis() -> None:
    nodes = [
        node("Shape", ["x"], ["length"], start=1, end=2),
        node("Slice", ["table", "zero", "length", "one"], ["positions"]),
        node("Add", ["x", "positions"], ["y"]),
    ]
    table = {"table": np.ones((1, 16, 4), np.float32), "zero": np.array([0]), "one": np.array([1])}
    graph = from_proto(model(nodes, {"x": (1, "time", 4)}, ["y"], table), "net", sizes={"time": "1.."})
    assert graph.free_shape("y") == (1, "time", 4)


def test_computed_targets_follow_the_size() -> None:
    """What exporters write for x.reshape(batch, length // 2, 8): only free sizes stay computed."""
    nodes = [
        node("Shape", ["x"], ["s"]),
        node("Gather", ["s", "one"], ["length"], axis=0),
        node("Div", ["length", "two"], ["half"]),
        node("Concat", ["minus", "half", "eight"], ["target"], axis=0),
        node("Reshape", ["x", "target"], ["f"]),
        node("Relu", ["f"], ["y"]),
    ]
    values = {"one": np.array([1]), "two": np.array([2]), "minus": np.array([1]), "eight": np.array([8])}
    graph = from_proto(model(nodes, {"x": [1, "seq", 4]}, ["y"], values), "half", sizes={"seq": "2..10"})
    assert graph.free_shape("y") == (1, "?", 8)
    for length in (2, 6, 10):
        x = np.arange(length * 4, dtype=np.float32).reshape(1, length, 4)
        np.testing.assert_array_equal(run(graph, {"x": x}, ("y",))["y"], x.reshape(1, length // 2, 8))


def test_state_with_the_batch_on_another_axis() -> None:
    nodes = [node("Squeeze", ["state", "zero"], ["s"]), node("Add", ["x", "s"], ["y"])]
    inputs = {"x": ["batch", 4], "state": [1, "batch", 4]}
    graph = from_proto(model(nodes, inputs, ["y"], {"zero": np.array([0])}), "cell")
    assert graph.dynamic_batch is False
    assert graph.free_shape("s") == ("N", 4)
    with pytest.raises(GraphError, match=r"different sizes of axis 'batch': \[2, 3\]"):
        sizes_of(graph, {"x": np.zeros((2, 4), np.float32), "state": np.zeros((1, 3, 4), np.float32)})


@pytest.mark.parametrize(
    ("shapes", "message"),
    [
        ({}, r"axis 2; .*--shape images=1,3,224,224, or --shape height=224 for this axis alone$"),
        ({"height": 320}, r"axis 3; .*--shape images=1,3,320,224, or --shape width=224"),
        ({"depth": 3}, "no axis or input is called 'depth'; there are batch, height, width, images"),
        ({"images": (1, 3, 320)}, r"input 'images' has 4 axes: \[batch, 3, height, width\]"),
        ({"images": (1, 4, 8, 8)}, "axis 1 of input 'images' is fixed at 3"),
        ({"images": (1, 3, 8, 8), "height": 9}, "'height' has another size by --image-size or another --shape"),
        ({"height": 0}, "'0' is no size; expected a number such as 320, or a range"),
        ({"height": "9..8"}, "'9..8' is no size"),
        ({"height": (1, 2)}, "'height' is one axis"),
        ({"images": "1,3,8,x"}, "'x' is no size"),
    ],
)
def test_sizes_that_do_not_fit(shapes: Mapping, message: str) -> None:
    with pytest.raises(GraphError, match=message) as caught:
        from_proto(detector(*FREE), "net", sizes=shapes)
    assert "\n" not in str(caught.value)


def test_requests_outside_a_range_are_refused() -> None:
    graph = from_proto(detector(*FREE), "net", sizes={"height": "16..64", "width": 24})
    with pytest.raises(GraphError, match=r"axis 'height' cannot be 65; it was opened for 16\.\.64"):
        sizes_of(graph, {"images": np.zeros((1, 3, 65, 24), np.float32)})
    with pytest.raises(GraphError, match="no free axis 'width'; there are batch, height"):
        with_sizes(graph, {"width": 3})


def test_files_open_with_sizes_and_the_zoo_without(tmp_path: Path) -> None:
    onnx.save(detector(*FREE), tmp_path / "net.onnx")
    assert open_model(tmp_path / "net.onnx", {"height": 16, "width": "8..16"}).sizes == {"batch": 1, "width": 8}
    with pytest.raises(GraphError, match=r"net\.onnx: input 'images' .* has no size on axis 2"):
        open_model(tmp_path / "net.onnx")
    with pytest.raises(GraphError, match="resnet32: a network of the zoo has sizes of its own"):
        open_model("resnet32", {"N": 1})


def test_sizes_that_the_network_cannot_take_are_named() -> None:
    """A table of 16 positions, of which the length of the input takes as many."""
    nodes = [
        node("Shape", ["x"], ["s"]),
        node("Gather", ["s", "one"], ["n"]),
        node("Range", ["zero", "n", "one"], ["i"]),
        node("Gather", ["table", "i"], ["p"]),
        node("Add", ["x", "p"], ["y"]),
    ]
    values = {"one": np.array(1), "zero": np.array(0), "table": np.ones((16, 4), np.float32)}
    proto = model(nodes, {"x": [1, "length", 4]}, ["y"], values)
    assert from_proto(proto, "positions", sizes={"length": 16}).weights["p"].shape == (16, 4)
    with pytest.raises(GraphError, match=r"does the network take inputs of the sizes x \[1, 17, 4\]\?"):
        from_proto(proto, "positions", sizes={"length": 17})


@pytest.mark.parametrize("sizes", [(np.int64(1), 3, 8, 8), np.array([1, 3, 8, 8]), [1, 3, "8", 8]])
def test_sizes_may_be_numbers_of_numpy(tmp_path: Path, sizes: list) -> None:
    path = tmp_path / "net.onnx"
    onnx.save(detector(*FREE), path)
    assert open_model(path, {"images": sizes}).tensors["images"].shape == (1, 3, 8, 8)


@pytest.mark.parametrize(
    ("shapes", "message"),
    [
        ({"height": float("nan")}, "nan is no size of 'height'; expected a number or a range"),
        ({"images": (1, 3, None, 8)}, "None is no size of 'images'"),
        ({"images": 8}, r"input 'images' has 4 axes"),
        ("height=8", "shapes are 'height=8'; expected sizes by name"),
    ],
)
def test_sizes_of_other_types_are_named(tmp_path: Path, shapes: object, message: str) -> None:
    path = tmp_path / "net.onnx"
    onnx.save(detector(*FREE), path)
    with pytest.raises(GraphError, match=message):
        open_model(path, shapes)  # type: ignore[arg-type]


def test_a_folder_is_no_network(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)
    for folder in (".", "..", "/"):
        with pytest.raises(GraphError, match=r"not a regular file; expected an ONNX model such as model\.onnx"):
            open_model(folder)
