"""Branches on networks: where they may stand, and that every exit in two pieces answers as the whole."""

import numpy as np
import pytest

from coinfer.graph.ir import GraphError, ModelGraph
from coinfer.graph.onnx.load import load
from coinfer.graph.open_model import open_model
from coinfer.graph.segment import save_model, segment, split
from coinfer.graph.session import open_session
from coinfer.graph.zoo import early_exits, networks, pretrained
from coinfer.graph.zoo.early_exits import with_exits


def run(graph: ModelGraph, inputs: dict[str, np.ndarray], outputs: tuple[str, ...]) -> dict[str, np.ndarray]:
    piece = segment(graph, tuple(inputs), outputs)
    return dict(zip(outputs, open_session(graph, piece).run(None, inputs), strict=True))


def pictures(graph: ModelGraph, count: int = 2) -> dict[str, np.ndarray]:
    shape = (count, *graph.tensors["input"].shape[1:])
    return {"input": np.random.default_rng(1).normal(size=shape).astype(np.float32)}


def assert_alike(actual: np.ndarray, expected: np.ndarray) -> None:
    np.testing.assert_allclose(actual, expected, rtol=1e-4, atol=1e-4 * np.abs(expected).max())


@pytest.mark.parametrize("name", early_exits.EXITS)
def test_every_exit_in_two_pieces_answers_as_the_whole(name: str):
    graph = early_exits.build(name)
    inputs = pictures(graph)
    whole = run(graph, inputs, graph.outputs)
    step = 5 if "224" in name else 3 if "vgg" in name or "resnet" in name else 1
    for exit_, output in enumerate(graph.outputs):
        alone = graph.pruned((output,))
        assert_alike(run(alone, inputs, (output,))[output], whole[output])
        for cut in alone.useful_cuts()[1:-1:step]:
            assert split(graph, [cut], exit_)[1].outputs == (output,)
            crossing = run(graph, inputs, cut.tensors)
            assert_alike(run(graph, crossing, (output,))[output], whole[output])


def test_the_papers_network_has_9_12_and_20_layers():
    graph = early_exits.build("alexnet-cifar-exits")
    layers = [[op for op in graph.pruned((name,)).ops if op.kind != "Flatten"] for name in graph.outputs]
    assert [len(ops) for ops in layers] == [9, 12, 20]


@pytest.mark.parametrize("at", [[2, 5], ["conv2_2.relu", "pool3"], ["pool4", 1], [3]])
def test_a_branch_stands_where_it_is_asked_for_and_leaves_the_trunk_alone(at: list):
    trunk = networks.build("vgg16-cifar")
    graph = with_exits(trunk, at, 10)
    assert graph.outputs == (*(f"exit{i}" for i in range(1, len(at) + 1)), "logits")
    inputs = pictures(trunk)
    outputs = run(graph, inputs, graph.outputs)
    np.testing.assert_array_equal(outputs["logits"], run(trunk, inputs, ("logits",))["logits"])
    assert all(outputs[name].shape == (2, 10) for name in graph.outputs)
    works = [graph.pruned((name,)).work_flop for name in graph.outputs]
    assert works == sorted(works)
    for place in at:
        tensor = trunk.useful_cuts()[place].tensors[0] if isinstance(place, int) else place
        assert any(graph.ops[i].name.startswith("exit") for i in graph.consumers[tensor])


def test_flat_tensors_get_one_linear_layer():
    graph = with_exits(networks.build("alexnet-cifar"), ["fc1.relu"], 10)
    assert [op.name for op in graph.ops if op.name.startswith("exit")] == ["exit1"]


def test_branches_are_the_same_for_the_same_seed_and_survive_a_file(tmp_path):
    plain = networks.build("resnet32")
    graph = with_exits(plain, [4], 10, seed=3)
    assert graph.fingerprint == with_exits(plain, [4], 10, seed=3).fingerprint
    assert graph.fingerprint != with_exits(plain, [4], 10, seed=4).fingerprint
    save_model(graph, tmp_path / "r.onnx")
    assert load(tmp_path / "r.onnx").fingerprint == graph.fingerprint
    assert graph.image == plain.image
    assert graph.dynamic_batch


@pytest.mark.parametrize(
    ("name", "at", "classes", "said"),
    [
        ("resnet32", [2], 100, r"one output of 100 classes, \[N, 100\]; it has logits \[1, 10\]"),
        ("resnet32", [], 10, "exits at no place; expected different places"),
        ("resnet32", [2, 2], 10, "exits at 2, 2; expected different places"),
        ("resnet32", [0], 10, r"no exit after block 0; there may be one after 1 to \d+"),
        ("resnet32", ["nowhere"], 10, "no exit at 'nowhere': no tensor of this name"),
        ("resnet32", ["logits"], 10, "no exit at 'logits'"),
        ("alexnet-cifar-exits", [2], 10, "exits need one output"),
    ],
)
def test_what_cannot_be_is_refused(name: str, at: list, classes: int, said: str):
    graph = early_exits.build(name) if name in early_exits.EXITS else networks.build(name)
    with pytest.raises(GraphError, match=said):
        with_exits(graph, at, classes)


def test_all_kinds_of_names_open():
    for name in ("resnet32-cifar-exits", "alexnet-cifar", *pretrained.names()):
        assert open_model(name).name == name
    with pytest.raises(GraphError, match="no pretrained network 'lenet'"):
        pretrained.load_pretrained("lenet")
