import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats
from tests.scenario.worlds import SMALL

from coinfer.errors import ScenarioError
from coinfer.scenario import arrivals
from coinfer.scenario.compile import compile_scenario
from coinfer.scenario.load import read


def moments(table: arrivals.Arrivals) -> tuple[float, float]:
    """Mean and variance of the counts of the first level."""
    mass = np.diff(np.concatenate([[0.0], table.cdf[0], [1.0]]))
    counts = np.arange(len(mass))
    mean = (mass * counts).sum()
    return mean, (mass * counts**2).sum() - mean**2


@given(st.floats(0.01, 60))
@settings(max_examples=50, deadline=None)
def test_poisson_counts_have_their_mean_and_variance(mean: float):
    table = arrivals.poisson_arrivals(mean, 400)
    assert moments(table) == pytest.approx((mean, mean), rel=1e-6)
    assert table.mean == pytest.approx(mean, rel=1e-6)
    assert table.lost == pytest.approx(0, abs=1e-6)


@given(st.floats(0.2, 3), st.floats(0.05, 1.0), st.floats(0.5, 20))
@settings(max_examples=50, deadline=None)
def test_lognormal_rates_have_the_papers_mean_and_variance(mean: float, variance: float, per_unit: float):
    """The count's variance is the mean's (Poisson) plus that of the rate."""
    variance *= mean**2
    found = moments(arrivals.lognormal_arrivals(mean, variance, per_unit, 4000))
    assert found == pytest.approx((mean * per_unit, mean * per_unit + variance * per_unit**2), rel=1e-3)


def test_lognormal_counts_agree_with_sampling():
    rng = np.random.default_rng(0)
    log_variance = np.log1p(0.7 / 4)
    rates = rng.lognormal(np.log(2.0) - log_variance / 2, np.sqrt(log_variance), 200_000)
    sampled = np.bincount(rng.poisson(8 * rates), minlength=64).cumsum()[:64] / 200_000
    np.testing.assert_allclose(arrivals.lognormal_arrivals(2.0, 0.7, 8, 64).cdf[0], sampled, atol=4e-3)


def test_a_fixed_count_is_certain():
    table = arrivals.fixed_arrivals(3, 5)
    assert moments(table) == (3, 0)
    assert all((table.cdf[0] <= u).sum() == 3 for u in (0.0, 0.5, 0.999))


def test_what_a_slot_has_no_place_for_is_lost():
    table = arrivals.poisson_arrivals(10, 5)
    expected = stats.poisson(10).expect(lambda k: np.minimum(k, 5))
    assert table.lost == pytest.approx(1 - expected / 10)


@given(st.lists(st.integers(0, 40), min_size=1, max_size=600), st.integers(1, 7))
@settings(max_examples=50, deadline=None)
def test_measured_loads_are_kept_slot_by_slot(counts: list[int], copies: int):
    loads = arrivals.superpose(np.array(counts, dtype=float), copies)
    assert loads.sum() == pytest.approx(copies * sum(counts))
    table = arrivals.workload_arrivals(loads, 600)
    means = (1 - table.cdf).sum(axis=1)[table.level]
    if len(np.unique(loads)) <= arrivals.MAX_LEVELS:
        np.testing.assert_allclose(means, loads, rtol=1e-6, atol=1e-9)


def test_many_loads_share_levels_close_to_them():
    loads = np.random.default_rng(0).gamma(2, 10, 5000)
    table = arrivals.workload_arrivals(loads, 400)
    means = (1 - table.cdf).sum(axis=1)[table.level]
    assert len(table.cdf) == arrivals.MAX_LEVELS
    np.testing.assert_allclose(np.sqrt(means), np.sqrt(loads), atol=np.sqrt(loads.max()) / arrivals.MAX_LEVELS)


@pytest.mark.parametrize(
    "change",
    [
        ("slot_s: 0.5", "slot_s: 1.0e-12"),
        ("rate_per_s: 4", "rate_per_s: 1.0e-4"),
        ("kind: poisson, rate_per_s: 4", "kind: lognormal, mean: 1.0e-9, variance: 1, per_s: 1"),
    ],
)
def test_a_scenario_in_which_no_task_ever_comes_is_refused(change: tuple[str, str]):
    with pytest.raises(
        ScenarioError, match=r"arrivals: only \S+ requests come in an episode .* raise slots, slot_s or"
    ):
        compile_scenario(read(SMALL.replace(*change), "x"))


def test_a_scenario_in_which_tasks_are_rare_says_so():
    compiled = compile_scenario(read(SMALL.replace("rate_per_s: 4", "rate_per_s: 0.02"), "x"))
    assert (
        "0.2 requests come in an episode on average (20 slots of 0.5 s), so most episodes have none" in compiled.notes
    )
    assert not any("requests come" in note for note in compile_scenario(read(SMALL, "x")).notes)
