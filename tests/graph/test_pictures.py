"""How networks say, or are told, how they take pictures."""

from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

from coinfer.graph.image_input import ImageInput, image_property
from coinfer.graph.ir import GraphError, ModelGraph
from coinfer.graph.onnx.load import from_proto
from coinfer.graph.open_model import open_model
from coinfer.graph.pictures import PictureSettings, hint, parse_settings, with_pictures

SIZES = {"nchw": [1, 3, 8, 6], "nhwc": [1, 8, 6, 3], "gray": [1, 1, 8, 6]}


def proto(*shapes: list[int], dtype: int = TensorProto.FLOAT, metadata: dict[str, str] | None = None):
    """A network that only casts its inputs: one for each shape, named a, b, ..."""
    names = "abc"[: len(shapes)]
    nodes = [helper.make_node("Cast", [name], [name + "_out"], to=TensorProto.DOUBLE) for name in names]
    graph = helper.make_graph(
        nodes,
        "casts",
        [helper.make_tensor_value_info(name, dtype, shape) for name, shape in zip(names, shapes, strict=True)],
        [helper.make_tensor_value_info(name + "_out", TensorProto.DOUBLE, None) for name in names],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    helper.set_model_props(model, metadata or {})
    return model


def network(*shapes: list[int], **options) -> ModelGraph:
    return from_proto(proto(*shapes, **options), "net")


def told(graph: ModelGraph, **settings: object) -> ImageInput:
    image = with_pictures(graph, PictureSettings.model_validate(settings), "test").image
    assert image is not None
    return image


@pytest.mark.parametrize(("kind", "layout", "colors"), [("nchw", "nchw", "rgb"), ("nhwc", "nhwc", "rgb")])
def test_layout_and_size_follow_from_the_input(kind, layout, colors):
    image = told(network(SIZES[kind]), mean=0.5, std=(0.1, 0.2, 0.3))
    assert (image.height, image.width, image.layout, image.colors) == (8, 6, layout, colors)
    assert (image.mean, image.std) == ((0.5,) * 3, (0.1, 0.2, 0.3))
    assert image.shape == tuple(SIZES[kind])


def test_one_channel_is_gray_and_bytes_are_taken_as_they_are():
    assert told(network(SIZES["gray"]), scale=1).colors == "gray"
    image = told(network(SIZES["nhwc"], dtype=TensorProto.UINT8), colors="bgr")
    assert (image.dtype, image.scale, image.unit_mean) == ("uint8", 1.0, (0.0,) * 3)


def test_the_input_that_takes_pictures_is_found_among_others():
    graph = with_pictures(network([1, 2], SIZES["nchw"]), PictureSettings(scale=1.0), "test")
    assert graph.picture_input == "b"
    assert with_pictures(graph, PictureSettings(fit="stretch"), "test").picture_input == "b"


@pytest.mark.parametrize(
    ("shapes", "settings", "message"),
    [
        ([SIZES["nchw"]], {"size": 7}, r"height x width is 7x7; the input 'a' is \[1, 3, 8, 6\]"),
        ([SIZES["nchw"]], {"layout": "nhwc"}, r"input 'a' is \[1, 3, 8, 6\]; nhwc rgb pictures .* \[1, 3, 8, 3\]"),
        ([SIZES["nchw"]], {"colors": "gray"}, r"gray pictures of this size are \[1, 1, 8, 6\]"),
        ([SIZES["nchw"]], {"mean": (0.1, 0.2)}, "mean and std have 2 and 3 values; rgb pictures have 3"),
        ([SIZES["nchw"]], {"std": 0}, "a finite std and scale above 0"),
        ([[1, 4]], {"scale": 1}, r"no input takes pictures; the network's inputs are 'a' float32 \[1, 4\]"),
        ([SIZES["nchw"], SIZES["nhwc"]], {"scale": 1}, "several inputs could take pictures; name one"),
        ([SIZES["nchw"]], {"input": "z", "scale": 1}, "input 'z' takes no pictures"),
    ],
)
def test_settings_that_do_not_fit_are_refused_by_name(shapes, settings, message):
    with pytest.raises(GraphError, match=message):
        told(network(*shapes), **settings)


def test_a_yaml_file_beside_the_model_says_it_and_options_go_first(tmp_path: Path):
    path = tmp_path / "net.onnx"
    onnx.save(proto(SIZES["nchw"]), path)
    assert open_model(path).image is None
    (tmp_path / "net.input.yaml").write_text("size: [8, 6]\nmean: 127.5\nstd: 127.5\nscale: 1\nfit: letterbox\n")
    image = open_model(path).image
    assert image is not None
    assert (image.fit, image.scale, image.mean) == ("letterbox", 1.0, (127.5,) * 3)
    image = open_model(path, pictures=PictureSettings(fit="stretch")).image
    assert image is not None
    assert (image.fit, image.scale) == ("stretch", 1.0)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("sice: 3", r"net\.input\.yaml: 'sice' is not known; expected some of size, mean"),
        ("fit: tight", r"net\.input\.yaml: fit is 'tight': .*'crop', 'cover', 'letterbox' or 'stretch'"),
        ("size: -1", r"size is -1"),
        ("- 1", r"expected settings by name, not \[1\]"),
        ("a: [", "not readable as YAML"),
        ("size: 9", r"net\.input\.yaml: height x width is 9x9"),
    ],
)
def test_mistakes_in_the_yaml_file_are_one_line(tmp_path: Path, text: str, message: str):
    onnx.save(proto(SIZES["nchw"]), tmp_path / "net.onnx")
    (tmp_path / "net.input.yaml").write_text(text)
    with pytest.raises(GraphError, match=message) as refused:
        open_model(tmp_path / "net.onnx")
    assert "\n" not in str(refused.value)


def test_metadata_of_others_is_understood_and_passed_over_where_it_does_not_fit():
    ultralytics = {"imgsz": "[8, 6]", "stride": "32", "task": "detect", "names": "{0: 'cat'}"}
    image = network(SIZES["nchw"], metadata=ultralytics).image
    assert image is not None
    assert (image.fit, image.pad, image.unit_mean, image.unit_std) == ("letterbox", 114, (0.0,) * 3, (1.0,) * 3)
    standard = {"Image.BitmapPixelFormat": "Bgr8", "Image.NominalPixelRange": "NominalRange_0_255"}
    image = network(SIZES["nchw"], metadata=standard).image
    assert image is not None
    assert (image.colors, image.scale) == ("bgr", 1.0)
    assert network([1, 4], metadata=ultralytics).image is None


def test_what_is_not_usual_survives_the_metadata():
    image = ImageInput(8, 6, (1.0,) * 3, (2.0,) * 3, 1.0, "nhwc", "bgr", "letterbox", 7)
    model = proto(SIZES["nhwc"])
    model.metadata_props.append(image_property(image))
    assert from_proto(model, "net").image == image
    assert image_property(ImageInput(8, 6, (0.5,), (0.5,))).value == (
        '{"height": 8, "width": 6, "mean": [0.5], "std": [0.5]}'
    ), "as it always was, since the text is part of the fingerprint"


def test_the_hint_names_what_to_type():
    assert "--mean 0.485,0.456,0.406" in hint(network(SIZES["nchw"]))
    assert "net.input.yaml" in hint(network(SIZES["nchw"]))
    assert hint(network([1, 4])) == ""


def test_settings_of_the_command_line_are_checked_alike():
    with pytest.raises(GraphError, match=r"picture options: pad is 300"):
        parse_settings({"pad": 300}, "picture options")


@pytest.mark.parametrize("fit", ["crop", "cover", "letterbox", "stretch"])
def test_a_view_keeps_the_middle_in_the_middle(fit):
    image = ImageInput(320, 320, (0.0,) * 3, (1.0,) * 3, fit=fit)
    left, top, right, bottom = image.view(400, 200)
    assert ((left + right) / 2, (top + bottom) / 2) == pytest.approx((200, 100))
    whole = {"letterbox": (-0.0, -100, 400, 300), "stretch": (0, 0, 400, 200), "cover": (100, 0, 300, 200)}
    if fit in whole:
        assert (left, top, right, bottom) == pytest.approx(whole[fit])
    assert np.isclose((right - left) / (bottom - top), 1.0) == (fit != "stretch")
