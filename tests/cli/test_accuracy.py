"""`coinfer accuracy`: what fewer bits cost, with and without labels, and what is offered then."""

import re
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper
from PIL import Image
from tests.tables import analytic_table

import coinfer
from coinfer.cli import main
from coinfer.errors import UserError
from coinfer.graph.open_model import open_model
from coinfer.profile.accuracy import AccuracyTable

Run = Callable[..., str]
SAMPLES = 30


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Run:
    """A command in an empty folder with a cache of its own; returns what it prints."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))

    def command(*arguments: str) -> str:
        main.app([*arguments], standalone_mode=False)
        return capsys.readouterr().out

    return command


def save(nodes: list[onnx.NodeProto], shape: list[int], **weights: np.ndarray) -> None:
    """Write a network from `x` to `y`, and the profile of a machine on which every cut may be best."""
    graph = helper.make_graph(
        nodes,
        "g",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, shape)],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, None)],
        [numpy_helper.from_array(value, name) for name, value in weights.items()],
    )
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), "net.onnx")
    analytic_table(open_model("net.onnx")).save("profile.json")


def spectrum() -> None:
    """A logarithm behind values of a very wide range, of which 8 bits lose all small ones."""
    node = helper.make_node
    nodes = [
        node("Tanh", ["x"], ["t"]),
        node("Mul", ["t", "k"], ["t2"]),
        node("Exp", ["t2"], ["p"]),
        node("Add", ["p", "eps"], ["q"]),
        node("Log", ["q"], ["y"]),
    ]
    save(nodes, [1, 512], k=np.array(9, np.float32), eps=np.array(1e-6, np.float32))


def blocks() -> None:
    """A classifier of pictures by their mean colour."""
    node = helper.make_node
    nodes = [
        node("GlobalAveragePool", ["x"], ["pool"]),
        node("Flatten", ["pool"], ["flat"]),
        node("MatMul", ["flat", "w"], ["y"]),
    ]
    save(nodes, [1, 3, 8, 8], w=np.eye(3, dtype=np.float32))


def paint(folder: Path, classes: bool) -> None:
    """Pictures of red, green or blue, in sub-folders if they are to have labels."""
    random = np.random.default_rng(0)
    for i in range(SAMPLES):
        where = folder / str(i % 3) if classes else folder
        where.mkdir(parents=True, exist_ok=True)
        pixels = random.integers(0, 60, (20, 16, 3)).astype(np.uint8)
        pixels[:, :, i % 3] += 150
        Image.fromarray(pixels).save(where / f"{i:02}.png")


def test_lossy_widths_of_a_wide_range_are_not_offered_and_the_table_says_why(run: Run):
    spectrum()
    Path("data").mkdir()
    random = np.random.default_rng(0)
    for i in range(SAMPLES):
        np.save(f"data/{i:02}.npy", random.standard_normal((1, 512)).astype(np.float32))
    said = run("accuracy", "net.onnx", "--data", "data", "--profile", "profile.json", "--every-cut")
    table = AccuracyTable.load("net.accuracy.json")
    assert (table.measure, table.samples, table.exits) == ("tolerance", SAMPLES, (SAMPLES,))
    rows = {(row.cut, row.bits): row for row in table.rows}
    assert rows[("p",), 8].correct == 0
    assert (rows[("p",), 8].error or 0) > 0.05
    assert rows[("t",), 16].correct == SAMPLES
    assert not table.is_earned(0, ("p",), 8)
    assert table.is_earned(0, ("t",), 16)
    assert "percent within 1% of the answer without loss" in said
    assert re.search(r"8 bits: \d of \d cuts lose at most 1%", said)
    graph = open_model("net.onnx")
    with coinfer.Device(graph, profile="profile.json") as device:  # the table was kept
        triples = device.options.triples
    assert (0, ("p",), 8) not in triples
    assert all(bits in (32, 16) or table.is_earned(*triple) for triple in triples for bits in triple[2:])


def test_pictures_without_labels_count_the_answers_that_stay(run: Run):
    blocks()
    paint(Path("data"), classes=False)
    options = ("--profile", "profile.json", "--every-cut", "--bits", "8,4", "--scale", "1", "--stretch")
    said = run("accuracy", "net.onnx", "--data", "data", *options)
    table = AccuracyTable.load("net.accuracy.json")
    assert (table.measure, table.exits) == ("same class", (SAMPLES,))
    assert "percent of the same class as without loss" in said
    assert all(row.correct == SAMPLES for row in table.rows)
    assert "4 bits: 1 of 1 cuts lose at most 1%" in said


def test_sub_folders_are_labels(run: Run):
    blocks()
    paint(Path("data"), classes=True)
    Path("data/2").rename("data/spare")
    Path("data/1").rename("data/2")
    Path("data/spare").rename("data/1")  # the classes 1 and 2 are mixed up on purpose
    options = ("--profile", "profile.json", "--every-cut", "--scale", "1", "--samples", "21")
    run("accuracy", "net.onnx", "--data", "data", *options)
    table = AccuracyTable.load("net.accuracy.json")
    assert (table.measure, table.samples, table.exits) == ("labels", 21, (7,))
    assert table.interval(0)[0] < 1 / 3 < table.interval(0)[1]


def test_widths_are_columns_from_wide_to_narrow_and_nothing_is_measured_where_nothing_is_rounded(run: Run):
    blocks()
    paint(Path("data"), classes=False)
    options = ("--data", "data", "--profile", "profile.json", "--scale", "1", "--stretch")
    said = run("accuracy", "net.onnx", *options, "--every-cut", "--bits", "4,12,8")
    assert re.search(r"32 bit, exact.*12 bit.*8 bit.*4 bit", said)
    save([helper.make_node("Relu", ["x"], ["y"])], [1, 3, 8, 8])
    with pytest.raises(UserError, match=r"net: no cut sends what could be rounded"):
        run("accuracy", "net.onnx", *options)


def test_few_samples_earn_nothing(run: Run):
    blocks()
    paint(Path("data"), classes=False)
    options = ("--profile", "profile.json", "--every-cut", "--scale", "1", "--samples", "5")
    assert "5 samples are too few" in run("accuracy", "net.onnx", "--data", "data", *options)
    assert not AccuracyTable.load("net.accuracy.json").is_earned(0, ("pool",), 8)


def test_without_a_table_plan_offers_exact_widths_and_says_so(run: Run):
    spectrum()
    said = run("plan", "net.onnx", "--profile", "profile.json", "--uplink-mbit-s", "0.01")
    assert "16 bits were not measured on this network: `coinfer accuracy` does that" in said
    bits = {cells[2].strip() for line in said.splitlines() if len(cells := re.split("[│┃]", line)) > 8}
    assert bits & {"32", "16"}
    assert not bits & {"8", "4"}
    assert "were not measured" not in run("plan", "net.onnx", "--profile", "profile.json", "--bits", "32")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--data", "nowhere"], "nowhere: no such folder"),
        (["--data", "empty"], r"empty: no samples in it; expected files that end in \.npy"),
        (["--data", "empty", "-o", "nowhere/a.json"], "No such file or directory"),
        (["--data", "classes"], r"net does not say how it takes pictures, which classes holds"),
    ],
)
def test_mistakes_are_one_line(run: Run, arguments: list[str], message: str):
    blocks()
    Path("empty").mkdir()
    paint(Path("classes"), classes=True)
    with pytest.raises((UserError, OSError), match=message) as refused:
        run("accuracy", "net.onnx", "--profile", "profile.json", *arguments)
    assert "\n" not in str(refused.value)


def test_pictures_for_a_network_that_does_not_say_how_it_takes_them(run: Run) -> None:
    save([helper.make_node("ReduceMean", ["x"], ["y"], axes=[2, 3])], [1, 3, 8, 8])
    Path("photos").mkdir()
    Image.new("RGB", (8, 8)).save("photos/a.png")
    Path("photos/licence.txt").write_text("free to use\n")
    with pytest.raises(UserError, match=r"net does not say how it takes pictures; say how .* such as --mean"):
        run("accuracy", "net.onnx", "--data", "photos", "--profile", "profile.json")
