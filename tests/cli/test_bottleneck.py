"""`coinfer bottleneck train` as a user types it."""

import re
from pathlib import Path

import numpy as np
import onnx
import pytest
from tests.exit_training.bottlenecks import network_with_exits, rated, small_network, stripes
from typer.testing import CliRunner

from coinfer.cli.bottleneck import parse_codes
from coinfer.cli.main import app
from coinfer.cli.reports.describe_network import _sentences, description
from coinfer.errors import UserError
from coinfer.graph.bottleneck import with_bottleneck
from coinfer.graph.onnx.load import load
from coinfer.graph.open_model import open_model
from coinfer.graph.segment import save_model
from coinfer.options.network import NetworkTable
from coinfer.runtime.profiling import profile_for

WIDE = {"COLUMNS": "200", "NO_COLOR": "1"}


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """A folder to work in, with a network and pictures."""
    monkeypatch.chdir(tmp_path)
    save_model(small_network(), "small.onnx")
    for split, count in (("train", 60), ("test", 20)):
        data = stripes(count)
        np.savez(f"mine_{split}.npz", images=data.images, labels=data.labels, class_names=data.class_names)
    return tmp_path


def coinfer(*arguments: str, command: str = "bottleneck") -> str:
    done = CliRunner().invoke(app, [command, *arguments], env=WIDE)
    if isinstance(done.exception, UserError):
        raise done.exception
    assert done.exit_code == 0, done.output
    return done.output


def test_train_and_resume(folder):
    options = (
        "--data",
        ".",
        "--epochs",
        "1",
        "--batch",
        "20",
        "--codes",
        "2,4",
        "--out",
        "out",
        "--device-share",
        "0.3",
        "--mixup",
        "0.5",
    )
    said = coinfer("train", "small.onnx", *options)
    assert re.search(r"small: from input to pool2, 60 pictures", said)
    assert re.search(r"code2: \d+ bytes, [\d.]+% of 20 pictures \([\d.]+% without a bottleneck\)\ncode4: ", said)
    made = with_bottleneck(load("small.onnx"), "out/small.bottleneck.onnx")
    with pytest.raises(UserError, match="out: holds a training already; --resume goes on with it"):
        coinfer("train", "small.onnx", *options)
    assert "saved out/small.bottleneck.onnx" in coinfer("train", "small.onnx", *options, "--resume")
    again = with_bottleneck(load("small.onnx"), "out/small.bottleneck.onnx")
    assert again.bottleneck is not None
    assert made.bottleneck is not None
    assert again.bottleneck.graph.fingerprint == made.bottleneck.graph.fingerprint


def test_a_training_of_one_step_beside_a_broken_bottleneck(folder):
    Path("small.bottleneck.onnx").write_text("junk", encoding="utf-8")
    rest = ("--epochs", "1", "--codes", "2,4", "--out", "out", "--device-share", "0.3")
    assert "saved out/small.bottleneck.onnx" in coinfer("train", "small.onnx", "--data", ".", *rest)


def test_what_ends_in_nothing_is_refused_before_the_training(folder):
    rest = ("small.onnx", "--data", ".", "--epochs", "10000", "--codes", "2,4", "--device-share", "0.3")
    Path("file").touch()
    for out in ("file", "file/under"):
        with pytest.raises(UserError, match=rf"^--out {out}: cannot write in file \(Not a directory\); name another"):
            coinfer("train", *rest, "--out", out)
    np.savez("mine_test.npz", images=np.zeros((4, 8, 16, 3), np.uint8), labels=np.arange(4))
    with pytest.raises(UserError, match="test pictures are 8x16 and train pictures 16x16; scale them"):
        coinfer("train", *rest, "--out", "out")
    Path("mine_test.npz").unlink()
    with pytest.raises(UserError, match="no test pictures in it; expected"):
        coinfer("train", *rest, "--out", "out")
    assert not Path("out").exists()
    refused = CliRunner().invoke(app, ["bottleneck", "train", *rest, "--label-weight", "1e308"], env=WIDE)
    assert "--label-weight" in refused.output
    assert "1000" in refused.output


def test_a_network_whose_pictures_are_described_beside_it(folder):
    """The description is not in the file, so the bottleneck's own file has none either."""
    proto = onnx.load("small.onnx")
    del proto.metadata_props[:]
    onnx.save(proto, "small.onnx")
    Path("small.input.yaml").write_text("mean: [0.5, 0.5, 0.5]\nstd: [0.25, 0.25, 0.25]\n", encoding="utf-8")
    rest = ("--epochs", "1", "--batch", "20", "--codes", "2,4", "--out", "out", "--device-share", "0.3")
    assert "code4: " in coinfer("train", "small.onnx", "--data", ".", *rest)
    Path("out/small.bottleneck.onnx").rename("small.bottleneck.onnx")
    graph = open_model("small.onnx")
    assert graph.bottleneck is not None
    assert [code.tensor for code in graph.bottleneck.codes] == ["code2", "code4"]
    assert profile_for(graph).bottleneck is not None


def test_of_a_network_with_exits_each_one_behind_the_code_is_named(folder):
    save_model(network_with_exits(), "exits.onnx")
    rest = ("--epochs", "1", "--batch", "20", "--codes", "2,4", "--out", ".", "--device-share", "0.6")
    said = coinfer("train", "exits.onnx", "--data", ".", "--source", "pool1", "--target", "pool2", *rest)
    found = re.findall(r"(code\d, \w+): \d+ bytes, [\d.]+% of 20 pictures", said)
    assert found == ["code2, exit2", "code2, logits", "code4, exit2", "code4, logits"]
    described = coinfer("exits.onnx", command="describe")
    assert re.findall(r"bottleneck (code\d, \w+): \d+ bytes", described) == found
    coinfer("profile", "exits.onnx", "-o", "table.json", command="scenario")
    table = NetworkTable.model_validate_json(Path("table.json").read_bytes())
    assert [(code.exit, code.tensor) for code in table.codes] == [
        (1, "code2"),
        (2, "code2"),
        (1, "code4"),
        (2, "code4"),
    ]


def test_places_are_tried_once(folder):
    rest = ("--epochs", "1", "--batch", "20", "--codes", "2,4", "--out", "out", "--device-share", "0.3")
    options = ("--data", ".", "--search", "1", *rest)
    said = coinfer("train", "small.onnx", *options)
    tried = re.findall(r"input to (\S+): [\d.]+% with \d+ bytes, [\d.]+% with \d+ bytes", said)
    assert "pool2" in tried
    before = Path("out/places.json").read_bytes()
    again = coinfer("train", "small.onnx", *options, "--resume")
    assert f"small: from input to {tried[0]}" in again
    assert Path("out/places.json").read_bytes() == before
    with pytest.raises(UserError, match="--search 1 looks for a target, and --target 'pool2' names one"):
        coinfer("train", "small.onnx", *options, "--target", "pool2")


@pytest.mark.parametrize("text", ["", "4,x", "8,4", "4,4", "0,4", "4,512"])
def test_codes_that_are_none(text):
    with pytest.raises(UserError, match="expected rising numbers of channels, 1 to 256, such as 4,8,16"):
        parse_codes(text)


def test_describe_names_the_codes():
    graph = rated({"code2": 80, "code4": 90})
    lines = _sentences(graph)
    assert "bottleneck code2: 20 bytes, 80.00% right of 100 pictures, 90.00% without it (none)" in lines
    codes = description(graph)["bottleneck"]
    assert [code["tensor"] for code in codes] == ["code2", "code4"]  # pyright: ignore[reportGeneralTypeIssues, reportIndexIssue]
