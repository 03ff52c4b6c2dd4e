"""The example that reads text, with a finder of what is bright and a reader of two colours."""

import subprocess
import sys
from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper
from PIL import Image, ImageDraw
from tests.paths import ROOT

SIDE, LINE_HEIGHT = 640, 48
YELLOW, WHITE = (255, 255, 0), (255, 255, 255)


def save(
    path: Path,
    nodes: list[onnx.NodeProto],
    shape: list[int | str],
    answer: list[int | str],
    metadata: dict[str, str],
    **weights: np.ndarray,
) -> None:
    graph = helper.make_graph(
        nodes,
        path.stem,
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, shape)],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, answer)],
        [numpy_helper.from_array(value, name) for name, value in weights.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    helper.set_model_props(model, metadata)
    onnx.save(model, path)


def test_lines_are_found_and_read_from_top_to_bottom(tmp_path: Path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    node, finder, reader, photo = helper.make_node, *(tmp_path / name for name in ("f.onnx", "r.onnx", "photo.png"))
    bright = [node("ReduceMean", ["x"], ["mean"], axes=[1]), node("Relu", ["mean"], ["y"])]
    save(finder, bright, [1, 3, SIDE, SIDE], [1, 1, SIDE, SIDE], {})
    columns = [
        node("ReduceMean", ["x"], ["column"], axes=[2], keepdims=0),
        node("Transpose", ["column"], ["colours"], perm=[0, 2, 1]),
        node("MatMul", ["colours", "w"], ["z"]),
        node("Add", ["z", "b"], ["y"]),
    ]
    blue, green, red = [0, -1, 1], [0, 0, 0], [0, 1, 0]  # for nothing, for `a`, which is yellow, and for `b`, white
    values = {"w": np.array([blue, green, red], np.float32), "b": np.array([0.3, 0, 1], np.float32)}
    save(reader, columns, [1, 3, LINE_HEIGHT, "width"], [1, "width", 3], {"character": "a\nb"}, **values)
    image = Image.new("RGB", (SIDE, SIDE // 2))
    draw = ImageDraw.Draw(image)
    draw.rectangle((60, 40, 250, 79), YELLOW)
    draw.rectangle((251, 40, 440, 79), WHITE)
    draw.rectangle((300, 200, 500, 239), WHITE)
    image.save(photo)
    command = [sys.executable, str(ROOT / "examples/read_text.py"), str(finder), str(reader), str(photo)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout.split() == ["ab", "b"]
