"""What the device believes of a link follows from its transfers, also after a stall."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from coinfer.runtime.device.link_estimate import HALF_LIFE_S, after_exchange, after_ping, after_transfer, first_link

RATES = st.floats(1e4, 1e9)


@given(rate=RATES, sizes=st.lists(st.floats(1e3, 1e8), min_size=8, max_size=20), guess=RATES)
def test_constant_link_is_found_whatever_the_first_guess(rate: float, sizes: list[float], guess: float):
    link, now_s = first_link(guess, 0.0), 0.0
    for size_bits in sizes:
        now_s += 5 * HALF_LIFE_S
        link = after_transfer(link, size_bits, size_bits / rate, now_s)
    guess_seconds = 0.01 * 0.5 ** (5 * len(sizes))
    tolerance = 1e-9 + guess_seconds * (1 + guess / rate) / (sizes[-1] / rate)
    assert link.rate_bps == pytest.approx(rate, rel=tolerance)


def test_a_long_transfer_outweighs_a_short_one():
    link = after_transfer(first_link(1e6, 0.0), 1e3, 1e-4, 10.0)  # 10 Mbit/s, but only 1 kbit
    link = after_transfer(link, 1e6, 1.0, 10.0)  # 1 Mbit/s for a second
    assert link.rate_bps == pytest.approx(1e6, rel=0.01)


def test_newer_transfers_count_more():
    link = after_transfer(first_link(1e6, 0.0), 1e6, 1.0, 100.0)
    link = after_transfer(link, 1e7, 1.0, 100.0 + 10 * HALF_LIFE_S)
    assert link.rate_bps == pytest.approx(1e7, rel=0.01)


def test_a_stall_is_forgotten_with_the_second_transfer_after_it():
    """Ten seconds in which hardly anything passes; then short probes that take as long as at 10 Mbit/s."""
    link = first_link(10e6, 0.0)
    for number in range(10):
        link = after_transfer(link, 1e5, 0.01, number * 0.25)
    link = after_transfer(link, 1e5, 10.0, 12.5)
    assert link.rate_bps < 1e6
    for number in (1, 2):
        link = after_transfer(link, 1e5, 0.01, 12.5 + number * 0.25)
    assert link.rate_bps > 5e6


def test_what_passes_at_once_says_only_that_the_link_is_no_slower():
    slow, fast = first_link(1e4, 0.0), first_link(1e9, 0.0)
    at_once = after_exchange(slow, 8e3, 1e-4, 1.0)
    assert 1e5 < at_once.rate_bps < 1e6, "few packets may pass at once on any link"
    assert after_exchange(slow, 8e5, 1e-3, 1.0).rate_bps > 1e8
    assert after_exchange(fast, 8e3, 1e-4, 1.0) == fast


def test_what_passed_at_once_on_a_link_believed_slow_calls_for_a_measurement():
    at_once = after_exchange(first_link(1e4, 0.0), 8e3, 1e-4, 1.0)
    assert at_once.is_bound, "it may be far above 0.8 Mbit/s"
    assert not after_exchange(at_once, 1.3e5, 0.01, 1.1).is_bound, "measured"
    assert not after_exchange(first_link(1e9, 0.0), 8e3, 1e-4, 1.0).is_bound, "nothing new"


def test_what_was_exchanged_faster_shortens_the_round_trip():
    link = after_ping(first_link(10e6, 0.0), 0.05)
    assert after_exchange(link, 1e4, 0.02, 1.0) == link._replace(round_trip_s=0.02)
    assert after_exchange(link, 1e4, -0.01, 1.0) == link
    assert after_exchange(link, 1e6, 0.15, 1.0) == after_transfer(link, 1e6, 0.15 - 0.05, 1.0)


def test_round_trip_is_the_smallest_seen_but_forgets():
    link = after_ping(first_link(1e6, 0.0), 0.010)
    link = after_ping(link, 0.005)
    assert link.round_trip_s == 0.005
    for _ in range(100):
        link = after_ping(link, 0.5)
    assert link.round_trip_s == pytest.approx(0.5)
    assert math.isfinite(link.rate_bps)
