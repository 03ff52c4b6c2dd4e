"""The experiment on what exits cost each other counts as the bottleneck's own record does."""

import numpy as np
import pytest
from tests.exit_training.bottlenecks import bottleneck_with_exits, stripes
from tests.experiments import script


@pytest.fixture
def exits_cost():
    with script("bottlenecks", "exits_cost") as module:
        yield module


def test_right_answers_of_every_exit_are_those_of_the_record(exits_cost):
    graph, data = bottleneck_with_exits(), stripes(40, seed=1)
    assert graph.bottleneck is not None
    found, plain = exits_cost.right_by_code(graph.bottleneck.graph, data), exits_cost.right_by_exit(graph, data)
    for code in graph.bottleneck.codes:
        assert found[code.tensor, ""].mean() == code.size_bytes
        for answer in code.answers:
            assert answer.accuracy is not None
            assert plain[answer.output].sum() == answer.accuracy.plain
            assert abs(found[code.tensor, answer.output].sum() - answer.accuracy.correct) <= 1
    (row, *_) = exits_cost.compared({"ours": found, "same": found}, "logits")
    assert (row["against"], row["points"], row["half_interval"]) == ("same", 0.0, 0.0)


def test_a_difference_in_points_by_hand(exits_cost):
    """One of four answers more: differences 0, 1, 0, 0 have a deviation of 1/2, so half of the interval is 1.96 / 4."""
    found = exits_cost.points(np.array([True, True, False, False]), np.array([True, False, False, False]))
    assert found["points"] == pytest.approx(25)
    assert found["half_interval"] == pytest.approx(49, abs=0.01)
