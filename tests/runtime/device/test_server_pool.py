"""What probes teach: the round trip is that of an open connection, and one slow answer does not spoil the rate."""

import logging
from collections.abc import Sequence
from concurrent.futures import Future
from itertools import pairwise

import pytest

from coinfer.runtime.clock import VirtualClock, WallClock
from coinfer.runtime.device import estimate as est
from coinfer.runtime.device import forecast
from coinfer.runtime.device.link_estimate import after_exchange
from coinfer.runtime.device.server_pool import (
    FIRST_EMPTY,
    SUSPECT_TIMEOUT_S,
    ServerPool,
    after_lost_probe,
    is_probe_due,
    probe_bytes,
)
from coinfer.runtime.protocol.messages import TransportError
from coinfer.runtime.transport.base import Pong
from coinfer.units import bits_of_bytes

RATE_BPS, ROUND_TRIP_S = 80e6, 0.004


class Scripted:
    """A link of constant rate and round trip; the n-th probe takes `extra_s[n]` longer."""

    def __init__(self, extra_s: Sequence[float]):
        self.extra_s, self.sizes = list(extra_s), list[int]()

    def ping(self, node: str, timeout_s: float, size_bytes: int = 0) -> Future[Pong]:
        extra_s = self.extra_s[len(self.sizes)] if len(self.sizes) < len(self.extra_s) else 0.0
        self.sizes.append(size_bytes)
        done: Future[Pong] = Future()
        done.set_result(Pong(ROUND_TRIP_S + extra_s + bits_of_bytes(size_bytes) / RATE_BPS, None))
        return done


def started(extra_s: Sequence[float]) -> tuple[ServerPool, Scripted]:
    script = Scripted(extra_s)
    pool = ServerPool(["a:1"], script, WallClock(), 10e6, lambda _: None)  # type: ignore[arg-type]
    pool.start()
    pool.close()
    return pool, script


@pytest.mark.parametrize("extra_s", [(), (0.05,), (0.3, 0.1), (0.05, 0.0, 0.2)])
def test_the_way_to_a_server_is_known_though_opening_it_took_long(extra_s: Sequence[float]):
    pool, script = started(extra_s)
    link = pool.estimates()[0].link
    assert script.sizes[:FIRST_EMPTY] == [0] * FIRST_EMPTY
    assert script.sizes[FIRST_EMPTY] > 0
    assert link.round_trip_s == pytest.approx(ROUND_TRIP_S, rel=0.11)
    for number in range(10):
        link = after_exchange(link, 4.8e6, ROUND_TRIP_S + 4.8e6 / RATE_BPS, number * 0.1)
    assert link.rate_bps == pytest.approx(RATE_BPS, rel=0.02)


def test_a_server_that_is_withdrawn_is_not_asked_whatever_it_answers_until_it_is_admitted():
    pool, _ = started(())
    assert forecast.usable(pool.estimates()[0], 1e12)
    pool.withdraw(0)
    for late in (
        lambda server: est.after_reply(server, 0.0, 4.0, 1.0),
        lambda server: est.after_failure(server, 1.0),
        lambda server: est.after_rejection(server, 1.0),
    ):
        pool.update(0, late)
        assert not forecast.usable(pool.estimates()[0], 1e12)
        assert not is_probe_due(pool.estimates()[0], 0.0, 1e12, 1e12)
    pool.admit(0)
    assert not forecast.usable(pool.estimates()[0], 1e12), "it must answer first"
    assert is_probe_due(pool.estimates()[0], 0.0, 1e12, 1e12)
    pool.update(0, lambda server: est.after_reply(server, 0.0, 4.0, 1.0))
    assert forecast.usable(pool.estimates()[0], 1e12)


def test_a_link_is_probed_with_what_it_carries_in_a_moment():
    """A fast link more at a time; a slow one seldom, and a very slow one with little; and all seldom while idle."""
    fast, slow, dead = (
        est.after_reply(est.first_server(rate_bps, 0.0), 0.0, 4.0, 0.0) for rate_bps in (100e6, 1e6, 1e4)
    )
    sizes = [probe_bytes(server, FIRST_EMPTY, 0.0) for server in (fast, slow, dead)]
    assert sizes == sorted(sizes, reverse=True)
    assert len(set(sizes)) == 3
    due = [is_probe_due(server, 0.0, 0.3, 0.3) for server in (fast, slow, dead)]
    assert due == [True, False, True]
    assert is_probe_due(slow, 0.0, 0.6, 0.6)
    assert not is_probe_due(fast, 9.7, 0.0, 10.0), "nobody has asked for ten seconds"
    assert is_probe_due(fast, 7.9, 0.0, 10.0)


def test_no_probe_waits_behind_an_upload_unless_the_server_has_failed():
    """40 kbit/s, 100 kbit under way: 2.5 s in which a probe would wait."""
    known = est.after_reply(est.first_server(4e4, 0.0), 0.0, 4.0, 0.0)
    busy = est.after_send(known, size_bits=1e5, service_s=0.1, now_s=0.0)
    assert is_probe_due(known, 0.0, 2.0, 2.0)
    assert not is_probe_due(busy, 0.0, 0.0, 2.4)
    assert is_probe_due(busy, 0.0, 0.0, 2.6), "it should have arrived"
    slow = busy._replace(link_free_s=600.0)
    assert [is_probe_due(slow, 0.0, 0.0, now_s) for now_s in (4.9, 5.1)] == [False, True], "belief is no proof"
    assert is_probe_due(est.after_failure(busy, 1.0), 0.0, 0.0, 1.0)
    assert is_probe_due(est.after_end(busy, 1.0), 0.0, 0.0, 1.0)


def test_a_probe_that_is_lost_on_a_slow_link_says_how_slow_it_is():
    server = est.after_reply(est.first_server(10e6, 0.0), 0.0, 4.0, 0.0)
    late = after_lost_probe(server, 16_000, 2.0)
    assert late.link.rate_bps < 1e6
    assert probe_bytes(late, FIRST_EMPTY, 2.0) < probe_bytes(server, FIRST_EMPTY, 2.0)
    assert after_lost_probe(server, 0, 2.0).link == server.link
    assert after_lost_probe(server, 0, 2.0).failures == late.failures == 1


class Ticks:
    """A minute of waiting, on a virtual clock."""

    def __init__(self, clock: VirtualClock):
        self.clock = clock

    def wait(self, interval_s: float) -> bool:
        return not self.clock.sleep(interval_s) or self.clock.now_s() > 60.0


class Dead:
    """Nobody answers; it notes when it was asked."""

    def __init__(self, clock: VirtualClock):
        self.clock, self.asked_s, self.asked = clock, list[float](), list[tuple[float, int]]()

    def ping(self, node: str, timeout_s: float, size_bytes: int = 0) -> Future[Pong]:
        self.asked_s.append(self.clock.now_s())
        self.asked.append((timeout_s, size_bytes))
        done: Future[Pong] = Future()
        done.set_exception(TransportError("UNAVAILABLE", "nobody"))
        return done


def test_a_server_that_does_not_answer_is_asked_again_soon_and_not_all_the_time():
    clock = VirtualClock()
    dead = Dead(clock)
    pool = ServerPool(["a:1"], dead, clock, 10e6, lambda _: None)  # type: ignore[arg-type]
    pool._closing = Ticks(clock)  # type: ignore[assignment]
    pool._probe_loop()
    gaps_s = [later - earlier for earlier, later in pairwise(dead.asked_s)]
    assert gaps_s[1:] == [pytest.approx(est.REST_S, abs=0.15)] * (len(gaps_s) - 1)


def test_a_server_that_is_late_is_asked_at_once_whether_it_is_there():
    clock = VirtualClock()
    dead = Dead(clock)
    pool = ServerPool(["a:1"], dead, clock, 10e6, lambda _: None)  # type: ignore[arg-type]
    pool._closing = Ticks(clock)  # type: ignore[assignment]
    pool.update(0, lambda server: est.after_reply(server, 0.0, 4.0, 0.0))
    pool.heard(0, 0.0)
    pool.update(0, lambda server: est.after_silence(server, 1e4, 0.1, 0.0))
    assert forecast.usable(pool.estimates()[0], 0.0)
    clock.sleep(0.001)
    pool._probe_loop()
    assert dead.asked_s[0] < 0.2
    assert dead.asked[0] == (SUSPECT_TIMEOUT_S, 0)
    assert not forecast.usable(pool.estimates()[0], dead.asked_s[0])


def test_it_says_once_that_nobody_can_be_reached_until_somebody_can(caplog: pytest.LogCaptureFixture):
    gone: Future[Pong] = Future()
    gone.set_exception(TransportError("UNAVAILABLE", "gone"))
    there: Future[Pong] = Future()
    there.set_result(Pong(ROUND_TRIP_S, None))
    pool, _ = started(())

    def probe(answer: Future[Pong], times: int) -> list[str]:
        caplog.clear()
        for _ in range(times):
            pool._record(0, 0, answer)
        return [record.getMessage() for record in caplog.records]

    with caplog.at_level(logging.WARNING):
        for _ in range(2):
            said = probe(gone, 10)
            assert [text for text in said if "no server can be reached" in text] == said[-1:], said
            assert said
            assert probe(there, 3) == []
