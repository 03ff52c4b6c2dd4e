import json

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from onnx import TensorProto, helper
from tests.graph.small_graphs import model, perceptron, relative_error, run
from tests.paths import ROOT

from coinfer.graph.image_input import IMAGE_KEY, ImageInput, image_property
from coinfer.graph.ir import GraphError
from coinfer.graph.onnx.load import from_proto, load

SHARED_MODELS = ROOT / ".." / "shared" / "data" / "models"
node = helper.make_node


def test_a_network_as_operations_and_tensors() -> None:
    graph = from_proto(perceptron(), "mlp")
    assert [(op.name, op.kind, op.inputs, op.outputs, op.weights, op.params) for op in graph.ops] == [
        ("first", "Gemm", ("x",), ("h",), ("w1", "b1"), 40),
        ("relu", "Relu", ("h",), ("r",), (), 0),
        ("second", "Gemm", ("r",), ("y",), ("w2", "b2"), 27),
    ]
    assert {name: tensor.shape for name, tensor in graph.tensors.items()} == {
        "x": (1, 4), "h": (1, 8), "r": (1, 8), "y": (1, 3),
    }  # fmt: skip
    assert graph.tensors["h"].size_bits == 8 * 32
    assert (graph.dynamic_batch, graph.image, graph.params) == (True, None, 67)


def test_the_structure_holds_no_weights() -> None:
    graph = from_proto(perceptron(), "mlp")
    assert [len(value.raw_data) for value in graph.proto.graph.initializer] == [0, 0, 0, 0]
    assert set(graph.weights) == {"w1", "b1", "w2", "b2"}
    again = from_proto(graph.proto, "again", graph.weights)
    assert again.fingerprint == graph.fingerprint


def test_names_are_made_unique_and_notes_dropped() -> None:
    nodes = [node("Relu", ["x"], ["a"], "same", doc_string="secret path"), node("Tanh", ["a"], ["b"], "same")]
    nodes += [node("Tanh", ["b"], ["c"]), node("Neg", ["c"], ["y"], "c")]
    graph = from_proto(model(nodes, {"x": ["N", 4]}, ["y"]), "names")
    assert [op.name for op in graph.ops] == ["same", "b", "c", "y"]
    assert b"secret" not in graph.proto.SerializeToString()


def test_operations_may_stand_in_any_order() -> None:
    nodes = [node("Neg", ["b"], ["y"]), node("Tanh", ["a"], ["b"]), node("Relu", ["x"], ["a"])]
    assert [op.kind for op in from_proto(model(nodes, {"x": ["N", 4]}, ["y"]), "mixed").ops] == ["Relu", "Tanh", "Neg"]


def test_what_no_output_needs_is_dropped() -> None:
    nodes = [
        node("Relu", ["x"], ["y"]),
        node("Tanh", ["x"], ["dead"]),
        node("Gemm", ["dead", "w"], ["deader"]),
        node("Neg", ["unused"], ["also"]),
    ]
    weights = {"w": np.eye(4, dtype=np.float32)}
    graph = from_proto(model(nodes, {"x": ["N", 4], "unused": ["N", 4]}, ["y"], weights), "pruned")
    assert [op.kind for op in graph.ops] == ["Relu"]
    assert (graph.inputs, dict(graph.weights)) == (("x",), {})


def test_several_inputs_share_the_batch() -> None:
    nodes = [node("Add", ["a", "b"], ["c"]), node("Relu", ["c"], ["y"])]
    graph = from_proto(model(nodes, {"a": ["N", 4], "b": ["N", 4]}, ["y"]), "two")
    assert graph.dynamic_batch
    assert [cut.tensors for cut in graph.single_cuts()] == [("c",), ("y",)]
    assert [cut.tensors for cut in graph.useful_cuts()] == [("a", "b"), ("y",)]
    fixed = from_proto(model(nodes, {"a": ["N", 4], "b": [1, 4]}, ["y"]), "mixed")
    assert not fixed.dynamic_batch


def test_outputs_that_nobody_reads_do_not_count() -> None:
    nodes = [node("Dropout", ["x"], ["d", "mask"]), node("Split", ["d"], ["a", "b"], axis=1, num_outputs=2)]
    nodes += [node("Relu", ["b"], ["y"])]
    graph = from_proto(model(nodes, {"x": ["N", 4]}, ["y"], opset=18), "loose")
    assert [op.outputs for op in graph.ops] == [("d",), ("b",), ("y",)]
    x = np.arange(8, dtype=np.float32).reshape(2, 4)
    np.testing.assert_array_equal(run(graph, run(graph, {"x": x}, ("b",)), ("y",))["y"], x[:, 2:])


def test_old_files_list_their_weights_among_the_inputs() -> None:
    proto = perceptron()
    proto.ir_version = 3
    for value in proto.graph.initializer:
        proto.graph.input.append(helper.make_tensor_value_info(value.name, value.data_type, value.dims))
    assert from_proto(proto, "old").inputs == ("x",)


def test_clip_limits_are_settings_and_no_parameters() -> None:
    weights = {"low": np.float32(0), "high": np.float32(6), "w": np.eye(4, dtype=np.float32)}
    nodes = [node("Gemm", ["x", "w"], ["g"]), node("Clip", ["g", "low", "high"], ["y"])]
    graph = from_proto(model(nodes, {"x": ["N", 4]}, ["y"], weights), "clip")
    assert list(graph.weights) == ["w"]
    assert graph.ops[1].weights == ()


@pytest.mark.parametrize(
    ("nodes", "inputs", "outputs", "message"),
    [
        (
            [node("Add", ["b", "x"], ["y"]), node("Relu", ["y"], ["b"])],
            {"x": [1]},
            ["y"],
            "reads 'b' before it is made",
        ),
        ([node("Relu", ["z"], ["y"])], {"x": [1]}, ["y"], "reads 'z' before it is made"),
        ([node("Relu", ["x"], ["y"]), node("Neg", ["x"], ["y"])], {"x": [1]}, ["y"], "'y' is made twice"),
        ([node("Relu", ["x"], ["y"])], {"x": [1]}, ["z"], "nothing makes the output 'z'"),
        ([node("Relu", ["x"], ["y"])], {"x": [1]}, ["y", "y"], "output 'y' is nameless or named twice"),
        ([node("Relu", ["x"], ["y"])], {"x": ["N", "H", 4]}, ["y"], "has no size on axis 1; .* --shape x=1,128,4"),
        (
            [node("Relu", ["x"], ["y"])],
            {"x": [1, 0]},
            ["y"],
            r"'x' \[1, \?\] has no size on axis 1; .* --shape x=1,128$",
        ),
        ([node("MatMul", ["x", "z"], ["y"])], {"x": [2, 3], "z": [4, 5]}, ["y"], "MatMul .* does not fit its inputs"),
        ([node("Relu", ["x", "x"], ["y"])], {"x": [1]}, ["y"], "has 2 inputs; expected 1 to 1"),
        ([node("Relu", [""], ["y"])], {"x": [1]}, ["y"], "lacks an input"),
        ([node("Relu", ["x"], ["y"], alpha=1.0)], {"x": [1]}, ["y"], "'alpha' is unknown"),
        ([node("Softmax", ["x"], ["y"], axis=0.5)], {"x": [1]}, ["y"], "'axis' is unknown or has the wrong type"),
        ([node("Gelu", ["x"], ["y"])], {"x": [1]}, ["y"], "Gelu .* does not exist in opset 17"),
    ],
)
def test_graphs_that_make_no_sense(nodes: list[onnx.NodeProto], inputs: dict, outputs: list[str], message: str) -> None:
    with pytest.raises(GraphError, match=message):
        from_proto(model(nodes, inputs, outputs), "bad")


def test_an_output_that_depends_on_constants_alone_is_handed_out() -> None:
    nodes = [node("Relu", ["x"], ["y"]), node("Neg", ["w"], ["z"]), node("DequantizeLinear", ["q", "s"], ["d"])]
    weights = {"w": np.ones(2, np.float32), "q": np.ones(3, np.int8), "s": np.array(0.5, np.float32)}
    graph = from_proto(model(nodes, {"x": [1, 2]}, ["y", "z", "d"], weights), "constant")
    answers = run(graph, {"x": np.ones((1, 2), np.float32)}, graph.outputs)
    assert {name: value.tolist() for name, value in answers.items()} == {"y": [[1, 1]], "z": [-1, -1], "d": [0.5] * 3}
    assert set(graph.useful_cuts()[-1].tensors) == {"y", "z", "d"}


def test_inputs_without_shape_or_of_other_types() -> None:
    proto = model([node("Relu", ["x"], ["y"])], {"x": [1]}, ["y"])
    proto.graph.input[0].type.tensor_type.ClearField("shape")
    with pytest.raises(GraphError, match="input 'x' states no shape; add one, such as --shape x="):
        from_proto(proto, "shapeless")
    assert from_proto(proto, "shaped", sizes={"x": (2, 3)}).tensors["y"].shape == (2, 3)
    proto.graph.input[0].CopyFrom(helper.make_tensor_value_info("x", TensorProto.STRING, [1]))
    with pytest.raises(GraphError, match="input 'x' is no tensor of numbers"):
        from_proto(proto, "strings")


def picture_model(**metadata: str) -> onnx.ModelProto:
    proto = model([node("Relu", ["x"], ["y"])], {"x": ["N", 3, 8, 6]}, ["y"])
    for key, value in metadata.items():
        proto.metadata_props.add(key=key, value=value)
    return proto


def test_how_a_picture_becomes_the_input_travels_with_the_file() -> None:
    image = ImageInput(8, 6, (0.1, 0.2, 0.3), (1.0, 2.0, 0.25))
    proto = picture_model()
    assert from_proto(proto, "plain").image is None
    proto.metadata_props.append(image_property(image))
    assert from_proto(proto, "picture").image == image


GOOD_IMAGE = {"height": 8, "width": 6, "mean": [0, 0, 0], "std": [1, 1, 1]}


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{", "expected height, width, mean and std"),
        ("[]", "expected height"),
        (json.dumps(GOOD_IMAGE | {"mean": None}), "expected height"),
        (json.dumps(GOOD_IMAGE | {"height": 1e400}), "expected height"),
        (json.dumps(GOOD_IMAGE | {"std": [1, 0, 1]}), "positive std"),
        (json.dumps(GOOD_IMAGE | {"mean": [0, float("nan"), 0]}), "finite mean"),
        (json.dumps(GOOD_IMAGE | {"width": 7}), r"the input 'x' is \[1, 3, 8, 6\]"),
        (json.dumps(GOOD_IMAGE | {"std": [1, 1]}), "mean and std have 3 and 2 values"),
    ],
)
def test_metadata_about_pictures_is_checked(text: str, message: str) -> None:
    with pytest.raises(GraphError, match=message):
        from_proto(picture_model(**{IMAGE_KEY: text}), "picture")


@pytest.mark.parametrize("name", ["squeezenet_fp16_imagenet", "mlperf_tiny_resnet8_cifar10"])
def test_trained_networks_of_others(name: str) -> None:
    """Opset 7 in half precision with a fixed batch, and channels last with two outputs and a free batch."""
    path = SHARED_MODELS / f"{name}.onnx"
    if not path.exists():
        pytest.skip("the networks are not here")
    graph = load(path)
    (source,) = graph.inputs
    tensor = graph.tensors[source]
    x = np.random.default_rng(0).uniform(-100, 100, tensor.shape).astype(tensor.dtype)
    truth = ort.InferenceSession(str(path), providers=["CPUExecutionProvider"]).run(list(graph.outputs), {source: x})
    assert len(graph.useful_cuts()) >= 7
    for cut in graph.useful_cuts()[1:-1]:
        outputs = run(graph, run(graph, {source: x}, cut.tensors), graph.outputs)
        for answer, expected in zip(outputs.values(), truth, strict=True):
            assert relative_error(answer.astype(np.float64), expected.astype(np.float64)) < (
                1e-4 if graph.dynamic_batch else 2e-2
            )
