"""Objectives on the command line: the tables that people see, and one line for each mistake."""

from pathlib import Path

import pytest
from tests.tables import analytic_table, made_up_accuracy
from typer.testing import CliRunner

from coinfer.cli.main import app
from coinfer.cli.options import parse_confidence
from coinfer.errors import UserError
from coinfer.graph.open_model import open_model
from coinfer.graph.segment import save_model
from coinfer.graph.zoo import early_exits
from coinfer.graph.zoo.networks import build
from coinfer.resources import PHOTOS

WIDE = {"COLUMNS": "200", "NO_COLOR": "1"}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A network with exits, its profile and its accuracy."""
    folder = tmp_path_factory.mktemp("net")
    save_model(early_exits.build("alexnet-cifar-exits"), folder / "net.onnx")
    graph = open_model(folder / "net.onnx")
    analytic_table(graph, whole_s=0.08).save(folder / "profile.json")
    made_up_accuracy(graph).save(folder / "accuracy.json")
    return folder


def said(folder: Path, *words: str) -> str:
    paths = [str(folder / word) if word.endswith((".onnx", ".json")) else word for word in words]
    done = CliRunner().invoke(app, paths, env=WIDE)
    assert done.exit_code == 0, done.output
    return done.output


def test_plan_shows_exits_with_their_accuracy_and_the_choice_by_rate(folder: Path):
    options = ("--profile", "profile.json", "--accuracy", "accuracy.json", "--bits", "8,4")
    shown = said(folder, "plan", "net.onnx", *options, "--min-accuracy", "0.75")
    assert "right" in shown
    assert "78.0%" in shown
    chosen = shown.split("best for every link rate")[1]
    assert " 3 │" in chosen
    assert " 1 │" not in chosen, "exit 1 is never accurate enough"
    plain = said(folder, "plan", "net.onnx", "--profile", "profile.json", "--bits", "8")
    assert "right" not in plain, "without a table all outputs are one answer"


def test_plan_says_what_cannot_be_met(folder: Path):
    options = ("--profile", "profile.json", "--accuracy", "accuracy.json", "--bits", "8", "--power-w", "3")
    limits = ("--goal", "accuracy", "--deadline-ms", "0.001", "--energy-mj", "5")
    shown = said(folder, "plan", "net.onnx", *options, *limits)
    assert "nothing meets every limit at this rate; the best misses: deadline" in shown
    assert "mJ" in shown


def test_infer_says_which_exit_answered_and_what_was_missed(folder: Path):
    photos = str(PHOTOS)
    options = ("--profile", "profile.json", "--accuracy", "accuracy.json", "--min-accuracy", "0.9")
    shown = said(folder, "infer", "net.onnx", photos, *options, "--confidence", "1")
    assert "(sure)" in shown
    assert "missed" in shown
    assert "accuracy" in shown


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["plan", "net.onnx", "--profile", "profile.json", "--min-accuracy", "0.7"], "an accuracy objective needs"),
        (["plan", "net.onnx", "--profile", "profile.json", "--goal", "energy"], "needs the device's power"),
        (
            ["plan", "other.onnx", "--accuracy", "accuracy.json"],
            "accuracy.json: this accuracy table was measured on network 'net'",
        ),
        (["infer", "net.onnx", "x", "--accuracy", "none.json"], "x: no such picture"),
    ],
)
def test_mistakes_are_one_line(folder: Path, words: list[str], message: str):
    if not (folder / "other.onnx").exists():
        save_model(build("alexnet-cifar"), folder / "other.onnx")
        other = open_model(folder / "other.onnx")
        analytic_table(other).save(folder / "other.json")
    if "other.onnx" in words:
        words = [*words, "--profile", "other.json"]
    paths = [str(folder / word) if word.endswith((".onnx", ".json")) else word for word in words]
    done = CliRunner().invoke(app, paths, env=WIDE)
    assert isinstance(done.exception, UserError)
    assert message in str(done.exception)
    assert "\n" not in str(done.exception)


def test_confidence_is_one_number_or_several():
    assert parse_confidence("") is None
    assert parse_confidence("0.2") == 0.2
    assert parse_confidence("0.1,0.3") == (0.1, 0.3)
    with pytest.raises(UserError, match="--confidence 'high': expected entropies"):
        parse_confidence("high")
