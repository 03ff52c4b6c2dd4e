"""The example that draws boxes, on a detector made here that finds what is orange."""

import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper
from PIL import Image
from tests.paths import ROOT

from coinfer.graph.image_input import ImageInput, image_property
from coinfer.resources import PHOTOS

SIDE, CELL = 320, 32
CELLS = SIDE // CELL


def orange_detector(path: Path) -> None:
    """Write a network that answers boxes [n, 4] and scores [n] of the cells that are orange, after NMS."""
    node = helper.make_node
    corner = np.stack(np.meshgrid(np.arange(CELLS), np.arange(CELLS)), -1).reshape(-1, 2) * CELL
    values = {
        "colour": np.array([[[[1.5]], [[-0.5]], [[-1.5]]]], np.float32),
        "flat": np.array([1, 1, -1]),
        "grid": np.concatenate([corner, corner + CELL], 1)[None].astype(np.float32),
        "most": np.array([50]),
        "overlap": np.array([0.5], np.float32),
        "least": np.array([0.35], np.float32),
        "column": np.array(2),
        "all": np.array([-1]),
        "rows": np.array([-1, 4]),
    }
    nodes = [
        node("Conv", ["images", "colour"], ["orange"]),
        node("Clip", ["orange", "zero", "one"], ["shown"]),
        node("AveragePool", ["shown"], ["cells"], kernel_shape=[CELL, CELL], strides=[CELL, CELL]),
        node("Reshape", ["cells", "flat"], ["grades"]),
        node("NonMaxSuppression", ["grid", "grades", "most", "overlap", "least"], ["chosen"]),
        node("Gather", ["chosen", "column"], ["index"], axis=1),
        node("Gather", ["grid", "index"], ["picked"], axis=1),
        node("Reshape", ["picked", "rows"], ["boxes"]),
        node("Gather", ["grades", "index"], ["graded"], axis=2),
        node("Reshape", ["graded", "all"], ["scores"]),
    ]
    values |= {"zero": np.array(0, np.float32), "one": np.array(1, np.float32)}
    graph = helper.make_graph(
        nodes,
        "orange",
        [helper.make_tensor_value_info("images", TensorProto.FLOAT, [1, 3, SIDE, SIDE])],
        [
            helper.make_tensor_value_info("boxes", TensorProto.FLOAT, ["n", 4]),
            helper.make_tensor_value_info("scores", TensorProto.FLOAT, ["n"]),
        ],
        [numpy_helper.from_array(value, name) for name, value in values.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    image = ImageInput(SIDE, SIDE, (0.0,) * 3, (1.0,) * 3, fit="letterbox")
    model.metadata_props.append(image_property(image))
    onnx.save(model, path)


def test_boxes_lie_on_what_the_detector_finds(tmp_path: Path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    orange_detector(tmp_path / "orange.onnx")
    photo, drawn = PHOTOS / "goldfish.jpg", tmp_path / "found.png"
    command = [sys.executable, str(ROOT / "examples/detect.py"), str(tmp_path / "orange.onnx"), str(photo), str(drawn)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    boxes = [tuple(map(int, found)) for found in re.findall(r"at (\d+),(\d+) to (\d+),(\d+)", done.stdout)]
    assert boxes
    pixels = np.asarray(Image.open(photo).convert("RGB")).astype(float)
    orange = np.clip(pixels @ [1.5, -0.5, -1.5] / 255, 0, 1)
    inside = np.mean([orange[top:bottom, left:right].mean() for left, top, right, bottom in boxes])
    assert inside > 3 * orange.mean(), "boxes lie where the photograph is orange"
    with Image.open(drawn) as picture:
        assert (np.asarray(picture.convert("RGB")) == (255, 0, 0)).all(axis=-1).sum() > 100
