"""The accuracy table: counts, intervals, cascades, and what it refuses."""

import json

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import binomtest

from coinfer.graph.zoo.networks import build
from coinfer.profile.accuracy import AccuracyError, AccuracyRow, AccuracyTable, CascadePoint, wilson


def table(**changes) -> AccuracyTable:
    rows = tuple(AccuracyRow(exit=1, cut=("pool1",), bits=bits, correct=70 + bits) for bits in (4, 8, 12))
    points = (
        CascadePoint(thresholds=(0.0,), left=(0, 100), correct=(0, 83)),
        CascadePoint(thresholds=(0.2,), left=(50, 50), correct=(48, 36)),
        CascadePoint(thresholds=(0.5,), left=(80, 20), correct=(70, 11)),
    )
    fields = {"model": "m", "fingerprint": "f" * 64, "dataset": "d", "samples": 100, "exits": (75, 83)}
    return AccuracyTable(**(fields | {"rows": rows, "confidence": points} | changes))


def test_accuracy_is_the_counted_share_and_32_bits_lose_nothing():
    found = table()
    assert found.accuracy(1, ("pool1",), 8) == 0.78
    assert found.accuracy(1, ("anything",), 32) == found.accuracy(1) == 0.83
    assert found.accuracy(0, ("exit1",), 32) == 0.75


@given(st.integers(1, 10_000).flatmap(lambda n: st.tuples(st.integers(0, n), st.just(n))))
def test_interval_equals_scipys(counts):
    expected = binomtest(*counts).proportion_ci(0.95, "wilson")
    np.testing.assert_allclose(wilson(*counts), (expected.low, expected.high), atol=1e-12)


def test_interval_of_a_row_holds_its_accuracy():
    low, high = table().interval(1, ("pool1",), 4)
    assert 0 < low < 0.74 < high < 1


def test_cascade_is_the_cheapest_that_is_accurate_enough():
    assert table().cascade(0.84).thresholds == (0.2,)
    assert table().cascade(0.80).thresholds == (0.5,)
    assert table().cascade(0.80, cost=(1, 0)).thresholds == (0.0,)
    with pytest.raises(AccuracyError, match=r"accuracy 0.9 is out of reach; the best is 0.8400"):
        table().cascade(0.9)
    with pytest.raises(AccuracyError, match="holds no confidence thresholds"):
        table(confidence=()).cascade(0.5)


def test_what_was_not_measured_is_refused():
    with pytest.raises(AccuracyError, match=r"exit 1, cut pool2, 8 bits was not measured"):
        table().accuracy(1, ("pool2",), 8)
    with pytest.raises(AccuracyError, match=r"no exit 2 .* 0 to 1"):
        table().accuracy(2)


def test_a_table_of_another_network_is_refused():
    graph = build("alexnet-cifar")
    mine = table(model=graph.name, fingerprint=graph.fingerprint, exits=(75,), rows=(), confidence=())
    mine.check(graph)
    with pytest.raises(AccuracyError, match=r"measured on network 'alexnet-cifar' .* not on 'alexnet-cifar'"):
        mine.check(build("alexnet-cifar", seed=1))
    with pytest.raises(AccuracyError, match=r"2 exits\), not on 'alexnet-cifar' \(.*, 1 exits"):
        table(fingerprint=graph.fingerprint).check(graph)


def test_saved_and_loaded_it_is_the_same(tmp_path):
    table().save(tmp_path / "a.json")
    assert AccuracyTable.load(tmp_path / "a.json") == table()


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"samples": 80}, "83 right answers to 80 samples"),
        ({"exits": [75]}, "names exit 1; the last is 0"),
        ({"format": 2}, "format"),
        ({"unknown": 1}, "unknown: Extra inputs"),
        ({"samples": 101}, "does not add up"),
        ({"rows": [{"exit": 0, "cut": ["a"], "bits": 7, "correct": 1}]}, "no encoding with 7 bits"),
        ({"rows": [{"exit": 0, "cut": ["a"], "bits": 8, "correct": 1}] * 2}, "two rows"),
    ],
)
def test_damaged_files_are_refused_in_one_line(change, said, tmp_path):
    path = tmp_path / "a.json"
    path.write_text(json.dumps(json.loads(table().model_dump_json()) | change))
    with pytest.raises(AccuracyError, match=said) as caught:
        AccuracyTable.load(path)
    assert str(caught.value).startswith(str(path))
    assert "\n" not in str(caught.value)


def test_a_missing_file_is_one_line(tmp_path):
    with pytest.raises(AccuracyError, match=r"none\.json: cannot read this accuracy table: No such file"):
        AccuracyTable.load(tmp_path / "none.json")
