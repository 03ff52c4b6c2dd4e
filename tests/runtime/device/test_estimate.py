"""What the device believes follows from what it measured."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from coinfer.runtime.device import estimate as est
from coinfer.runtime.device import forecast

RATES = st.floats(1e4, 1e9)
A, B = (("a",), ("end",)), (("b",), ("end",))


@given(rate=RATES, sizes=st.lists(st.floats(1e3, 1e8), min_size=8, max_size=20), guess=RATES)
def test_constant_link_is_found_whatever_the_first_guess(rate: float, sizes: list[float], guess: float):
    link, now_s = est.first_link(guess, 0.0), 0.0
    for size_bits in sizes:
        now_s += 5 * est.HALF_LIFE_S
        link = est.after_transfer(link, size_bits, size_bits / rate, now_s)
    guess_seconds = 0.01 * 0.5 ** (5 * len(sizes))
    tolerance = 1e-9 + guess_seconds * (1 + guess / rate) / (sizes[-1] / rate)
    assert link.rate_bps == pytest.approx(rate, rel=tolerance)


def test_a_long_transfer_outweighs_a_short_one():
    link = est.after_transfer(est.first_link(1e6, 0.0), 1e3, 1e-4, 10.0)  # 10 Mbit/s, but only 1 kbit
    link = est.after_transfer(link, 1e6, 1.0, 10.0)  # 1 Mbit/s for a second
    assert link.rate_bps == pytest.approx(1e6, rel=0.01)


def test_newer_transfers_count_more():
    link = est.after_transfer(est.first_link(1e6, 0.0), 1e6, 1.0, 100.0)
    link = est.after_transfer(link, 1e7, 1.0, 100.0 + 10 * est.HALF_LIFE_S)
    assert link.rate_bps == pytest.approx(1e7, rel=0.01)


def test_a_server_rests_after_failures_in_a_row_and_returns_with_one_answer():
    server = est.after_reply(est.first_server(1e6, 0.0), 0.0, 4.0, 0.0)
    assert forecast.usable(server, 0.0)
    server = est.after_failure(server, 1.0)
    assert forecast.usable(server, 1.0), "one failure is forgiven"
    server = est.after_failure(server, 1.0)
    assert not forecast.usable(server, 1.0)
    rests = []
    for _ in range(10):
        server = est.after_failure(server, 1.0)
        rests.append(server.down_until_s - 1.0)
    assert rests == sorted(rests)
    assert rests[-1] == est.LONGEST_BACKOFF_S
    assert forecast.usable(est.after_reply(server, 0.0, 4.0, 2.0), 2.0)


def test_an_unknown_server_is_not_used_before_it_answered():
    assert not forecast.usable(est.first_server(1e6, 0.0), 100.0)


def test_a_full_server_has_room_again_when_its_backlog_is_worked_off():
    server = est.after_reply(est.first_server(1e6, 0.0), 0.0, 4.0, 0.0)
    server = est.after_refusal(server, 0.5, 10.0)
    assert forecast.usable(server, 10.0), "full is not broken"
    assert forecast.room_now(server, 10.2) == 0
    assert forecast.room_now(server, 10.6) > 0


@given(backlog=st.floats(0, 100), wait=st.floats(0, 200))
def test_backlog_is_worked_off_at_one_second_per_second(backlog: float, wait: float):
    server = est.after_reply(est.first_server(1e6, 0.0), backlog, 4.0, 5.0)
    assert forecast.server_wait_s(server, 5.0 + wait) == pytest.approx(max(backlog - wait, 0.0), abs=1e-9)


def waits_s(server: est.ServerEstimate, now_s: float) -> tuple[float, float]:
    """For the link and for the server."""
    return forecast.link_wait_s(server, now_s), forecast.server_wait_s(server, now_s)


def test_requests_under_way_hold_up_the_link_and_then_the_server_until_they_end():
    server = est.after_reply(est.first_server(1e6, 0.0), 0.0, 4.0, 0.0)
    assert waits_s(server, 0.0) == (0, 0)
    one = est.after_send(server, 1e6, 0.5, 0.0)
    assert waits_s(one, 0.0) == pytest.approx((1.0, 1.5)), "one second on the link, half a second of work"
    assert waits_s(one, 1.2) == pytest.approx((0.0, 0.3)), "the link is free again, the server is not"
    two = est.after_send(one, 1e6, 0.5, 0.0)
    assert waits_s(two, 0.0) == pytest.approx((2.0, 2.5)), "the link is the bottleneck"
    answered = est.after_reply(est.after_end(two, 1.5), 0.0, 4.0, 1.5)
    assert waits_s(answered, 1.5) == pytest.approx((0.5, 1.0))
    ended = est.after_end(est.after_end(two, 1.5), 2.0)
    assert waits_s(ended, 2.0) == (0, 0)


def test_work_of_others_on_the_server_does_not_hold_up_the_link():
    server = est.after_reply(est.first_server(1e6, 0.0), 0.4, 4.0, 0.0)
    assert waits_s(server, 0.1) == pytest.approx((0.0, 0.3))


def test_what_is_overdue_is_expected_to_take_as_long_again():
    server = est.after_send(est.after_reply(est.first_server(1e6, 0.0), 0.0, 4.0, 0.0), 1e5, 0.1, 0.0)
    times_s = (0.0, 0.1, 0.2, 0.3, 1.2)
    assert [forecast.server_wait_s(server, now_s) for now_s in times_s] == pytest.approx([0.2, 0.1, 0.0, 0.1, 1.0])
    on_link_s = [forecast.link_wait_s(server, now_s) for now_s in times_s]
    assert on_link_s == pytest.approx([0.1, 0.0, 0.0, 0.1, 1.0]), "the link may be what holds it up"
    assert waits_s(est.after_end(server, 1.2), 1.2) == (0, 0)


def test_service_times_are_learned_for_each_cut_and_scale_the_rest():
    server = est.first_server(1e6, 0.0)
    server = est.after_service(server, A, 0.2, 0.1, 0.0)
    assert forecast.service_now_s(server, A, 0.1, 0.0) == pytest.approx(0.2)
    assert forecast.service_now_s(server, B, 0.05, 0.0) == pytest.approx(0.1), "never measured: by the scale"
    for _ in range(40):
        server = est.after_service(server, A, 0.4, 0.1, 1.0)
    assert forecast.service_now_s(server, A, 0.1, 1.0) == pytest.approx(0.4, rel=1e-3)
    assert forecast.service_now_s(server, B, 0.05, 1.0) == pytest.approx(0.2, rel=1e-3)


def test_a_slow_spell_is_forgotten_without_news():
    server = est.after_service(est.first_server(1e6, 0.0), A, 0.1, 0.1, 0.0)
    for _ in range(40):
        server = est.after_service(server, A, 0.9, 0.1, 5.0)
    later = [forecast.service_now_s(server, A, 0.1, 5.0 + age) for age in (0.0, 5.0, 10.0, 20.0, 100.0)]
    assert later == sorted(later, reverse=True)
    assert later[2] == pytest.approx((0.1 + later[0]) / 2)
    assert later[-1] == pytest.approx(0.1, abs=1e-3)


@given(error=st.floats(0.0, 0.3), seed=st.integers(0, 1000))
def test_patience_hedges_about_one_in_twenty(error: float, seed: int):
    ratios = np.random.default_rng(seed).lognormal(0.0, error, 100).tolist()
    factor = forecast.patience(ratios)
    assert np.mean(np.array(ratios) > factor) <= 0.06
    assert forecast.PATIENCE_RANGE[0] <= factor <= forecast.PATIENCE_RANGE[1]
    assert forecast.patience(ratios[:5]) == forecast.PATIENCE


def test_round_trip_is_the_smallest_seen_but_forgets():
    link = est.after_ping(est.first_link(1e6, 0.0), 0.010)
    link = est.after_ping(link, 0.005)
    assert link.round_trip_s == 0.005
    for _ in range(100):
        link = est.after_ping(link, 0.5)
    assert link.round_trip_s == pytest.approx(0.5)
    assert math.isfinite(link.rate_bps)


def test_a_server_that_was_restarted_may_have_another_limit():
    server = est.after_reply(est.first_server(1e6, 0.0), 0.0, 4.0, 0.0)
    server = est.after_oversize(est.after_oversize(server, 2e6), 3e6)
    assert server.limit_bits == 2e6, "the smallest that was refused"
    assert forecast.usable(server, 0.0)
    assert est.after_reply(server, 0.0, 4.0, 1.0).limit_bits == 2e6, "it was up all the time"
    for _ in range(est.FAILURES_TO_EJECT):
        server = est.after_failure(server, 1.0)
    assert est.after_reply(server, 0.0, 4.0, 9.0).limit_bits == math.inf
