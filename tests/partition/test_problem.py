import gc
import re

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.partition.dags import diamond, line, networks, problems

from coinfer.partition.problem import (
    PartitionError,
    Problem,
    cache_per_graph,
    latency_s,
    partition,
    plain_bits,
    star,
    visits,
    wiring,
)


def spelt_out(problem: Problem, place: np.ndarray) -> float:
    """The objective in plain loops, as its definition reads."""
    graph, total, sent, entered, leg = problem.graph, 0.0, set(), set(), {}
    for i, op in enumerate(graph.ops):
        node = int(place[i])
        total += problem.op_s[node, i]
        leg[i] = 0
        for name in op.inputs:
            maker = graph.producer.get(name)
            source = 0 if maker is None else int(place[maker])
            if source != node and (name, node) not in sent:
                sent.add((name, node))
                total += problem.tensor_bits[name] / problem.rate_bps[source, node]
            leg[i] = max(leg[i], (0 if maker is None else leg[maker]) + (source != node))
        entered.add((leg[i], node))
    return total + sum(problem.wait_s[node] for _, node in entered)


@settings(max_examples=60, deadline=None)
@given(problems(networks(), servers=3), st.integers(0, 2**32 - 1))
def test_objective_equals_its_definition_for_any_placement(problem: Problem, seed: int) -> None:
    places = np.random.default_rng(seed).integers(0, problem.nodes, (5, len(problem.graph.ops)))
    expected = [spelt_out(problem, place) for place in places]
    np.testing.assert_allclose(latency_s(problem, places), expected, rtol=1e-12)
    assert latency_s(problem, places[0]) == pytest.approx(expected[0], rel=1e-12)


def test_objective_by_hand() -> None:
    problem = star(
        line(3, [80, 40, 20, 10]), np.array([[1.0, 2, 3], [0.1, 0.2, 0.3]]), {f"t{i}": 8.0 for i in range(4)}, 4
    )
    problem = star(problem.graph, problem.op_s, {"t0": 80, "t1": 40, "t2": 20, "t3": 10}, 4.0, wait_s=0.5)
    assert latency_s(problem, np.array([0, 0, 0])) == pytest.approx(6.0)
    assert latency_s(problem, np.array([0, 1, 1])) == pytest.approx(1 + 40 / 4 + 0.5 + 0.5)
    assert latency_s(problem, np.array([1, 1, 1])) == pytest.approx(80 / 4 + 0.5 + 0.6)
    assert latency_s(problem, np.array([1, 0, 1])) == pytest.approx(0.1 + 2 + 0.3 + (80 + 40 + 20) / 4 + 2 * 0.5)


def test_a_tensor_with_two_readers_is_sent_once() -> None:
    problem = star(diamond(), np.zeros((2, 5)), {"x": 1, "a": 7, "left": 1, "r": 1, "right": 1, "y": 1}, 1.0)
    assert latency_s(problem, np.array([0, 1, 1, 1, 1])) == pytest.approx(7)


@pytest.mark.parametrize("diagonal", [0.0, 1.0, np.nan, np.inf])
def test_a_tensor_that_stays_costs_nothing(diagonal: float) -> None:
    rate_bps = np.array([[diagonal, 1.0], [1.0, diagonal]])
    problem = Problem(GRAPH, np.ones((2, 2)), {"t0": 5, "t1": 7, "t2": 9}, rate_bps, np.zeros(2))
    assert latency_s(problem, np.array([[0, 0], [0, 1], [1, 1]])).tolist() == [2, 9, 7]
    np.testing.assert_array_equal(rate_bps[0], [diagonal, 1.0])


def test_parallel_branches_are_one_visit_and_a_return_is_a_second() -> None:
    problem = star(diamond(), np.zeros((2, 5)), plain_bits(diamond()), 1.0)
    assert visits(problem, np.array([0, 1, 0, 1, 1])).tolist() == [1, 1]
    assert visits(problem, np.array([1, 0, 0, 0, 1])).tolist() == [1, 2]


@settings(max_examples=60, deadline=None)
@given(problems(networks(), servers=2), st.floats(0.01, 100), st.integers(0, 2**32 - 1))
def test_latency_scales_with_all_times(problem: Problem, factor: float, seed: int) -> None:
    place = np.random.default_rng(seed).integers(0, 3, len(problem.graph.ops))
    slower = Problem(
        problem.graph, problem.op_s * factor, problem.tensor_bits, problem.rate_bps / factor, problem.wait_s * factor
    )
    assert latency_s(slower, place) == pytest.approx(factor * latency_s(problem, place))


def test_route_of_a_placement() -> None:
    graph = line(4, [5, 4, 3, 2, 1])
    problem = star(graph, np.ones((3, 4)), plain_bits(graph), 1e3, 1e3)
    found = partition(problem, np.array([0, 2, 2, 1]))
    assert found.nodes == (0, 2, 1)
    assert [cut.tensors for cut in found.cuts] == [("t1",), ("t3",)]
    assert partition(problem, np.array([1, 1, 1, 1])).cuts[0].tensors == ("t0",)
    assert partition(problem, np.zeros(4, dtype=int)).nodes == (0,)


def test_plain_bits_gives_inputs_their_own_width() -> None:
    bits = plain_bits(line(2, [100, 10, 1]), bits=16, input_bits=8)
    assert bits == {"t0": 800, "t1": 160, "t2": 16}


def test_what_is_kept_for_a_graph_goes_with_it() -> None:
    made = []
    keep = cache_per_graph(lambda graph: made.append(graph.name) or object())
    graph = line(2, [3, 2, 1])
    assert keep(graph) is keep(graph)
    assert len(made) == 1
    del graph
    gc.collect()
    keep(line(2, [3, 2, 1]))
    assert len(made) == 2


GRAPH = line(2, [3, 2, 1])
GOOD = {"op_s": np.ones((2, 2)), "tensor_bits": plain_bits(GRAPH), "rate_bps": np.ones((2, 2)), "wait_s": np.zeros(2)}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"op_s": np.ones((2, 3))}, "op_s must be [1 + servers, 2], got [2, 3]"),
        ({"op_s": np.ones(2)}, "op_s must be"),
        ({"op_s": np.array([[1, 1], [1, -2.0]])}, "got -2.0 of 'op1' on node 1"),
        ({"op_s": np.array([[np.nan, 1], [1, 1]])}, "got nan of 'op0' on node 0"),
        ({"rate_bps": np.ones((3, 3))}, "rate_bps must be [2, 2], got [3, 3]"),
        ({"rate_bps": np.array([[1, 0.0], [1, 1]])}, "leave out a node that is out of reach"),
        ({"rate_bps": np.array([[1, np.nan], [1, 1]])}, "rate_bps must be positive"),
        ({"wait_s": np.array([1.0, 0])}, "0 for the device"),
        ({"wait_s": np.array([0.0, np.inf])}, "wait_s must be 2 finite times"),
        ({"tensor_bits": {"t0": 1}}, "tensor_bits lacks 1 tensors, such as 't1'"),
        ({"tensor_bits": {"t0": 1, "t1": -1}}, "tensor_bits must be finite and not negative"),
    ],
)
def test_nonsense_is_refused_in_one_line(change: dict, message: str) -> None:
    Problem(GRAPH, **GOOD)
    with pytest.raises(PartitionError, match=re.escape(message)) as caught:
        Problem(GRAPH, **{**GOOD, **change})
    assert "\n" not in str(caught.value)


def test_two_servers_need_a_rate_between_them() -> None:
    with pytest.raises(PartitionError, match="between_bps"):
        star(GRAPH, np.ones((3, 2)), plain_bits(GRAPH), 1.0)


def test_wiring_lists_every_reading_once() -> None:
    wires = wiring(diamond())
    readings = [(wires.tensors[t], int(op)) for t, op in zip(wires.edge_tensor, wires.edge_op, strict=True)]
    assert sorted(readings) == [("a", 1), ("a", 2), ("left", 4), ("r", 3), ("right", 4), ("x", 0)]
    assert dict(zip(wires.tensors, wires.maker.tolist(), strict=True)) == {
        "x": -1,
        "a": 0,
        "left": 1,
        "r": 2,
        "right": 3,
    }
