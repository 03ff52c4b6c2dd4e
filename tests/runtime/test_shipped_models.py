"""The trained networks in the package: files agree with one another, and the network knows what it sees."""

import numpy as np
import pytest
from safetensors.numpy import load_file

from coinfer.demo.pictures import load_pictures
from coinfer.graph.open_model import open_model
from coinfer.graph.zoo import pretrained
from coinfer.profile.accuracy import AccuracyTable
from coinfer.resources import MODELS
from coinfer.runtime.cascades import run_cascade
from coinfer.runtime.classes import labels_of
from coinfer.runtime.device.objective import Objective
from coinfer.runtime.device.planning.accuracy_table import accuracy_for
from coinfer.runtime.device.planning.early_exit import entropy
from coinfer.runtime.executor import Executor
from coinfer.runtime.images import normalise


def test_the_paper_s_network_is_there():
    assert "alexnet-exits" in pretrained.names()
    size_bytes = sum(file.stat().st_size for file in MODELS.rglob("*") if file.is_file())
    assert size_bytes < 17e6


@pytest.mark.parametrize("name", pretrained.names())
def test_it_knows_pictures_classes_and_codes(name: str):
    graph = open_model(name)
    assert graph.name == name
    assert graph.image is not None
    assert len(set(labels_of(graph))) == 10
    assert graph.bottleneck is not None
    assert graph.bottleneck.outputs == graph.outputs[-2:], "those behind the codes"
    table = AccuracyTable.load(pretrained.accuracy_file(name))
    table.check(graph)
    for k, exit_ in enumerate(range(len(graph.outputs))[-2:]):
        found = [code.answers[k].accuracy for code in graph.bottleneck.codes]
        sizes, right = [one.size_bytes for one in found if one], [one.correct for one in found if one]
        assert (len(sizes), sizes, right) == (2, sorted(sizes), sorted(right))
        assert {one.plain for one in found if one} == {table.exits[exit_]}


def test_a_code_of_resnet12_loses_at_most_a_point():
    bottleneck = open_model("resnet12").bottleneck
    assert bottleneck is not None
    found = bottleneck.codes[-1].answers[-1].accuracy
    assert found is not None
    table = accuracy_for(open_model("resnet12"), None, Objective())
    assert table is not None
    assert table.exits == (found.plain,)
    assert found.plain - found.correct <= 0.01 * found.samples
    assert found.size_bytes < 300


def test_files_agree():
    name = "alexnet-exits"
    graph = open_model(name)
    table = AccuracyTable.load(pretrained.accuracy_file(name))
    table.check(graph)
    assert table.samples == 10_000
    assert "JPEG copy" in table.dataset
    stored = load_file(MODELS / f"{name}.safetensors")
    assert stored.keys() == graph.weights.keys()
    for key, value in graph.weights.items():
        assert stored[key].dtype == np.float16
        np.testing.assert_array_equal(stored[key].astype(np.float32), value)
    for exit_, output in enumerate(graph.outputs):
        for cut in graph.pruned((output,)).useful_cuts()[1:-1]:
            assert all(0 < table.accuracy(exit_, cut.tensors, bits) < 1 for bits in (4, 8, 12, 16, 32))


def test_it_names_the_shipped_photographs_and_leaves_early_when_sure():
    """24 views of four clear photographs; their accuracy says less than the table's 10,000 pictures."""
    graph, table = open_model("alexnet-exits"), AccuracyTable.load(pretrained.accuracy_file("alexnet-exits"))
    pictures = load_pictures(graph, None)
    assert graph.image is not None
    assert pictures.labels is not None
    inputs = np.concatenate([normalise(one, graph.image) for one in pictures.images])
    values, _ = Executor(graph).run({"input": inputs})
    answers = np.stack([values[output] for output in graph.outputs], axis=1)
    right = answers.argmax(axis=2) == pictures.labels[:, None]
    assert (right.sum(axis=0) >= 21).all(), right.sum(axis=0)  # 24, 23 and 23 were found
    point = table.cascade(table.accuracy(len(graph.outputs) - 1) - 0.005)
    assert point.left[0] > 0.3 * table.samples  # half a point less lets many leave at the first exit
    cascade = run_cascade(right, entropy(answers), point.thresholds)
    assert sum(cascade.left) == len(right)
    assert all(left > 0 for left in cascade.left), cascade.left  # 13, 8 and 3 were found
    assert sum(cascade.correct) >= 21


def test_exits_get_better_and_eight_bits_cost_little():
    table = AccuracyTable.load(pretrained.accuracy_file("alexnet-exits"))
    shares = [table.accuracy(exit_) for exit_ in range(3)]
    assert shares == sorted(shares)
    for exit_ in range(3):
        correct = [row.correct for row in table.rows if row.exit == exit_ and row.bits == 8 and row.cut != ("input",)]
        assert table.exits[exit_] - max(correct) < 0.005 * table.samples
