"""`coinfer infer` on files of a user's own: pictures in any form, other inputs, and what is made of the outputs."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper
from PIL import Image
from tests.tables import analytic_table

from coinfer.cli import main
from coinfer.errors import UserError
from coinfer.graph.open_model import open_model
from coinfer.runtime.device.device import Device
from coinfer.runtime.images import load_images

Infer = Callable[..., str]
PHOTO = load_images()[0][1]
CENTRE = PHOTO[100:116, 100:116]


@pytest.fixture
def infer(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Infer:
    """The command in an empty folder with a picture of 16 x 16; returns what it prints."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    Image.fromarray(CENTRE).save("photo.png")

    def run(*arguments: str) -> str:
        main.app(["infer", *arguments], standalone_mode=False)
        return capsys.readouterr().out

    return run


def save(nodes: list[onnx.NodeProto], inputs: dict[str, tuple[int, list[int | str]]], outputs: list[str], **weights):
    graph = helper.make_graph(
        nodes,
        "g",
        [helper.make_tensor_value_info(name, dtype, shape) for name, (dtype, shape) in inputs.items()],
        [helper.make_tensor_value_info(name, TensorProto.FLOAT, None) for name in outputs],
        [numpy_helper.from_array(value, name) for name, value in weights.items()],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


def channel_means(shape: list[int | str], axes: list[int]) -> onnx.ModelProto:
    """A network whose classes are the means of the channels of a picture."""
    nodes = [
        helper.make_node("ReduceMean", ["images"], ["raw"], axes=axes, keepdims=0),
        helper.make_node("MatMul", ["raw", "one"], ["means"]),
    ]
    return save(nodes, {"images": (TensorProto.FLOAT, shape)}, ["means"], one=np.eye(3, dtype=np.float32))


def scaled_sum() -> onnx.ModelProto:
    """A network of a picture and its size, that answers two tensors."""
    nodes = [
        helper.make_node("Cast", ["orig_size"], ["size"], to=TensorProto.FLOAT),
        helper.make_node("ReduceMean", ["images"], ["mean"], axes=[1, 2, 3], keepdims=1),
        helper.make_node("Mul", ["mean", "size"], ["boxes"]),
        helper.make_node("Relu", ["mean"], ["scores"]),
    ]
    inputs = {"images": (TensorProto.FLOAT, [1, 3, 16, 16]), "orig_size": (TensorProto.INT64, [1, 2])}
    return save(nodes, inputs, ["boxes", "scores"])


def outputs(path: str = "r.npz") -> dict[str, np.ndarray]:
    with np.load(path) as arrays:
        return dict(arrays)


def test_a_picture_is_answered_without_python_in_the_form_that_options_name(infer: Infer):
    onnx.save(channel_means([1, 16, 16, 3], [1, 2]), "net.onnx")
    Path("names.txt").write_text("low\nmiddle\nhigh\n")
    said = infer("net.onnx", "photo.png", "--scale", "1", "--mean", "10,0,0", "--colors", "bgr", "--top", "2",
                 "--labels", "names.txt", "--out", "r.npz")  # fmt: skip
    expected = CENTRE.mean(axis=(0, 1))[::-1] - [10, 0, 0]
    (found,) = outputs().values()
    np.testing.assert_allclose(found[0], expected, rtol=1e-5)
    assert list(outputs()) == ["photo.png/means"]
    order = np.argsort(-expected)[:2]
    names = [["low", "middle", "high"][i] for i in order]
    assert said.index(names[0]) < said.index(names[1])
    assert "%" in said


def test_a_free_size_and_a_yaml_file_serve_as_well(infer: Infer):
    onnx.save(channel_means(["N", 3, "height", "width"], [2, 3]), "net.onnx")
    Path("net.input.yaml").write_text("size: 16\nmean: 0.5\nstd: 0.25\n")
    infer("net.onnx", "photo.png", "--out", "r.npz")
    (found,) = outputs().values()
    np.testing.assert_allclose(found[0], (CENTRE / 255 - 0.5).mean(axis=(0, 1)) / 0.25, rtol=1e-4, atol=1e-6)


def test_a_network_that_does_not_say_how_it_takes_pictures_is_told_what_to_type(infer: Infer):
    onnx.save(channel_means([1, 3, 16, 16], [2, 3]), "net.onnx")
    with pytest.raises(UserError, match=r"say how its pictures are prepared, such as --mean 0\.485.*net\.input\.yaml"):
        infer("net.onnx", "photo.png")


def test_a_picture_goes_with_other_inputs_and_several_outputs_are_shown_by_name(infer: Infer):
    onnx.save(scaled_sum(), "net.onnx")
    said = infer("net.onnx", "photo.png", "--scale", "1", "--input", "orig_size=2,3", "--out", "r.npz")
    assert "boxes float32 1x1x1x2" in said
    assert "scores float32 1x1x1x1" in said
    found = outputs()
    np.testing.assert_allclose(found["photo.png/boxes"].ravel(), CENTRE.mean() * np.array([2, 3]), rtol=1e-5)
    with pytest.raises(UserError, match="net takes images, orig_size; give --input orig_size=VALUE too"):
        infer("net.onnx", "photo.png", "--scale", "1")
    with pytest.raises(UserError, match=r"--input gives all of them, and \S*photo\.png is one too many"):
        infer("net.onnx", "photo.png", "--input", "images=0", "--input", "orig_size=2,3")
    with pytest.raises(UserError, match=r"--top 3: net names no classes; its outputs are boxes float32"):
        infer("net.onnx", "photo.png", "--scale", "1", "--input", "orig_size=2,3", "--top", "3")


def test_inputs_without_pictures_are_one_request_and_files_one_each(infer: Infer):
    onnx.save(scaled_sum(), "net.onnx")
    image = np.random.default_rng(0).standard_normal((3, 16, 16)).astype(np.float32)
    np.save("image.npy", image)
    infer("net.onnx", "--input", "images=image.npy", "--input", "orig_size=1", "--out", "one.npz")
    np.testing.assert_allclose(outputs("one.npz")["inputs/boxes"].ravel(), [image.mean()] * 2, rtol=1e-4)
    np.savez("both.npz", images=image, orig_size=np.array([5, 6]))
    infer("net.onnx", "both.npz", "both.npz", "--out", "two.npz")
    assert set(outputs("two.npz")) == {"both.npz/boxes", "both.npz/scores", "both.npz#2/boxes", "both.npz#2/scores"}
    with pytest.raises(UserError, match=r"nothing is given for its input 'images' \(float32 \[1, 3, 16, 16\]\)"):
        infer("net.onnx", "--input", "orig_size=1")


def test_what_was_answered_before_ctrl_c_is_shown_and_kept(infer: Infer, monkeypatch, capsys):
    onnx.save(channel_means([1, 3, 16, 16], [2, 3]), "net.onnx")
    answer, calls = Device.infer, []

    def interrupted(self: Device, item):
        if calls:
            raise KeyboardInterrupt
        calls.append(item)
        return answer(self, item)

    monkeypatch.setattr(Device, "infer", interrupted)
    arguments = ["infer", "net.onnx", "photo.png", "photo.png", "--scale", "1", "--out", "r.npz"]
    assert main.app(arguments, standalone_mode=False) == 130
    said = capsys.readouterr().out
    assert said.count("photo.png") == 1
    assert "saved 1 outputs of 1 requests in r.npz" in said
    assert list(outputs()) == ["photo.png/means"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--letterbox", "--stretch"], "--letterbox and --stretch are both given"),
        (["--image-size", "big"], "--image-size 'big': expected a side such as 320, or height x width"),
        (["--image-size", "17"], r"net\.onnx, picture options: height x width is 17x17; the input 'images' is"),
        (["--mean", "a,b"], "--mean 'a,b': expected numbers"),
        (["--scale", "1", "--out", "missing/r.npz"], "No such file"),
        (["--scale", "1", "--labels", "missing.txt"], r"missing\.txt: cannot read these labels"),
        (["--scale", "1", "--labels", "two.txt"], r"two\.txt: 2 labels; net has 3 classes, expected one for each"),
        ([], r"net does not say how it takes pictures; say how .* such as --mean 0\.485"),
    ],
)
def test_mistakes_are_found_before_anything_is_measured(infer: Infer, arguments: list[str], message: str):
    onnx.save(channel_means([1, 3, 16, 16], [2, 3]), "net.onnx")
    Path("two.txt").write_text("cat\ndog\n")
    with pytest.raises((UserError, OSError), match=message):
        infer("net.onnx", "photo.png", *arguments)
    assert not Path("cache/coinfer/profiles").exists()


def test_labels_of_a_network_without_classes_are_refused(infer: Infer):
    onnx.save(scaled_sum(), "net.onnx")
    Path("names.txt").write_text("a\nb\nc\n")
    with pytest.raises(UserError, match=r"--labels names\.txt: net names no classes; its outputs are boxes float32"):
        infer("net.onnx", "photo.png", "--scale", "1", "--input", "orig_size=2,3", "--labels", "names.txt")


def test_a_network_that_takes_nothing_random_is_measured_on_the_inputs_at_hand(infer: Infer):
    """Its whole number selects a row from a table of one, which a shift puts out of reach of noise, zeros and ones."""
    nodes = [
        helper.make_node("Sub", ["id", "far"], ["i"]),
        helper.make_node("Gather", ["table", "i"], ["y"]),
    ]
    weights = {"far": np.array([900]), "table": np.full((1, 2), 7, np.float32)}
    onnx.save(save(nodes, {"id": (TensorProto.INT64, [1])}, ["y"], **weights), "net.onnx")
    infer("net.onnx", "--input", "id=900", "--out", "r.npz")
    assert outputs()["inputs/y"].tolist() == [[7, 7]]


def test_progress_is_for_terminals(infer: Infer):
    onnx.save(channel_means([1, 3, 16, 16], [2, 3]), "net.onnx")
    assert infer("net.onnx", "photo.png", "--scale", "1").splitlines()[0].strip() == "net, times in ms"


def test_a_profile_of_another_network_is_named_where_its_sizes_do_not_fit(infer: Infer):
    onnx.save(channel_means([1, 3, "height", 16], [2, 3]), "other.onnx")
    table = analytic_table(open_model("other.onnx", {"height": 16}))
    table.model_copy(update={"shapes": {"height": "16"}}).save("other.json")
    onnx.save(channel_means([1, 3, 16, 16], [2, 3]), "net.onnx")
    with pytest.raises(UserError, match=r"no axis or input is called 'height'; .*of the profile other\.json: is it"):
        infer("net.onnx", "photo.png", "--scale", "1", "--profile", "other.json")


@pytest.mark.parametrize(
    ("option", "said"),
    [
        ("--dispatch", "--dispatch: there is no server to choose another one"),
        ("--dispatch-cut", "--dispatch-cut: there is no server to choose another one"),
        ("--name=x", "--name is for members of a site; expected --controller too"),
        ("--insecure", "--insecure is for members of a site"),
    ],
)
def test_what_would_do_nothing_without_servers_or_site_is_refused(infer: Infer, option: str, said: str):
    with pytest.raises(UserError, match=said):
        infer("resnet32", "photo.png", option)
