import numpy as np
import pytest
from tests.partition.dags import line, network

from coinfer.partition.exhaustive import exhaustive, legal_heads
from coinfer.partition.problem import PartitionError, latency_s, plain_bits, star


def test_cuts_of_parallel_branches_multiply() -> None:
    branches = [("MaxPool", (f"b{b}.{i}" if i else "x",), (f"b{b}.{i + 1}",)) for b in range(3) for i in range(2)]
    graph = network([*branches, ("Concat", ("b0.2", "b1.2", "b2.2"), ("y",))], {})
    assert len(legal_heads(graph)) == 3**3 + 1


def test_no_cut_falls_inside_a_fused_group() -> None:
    graph = network([("Conv", ("x",), ("a",)), ("Relu", ("a",), ("b",)), ("MaxPool", ("b",), ("c",))], {})
    heads = {frozenset(np.flatnonzero(head).tolist()) for head in legal_heads(graph)}
    assert heads == {frozenset(), frozenset({0, 1}), frozenset({0, 1, 2})}


def test_it_finds_the_best_of_all_block_placements() -> None:
    rng = np.random.default_rng(3)
    graph = line(4, [40, 30, 20, 10, 5])
    for _ in range(20):
        problem = star(graph, rng.exponential(1, (3, 4)), plain_bits(graph, bits=1), [40.0, 90.0], 60.0, 0.1)
        places = np.stack([place for place in np.ndindex(3, 3, 3, 3) if 0 not in place[place.count(0) :]])
        assert exhaustive(problem).latency_s == pytest.approx(latency_s(problem, places).min(), rel=1e-12)


def test_too_many_routes_are_refused_with_the_cure() -> None:
    graph = line(20, [1] * 21)
    with pytest.raises(PartitionError, match="routes of 20 blocks over 2 servers are more than 200000; use multiway"):
        exhaustive(star(graph, np.ones((3, 20)), plain_bits(graph), 1.0, 1.0))


def test_without_servers_all_stays_on_the_device() -> None:
    graph = line(3, [1, 1, 1, 1])
    assert exhaustive(star(graph, np.ones((1, 3)), plain_bits(graph), 1.0)).place.tolist() == [0, 0, 0]
