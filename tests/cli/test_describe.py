"""`coinfer describe`, and `--shape` and `--limit` on the commands that open a file."""

import json
import re
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import helper
from tests.graph.onnx.test_axes import FREE, detector
from tests.graph.onnx.test_tail import detector as detector_with_tail
from tests.graph.small_graphs import model
from typer.testing import CliRunner

from coinfer.cli.main import app
from coinfer.errors import UserError
from coinfer.profile.table import ProfileTable


def coinfer(*arguments: str) -> str:
    done = CliRunner().invoke(app, arguments, env={"COLUMNS": "200", "NO_COLOR": "1"}, catch_exceptions=False)
    assert done.exit_code == 0, done.output
    return done.output


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    onnx.save(detector(*FREE), "net.onnx")
    return tmp_path


def test_a_network_in_plain_words():
    onnx.save(detector_with_tail(), "boxes.onnx")
    said = coinfer("describe", "boxes.onnx")
    assert "input  x: float32 [1, 3, 8, 8]" in said
    assert "output labels: int64 [?]" in said
    assert "runs in one place: the sizes that operation NonMaxSuppression ('chosen') makes depend on values" in said
    assert "24 parameters" in said
    assert "Conv" in said
    assert "pictures: say how its pictures are prepared" in said


def test_a_network_as_json():
    said = json.loads(coinfer("describe", "net.onnx", "--json", "--shape", "height=16..32", "--shape", "width=24"))
    assert said["inputs"] == [
        {"name": "images", "type": "float32", "shape": ["N", 3, "height", 24], "size_bits": 36864}
    ]
    assert said["fixed_axes"] == {"width": 24}
    assert [axis["name"] for axis in said["free_axes"]] == ["batch", "height"]
    assert said["operations"] == {"Conv": 1, "Relu": 1}
    assert said["work_flop"] == 2 * 27 * 4 * 16 * 24 + 4 * 16 * 24
    assert [cut["after_operations"] for cut in said["cuts"]] == [0, 2]
    assert said["cuts"][-1]["work_before_flop"] == said["work_flop"]


def test_without_sizes_the_inputs_are_shown_and_what_is_missing():
    said = coinfer("describe", "net.onnx")
    assert "input  images: float32 [batch, 3, height, width]" in said
    assert re.search(r"output \S+: float32 \[", said)
    assert "cannot say more without sizes: net.onnx: input 'images' [batch, 3, height, width] has no size" in said
    assert "--shape images=1,3,224,224" in said
    as_json = json.loads(coinfer("describe", "net.onnx", "--json", "--shape", "height=16"))
    assert as_json["inputs"] == [{"name": "images", "type": "float32", "shape": ["batch", 3, "height", "width"]}]
    assert "--shape width=" in as_json["missing"]
    assert "fixed_axes" in coinfer("describe", "net.onnx", "--json", "--image-size", "32")


def test_numbers_of_thousands_of_digits_are_refused_in_one_line():
    digits = "9" * 5000
    for option, name in (("--size", "N"), ("--shape", "height"), ("--limit", "trial-s")):
        with pytest.raises(UserError, match=rf"{option} {name}=9") as refused:
            coinfer("plan", "net.onnx", option, f"{name}={digits}")
        assert len(str(refused.value)) < 300
    with pytest.raises(UserError, match="--image-size"):
        coinfer("plan", "net.onnx", "--image-size", digits)
    with pytest.raises(UserError, match="--bits"):
        coinfer("plan", "net.onnx", "--bits", digits)


def test_what_is_missing_is_said_with_the_option_to_type():
    with pytest.raises(UserError, match=r"--shape images=1,3,224,224, or --shape height=224"):
        coinfer("plan", "net.onnx")
    with pytest.raises(UserError, match=r"--shape 'height': expected NAME=SIZES"):
        coinfer("plan", "net.onnx", "--shape", "height")
    with pytest.raises(UserError, match=r"more than 1 operations; .*--limit operations="):
        coinfer("describe", "net.onnx", "--shape", "images=1,3,8,8", "--limit", "operations=1")


def test_sizes_are_remembered_with_the_profile(folder: Path):
    nodes = [helper.make_node("MatMul", ["x", "w"], ["h"]), helper.make_node("MatMul", ["h", "w"], ["y"])]
    onnx.save(model(nodes, {"x": ["N", "length", 8]}, ["y"], {"w": np.eye(8, dtype=np.float32)}), "seq.onnx")
    coinfer("profile", "seq.onnx", "--shape", "length=16", "-o", "seq.json")
    assert ProfileTable.load(folder / "seq.json").shapes == {"length": "16"}
    assert "seq on" in coinfer("plan", "seq.onnx", "--profile", "seq.json")
