"""What the device believes follows from what it measured."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from coinfer.runtime.device import estimate as est
from coinfer.runtime.device import forecast

RATES = st.floats(1e4, 1e9)
A, B = est.Work((("a",), ("end",))), est.Work((("b",), ("end",)))


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
    for _ in range(10):
        server = est.after_failure(server, 1.0)
    assert server.down_until_s == 1.0 + est.REST_S, "however long it was away, its return is seen soon"
    assert forecast.usable(est.after_reply(server, 0.0, 4.0, 2.0), 2.0)


def test_an_unknown_server_is_not_used_before_it_answered():
    assert not forecast.usable(est.first_server(1e6, 0.0), 100.0)


def test_service_times_are_learned_for_each_cut_and_scale_the_rest():
    server = est.first_server(1e6, 0.0)
    server = est.after_service(server, A, 0.2, 0.1, 0.0)
    assert forecast.service_now_s(server, A, 0.1, 0.0) == pytest.approx(0.2)
    assert forecast.service_now_s(server, B, 0.05, 0.0) == pytest.approx(0.1), "never measured: by the scale"
    for _ in range(40):
        server = est.after_service(server, A, 0.4, 0.1, 1.0)
    assert forecast.service_now_s(server, A, 0.1, 1.0) == pytest.approx(0.4, rel=1e-3)
    assert forecast.service_now_s(server, B, 0.05, 1.0) == pytest.approx(0.2, rel=1e-3)


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
