"""What the device predicts follows from its estimates."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from coinfer.runtime.device import estimate as est
from coinfer.runtime.device import forecast

A, B = est.Work((("a",), ("end",))), est.Work((("b",), ("end",)))


def test_a_full_server_has_room_again_when_its_backlog_is_worked_off():
    server = est.after_reply(est.first_server(1e6, 0.0), 0.0, 4.0, 0.0)
    server = est.after_refusal(server, 0.5, 10.0)
    assert forecast.usable(server, 10.0), "full is not broken"
    assert forecast.room_now(server, 10.2) == 0
    assert forecast.room_now(server, 10.6) > 0


@given(backlog=st.floats(0, 100), wait=st.floats(0, 200))
def test_backlog_is_worked_off_at_one_second_per_second(backlog: float, wait: float):
    server = est.after_reply(est.first_server(1e6, 5.0), backlog, 4.0, 5.0)
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


@given(share=st.floats(0, 1), interval_s=st.floats(0.1, 0.6))
def test_a_queue_that_others_fill_becomes_shorter_more_slowly(share: float, interval_s: float):
    """Two seconds of work wait at first, and others bring new work for a share of the server's time."""
    server = est.after_reply(est.first_server(1e6, 0.0), 2.0, 4.0, 0.0)
    backlog_s, now_s = 2.0, 0.0
    while now_s < 8.0 and backlog_s > interval_s:
        now_s, backlog_s = now_s + interval_s, backlog_s - (1 - share) * interval_s
        server = est.after_reply(server, backlog_s, 4.0, now_s)
    learned = 1 - 0.5 ** (now_s / est.OTHERS_HALF_LIFE_S)
    assert server.others_share == pytest.approx(share * learned, abs=1e-6)
    later_s = now_s + 0.5 * interval_s
    expected_s = max(backlog_s - (1 - server.others_share) * 0.5 * interval_s, 0.0)
    assert forecast.server_wait_s(server, later_s) == pytest.approx(expected_s, abs=1e-6)
    assert 0 <= forecast.standing_wait_s(server, later_s) <= forecast.server_wait_s(server, later_s)
    for _ in range(100):
        now_s += interval_s
        server = est.after_reply(server, 0.0, 4.0, now_s)
    assert server.others_share == pytest.approx(0.0, abs=1e-3), "they are gone"


@pytest.mark.parametrize("interval_s", [0.1, 0.4, 0.9])
def test_a_queue_that_stands_is_expected_to_stand_however_rarely_a_server_reports(interval_s: float):
    """A crowd that asks again as soon as it is answered; the server reports less often than its queue is long."""
    server, now_s = est.after_reply(est.first_server(1e6, 0.0), 0.45, 4.0, 0.0), 0.0
    for _ in range(30):
        now_s += interval_s
        probed = est.after_end(est.after_send(server, 1e5, 0.0, now_s - 0.1), now_s)
        server = est.after_reply(probed, 0.45, 4.0, now_s)
    assert forecast.server_wait_s(server, now_s + interval_s) == pytest.approx(0.45, rel=0.05)
    sent = est.after_send(server, 1e4, 0.02, now_s)
    given_up = est.after_end(sent, now_s + 0.1)
    assert forecast.server_wait_s(given_up, now_s + 0.1) == pytest.approx(0.45, rel=0.05), "others are still there"
    refused = est.after_hopeless(given_up, A, 0.8, now_s + 0.1)
    assert forecast.server_wait_s(refused, now_s + 0.1) == pytest.approx(0.8), "it said that it takes longer than that"


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


def test_a_slow_spell_is_forgotten_without_news():
    server = est.after_service(est.first_server(1e6, 0.0), A, 0.1, 0.1, 0.0)
    for _ in range(40):
        server = est.after_service(server, A, 0.9, 0.1, 5.0)
    later = [forecast.service_now_s(server, A, 0.1, 5.0 + age) for age in (0.0, 5.0, 10.0, 20.0, 100.0)]
    assert later == sorted(later, reverse=True)
    assert later[2] == pytest.approx((0.1 + later[0]) / 2)
    assert later[-1] == pytest.approx(0.1, abs=1e-3)


def test_a_single_slow_run_is_forgotten_and_many_hardly():
    """A network whose first run was held up by other work would else never be sent to that server again."""
    first, other = est.first_server(1e6, 0.0), est.Work((("elsewhere",), A.piece[1]))
    once = est.after_service(first, A, 5.0, 0.1, 0.0)
    often = first
    for _ in range(12):
        often = est.after_service(often, A, 5.0, 0.1, 0.0)
    for work in (A, other):
        assert forecast.service_now_s(once, work, 0.1, 0.0) == pytest.approx(5.0)
        assert forecast.service_now_s(once, work, 0.1, 120.0) < 0.5
        assert forecast.service_now_s(often, work, 0.1, 120.0) > 4.9


@given(error=st.floats(0.0, 0.3), seed=st.integers(0, 1000))
def test_patience_hedges_about_one_in_twenty(error: float, seed: int):
    ratios = np.random.default_rng(seed).lognormal(0.0, error, 100).tolist()
    factor = forecast.patience(ratios)
    assert np.mean(np.array(ratios) > factor) <= 0.06
    assert forecast.PATIENCE_RANGE[0] <= factor <= forecast.PATIENCE_RANGE[1]
    assert forecast.patience(ratios[:5]) == forecast.PATIENCE


def test_a_piece_that_a_server_has_to_load_takes_that_time_too():
    server = est.first_server(1e6, 0.0)
    server = est.after_service(server, A, 0.2, 0.1, 0.0)._replace(cold={A.piece: 3.0}, cold_s=0.0)
    assert forecast.service_now_s(server, A, 0.1, 0.0) == pytest.approx(3.2)
    assert forecast.service_now_s(server, A, 0.1, forecast.SERVICE_HALF_LIFE_S) == pytest.approx(1.7, rel=0.01)
    other = est.Work((("elsewhere",), A.piece[1]))
    assert forecast.service_now_s(server, other, 0.1, 0.0) == pytest.approx(0.2), "never measured: by the scale"
