"""Servers that a device finds by itself, beside a fixed list: by a name in DNS, by announcements, by a controller."""

import logging
import socket
import threading
from collections.abc import Sequence
from typing import Protocol

import numpy as np

from coinfer.addresses import DNS, ZEROCONF, Address, parse_address
from coinfer.graph.ir import ModelGraph
from coinfer.runtime.device.config import DeviceConfig
from coinfer.runtime.device.membership import Membership, join_site
from coinfer.runtime.device.planning.plan import Plan
from coinfer.runtime.device.result import Result
from coinfer.runtime.device.server_pool import ServerPool
from coinfer.runtime.transport.grpc_transport import PLAIN, Connector
from coinfer.runtime.zeroconf_discovery import open_browser
from coinfer.types import Policy

INTERVAL_S = 5.0
"""Sources are asked this often."""
_log = logging.getLogger(__name__)


class Source(Protocol):
    """Says which servers there are."""

    def addresses(self) -> frozenset[str]:
        """Return the addresses of all servers that it knows now.

        Raises:
            OSError: if it cannot say.
        """
        ...

    def close(self) -> None:
        """Release what it holds."""
        ...


class DnsName:
    """All addresses of a name, such as those behind a headless service of Kubernetes.

    Args:
        address: name and port, `name:port`.
    """

    def __init__(self, address: str):
        self._address = parse_address(address)

    def addresses(self) -> frozenset[str]:
        """Return its addresses of IPv4; those of IPv6 if it has no others, as both are of the same servers.

        Raises:
            OSError: if the name does not resolve.
        """
        host, port = self._address
        found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
        first = min((family for family, *_ in found), key=lambda family: family != socket.AF_INET)
        return frozenset(str(Address(str(place[0]), port)) for family, _, _, _, place in found if family == first)

    def close(self) -> None:
        """Do nothing."""


class Discovery:
    """Keeps a device's servers up to date with what sources say (`membership.Membership`).

    An address that is not there any more gives its place to the next new one, so that the list does not grow with
    every server that is replaced.

    Args:
        sources: by the text by which the user named them.
        site: the device's place in a site, which finds servers, too.
        interval_s: between two questions to the sources.
    """

    def __init__(self, sources: dict[str, Source], site: Membership | None = None, interval_s: float = INTERVAL_S):
        self._sources = sources
        self._site = site
        self._interval_s = interval_s
        self._known: dict[str, frozenset[str]] = {}
        """What each source said last."""
        self._said: dict[str, str] = {}
        self._mine: set[str] = set()
        """Addresses that came from sources."""
        self._closing = threading.Event()
        self._thread: threading.Thread | None = None
        self._ask()

    @property
    def connector(self) -> Connector:
        """Return how connections to edge servers are opened."""
        return PLAIN if self._site is None else self._site.connector

    def servers(self) -> tuple[str, ...]:
        """Return the addresses of the servers that are known."""
        found = sorted(self._found())
        self._mine |= set(found)
        return tuple(dict.fromkeys((*found, *(self._site.servers() if self._site else ()))))

    def start(self, pool: ServerPool) -> None:
        """Keep a device's servers up to date from now on.

        Args:
            pool: of the device.
        """
        if self._site is not None:
            self._site.start(pool)
        self._thread = threading.Thread(target=self._run, args=(pool,), name="coinfer-discovery", daemon=True)
        self._thread.start()

    def policy(self) -> Policy[np.ndarray] | None:
        """Return what decides about the next request of this thread; None for the device's own."""
        return None if self._site is None else self._site.policy()

    def record(self, plan: Plan, result: Result) -> None:
        """Tell the site of a request that was answered.

        Args:
            plan: of the request.
            result: of the request.
        """
        if self._site is not None:
            self._site.record(plan, result)

    def close(self) -> None:
        """Ask the sources no more, and leave the site."""
        self._closing.set()
        if self._thread is not None:
            self._thread.join(1.0)  # a question to DNS may take longer; it changes nothing any more
        for source in self._sources.values():
            source.close()
        if self._site is not None:
            self._site.close()

    def update(self, pool: ServerPool) -> None:
        """Ask the sources, and give new servers to the device.

        Args:
            pool: of the device.
        """
        self._ask()
        found, places = self._found(), list(enumerate(pool.addresses))
        gone = [index for index, address in places if address in self._mine - found]
        for address in sorted(found - {address for _, address in places}):
            if gone:
                pool.move(gone.pop(0), address)
            else:
                pool.add(address)
        self._mine |= found

    def _found(self) -> frozenset[str]:
        return frozenset[str]().union(*self._known.values())

    def _ask(self) -> None:
        for name, source in self._sources.items():
            try:
                self._known[name] = source.addresses()
                problem = ""
            except OSError as error:
                problem = f"{name} names no servers now ({error.strerror or error}); going on with those that are known"
            if problem and problem != self._said.get(name):
                _log.warning(problem)
            self._said[name] = problem

    def _run(self, pool: ServerPool) -> None:
        while not self._closing.wait(self._interval_s):
            self.update(pool)


def fixed(servers: Sequence[str]) -> tuple[str, ...]:
    """Return the servers of a device's settings that are addresses.

    Args:
        servers: in the form of `addresses.parse_server`.
    """
    return tuple(server for server in servers if server != ZEROCONF and not server.startswith(DNS))


def find_servers(config: DeviceConfig, graph: ModelGraph) -> Membership | None:
    """Return what finds a device's servers while it runs; None if its settings name a fixed list only.

    Args:
        config: settings of the device.
        graph: its network.

    Raises:
        UserError: if a site cannot be joined, or the extra for announcements is missing.
    """
    own = fixed(config.servers)
    sources: dict[str, Source] = {
        name: open_browser() if name == ZEROCONF else DnsName(name.removeprefix(DNS))
        for name in config.servers
        if name not in own
    }
    site = join_site(config, graph)
    return Discovery(sources, site) if sources else site
