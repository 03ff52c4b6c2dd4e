"""What pruning leaves out can never be best; each rule against loops over all options."""

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from tests.options.tables import ACCURACIES, option_tables

from coinfer.options.prune import SPEED_RATIOS, TOLERANCE, best_only, dominated_mask, prune, useful_mask
from coinfer.options.table import Options
from coinfer.partition.hull import Hull


def latency_s(options: Options, option: int, server: int, rate_bps: float, free_s: float = 0.0) -> float:
    """Of one task, on a server that is free after `free_s`; with plain floats."""
    device_s = float(options.device_s[option])
    if options.upload_bits[option] == 0:
        return device_s
    ready_s = device_s + float(options.upload_bits[option]) / rate_bps
    return max(ready_s, free_s) + float(options.server_s[option, server])


def best(options: Options, rates_bps: list[float], free_s: list[float], weight: float) -> float:
    """The best value of accuracy against latency."""
    return max(
        weight * float(options.accuracy[o]) - latency_s(options, o, n, rates_bps[n], free_s[n])
        for o in range(len(options.bits))
        for n in range(options.server_s.shape[1])
    )


RATES = st.lists(st.floats(0.1, 10), min_size=2, max_size=2)
IDLE = [0.0, 0.0]
STEPS = np.geomspace(1 / 256, 256, 33).tolist()
"""Uploads of the largest option, as parts of the time on the device alone."""
QUEUES = np.geomspace(1 / 256, 4, 21).tolist()


@given(option_tables(2), RATES, st.lists(st.floats(0, 20), min_size=2, max_size=2), st.floats(0, 20))
@settings(max_examples=100, deadline=None)
def test_pruning_never_loses_the_best(options: Options, rates_bps: list[float], free_s: list[float], weight: float):
    """The hull keeps it on idle servers; what is not dominated keeps it behind any queue."""
    hull, strict = prune(options, "hull"), prune(options, "dominated")
    assert best(hull, rates_bps, IDLE, weight) == pytest.approx(best(options, rates_bps, IDLE, weight))
    assert best(strict, rates_bps, free_s, weight) == pytest.approx(best(options, rates_bps, free_s, weight))
    assert set(hull.triples) <= set(strict.triples) <= set(options.triples)


@given(
    option_tables(2),
    st.sampled_from(STEPS),
    st.sampled_from([0.0, *QUEUES]),
    st.sampled_from(SPEED_RATIOS.tolist()),
    st.sampled_from(ACCURACIES),
)
@settings(max_examples=100, deadline=None)
def test_what_is_near_best_loses_little_behind_a_queue(
    options: Options, upload: float, queue: float, ratio: float, least: float
):
    """Of all options that are accurate enough: at most the tolerance, on either server at any of the speeds."""
    alone_s = float(max(options.device_s[options.is_local]))
    assume(alone_s > 0)
    rate_bps = float(max(options.upload_bits)) / (alone_s * upload) if max(options.upload_bits) else 1.0

    def fastest_s(some: Options, server: int) -> float:
        at_speed = some._replace(server_s=some.server_s / ratio)
        enough = np.flatnonzero(some.accuracy >= least).tolist()
        return min(latency_s(at_speed, o, server, rate_bps, alone_s * queue) for o in enough)

    near, hull, strict = (
        prune(options, rule, speed_ratios=SPEED_RATIOS) for rule in ("near-best", "hull", "dominated")
    )
    assert set(hull.triples) <= set(near.triples)
    for server in range(2):
        assert fastest_s(near, server) <= (1 + TOLERANCE) * fastest_s(strict, server) + 1e-9


@given(option_tables(1), st.floats(0.1, 10), st.sampled_from(SPEED_RATIOS.tolist()), st.sampled_from(ACCURACIES))
@settings(max_examples=80, deadline=None)
def test_an_unknown_speed_loses_nothing_either(options: Options, rate_bps: float, ratio: float, least: float):
    """Of all options that are accurate enough, on an idle server of each of the speeds."""

    def fastest_s(some: Options) -> float:
        at_speed = some._replace(server_s=some.server_s / ratio)
        enough = np.flatnonzero(some.accuracy >= least).tolist()
        return min(latency_s(at_speed, o, 0, rate_bps) for o in enough)

    pruned = prune(options, "hull", speed_ratios=SPEED_RATIOS)
    assert fastest_s(pruned) == pytest.approx(fastest_s(options))


@given(option_tables(2), RATES, st.floats(0.1, 3), st.floats(0, 20))
@settings(max_examples=80, deadline=None)
def test_limits_on_energy_lose_nothing_without_what_is_dominated(
    options: Options, rates_bps: list[float], power_w: float, limit_j: float
):
    def fastest_s(some: Options) -> float:
        sends_s = some.upload_bits / rates_bps[0]
        enough = np.flatnonzero(2.0 * some.device_s + power_w * sends_s <= limit_j)
        return min((latency_s(some, o, 0, rates_bps[0]) for o in enough), default=np.inf)

    assert fastest_s(prune(options, "dominated")) == fastest_s(options)


@given(st.lists(st.lists(st.integers(0, 3), min_size=3, max_size=3), min_size=1, max_size=9))
@settings(max_examples=100, deadline=None)
def test_dominance_against_loops(rows: list[list[int]]):
    def beats(a: int, b: int) -> bool:
        if any(x > y for x, y in zip(rows[a], rows[b], strict=True)):
            return False
        return rows[a] != rows[b] or a < b

    expected = [any(beats(a, b) for a in range(len(rows)) if a != b) for b in range(len(rows))]
    assert dominated_mask(np.array(rows, dtype=float)).tolist() == expected


@given(option_tables(2, most=10))
@settings(max_examples=100, deadline=None)
def test_the_hull_against_that_of_each_level_of_accuracy(options: Options):
    """A level holds what is at least as accurate. Where two options cost the same, either may stand for both."""
    found = useful_mask(options, "hull")
    for o in np.flatnonzero(~found & ~options.is_local):
        for server in range(2):
            twins = np.flatnonzero(found & (options.accuracy >= options.accuracy[o]))
            assert not _wins(options, o, server) or any(
                _point(options, p, server) == _point(options, o, server) for p in twins
            )
    for o in np.flatnonzero(found & ~options.is_local):
        assert any(_wins(options, o, server) for server in range(2)), o


def _wins(options: Options, option: int, server: int) -> bool:
    """Whether the hull of those that are at least as accurate holds a point like this option's."""
    among = np.flatnonzero(options.accuracy >= options.accuracy[option])
    compute_s = options.device_s + options.server_s[:, server]
    kept = among[Hull.build(compute_s[among], options.upload_bits[among]).options]
    return any(_point(options, p, server) == _point(options, option, server) for p in kept)


def _point(options: Options, option: int, server: int) -> tuple[float, float]:
    return float(options.device_s[option] + options.server_s[option, server]), float(options.upload_bits[option])


def test_other_cases_keep_what_is_best_in_one_of_them():
    """Option 1 is dominated as it stands and not if 9 of 10 requests leave before it is sent."""
    table = Options(
        cuts=(("a",), ("b",), ("y",)),
        bits=np.array([8, 8, 32]),
        exit=np.zeros(3, dtype=int),
        device_s=np.array([1.0, 1.0, 9.0]),
        upload_bits=np.array([1.0, 2.0, 0.0]),
        server_s=np.array([[1.0], [1.0], [0.0]]),
        accuracy=np.ones(3),
        outputs=(("y",),) * 3,
    )
    mean = table._replace(upload_bits=np.array([1.0, 0.2, 0.0]))
    assert useful_mask(table, "dominated").tolist() == [True, False, True]
    assert useful_mask(table, "dominated", other_cases=[mean]).tolist() == [True, True, True]


@given(option_tables(2), RATES)
@settings(max_examples=100, deadline=None)
def test_the_best_only_is_the_fastest_of_the_most_accurate(options: Options, rates_bps: list[float]):
    kept = best_only(options, np.array(rates_bps))
    top = [o for o in range(len(options.bits)) if options.accuracy[o] == max(options.accuracy)]
    sends, stays = ([o for o in top if (options.upload_bits[o] == 0) == here] for here in (False, True))
    if sends:
        fastest_s = min(latency_s(options, o, n, rates_bps[n]) for o in sends for n in range(2))
        assert min(latency_s(kept, 0, n, rates_bps[n]) for n in range(2)) == pytest.approx(fastest_s)
        assert kept.device_s[1] == min(options.device_s[o] for o in stays)
