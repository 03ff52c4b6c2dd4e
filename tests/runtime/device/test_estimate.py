"""What the device believes follows from what it measured."""

import math

import pytest

from coinfer.runtime.device import estimate as est
from coinfer.runtime.device import forecast

A, B = est.Work((("a",), ("end",))), est.Work((("b",), ("end",)))


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


def test_a_server_that_was_restarted_may_have_another_limit():
    server = est.after_reply(est.first_server(1e6, 0.0), 0.0, 4.0, 0.0)
    server = est.after_oversize(est.after_oversize(server, 2e6), 3e6)
    assert server.limit_bits == 2e6, "the smallest that was refused"
    assert forecast.usable(server, 0.0)
    assert est.after_reply(server, 0.0, 4.0, 1.0).limit_bits == 2e6, "it was up all the time"
    for _ in range(est.FAILURES_TO_EJECT):
        server = est.after_failure(server, 1.0)
    assert est.after_reply(server, 0.0, 4.0, 9.0).limit_bits == math.inf
