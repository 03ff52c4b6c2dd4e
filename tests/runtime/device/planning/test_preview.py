"""Choices over all link rates: the search against the hull, and against asking at every rate."""

import itertools
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.runtime.device.planning.test_objective_policy import draw_objective, random_options
from tests.runtime.device.planning.test_observation import random_options as plain_options

from coinfer.partition.hull import Hull
from coinfer.runtime.device.objective import Objective
from coinfer.runtime.device.planning.preview import Preview


@settings(deadline=None, max_examples=30)
@given(seed=st.integers(0, 2**32 - 1))
def test_ranges_hold_what_is_chosen_inside_them(seed: int):
    rng = np.random.default_rng(seed)
    objective, deadline_s = draw_objective(rng)
    preview = Preview(random_options(rng, 3, 4), objective, deadline_s)
    ranges = list(preview.ranges())
    assert (ranges[0][0], ranges[-1][1]) == (0.0, math.inf)
    assert all(before[1] == after[0] for before, after in itertools.pairwise(ranges))
    for low_bps, high_bps, option in ranges:
        inside_bps = math.sqrt(max(low_bps, 1e3) * min(high_bps, 1e11))
        assert preview.best(inside_bps) == option


@settings(deadline=None, max_examples=30)
@given(seed=st.integers(0, 2**32 - 1))
def test_the_search_finds_the_thresholds_of_the_hull(seed: int):
    options = plain_options(np.random.default_rng(seed), 5)
    hull = Hull.build(options.device_s + options.server_s[:, 0], options.upload_bits)
    assert [option for *_, option in Preview(options, Objective()).ranges()] == hull.options.tolist()
    searched = list(Preview(options, Objective(), deadline_s=1e9).ranges())  # a deadline that is always met
    wide = np.diff(np.log([1e3, *hull.threshold_bps, 1e11])) > 0.02  # narrower ranges may hide between two rates
    if wide.all():
        assert [option for *_, option in searched] == hull.options.tolist()
        assert [low for low, *_ in searched[1:]] == pytest.approx(hull.threshold_bps.tolist(), rel=1e-6)


def test_limits_that_are_missed_are_named():
    options = random_options(np.random.default_rng(0), 2, 3)
    objective = Objective(min_accuracy=0.9, energy_j=1e-6, power_w=2.0, transmit_power_w=1.0)
    preview = Preview(options, objective, deadline_s=1e-6)
    best = preview.best(1e6)
    assert preview.unmet(best, 1e6) == ("deadline", "accuracy", "energy")
    sends = int(np.flatnonzero(options.upload_bits > 0)[0])
    expected_j = 2.0 * options.device_s[sends] + options.upload_bits[sends] / 1e6
    assert preview.energy_j(sends, 1e6) == pytest.approx(expected_j)
    stays = len(options.bits) - 1
    assert preview.energy_j(stays, 1e6) == pytest.approx(2.0 * options.device_s[stays])
