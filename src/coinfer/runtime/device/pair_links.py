"""The links from server to server, as the servers say that they measured them."""

import threading
from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import NamedTuple

from coinfer.runtime.device.planning.plan import Part, SeveralHops
from coinfer.runtime.protocol.messages import ExecutedHop, InferRequest
from coinfer.runtime.transport.base import PING_MODEL
from coinfer.types import Hop
from coinfer.units import FLOAT32_BITS

Pair = tuple[str, str]
"""Addresses of the server that sends and of the one that receives."""


class PairLink(NamedTuple):
    """What is known of the link from one server to another."""

    rate_bps: float
    round_trip_s: float


class PairLinks:
    """The links between a device's servers that are known; several threads may use it.

    Args:
        addresses: of the servers.
    """

    def __init__(self, addresses: Sequence[str]):
        self._addresses = addresses
        self._lock = threading.Lock()
        self._links: dict[Pair, PairLink] = {}

    def known(self) -> Mapping[Pair, PairLink]:
        """Return all links over which something may be sent."""
        return self._links

    def record(self, pair: Pair, hop: ExecutedHop) -> None:
        """Learn what a reply says of a link; nothing if it says nothing.

        Args:
            pair: that the link connects.
            hop: of the server that receives.
        """
        if hop.link_bps > 0:
            with self._lock:
                self._links = {**self._links, pair: PairLink(hop.link_bps, hop.round_trip_s)}

    def lose(self, pair: Pair) -> None:
        """Use a link no more until it is measured again, as a request was lost or late on it.

        Args:
            pair: that the link connects.
        """
        with self._lock:
            self._links = {key: link for key, link in self._links.items() if key != pair}

    def record_route(
        self, several: SeveralHops | None, executed: Sequence[ExecutedHop]
    ) -> list[tuple[Part, ExecutedHop]]:
        """Learn the links of a route that was answered, and return what each server after the first one did.

        Args:
            several: the route; None if one server answered.
            executed: what the reply says of its hops.
        """
        if several is None or len(executed) != len(several.parts):
            return []
        for pair, hop in zip(self._pairs(several), executed[1:], strict=True):
            self.record(pair, hop)
        return list(zip(several.parts[1:], executed[1:], strict=True))

    def lose_route(self, several: SeveralHops | None) -> None:
        """Do the same as `lose` for all links of a route.

        Args:
            several: the route; None if one server was asked.
        """
        for pair in self._pairs(several) if several else ():
            self.lose(pair)

    def _pairs(self, several: SeveralHops) -> list[Pair]:
        names = self._addresses
        return [(names[before.server], names[part.server]) for before, part in pairwise(several.parts)]


def link_question(node: str) -> InferRequest:
    """Return the ping that asks a server for its link to another.

    Args:
        node: address of the other one.
    """
    return InferRequest(PING_MODEL, (), route=(Hop(node, ("padding",), FLOAT32_BITS),), short=True)
