"""Intervals against known values and against chance."""

import numpy as np
import pytest

from coinfer.evaluate.statistics import interval, jain, paired_difference


def test_interval_of_a_textbook_sample():
    """Ten values of mean 5.5 and variance 55/6; t(0.975, 9) = 2.262157."""
    found = interval(np.arange(1.0, 11.0))
    assert found.mean == 5.5
    assert found.half == pytest.approx(2.262157 * np.sqrt(55 / 6 / 10), rel=1e-6)
    assert found.clear_of_zero()


def test_the_interval_holds_the_truth_as_often_as_it_says():
    samples = np.random.default_rng(0).normal(3.0, 2.0, (4000, 10))
    hits = sum(abs(interval(sample).mean - 3.0) <= interval(sample).half for sample in samples)
    assert hits / 4000 == pytest.approx(0.95, abs=0.012)


def test_one_value_has_no_interval():
    found = interval(np.array([2.0]))
    assert found.mean == 2.0
    assert np.isnan(found.half)
    assert not found.clear_of_zero()


def test_pairing_removes_what_chance_does_to_both():
    rng = np.random.default_rng(1)
    common = rng.normal(0, 10, 10)
    one, other = common + 1 + rng.normal(0, 0.1, 10), common + rng.normal(0, 0.1, 10)
    assert paired_difference(one, other).clear_of_zero()
    assert paired_difference(one, other).mean == pytest.approx(1.0, abs=0.2)
    assert interval(one).half > 10 * paired_difference(one, other).half


def test_jain_from_even_to_one_server():
    found = jain(np.array([[2.0, 2.0, 2.0, 2.0], [1.0, 0.0, 0.0, 0.0], [0.0, 0.0, 0.0, 0.0]]))
    assert found[:2].tolist() == [1.0, 0.25]
    assert np.isnan(found[2])
