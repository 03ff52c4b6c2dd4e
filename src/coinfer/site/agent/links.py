"""The links from a node to edge servers, measured by small probes."""

import math
import threading
from concurrent.futures import Future

from coinfer.runtime.clock import Clock
from coinfer.runtime.device.link_estimate import LinkEstimate, after_exchange, after_ping, first_link
from coinfer.runtime.transport.base import Pong, Transport
from coinfer.site.messages import LinkReport
from coinfer.units import bits_of_bytes

PROBE_INTERVAL_S, FIRST_PROBE_INTERVAL_S = 1.0, 0.25
"""One server after the other is probed, so that in a large site probes take no more than in a small one; the first
probes of a server follow each other faster. To answer a probe costs a server as much as a small request."""
PROBE_BYTES = (0, 16_000)
"""Sizes of probes in turn: the empty ones measure the round trip, the others the rate."""
TIMEOUT_S = 2.0
FIRST_RATE_BPS = 100e6


class PeerLinks:
    """Measures the links to edge servers that come and go.

    Args:
        transport: carries the probes; it is not closed here.
        clock: of the node.
    """

    def __init__(self, transport: Transport, clock: Clock):
        self._transport = transport
        self._clock = clock
        self._lock = threading.Lock()
        self._links: dict[str, LinkEstimate] = {}
        self._turns: dict[str, int] = {}
        self._asked_s: dict[str, float] = {}
        self._due_s = 0.0

    def follow(self, addresses: set[str]) -> None:
        """Measure the links to these servers, and to no others.

        Args:
            addresses: `host:port` of each.
        """
        now_s = self._clock.now_s()
        with self._lock:
            for gone in self._links.keys() - addresses:
                del self._links[gone]
            for new in addresses - self._links.keys():
                self._links[new] = first_link(FIRST_RATE_BPS, now_s)

    def probe(self) -> None:
        """Send a probe if one is due, to the server that was asked longest ago."""
        now_s = self._clock.now_s()
        with self._lock:
            addresses = list(self._links)
        if now_s < self._due_s or not addresses:
            return
        address = min(addresses, key=lambda one: self._asked_s.get(one, -math.inf))
        self._asked_s[address] = now_s
        turn = self._turns[address] = self._turns.get(address, -1) + 1
        self._due_s = now_s + (FIRST_PROBE_INTERVAL_S if turn < len(PROBE_BYTES) else PROBE_INTERVAL_S)
        size = PROBE_BYTES[turn % 2]
        pong = self._transport.ping(address, TIMEOUT_S, size)
        pong.add_done_callback(lambda done: self._record(address, size, done))

    def link(self, address: str) -> LinkEstimate | None:
        """Return what is known of a link; None if its server is not followed.

        Args:
            address: `host:port` of the server.
        """
        with self._lock:
            return self._links.get(address)

    def reports(self) -> list[LinkReport]:
        """Return all links that were measured."""
        with self._lock:
            links = sorted(self._links.items())
        return [
            LinkReport(
                to=address, rate_bps=float(f"{link.rate_bps:.3g}"), round_trip_s=float(f"{link.round_trip_s:.2g}")
            )
            for address, link in links
            if link.round_trip_s > 0
        ]

    def _record(self, address: str, size_bytes: int, done: "Future[Pong]") -> None:
        if done.cancelled() or done.exception() is not None:
            return
        pong, now_s = done.result(), self._clock.now_s()
        with self._lock:
            link = self._links.get(address)
            if link is None:
                return
            if size_bytes == 0:
                self._links[address] = after_ping(link, pong.round_trip_s)
            else:
                bits = bits_of_bytes(size_bytes)
                self._links[address] = after_exchange(link, bits, pong.round_trip_s, now_s)
