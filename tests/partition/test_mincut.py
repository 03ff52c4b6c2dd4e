from itertools import pairwise

import networkx as nx
import numpy as np
import pytest
from hypothesis import given, settings
from tests.partition.dags import diamond, line, network, networks, problems

from coinfer.partition.chain import chain
from coinfer.partition.exhaustive import exhaustive, legal_heads
from coinfer.partition.hull import hull
from coinfer.partition.mincut import ROUNDING, flow_network, frontier, mincut
from coinfer.partition.problem import PartitionError, Problem, compute_s, latency_s, plain_bits, sent_bits, star


def networkx_value_s(problem: Problem) -> float:
    """The least latency without waits, by another library, on one vertex per operation and in floating point."""
    graph, flow = problem.graph, nx.DiGraph()
    for i in range(len(graph.ops)):
        flow.add_edge("device", i, capacity=problem.op_s[1, i])
        flow.add_edge(i, "server", capacity=problem.op_s[0, i])
    for name, readers in graph.consumers.items():
        maker = graph.producer.get(name, "device")
        flow.add_edge(maker, name, capacity=problem.tensor_bits[name] / problem.rate_bps[0, 1])
        for reader in readers:
            flow.add_edge(name, reader)
            flow.add_edge(reader, maker)
    for group in graph.groups:
        for one, other in pairwise(group):
            flow.add_edge(one, other)
            flow.add_edge(other, one)
    return float(nx.minimum_cut_value(flow, "device", "server"))


@settings(max_examples=100, deadline=None)
@given(problems(networks(9)))
def test_minimum_cut_and_hull_equal_every_cut_tried(problem: Problem) -> None:
    optimum = exhaustive(problem).latency_s
    assert mincut(problem).latency_s == pytest.approx(optimum, rel=ROUNDING)
    assert hull(problem).latency_s == pytest.approx(optimum, rel=2 * ROUNDING)


@settings(max_examples=60, deadline=None)
@given(problems(networks(7), servers=3))
def test_with_several_servers_the_best_single_one_is_taken(problem: Problem) -> None:
    heads = legal_heads(problem.graph)
    places = np.concatenate([np.where(heads, 0, server) for server in (1, 2, 3)])
    optimum = latency_s(problem, places).min()
    assert mincut(problem).latency_s == pytest.approx(optimum, rel=ROUNDING)
    assert hull(problem).latency_s == pytest.approx(optimum, rel=2 * ROUNDING)


@settings(max_examples=60, deadline=None)
@given(problems(networks(12)))
def test_minimum_cut_equals_another_library(problem: Problem) -> None:
    unloaded = Problem(problem.graph, problem.op_s, problem.tensor_bits, problem.rate_bps, np.zeros(2))
    assert mincut(unloaded).latency_s == pytest.approx(networkx_value_s(unloaded), rel=ROUNDING)


@settings(max_examples=60, deadline=None)
@given(problems(networks(10)))
def test_answer_is_a_legal_cut_that_splits_no_fused_group(problem: Problem) -> None:
    found = mincut(problem)
    assert found.latency_s <= chain(problem).latency_s * (1 + ROUNDING)
    assert all(len(set(found.place[list(group)])) == 1 for group in problem.graph.groups)
    if found.cuts:
        head = found.cuts[0].head
        assert problem.graph.cut(head).head == head == frozenset(np.flatnonzero(found.place == 0).tolist())


def test_the_best_cut_may_cross_two_tensors() -> None:
    op_s = np.stack([[0.1, 0.1, 0.1, 0.1, 99.0], np.full(5, 0.01)])
    problem = star(diamond(), op_s, plain_bits(diamond(), bits=1), 1.0)
    found = mincut(problem)
    assert found.cuts[0].tensors == ("left", "right")
    assert found.latency_s == pytest.approx(0.4 + 3 + 0.01)
    assert chain(problem).latency_s > 10 * found.latency_s


def test_a_server_that_is_slower_in_the_middle_gets_a_closed_tail() -> None:
    """Without the backward arcs the cheapest cut would give the middle operation back to the device."""
    graph = line(3, [1, 1, 1, 1])
    op_s = np.array([[10.0, 1, 10], [1.0, 10, 1]])
    found = mincut(star(graph, op_s, plain_bits(graph, bits=1), 1e6))
    assert found.place.tolist() == [0, 0, 1] or found.place.tolist() == [1, 1, 1]
    assert found.latency_s == pytest.approx(12, rel=1e-5)


def test_parallel_tensors_between_two_operations_add_up() -> None:
    graph = network(
        [
            ("Split", ("x",), ("a", "b", "c", "d")),
            ("Concat", ("a", "b", "c", "d"), ("y",)),
            ("MaxPool", ("y",), ("z",)),
        ],
        {"x": 10**6, "y": 40},
    )
    op_s = np.array([[1.0, 1, 99], [1.0, 1, 1]])
    assert mincut(star(graph, op_s, plain_bits(graph, bits=1), 1.0)).latency_s == pytest.approx(1 + 4 + 1 + 1)
    for elements in (10, 100, 10**6):
        bits = plain_bits(graph, bits=1) | dict.fromkeys("abcd", float(elements))
        assert mincut(star(graph, op_s, bits, 1.0)).latency_s == pytest.approx(1 + 1 + 40 + 1)


@pytest.mark.parametrize("slowness", [1e-9, 1e-3, 1.0, 1e3, 1e9])
def test_whole_numbers_do_not_cost_accuracy_where_both_ends_are_bad(slowness: float) -> None:
    """Both trivial cuts cost a billion times the best one."""
    graph = line(4, [1, 1, 1, 1, 1])
    op_s = np.array([[1.0, 1.3, 1e9, 1e9], [1e9, 1e9, 1.2, 1.1]]) * slowness
    found = mincut(star(graph, op_s, plain_bits(graph, bits=1), 10 / slowness))
    assert found.place.tolist() == [0, 0, 1, 1]


def test_nothing_costs_anything() -> None:
    graph = diamond()
    assert mincut(star(graph, np.zeros((2, 5)), plain_bits(graph), 1.0)).latency_s == 0
    assert mincut(star(graph, np.stack([np.ones(5), np.zeros(5)]), plain_bits(graph), np.inf)).latency_s == 0
    assert mincut(star(graph, np.ones((1, 5)), plain_bits(graph), 1.0)).latency_s == 5


@settings(max_examples=60, deadline=None)
@given(problems(networks(8)))
def test_frontier_holds_the_best_cut_for_every_rate(problem: Problem) -> None:
    corners = frontier(problem, 1)
    everything = np.where(legal_heads(problem.graph), 0, 1)
    rates = np.geomspace(1e-3, 1e6, 200)[:, None]

    def least_s(places: np.ndarray) -> np.ndarray:
        return (compute_s(problem, places) + sent_bits(problem, places)[:, 0, 1] / rates).min(axis=1)

    np.testing.assert_allclose(least_s(corners), least_s(everything), rtol=2 * ROUNDING)


def test_operations_outside_all_groups_are_named() -> None:
    graph = line(2, [3, 2, 1])
    graph.__dict__["groups"] = ((0,),)
    with pytest.raises(PartitionError, match="'op1' belongs to no fused group"):
        flow_network(graph)
