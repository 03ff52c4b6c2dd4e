import os
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import TensorProto, helper, numpy_helper
from tests.graph.small_graphs import model, perceptron

from coinfer.graph.ir import GraphError, ModelGraph
from coinfer.graph.onnx import validate
from coinfer.graph.onnx.limits import parse_limits
from coinfer.graph.onnx.load import from_proto, load

WEIGHT_BYTES = 8 * 4 * 4


def refused(path: Path, message: str) -> None:
    with pytest.raises(GraphError, match=message) as caught:
        load(path)
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)


def saved(path: Path, proto: onnx.ModelProto) -> Path:
    path.write_bytes(proto.SerializeToString())
    return path


def with_external(directory: Path, **entries: str) -> Path:
    """The perceptron with the values of `w1` in the file `w.bin` beside it, and its reference changed as given."""
    proto = perceptron()
    tensor = next(value for value in proto.graph.initializer if value.name == "w1")
    if not (directory / "w.bin").exists():
        (directory / "w.bin").write_bytes(b"\0" * 64 + tensor.raw_data)
    tensor.ClearField("raw_data")
    tensor.data_location = TensorProto.EXTERNAL
    for key, value in ({"location": "w.bin", "offset": "64", "length": str(WEIGHT_BYTES)} | entries).items():
        tensor.external_data.add(key=key, value=value)
    return saved(directory / "model.onnx", proto)


def test_no_such_file(tmp_path: Path) -> None:
    refused(tmp_path / "none.onnx", "cannot read the model: No such file")


@pytest.mark.parametrize("content", [b"", b"hello, this is no model\n" * 50, b"\x00" * 64, b"PK\x03\x04" + b"z" * 99])
def test_not_onnx(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "text.onnx"
    path.write_bytes(content)
    refused(path, "not an ONNX model")


def test_directory_and_pipe(tmp_path: Path) -> None:
    refused(tmp_path, "not a regular file")
    os.mkfifo(tmp_path / "pipe")
    refused(tmp_path / "pipe", "not a regular file")


def test_too_large_for_protobuf(tmp_path: Path) -> None:
    path = tmp_path / "sparse.onnx"
    with path.open("wb") as file:
        file.truncate(validate.MAX_FILE_BYTES + 1)
    refused(path, "at most 2048 MiB")


@pytest.mark.parametrize("share", [0.01, 0.3, 0.9, 0.999])
def test_truncated(tmp_path: Path, share: float) -> None:
    data = perceptron().SerializeToString()
    path = tmp_path / "cut.onnx"
    path.write_bytes(data[: int(len(data) * share)])
    refused(path, "not an? (whole )?ONNX model|truncated")


@settings(max_examples=60, deadline=None)
@given(st.data())
def test_damaged_files_are_read_or_refused_in_one_line(tmp_path_factory, data: st.DataObject) -> None:
    content = bytearray(perceptron().SerializeToString())
    for _ in range(data.draw(st.integers(1, 4))):
        content[data.draw(st.integers(0, len(content) - 1))] = data.draw(st.integers(0, 255))
    path = tmp_path_factory.getbasetemp() / "damaged.onnx"
    path.write_bytes(content)
    try:
        outcome: ModelGraph | GraphError = load(path)
    except GraphError as error:
        outcome = error
    assert str(outcome).isprintable() if isinstance(outcome, GraphError) else outcome.outputs


def test_weights_beside_the_model_are_read(tmp_path: Path) -> None:
    inline = from_proto(perceptron(), "inline")
    external = load(with_external(tmp_path))
    assert external.fingerprint == inline.fingerprint
    np.testing.assert_array_equal(external.weights["w1"], inline.weights["w1"])


def test_weights_in_a_folder_beside_the_model_are_read(tmp_path: Path) -> None:
    path = with_external(tmp_path, location="inner/w.bin")
    (tmp_path / "inner").mkdir()
    (tmp_path / "w.bin").rename(tmp_path / "inner" / "w.bin")
    assert load(path).fingerprint == from_proto(perceptron(), "inline").fingerprint


def test_offset_and_length_may_be_left_out(tmp_path: Path) -> None:
    onnx.save_model(perceptron(), tmp_path / "m.onnx", save_as_external_data=True, size_threshold=0, location="all.bin")
    assert load(tmp_path / "m.onnx").fingerprint == from_proto(perceptron(), "inline").fingerprint
    (tmp_path / "w.bin").write_bytes(from_proto(perceptron(), "inline").weights["w1"].tobytes())
    proto = onnx.load(with_external(tmp_path), load_external_data=False)
    del proto.graph.initializer[0].external_data[1:]
    assert load(saved(tmp_path / "short.onnx", proto)).fingerprint == from_proto(perceptron(), "inline").fingerprint


def hard_link(directory: Path) -> None:
    os.link(directory / "w.bin", directory / "second-name")


def symbolic_link(directory: Path) -> None:
    (directory / "w.bin").rename(directory / "real.bin")
    (directory / "w.bin").symlink_to("real.bin")


def folder_instead(directory: Path) -> None:
    (directory / "w.bin").unlink()
    (directory / "w.bin").mkdir()


def pipe_instead(directory: Path) -> None:
    (directory / "w.bin").unlink()
    os.mkfifo(directory / "w.bin")


@pytest.mark.parametrize(
    ("harm", "message"),
    [
        (hard_link, "has hard links"),
        (symbolic_link, r"'w\.bin' is a link, .* cp --remove-destination \S+/real\.bin"),
        (folder_instead, "no plain file"),
        (pipe_instead, "no plain file"),
        (lambda directory: (directory / "w.bin").unlink(), "No such file"),
        (lambda directory: os.truncate(directory / "w.bin", 64 + WEIGHT_BYTES - 1), "is truncated"),
    ],
)
def test_weights_in_a_file_that_is_not_plain(tmp_path: Path, harm: Callable[[Path], None], message: str) -> None:
    path = with_external(tmp_path)
    harm(tmp_path)
    refused(path, message)


@pytest.mark.parametrize(
    "location",
    ["/etc/hostname", "../w.bin", "inner/../../w.bin", "", ".", "..", "a\\..\\w.bin", "w.bin\0", "/", "//w.bin"],
)
def test_weights_outside_the_directory(tmp_path: Path, location: str) -> None:
    (tmp_path / "w.bin").write_bytes(b"\0" * 1024)
    (tmp_path / "models").mkdir()
    refused(with_external(tmp_path / "models", location=location), "'w1'.*(by a relative path|links)")


def test_weights_through_a_linked_folder(tmp_path: Path) -> None:
    (tmp_path / "models").mkdir()
    path = with_external(tmp_path / "models", location="inner/w.bin")
    (tmp_path / "models" / "inner").symlink_to(tmp_path)
    (tmp_path / "w.bin").write_bytes(b"\0" * 1024)
    refused(path, "'inner/w.bin' is a link")


@pytest.mark.parametrize(
    ("entries", "message"),
    [
        ({"offset": "-64"}, "no whole number"),
        ({"offset": "0x40"}, "no whole number"),
        ({"offset": "9" * 40}, "no whole number"),
        ({"offset": "\u0661"}, "no whole number"),
        ({"offset": str(2**60)}, "truncated"),
        ({"length": "127"}, "its shape needs 128"),
        ({"length": "0"}, "its shape needs 128"),
    ],
)
def test_weights_at_impossible_places(tmp_path: Path, entries: dict[str, str], message: str) -> None:
    refused(with_external(tmp_path, **entries), message)


def test_no_descriptor_is_left_open(tmp_path: Path) -> None:
    path = with_external(tmp_path)
    before = len(os.listdir("/proc/self/fd"))
    for harm in (None, hard_link, symbolic_link):
        if harm is not None:
            harm(tmp_path)
        for _ in range(5):
            try:
                load(path)
            except GraphError:
                assert harm is not None
    assert len(os.listdir("/proc/self/fd")) == before


def test_references_need_a_directory() -> None:
    proto = perceptron()
    proto.graph.initializer[0].ClearField("raw_data")
    proto.graph.initializer[0].data_location = TensorProto.EXTERNAL
    with pytest.raises(GraphError, match="does not come from a directory"):
        from_proto(proto, "memory")


def branch() -> onnx.GraphProto:
    return helper.make_graph([helper.make_node("Tanh", ["x"], ["z"])], "branch", [], [onnx.ValueInfoProto(name="z")])


@pytest.mark.parametrize(
    ("node", "message"),
    [
        (helper.make_node("Relu", ["x"], ["y"], hidden=branch()), "a graph of its own"),
        (helper.make_node("Evil", ["x"], ["y"], domain="com.example"), r"com\.example\.Evil .*known neither to ONNX"),
        (
            helper.make_node("NoSuchThing", ["x"], ["y"], domain="com.microsoft"),
            r"com\.microsoft\.NoSuchThing .*neither",
        ),
        (helper.make_node("EPContext", ["x"], ["y"], domain="com.microsoft"), "EPContext .* reads files of its own"),
        (helper.make_node("Gradient", ["x"], ["y"], domain="ai.onnx.preview.training"), "Gradient .* trains"),
        (helper.make_node("NoSuchThing", ["x"], ["y"]), "NoSuchThing .* does not exist in opset 17"),
    ],
)
def test_operations_that_are_not_let_in(tmp_path: Path, node: onnx.NodeProto, message: str) -> None:
    refused(saved(tmp_path / "m.onnx", model([node], {"x": ["N", 4], "t": [1], "n": [1]}, ["y"])), message)


def test_operations_inside_branches_are_checked_too(tmp_path: Path) -> None:
    hidden = branch()
    hidden.node.add(op_type="Evil", domain="com.example", output=["w"])
    node = helper.make_node("If", ["t"], ["y"], then_branch=branch(), else_branch=hidden)
    proto = model([node], {"x": ["N", 4], "t": [1]}, ["y"])
    refused(saved(tmp_path / "m.onnx", proto), r"com\.example\.Evil")


def test_constants_that_hide_files_or_sparse_values(tmp_path: Path) -> None:
    hidden = TensorProto(name="h", dims=[4], data_type=TensorProto.FLOAT, data_location=TensorProto.EXTERNAL)
    hidden.external_data.add(key="location", value="/etc/hostname")
    sparse = helper.make_sparse_tensor(
        numpy_helper.from_array(np.ones(1, np.float32), "v"), numpy_helper.from_array(np.zeros(1, np.int64), "i"), [4]
    )
    for attributes, message in (({"value": hidden}, "in another file"), ({"sparse_value": sparse}, "sparse")):
        nodes = [helper.make_node("Constant", [], ["c"], **attributes), helper.make_node("Add", ["x", "c"], ["y"])]
        refused(saved(tmp_path / "m.onnx", model(nodes, {"x": ["N", 4]}, ["y"])), message)
    proto = perceptron()
    proto.graph.sparse_initializer.append(sparse)
    refused(saved(tmp_path / "m.onnx", proto), "sparse weights")


@pytest.mark.parametrize("opset", [6, 10_000])
def test_versions_that_are_not_read(tmp_path: Path, opset: int) -> None:
    proto = perceptron()
    proto.opset_import[0].version = opset
    refused(saved(tmp_path / "m.onnx", proto), f"opset {opset}; expected 7 to")


def test_too_many_operations(tmp_path: Path) -> None:
    nodes = [helper.make_node("Tanh", [f"x{i}"], [f"x{i + 1}"]) for i in range(21)]
    path = saved(tmp_path / "m.onnx", model(nodes, {"x0": [1]}, [nodes[-1].output[0]]))
    with pytest.raises(GraphError, match=r"more than 20 operations; .*--limit operations=\d+ allows it"):
        load(path, limits=parse_limits({"operations": 20}))
    assert len(load(path, limits=parse_limits({"operations": "21"})).ops) == 21


@pytest.mark.parametrize(("name", "value"), [("operation", 5), ("trial-s", "x"), ("trial_s", -1)])
def test_limits_that_make_no_sense(name: str, value: int | str) -> None:
    with pytest.raises(GraphError, match=f"--limit {name}={value}"):
        parse_limits({name: value})


@pytest.mark.parametrize(
    ("dims", "message"),
    [
        ([2**62, 4], "MiB of weights"),
        ([-8, -4], "negative dimension"),
        ([8, 5], "its shape needs 160"),
        ([8, 3], "its shape needs 96"),
        ([], "its shape needs 4"),
    ],
)
def test_weights_whose_shape_lies(tmp_path: Path, dims: list[int], message: str) -> None:
    proto = perceptron()
    del proto.graph.initializer[0].dims[:]
    proto.graph.initializer[0].dims.extend(dims)
    refused(saved(tmp_path / "m.onnx", proto), message)


def test_weights_that_hold_nothing(tmp_path: Path) -> None:
    proto = perceptron()
    proto.graph.initializer[0].ClearField("raw_data")
    refused(saved(tmp_path / "m.onnx", proto), "does not hold the values")


@pytest.mark.parametrize("kind", [TensorProto.COMPLEX64, TensorProto.COMPLEX128, TensorProto.UNDEFINED, 999])
def test_weights_of_types_that_cannot_be_computed_with(tmp_path: Path, kind: int) -> None:
    proto = perceptron()
    proto.graph.initializer[0].data_type = kind
    refused(saved(tmp_path / "m.onnx", proto), "'w1' has type .*; convert it")


def bomb(*nodes: onnx.NodeProto, **weights: list[int]) -> onnx.ModelProto:
    values = {name: np.array(value, np.int64) for name, value in weights.items()}
    return model([*nodes, helper.make_node("Mul", ["x", "c"], ["y"])], {"x": ["N", 4]}, ["y"], values)


ONE = numpy_helper.from_array(np.ones(1, np.float32), "v")


@pytest.mark.parametrize(
    "proto",
    [
        bomb(helper.make_node("ConstantOfShape", ["s"], ["c"], value=ONE), s=[2**40]),
        bomb(helper.make_node("ConstantOfShape", ["s"], ["c"], value=ONE), s=[2**31, 2**31, 4]),
        bomb(
            helper.make_node("ConstantOfShape", ["s"], ["o"], value=ONE), helper.make_node("Tile", ["o", "r"], ["c"]),
            s=[4], r=[2**38],
        ),
        bomb(
            helper.make_node("ConstantOfShape", ["s"], ["a"], value=ONE),
            helper.make_node("ConstantOfShape", ["t"], ["b"], value=ONE),
            helper.make_node("MatMul", ["a", "b"], ["c"]),
            s=[2**12, 2**12], t=[2**12, 2**12],
        ),
        bomb(
            *(helper.make_node("ConstantOfShape", ["s"], [f"o{i}"], value=ONE) for i in range(20)),
            helper.make_node("Sum", [f"o{i}" for i in range(20)], ["c"]),
            s=[2**26],
        ),
    ],
    ids=["2^42 bytes", "overflow", "tile", "product of 2^37", "twenty of 256 MiB"],
)  # fmt: skip
def test_constants_that_would_take_all_memory_or_time(proto: onnx.ModelProto) -> None:
    with pytest.raises(GraphError, match=r"too large|too costly|at most 4096 MiB|does not fit"):
        from_proto(proto, "bomb")


def test_activations_and_work_are_bounded(tmp_path: Path) -> None:
    grow = [
        helper.make_node("Expand", ["x", "s"], ["y"]),
    ]
    proto = model(grow, {"x": ["N", 4]}, ["y"], {"s": np.array([2**29, 1, 4], np.int64)})
    refused(saved(tmp_path / "m.onnx", proto), r"makes 'y' of shape \[536870912, 1, 4\], 8192 MiB; at most 4096 MiB")
    wide = [helper.make_node("MatMul", ["x", "x"], [f"y{i}"]) for i in range(4)]
    proto = model([*wide, helper.make_node("Sum", [f"y{i}" for i in range(4)], ["y"])], {"x": [16_000, 16_000]}, ["y"])
    assert load(saved(tmp_path / "m.onnx", proto)).work_flop > 3e13
    wide = [helper.make_node("MatMul", ["x", "x"], [f"y{i}"]) for i in range(16)]
    proto = model([*wide, helper.make_node("Sum", [f"y{i}" for i in range(16)], ["y"])], {"x": [16_000, 16_000]}, ["y"])
    refused(saved(tmp_path / "m.onnx", proto), r"operations per input; at most 1e.14 are allowed; .*--limit gflop=\d+")


@pytest.mark.parametrize("scale", [1e28, 3e38, -2.0, float("nan")])
def test_sizes_that_would_end_the_process_are_refused(tmp_path: Path, scale: float) -> None:
    """ONNX's own shape inference aborts when it slices an axis of negative size, and a resize by 1e28 makes one."""
    nodes = [
        helper.make_node("Resize", ["x", "", "scales"], ["big"], mode="nearest"),
        helper.make_node("Slice", ["big", "start", "end"], ["y"]),
    ]
    weights = {
        "scales": np.array([1, 1, 2, scale], np.float32),
        "start": np.array([0, 0, 1, 1]),
        "end": np.array([99, 99, 9, 9]),
    }
    proto = model(nodes, {"x": ["N", 4, 8, 8]}, ["y"], weights, opset=18)
    refused(saved(tmp_path / "m.onnx", proto), r"Resize|shape")
