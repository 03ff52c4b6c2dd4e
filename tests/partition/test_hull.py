import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from tests.partition.dags import line

from coinfer.partition.hull import Hull, best_of, hull, server_hull
from coinfer.partition.problem import PartitionError, plain_bits, star
from coinfer.types import DEVICE

OPTIONS = st.lists(st.tuples(st.integers(0, 12), st.integers(0, 12)), min_size=1, max_size=20)
RATES = np.concatenate(
    [[0.0, np.inf], np.geomspace(1e-3, 1e3, 301), np.arange(1, 13) / np.arange(1, 13)[:, None]], None
)


def latencies_s(compute_s: np.ndarray, upload_bits: np.ndarray, rate_bps: np.ndarray) -> np.ndarray:
    """[rates, O] with no time for nothing to send."""
    with np.errstate(divide="ignore", invalid="ignore"):
        return compute_s + np.where(upload_bits > 0, upload_bits / rate_bps[..., None], 0)


def build(options: list[tuple[float, float]]) -> tuple[np.ndarray, np.ndarray, Hull]:
    compute_s, upload_bits = np.array(options, dtype=float).T
    return compute_s, upload_bits, Hull.build(compute_s, upload_bits)


@settings(max_examples=100, deadline=None)
@given(OPTIONS)
def test_best_is_the_minimum_and_sends_least_among_equals(options: list[tuple[int, int]]) -> None:
    compute_s, upload_bits, found = build(options)
    all_s = latencies_s(compute_s, upload_bits, RATES)
    least_s = all_s.min(axis=1)
    np.testing.assert_allclose(found.latency_s(RATES), least_s, rtol=1e-12)
    for rate, best, row, low in zip(RATES, found.best(RATES), all_s, least_s, strict=True):
        surely_less = upload_bits < upload_bits[best]
        assert not (surely_less & (row < low * (1 - 1e-12))).any()
        if rate in found.threshold_bps:
            assert upload_bits[best] == upload_bits[np.isclose(row, low, rtol=1e-12)].min()


@settings(max_examples=80, deadline=None)
@given(OPTIONS)
def test_more_rate_is_never_slower_and_sends_no_less(options: list[tuple[int, int]]) -> None:
    _, upload_bits, found = build(options)
    rates = np.sort(RATES)
    assert (np.diff(found.latency_s(rates)[rates > 0]) <= 1e-12).all()
    assert (np.diff(upload_bits[found.best(rates)]) >= 0).all()


@settings(max_examples=80, deadline=None)
@given(OPTIONS)
def test_hull_is_strictly_convex_and_every_option_on_it_wins_somewhere(options: list[tuple[int, int]]) -> None:
    compute_s, upload_bits, found = build(options)
    assert (np.diff(found.upload_bits) > 0).all()
    assert (np.diff(found.compute_s) < 0).all()
    assert (np.diff(found.threshold_bps) > 0).all()
    np.testing.assert_array_equal(found.upload_bits, upload_bits[found.options])
    np.testing.assert_array_equal(found.compute_s, compute_s[found.options])
    ends = np.concatenate([[0], found.threshold_bps, [2 * found.threshold_bps.max(initial=1)]])
    inside = (ends[1:] + ends[:-1]) / 2
    np.testing.assert_array_equal(found.best(inside), found.options)


@settings(max_examples=100, deadline=None)
@given(OPTIONS, st.tuples(st.integers(0, 12), st.integers(0, 12)))
def test_a_dominated_option_changes_nothing(options: list[tuple[int, int]], excess: tuple[int, int]) -> None:
    assume(any(excess))
    _, _, before = build(options)
    _, _, after = build([*options, (options[0][0] + excess[0], options[0][1] + excess[1])])
    np.testing.assert_array_equal(before.options, after.options)


def test_at_the_tie_less_is_sent_and_just_above_more() -> None:
    found = Hull.build(np.array([1.0, 3.0]), np.array([8.0, 0.0]))
    assert found.threshold_bps.tolist() == [4.0]
    assert found.best(np.array([4.0, np.nextafter(4.0, 5)])).tolist() == [1, 0]
    assert int(found.best(4.0)) == 1


def test_three_options_on_one_line_leave_the_ends() -> None:
    assert Hull.build(np.array([3.0, 2.0, 1.0]), np.array([0.0, 1.0, 2.0])).options.tolist() == [0, 2]


def test_a_batch_equals_its_rows() -> None:
    _, _, found = build([(9, 0), (5, 2), (3, 5), (1, 11)])
    grid = RATES[:300].reshape(3, 5, 20)
    assert found.best(grid).shape == grid.shape
    assert found.best(grid)[1, 2, 3] == found.best(float(grid[1, 2, 3]))
    assert found.latency_s(grid)[2, 4, 1] == found.latency_s(float(grid[2, 4, 1]))


def test_endless_options_never_win() -> None:
    found = Hull.build(np.array([np.inf, 5.0, 1.0, 0.5]), np.array([0.0, 0.0, 3.0, np.inf]))
    assert found.options.tolist() == [1, 2]


@st.composite
def worlds(draw: st.DrawFn) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """compute_s [N, O], upload_bits [O] whose first is 0, rate_bps [K, N], wait_s [K, N]."""
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    servers, count, tasks = draw(st.integers(1, 4)), draw(st.integers(1, 8)), 30
    compute_s = rng.exponential(1.0, (servers, count))
    upload_bits = rng.integers(1, 20, count).astype(float)
    if draw(st.booleans()):
        upload_bits[0], compute_s[:, 0] = 0, compute_s[0, 0]
    rate_bps = 10 ** rng.uniform(-1, 3, (tasks, servers))
    rate_bps[rng.random(rate_bps.shape) < 0.1] = 0
    wait_s = rng.exponential(1.0, (tasks, servers))
    wait_s[rng.random(wait_s.shape) < 0.1] = np.inf
    return compute_s, upload_bits, rate_bps, wait_s


@settings(max_examples=80, deadline=None)
@given(worlds())
def test_best_of_servers_equals_trying_everything(world: tuple[np.ndarray, ...]) -> None:
    compute_s, upload_bits, rate_bps, wait_s = world
    hulls = [Hull.build(row, upload_bits) for row in compute_s]
    choice = best_of(hulls, rate_bps, wait_s)
    sends = upload_bits > 0
    all_s = np.stack([latencies_s(row, upload_bits, rate_bps[:, n]) for n, row in enumerate(compute_s)], axis=1)
    all_s = all_s + np.where(sends, wait_s[..., None], 0)
    np.testing.assert_allclose(choice.latency_s, all_s.min(axis=(1, 2)), rtol=1e-12)
    for k in np.flatnonzero(np.isfinite(choice.latency_s)):
        assert (choice.server[k] == DEVICE) == (not sends[choice.option[k]])
        assert all_s[k, max(choice.server[k], 0), choice.option[k]] == pytest.approx(choice.latency_s[k], rel=1e-12)


@settings(max_examples=60, deadline=None)
@given(worlds(), st.randoms(use_true_random=False))
def test_permuted_servers_permute_the_choice(world: tuple[np.ndarray, ...], random) -> None:
    compute_s, upload_bits, rate_bps, wait_s = world
    order = list(range(len(compute_s)))
    random.shuffle(order)
    hulls = [Hull.build(row, upload_bits) for row in compute_s]
    straight = best_of(hulls, rate_bps, wait_s)
    shuffled = best_of([hulls[n] for n in order], rate_bps[:, order], wait_s[:, order])
    possible = np.isfinite(straight.latency_s)
    back = np.array([*order, DEVICE])[shuffled.server]
    np.testing.assert_array_equal(back[possible], straight.server[possible])
    np.testing.assert_array_equal(shuffled.option[possible], straight.option[possible])
    np.testing.assert_array_equal(shuffled.latency_s, straight.latency_s)


def test_a_busy_server_loses_to_a_slow_one_and_a_dead_one_is_never_asked() -> None:
    fast, slow = (Hull.build(np.array([9.0, t]), np.array([0.0, 1.0])) for t in (1.0, 2.0))
    choice = best_of([fast, slow], np.array([[1.0, 1.0]] * 4), np.array([[0, 0], [5, 0], [np.inf, np.inf], [9, 9.0]]))
    assert choice.server.tolist() == [0, 1, DEVICE, DEVICE]
    assert choice.latency_s.tolist() == [2.0, 3.0, 9.0, 9.0]


def test_what_stays_on_the_device_names_no_server() -> None:
    """Also where rounding makes the same sum differ from hull to hull."""
    hulls = [Hull.build(np.array([local_s, 8.0]), np.array([0.0, 9.0])) for local_s in (3.0, np.nextafter(3.0, 0))]
    assert best_of(hulls, np.ones((2, 2))).server.tolist() == [DEVICE, DEVICE]


def test_server_hull_answers_for_every_rate() -> None:
    graph = line(3, [90, 40, 8, 1])
    bits = plain_bits(graph, bits=1)
    op_s = np.array([[1.0, 4, 8], [0.1, 0.4, 0.8]])
    found, places = server_hull(star(graph, op_s, bits, 1.0), 1)
    for rate in (0.1, 1, 5, 20, 50, 1000):
        answer = hull(star(graph, op_s, bits, rate))
        assert answer.latency_s == pytest.approx(float(found.latency_s(rate)))
        np.testing.assert_array_equal(answer.place, places[found.best(rate)])


@pytest.mark.parametrize(
    ("compute_s", "upload_bits", "message"),
    [
        ([1.0], [1.0, 2.0], r"two rows of equal length, got \[1\] and \[2\]"),
        ([-1.0], [1.0], "must not be negative or NaN"),
        ([1.0], [np.nan], "must not be negative or NaN"),
        ([np.inf, 1.0], [0.0, np.inf], "none of 2 options"),
        ([], [], "none of 0 options"),
    ],
)
def test_options_that_make_no_sense(compute_s: list[float], upload_bits: list[float], message: str) -> None:
    with pytest.raises(PartitionError, match=message):
        Hull.build(np.array(compute_s), np.array(upload_bits))


def test_rates_that_make_no_sense() -> None:
    found = Hull.build(np.array([1.0]), np.array([1.0]))
    for rate in (-1.0, np.nan):
        with pytest.raises(PartitionError, match="negative or NaN"):
            found.best(rate)
    with pytest.raises(PartitionError, match=r"\[\.\., 1\], one for each hull, got \[3\]"):
        best_of([found], np.ones(3))
