import numpy as np
import pytest
from onnx import helper
from tests.graph.small_graphs import model

from coinfer.graph.ir import ModelGraph
from coinfer.graph.onnx.load import from_proto
from coinfer.graph.zoo.networks import build


def kinds(graph: ModelGraph) -> list[list[str]]:
    return [[graph.ops[i].kind for i in group] for group in graph.groups]


def chain(*layers: tuple[str, dict], outputs: tuple[str, ...] = ("last",)) -> ModelGraph:
    """Layers one after another on [N, 2, 6, 6]; those that need weights get them."""
    nodes, weights, source = [], {}, "x"
    for i, (kind, attributes) in enumerate(layers):
        extra = []
        if kind == "Conv":
            extra, weights[f"w{i}"] = [f"w{i}"], np.ones((2, 2, 1, 1), np.float32)
        elif kind == "Add":
            extra, weights[f"w{i}"] = [f"w{i}"], np.ones((2, 1, 1), np.float32)
        elif kind == "BatchNormalization":
            extra = [f"{part}{i}" for part in ("scale", "bias", "mean", "var")]
            weights |= {name: np.ones(2, np.float32) for name in extra}
        target = "last" if i == len(layers) - 1 else f"t{i}"
        nodes.append(helper.make_node(kind, [source, *extra], [target], **attributes))
        source = target
    return from_proto(model(nodes, {"x": ["N", 2, 6, 6]}, outputs, weights), "chain")


def test_an_activation_joins_its_convolution_but_not_a_pool() -> None:
    pool = ("MaxPool", {"kernel_shape": [2, 2]})
    graph = chain(("Conv", {}), ("BatchNormalization", {}), ("Relu", {}), pool, ("Relu", {}), ("Flatten", {}))
    assert kinds(graph) == [["Conv", "BatchNormalization", "Relu"], ["MaxPool"], ["Relu", "Flatten"]]


def test_a_constant_bias_joins_its_product() -> None:
    assert kinds(chain(("Conv", {}), ("Add", {}), ("Sigmoid", {}))) == [["Conv", "Add", "Sigmoid"]]


def test_an_output_in_between_ends_the_group() -> None:
    assert kinds(chain(("Conv", {}), ("Relu", {}), outputs=("t0", "last"))) == [["Conv"], ["Relu"]]


def test_what_renames_the_input_stays_alone() -> None:
    assert kinds(chain(("Flatten", {}), ("Relu", {}))) == [["Flatten"], ["Relu"]]


@pytest.mark.parametrize("other_reader", [False, True])
def test_a_residual_sum_joins_the_convolution_that_only_it_reads(other_reader: bool) -> None:
    nodes = [
        helper.make_node("Sigmoid", ["x"], ["s"]),
        helper.make_node("Conv", ["s", "w"], ["c"]),
        helper.make_node("Add", ["c", "s"], ["a"]),
        helper.make_node("Relu", ["a"], ["r"]),
        helper.make_node("Mul", ["r", "c" if other_reader else "r"], ["y"]),
    ]
    weights = {"w": np.ones((2, 2, 1, 1), np.float32)}
    graph = from_proto(model(nodes, {"x": ["N", 2, 6, 6]}, ["y"], weights), "residual")
    joined = (
        [["Sigmoid"], ["Conv"], ["Add", "Relu"], ["Mul"]] if other_reader else [["Sigmoid"], ["Conv", "Add", "Relu"]]
    )
    assert kinds(graph)[: len(joined)] == joined


def test_a_bottleneck_of_resnet_is_four_convolutions_the_last_with_sum_and_activation() -> None:
    graph = build("resnet50")
    block = [group_kinds for group, group_kinds in zip(graph.groups, kinds(graph), strict=True)
             if graph.ops[group[-1]].name.startswith("layer2.0")]  # fmt: skip
    assert sorted(block) == [["Conv"], ["Conv", "Add", "Relu"], ["Conv", "Relu"], ["Conv", "Relu"]]
