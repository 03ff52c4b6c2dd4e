"""Probes of the links between edge servers."""

from concurrent.futures import Future
from itertools import pairwise
from typing import Any

from coinfer.runtime.transport.base import Pong
from coinfer.site.agent.links import FIRST_PROBE_INTERVAL_S, PROBE_BYTES, PROBE_INTERVAL_S, PeerLinks

STEP_S = 0.125


class _Edge:
    """A clock and a transport on which nobody answers."""

    def __init__(self) -> None:
        self.at_s = 0.0
        self.pings: list[tuple[float, str, int]] = []

    def now_s(self) -> float:
        return self.at_s

    def ping(self, node: str, timeout_s: float, size_bytes: int) -> "Future[Pong]":
        self.pings.append((self.at_s, node, size_bytes))
        return Future()


def test_new_servers_are_probed_at_once_and_known_ones_in_turn_and_seldom():
    edge: Any = _Edge()
    links = PeerLinks(edge, edge)
    links.follow({"a:1", "b:1"})
    while edge.at_s < 20.0:
        links.probe()
        if edge.at_s == 10.0:
            links.follow({"a:1", "b:1", "c:1"})
        edge.at_s += STEP_S
    first = edge.pings[:4]
    assert {(node, size) for _, node, size in first} == {
        (node, size) for node in ("a:1", "b:1") for size in PROBE_BYTES
    }
    assert first[-1][0] == 3 * FIRST_PROBE_INTERVAL_S
    since_c = [ping for ping in edge.pings if ping[0] > 10.0]
    assert since_c[0][1] == "c:1"
    assert since_c[0][0] <= 10.0 + PROBE_INTERVAL_S
    for name, pings in (("two servers", [one for one in edge.pings[5:] if one[0] <= 10.0]), ("three", since_c[4:])):
        times_s = [at_s for at_s, _, _ in pings]
        assert {later - one for one, later in pairwise(times_s)} == {PROBE_INTERVAL_S}, name
