import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import helper
from tests.graph.small_graphs import WIDTH, dags, model, perceptron, relative_error, run

from coinfer.graph.ir import Cut, GraphError, ModelGraph
from coinfer.graph.onnx.load import from_proto
from coinfer.graph.segment import segment
from coinfer.graph.zoo.networks import build


def closed_sets(graph: ModelGraph) -> set[frozenset[int]]:
    """By trying every subset."""
    needs = [{graph.producer[name] for name in op.inputs if name in graph.producer} for op in graph.ops]
    subsets = itertools.product([False, True], repeat=len(graph.ops))
    heads = [frozenset(i for i, inside in enumerate(subset) if inside) for subset in subsets]
    return {head for head in heads if all(needs[i] <= head for i in head)}


@settings(max_examples=60, deadline=None)
@given(dags())
def test_all_cuts_are_exactly_the_closed_sets(graph: ModelGraph) -> None:
    heads = [cut.head for cut in graph.all_cuts()]
    assert len(heads) == len(set(heads))
    assert set(heads) == closed_sets(graph)


@settings(max_examples=25, deadline=None)
@given(dags(max_ops=5), st.randoms(use_true_random=False))
def test_every_cut_recomposes_the_network(graph: ModelGraph, random) -> None:
    x = np.random.default_rng(1).standard_normal((3, WIDTH)).astype(np.float32)
    whole = run(graph, {"t0": x}, graph.outputs)
    cuts = list(graph.all_cuts())
    for cut in random.sample(cuts, min(len(cuts), 6)):
        rest = run(graph, run(graph, {"t0": x}, cut.tensors), graph.outputs)
        for name, truth in whole.items():
            assert relative_error(rest[name], truth) < 1e-5


@settings(max_examples=60, deadline=None)
@given(dags())
def test_single_cuts_are_the_cuts_across_one_tensor(graph: ModelGraph) -> None:
    cuts = graph.single_cuts()
    assert set(cuts) == {cut for cut in graph.all_cuts() if len(cut.tensors) == 1}
    assert [len(cut.head) for cut in cuts] == sorted(len(cut.head) for cut in cuts)
    assert all(graph.cut(cut.head) == cut for cut in cuts)


@settings(max_examples=40, deadline=None)
@given(dags())
def test_useful_cuts_split_no_group_and_bound_the_network(graph: ModelGraph) -> None:
    useful = graph.useful_cuts()
    assert useful[0] == Cut(("t0",), frozenset())
    assert useful[-1] == graph.cut(frozenset(range(len(graph.ops))))
    split = [cut for cut in useful if any(0 < len(cut.head & set(group)) < len(group) for group in graph.groups)]
    assert split == []
    left_out = set(graph.single_cuts()) - set(useful)
    for cut in left_out:
        assert any(0 < len(cut.head & set(group)) < len(group) for group in graph.groups)


@settings(max_examples=40, deadline=None)
@given(dags())
def test_groups_partition_the_operations_and_are_convex(graph: ModelGraph) -> None:
    assert sorted(i for group in graph.groups for i in group) == list(range(len(graph.ops)))
    home = {i: number for number, group in enumerate(graph.groups) for i in group}
    edges = {
        (home[graph.producer[name]], home[i])
        for i, op in enumerate(graph.ops)
        for name in op.inputs
        if name in graph.producer
    }
    # The groups are numbered by their last operation; were one not convex, an edge would lead back.
    assert all(first <= second for first, second in edges)


def test_all_cuts_stops_at_its_limit() -> None:
    nodes = [helper.make_node("Tanh", ["x"], [f"y{i}"]) for i in range(12)]
    graph = from_proto(model(nodes, {"x": ["N", 4]}, [f"y{i}" for i in range(12)]), "wide")
    assert sum(1 for _ in graph.all_cuts()) == 2**12
    with pytest.raises(GraphError, match="more than 4095 legal cuts"):
        list(graph.all_cuts(limit=4095))


def test_cut_refuses_a_head_that_is_not_closed() -> None:
    graph = from_proto(perceptron(), "mlp")
    with pytest.raises(GraphError, match="needs 'r' from after it"):
        graph.cut(frozenset({0, 2}))


def two_exits() -> ModelGraph:
    nodes = [
        helper.make_node("Tanh", ["x"], ["a"]),
        helper.make_node("Gemm", ["a", "w1"], ["early"]),
        helper.make_node("Sigmoid", ["a"], ["b"]),
        helper.make_node("Gemm", ["b", "w2"], ["late"]),
    ]
    weights = {name: np.eye(4, dtype=np.float32) * size for name, size in (("w1", 2), ("w2", 3))}
    return from_proto(model(nodes, {"x": ["N", 4]}, ["early", "late"], weights), "exits")


def test_pruned_keeps_what_one_exit_needs() -> None:
    graph = two_exits()
    early = graph.pruned(("early",))
    assert [op.kind for op in early.ops] == ["Tanh", "Gemm"]
    assert list(early.weights) == ["w1"]
    assert early.outputs == ("early",)
    assert [cut.tensors for cut in early.useful_cuts()] == [("x",), ("a",), ("early",)]
    assert graph.pruned(graph.outputs) is graph


def test_a_network_with_two_exits_is_cut_only_before_they_part() -> None:
    assert [cut.tensors for cut in two_exits().single_cuts()] == [("x",), ("a",)]
    assert two_exits().useful_cuts()[-1].tensors == ("early", "late")


@settings(max_examples=25, deadline=None)
@given(dags(), st.data())
def test_pruned_answers_as_the_whole(graph: ModelGraph, data: st.DataObject) -> None:
    outputs = tuple(data.draw(st.lists(st.sampled_from(list(graph.tensors)[1:]), min_size=1, max_size=2, unique=True)))
    x = np.random.default_rng(2).standard_normal((2, WIDTH)).astype(np.float32)
    small = graph.pruned(outputs)
    whole, part = run(graph, {"t0": x}, outputs), run(small, {"t0": x}, outputs)
    assert all(relative_error(part[name], whole[name]) < 1e-5 for name in outputs)
    # Pruned networks are networks: their cuts are closed, their structure is that of their operations.
    assert [node.name for node in small.proto.graph.node] == [op.name for op in small.ops]
    assert {cut.head for cut in small.all_cuts()} == closed_sets(small)


def test_fingerprint_is_of_structure_and_weights() -> None:
    one, same, other = (from_proto(perceptron(seed), "mlp") for seed in (0, 0, 1))
    assert one.fingerprint == same.fingerprint
    assert one.fingerprint != other.fingerprint
    assert build("nin", seed=0).fingerprint != build("nin", seed=1).fingerprint


def test_fingerprint_sees_a_single_bit() -> None:
    graph = from_proto(perceptron(), "mlp")
    before = graph.fingerprint
    weights = {name: value.copy() for name, value in graph.weights.items()}
    weights["w2"].view(np.uint32)[0, 0] ^= 1
    assert from_proto(graph.proto, "mlp", weights).fingerprint != before


def test_consumers_and_producer_agree_with_the_operations() -> None:
    graph = build("resnet32")
    for name in graph.tensors:
        assert graph.consumers[name] == tuple(i for i, op in enumerate(graph.ops) if name in op.inputs)
    assert all(name in graph.ops[i].outputs for name, i in graph.producer.items())


def test_segment_between_needs_no_more_than_asked() -> None:
    graph = from_proto(perceptron(), "mlp")
    assert graph.needed(("r",), ("y",)) == (2,)
    assert graph.needed(("x", "r"), ("h", "y")) == (0, 2)
    assert graph.needed(("x",), ("x",)) == ()
    assert segment(graph, ("r",), ("y",)).weights == ("w2", "b2")
