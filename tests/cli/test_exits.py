"""`coinfer exits`: train and measure as a user types them."""

import json
import re

import numpy as np
import pytest
from PIL import Image
from typer.testing import CliRunner

from coinfer.cli.main import app
from coinfer.errors import UserError
from coinfer.exit_training.trainer import Trainer
from coinfer.graph.onnx.load import load
from coinfer.profile.accuracy import AccuracyTable
from coinfer.profile.dataset import CIFAR_CLASSES, load_dataset

WIDE = {"COLUMNS": "200", "NO_COLOR": "1"}


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """A folder to work in, with pictures of ten shades of grey."""
    monkeypatch.chdir(tmp_path)
    random = np.random.default_rng(0)
    for split, count in (("train", 60), ("test", 20)):
        labels = np.arange(count) % 10
        images = (25 * labels)[:, None, None, None] + random.integers(0, 20, (count, 32, 32, 3))
        np.savez(f"mine_{split}.npz", images=images.astype(np.uint8), labels=labels, class_names=CIFAR_CLASSES)
    return tmp_path


def coinfer(*arguments: str) -> str:
    done = CliRunner().invoke(app, ["exits", *arguments], env=WIDE)
    if isinstance(done.exception, UserError):
        raise done.exception
    assert done.exit_code == 0, done.output
    return done.output


def test_train_and_measure(folder):
    options = ("--data", ".", "--epochs", "2", "--batch", "20", "--precision", "float32", "--cutout", "4")
    with pytest.raises(UserError, match="out: no checkpoint to resume from; leave out --resume to begin a training"):
        coinfer("train", "alexnet-cifar", "--out", "out", *options, "--resume")
    said = coinfer("train", "alexnet-cifar", "--at", "pool1,4", "--out", "out", *options)
    assert re.search(r"alexnet-cifar-exits: 3 exit\(s\), 60 pictures \(CIFAR-10, JPEG copy\)", said)
    assert re.search(r"training: 50 %, loss \d+\.\d+ .*\n(.*\n)*training: 100 %", said)
    record = json.loads((folder / "out" / "training.json").read_text())
    assert (record["settings"]["crop"], record["settings"]["cutout"]) == (4, 4)
    graph = load("out/alexnet-cifar-exits.onnx")
    assert graph.outputs == ("exit1", "exit2", "logits")
    assert coinfer("train", "alexnet-cifar", "--at", "pool1,4", "--out", "out", *options, "--resume")
    assert load("out/alexnet-cifar-exits.onnx").fingerprint == graph.fingerprint
    said = coinfer("measure", "out/alexnet-cifar-exits.onnx", "--data", ".", "--bits", "8,32", "-o", "a.json")
    assert "percent right of CIFAR-10" in said
    table = AccuracyTable.load("a.json")
    table.check(graph)
    assert {row.bits for row in table.rows} == {8}


def test_a_training_is_not_overwritten_and_goes_on_after_ctrl_c(folder, monkeypatch):
    options = ("train", "alexnet-cifar-exits", "--data", ".", "--epochs", "2", "--batch", "20", "--out", "out")
    end_epoch = Trainer.end_epoch

    def ctrl_c_in_the_second(self):
        if self.epochs:
            raise KeyboardInterrupt
        return end_epoch(self)

    monkeypatch.setattr(Trainer, "end_epoch", ctrl_c_in_the_second)
    done = CliRunner().invoke(app, ["exits", *options], env=WIDE)
    assert done.exit_code != 0
    assert "stopped; the same command with --resume goes on" in done.output
    monkeypatch.undo()
    monkeypatch.chdir(folder)
    with pytest.raises(UserError, match="out: holds a training already; --resume goes on with it"):
        coinfer(*options)
    assert "best epoch" in coinfer(*options, "--resume")


def test_the_first_pictures_of_a_folder_show_all_classes(folder):
    for label in range(10):
        (folder / "test" / f"class{label}").mkdir(parents=True)
        for i in range(3):
            Image.new("RGB", (32, 32), (label, i, 0)).save(folder / "test" / f"class{label}" / f"{i}.png")
    (folder / "mine_test.npz").unlink()
    coinfer("measure", "alexnet-cifar-exits", "--data", ".", "--bits", "32", "--samples", "10", "-o", "a.json")
    assert AccuracyTable.load("a.json").dataset == "folder test, 10 test pictures"
    found = load_dataset(folder, "test")
    assert found.take(10).labels.tolist() == list(range(10))


def test_without_exits_only_the_last_is_trained(folder):
    coinfer("train", "alexnet-cifar-exits", "--no-exits", "--data", ".", "--epochs", "1", "--batch", "20")
    graph = load("runs/exits-alexnet-cifar-exits-plain/alexnet-cifar-exits-plain.onnx")
    assert graph.outputs == ("exit3",)


def test_branches_go_to_third_parts_where_no_place_is_named(folder):
    coinfer("train", "resnet32", "--data", ".", "--epochs", "1", "--batch", "30", "--out", "out")
    graph = load("out/resnet32-exits.onnx")
    whole = graph.pruned(("logits",)).work_flop
    for name, share in (("exit1", 1 / 3), ("exit2", 2 / 3)):
        branch = sum(op.work_flop for op in graph.ops if op.name.startswith(name))
        assert (graph.pruned((name,)).work_flop - branch) / whole == pytest.approx(share, abs=0.06)


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("train", "alexnet-cifar", "--data", "none"), "none: no such file or folder"),
        (("train", "lenet", "--data", "."), "no network 'lenet'"),
        (("train", "resnet50", "--data", "."), r"exits need one output of 10 classes"),
        (("train", "alexnet-cifar-exits", "--at", "2", "--data", "."), "has exits already; leave it out"),
        (("train", "alexnet-cifar-exits", "--weights", "1,2", "--data", "."), "for 3 exits; expected one"),
        (("train", "alexnet-cifar-exits", "--weights", "much", "--data", "."), "--weights 'much': expected numbers"),
        (("train", "alexnet-cifar-exits", "--precision", "int8", "--data", "."), "--precision 'int8'"),
        (("train", "alexnet-cifar-exits", "--shift", "32", "--data", "."), "shift of 32 pixels leaves nothing of pict"),
        (
            ("train", "alexnet-cifar", "--data", ".", "--out", "/dev/null/x"),
            "--out /dev/null/x: cannot write in /",
        ),
        (("measure", "alexnet-cifar-exits", "--data", ".", "--bits", "7"), "--bits '7': expected some of 32"),
        (("measure", "alexnet-224-exits", "--data", "."), "pictures are 32x32, alexnet-224-exits takes 224x224"),
    ],
)
def test_mistakes_are_one_line(folder, arguments, said):
    with pytest.raises(UserError, match=said) as caught:
        coinfer(*arguments)
    assert "\n" not in str(caught.value)
