import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.partition.dags import line, networks, problems

from coinfer.partition.chain import chain
from coinfer.partition.exhaustive import exhaustive
from coinfer.partition.multiway import multiway
from coinfer.partition.problem import Problem, latency_s, plain_bits, star

LINES = st.integers(1, 6).flatmap(
    lambda count: st.lists(st.integers(1, 50), min_size=count + 1, max_size=count + 1).map(lambda e: line(count, e))
)


@settings(max_examples=100, deadline=None)
@given(problems(LINES, servers=3))
def test_on_chains_it_equals_every_route_tried(problem: Problem) -> None:
    assert multiway(problem).latency_s == pytest.approx(exhaustive(problem).latency_s, rel=1e-12)


@settings(max_examples=60, deadline=None)
@given(problems(LINES, servers=1))
def test_with_one_server_it_is_the_chain_scan(problem: Problem) -> None:
    assert multiway(problem).latency_s == pytest.approx(chain(problem).latency_s, rel=1e-12)


@settings(max_examples=60, deadline=None)
@given(problems(networks(7), servers=3))
def test_on_any_network_it_is_at_least_as_good_as_the_chain_scan(problem: Problem) -> None:
    found = multiway(problem)
    assert found.latency_s <= chain(problem).latency_s * (1 + 1e-12)
    assert found.latency_s >= exhaustive(problem).latency_s * (1 - 1e-12)
    assert 0 not in found.nodes[1:]


@settings(max_examples=60, deadline=None)
@given(problems(networks(6), servers=3), st.permutations([1, 2, 3]))
def test_permuted_servers_permute_the_places(problem: Problem, order: list[int]) -> None:
    index = [0, *order]
    permuted = Problem(
        problem.graph,
        problem.op_s[index],
        problem.tensor_bits,
        problem.rate_bps[np.ix_(index, index)],
        problem.wait_s[index],
    )
    found = multiway(permuted)
    assert found.latency_s == pytest.approx(multiway(problem).latency_s, rel=1e-12)
    assert latency_s(problem, np.array(index)[found.place]) == pytest.approx(found.latency_s, rel=1e-12)


@settings(max_examples=60, deadline=None)
@given(problems(networks(6), servers=2), st.floats(1, 100))
def test_faster_links_are_never_slower(problem: Problem, factor: float) -> None:
    faster = Problem(problem.graph, problem.op_s, problem.tensor_bits, problem.rate_bps * factor, problem.wait_s)
    assert multiway(faster).latency_s <= multiway(problem).latency_s * (1 + 1e-12)


def test_a_route_over_two_specialised_servers() -> None:
    graph = line(3, [10, 10, 10, 10])
    op_s = np.array([[1.0, 50, 50], [50.0, 1, 50], [50.0, 50, 1]])
    found = multiway(star(graph, op_s, plain_bits(graph, bits=1), 10.0, 100.0, 0.25))
    assert found.nodes == (0, 1, 2)
    assert [cut.tensors for cut in found.cuts] == [("t1",), ("t2",)]
    assert found.latency_s == pytest.approx(3 + 1 + 0.1 + 2 * 0.25)


def test_a_second_visit_is_waited_for_again() -> None:
    graph = line(3, [1, 1, 1, 1])
    op_s = np.array([[99.0, 99, 99], [1.0, 30, 1], [30.0, 1, 30]])
    problem = star(graph, op_s, plain_bits(graph, bits=1), 1e9, 1e9, 5.0)
    assert multiway(problem).nodes == (0, 1, 2, 1)
    assert multiway(problem).latency_s == pytest.approx(3 + 3 * 5, rel=1e-6)
    patient = star(graph, op_s, plain_bits(graph, bits=1), 1e9, 1e9, 20.0)
    assert multiway(patient).nodes == (0, 1)


@settings(max_examples=60, deadline=None)
@given(problems(LINES, servers=2), st.data())
def test_it_is_the_best_of_the_routes_through_open_cuts(problem: Problem, data: st.DataObject) -> None:
    count = len(problem.graph.ops)
    first = np.array(data.draw(st.lists(st.sampled_from([1.0, 500.0, np.inf]), min_size=count, max_size=count)))
    further = np.array(data.draw(st.lists(st.booleans(), min_size=count, max_size=count)))
    found = multiway(problem, first_bits=first, further_cuts=further)
    possible = [
        np.array(place)
        for place in itertools.product(range(3), repeat=count)
        if all(
            before == after or (after != 0 and (first[b] < np.inf if before == 0 else further[b]))
            for b, (before, after) in enumerate(itertools.pairwise((0, *place)))
        )
    ]
    expected_s = []
    for place in possible:
        b, node = next(((b, int(node)) for b, node in enumerate(place) if node), (0, 0))
        rate_bps = problem.rate_bps[0, node]
        other_s = (first[b] - problem.tensor_bits[f"t{b}"]) / rate_bps if node else 0.0
        expected_s.append(latency_s(problem, place) + other_s)
    assert found.latency_s == pytest.approx(min(expected_s), rel=1e-9)
