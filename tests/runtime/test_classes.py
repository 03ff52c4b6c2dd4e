"""Answers as classes."""

from pathlib import Path

import numpy as np
import pytest
from onnx import helper
from tests.graph.small_graphs import model, perceptron

from coinfer.errors import UserError
from coinfer.graph.onnx.load import from_proto
from coinfer.graph.open_model import open_model
from coinfer.profile.dataset import CIFAR_CLASSES
from coinfer.runtime.classes import is_classifier, labels_of, likeliest, read_labels


def test_a_vector_of_numbers_is_a_classifier_and_maps_or_boxes_are_none():
    graph = from_proto(perceptron(), "net")
    assert is_classifier(graph, graph.outputs)
    maps = from_proto(model([helper.make_node("Relu", ["x"], ["y"])], {"x": [1, 3, 4, 4]}, ["y"]), "maps")
    assert not is_classifier(maps, maps.outputs)
    single = from_proto(model([helper.make_node("Relu", ["x"], ["y"])], {"x": [1, 1]}, ["y"]), "one")
    assert not is_classifier(single, single.outputs)
    logarithm = from_proto(model([helper.make_node("Log", ["x"], ["y"])], {"x": [1, 9]}, ["y"]), "spectrum")
    assert not is_classifier(logarithm, logarithm.outputs)
    chain = [helper.make_node(kind, [a], [b]) for kind, a, b in [("Softmax", "x", "s"), ("Flatten", "s", "y")]]
    assert is_classifier(from_proto(model(chain, {"x": [1, 3, 1, 1]}, ["y"]), "chain"), ("y",))
    assert all(is_classifier(open_model(name), open_model(name).outputs) for name in ("alexnet-exits", "nin"))


def test_the_likeliest_come_first_with_their_shares():
    logits = np.log(np.array([[0.1, 0.6, 0.3]]))
    best = likeliest(logits, ("a", "b", "c"), 2)
    assert [(one.number, one.label) for one in best] == [(1, "b"), (2, "c")]
    assert [one.share for one in best] == pytest.approx([0.6, 0.3])
    assert [one.share for one in likeliest(np.exp(logits), (), 9)] == pytest.approx([0.6, 0.3, 0.1])
    assert likeliest(logits, (), 1)[0].label == "1"


def test_labels_come_from_the_metadata_or_a_file(tmp_path: Path):
    proto = perceptron()
    for text, expected in {
        "{0: 'cat', 1: 'dog', 2: 'bird'}": ("cat", "dog", "bird"),
        "['cat', 'dog']": ("cat", "dog"),
        "{1: 'x'}": (),
        "__import__('os')": (),
        "(" * 500: (),
    }.items():
        helper.set_model_props(proto, {"names": text})
        assert labels_of(from_proto(proto, "net")) == expected
    assert labels_of(open_model("alexnet-exits")) == CIFAR_CLASSES
    (tmp_path / "plain.txt").write_text("cat\n\nbig dog\n")
    assert read_labels(tmp_path / "plain.txt") == ("cat", "big dog")
    (tmp_path / "marked.txt").write_text("cat\nbig dog\n", encoding="utf-8-sig")
    assert read_labels(tmp_path / "marked.txt") == ("cat", "big dog"), "with a byte-order mark"
    (tmp_path / "numbered.txt").write_text("0: cat\n1: 2 dogs\n")
    assert read_labels(tmp_path / "numbered.txt") == ("cat", "2 dogs")
    with pytest.raises(UserError, match=r"none\.txt: cannot read these labels"):
        read_labels(tmp_path / "none.txt")
    (tmp_path / "empty.txt").write_text("\n")
    with pytest.raises(UserError, match="0 labels; expected 1 to"):
        read_labels(tmp_path / "empty.txt")
