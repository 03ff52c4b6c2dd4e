"""The servers as the device knows them: estimates behind one lock, updated by small probes."""

import logging
import math
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from functools import partial

from coinfer.runtime.clock import Clock
from coinfer.runtime.device import estimate as est
from coinfer.runtime.device import forecast
from coinfer.runtime.device.estimate import ServerEstimate
from coinfer.runtime.device.link_estimate import after_exchange, after_ping
from coinfer.runtime.device.server_list import ServerList
from coinfer.runtime.transport.base import Pong, Transport, TransportError
from coinfer.units import bits_of_bytes

_log = logging.getLogger(__name__)

PROBE_INTERVAL_S = 0.25
"""A link is probed after this idle time, if a probe takes at most `MAX_PROBE_SHARE` of it there; else after longer."""
MAX_PROBE_SHARE = 0.25
IDLE_INTERVAL_S, IDLE_SHARE = 2.0, 0.1
"""While nobody asks for answers, this share of the time since the last request passes between probes, at most 2 s."""
PROBE_SHARE = 0.02
"""A probe takes about this share of the interval on the link that it measures."""
PROBE_BYTES = (16_000, 64_000)
"""Smallest and largest probe for the rate. A few packets may pass at once on any link, so less says little."""
SLOW_PROBE_BYTES, SLOW_PROBE_S = 1_000, 0.25
"""On a link on which the smallest probe would take longer than this, one of this size asks first; if it passes at once,
the link has become faster, and the next probe measures it."""
FIRST_EMPTY, EMPTY_EVERY = 3, 4
"""The first probes after a server comes up are empty, and later one in `EMPTY_EVERY`: they measure the round trip. Its
minimum counts, as the very first probe also opens the connection and takes too long."""
PROBE_TIMEOUT_S = 2.0
UPLOAD_S = 5.0
"""For so long after a server answered no probe waits behind an upload; what is believed of a link may be wrong."""
SUSPECT_TIMEOUT_S = 0.5
"""The same for a server that has just failed or is late: it is asked at once whether it is there at all."""
START_S = 10.0
"""Longest wait for servers to be ready; a slower one is used as soon as it is."""


class ServerPool:
    """Edge servers by index. `update` and the probes change the estimates; `estimates` reads it.

    Args:
        addresses: of the servers, `host:port`; a `ServerList` that is given is kept and grows.
        transport: carries probes; the pool does not close it.
        clock: the device's.
        first_rate_bps: believed rate of each link until the first transfer.
        on_up: called with a server's index, on a thread of its own, if it answers for the first time or again.
    """

    def __init__(
        self,
        addresses: Sequence[str],
        transport: Transport,
        clock: Clock,
        first_rate_bps: float,
        on_up: Callable[[int], None],
    ):
        self.addresses = addresses if isinstance(addresses, ServerList) else ServerList(addresses)
        self._transport = transport
        self._clock = clock
        self._on_up = on_up
        self._first_rate_bps = first_rate_bps
        self._lock = threading.Lock()
        self._servers = [est.first_server(first_rate_bps, clock.now_s()) for _ in addresses]
        self._probing = [False] * len(self.addresses)
        self._heard_s = [clock.now_s()] * len(self.addresses)
        """When each server said something itself; what others tell of it proves no link."""
        self.asked_s = clock.now_s()
        """When the last request for an answer was made to the device; links are probed more often then."""
        self._pongs = [0] * len(self.addresses)
        """Probes that each server has answered in a row."""
        self._last_error = [""] * len(self.addresses)
        self._reported: set[tuple[int, str]] = set()
        self._withdrawn: frozenset[int] = frozenset()
        """Servers that do not serve the network any longer; whatever they answer, they are not asked."""
        self._is_alone = False
        """No server has answered since this was last said."""
        self._preparing: list[threading.Thread] = []
        self._closing = threading.Event()
        self._thread = threading.Thread(target=self._probe_loop, name="coinfer-probe", daemon=True)

    def estimates(self) -> tuple[ServerEstimate, ...]:
        """Return the estimate of each server, in the order of the addresses."""
        with self._lock:
            return tuple(self._servers)

    def update(self, index: int, change: Callable[[ServerEstimate], ServerEstimate]) -> None:
        """Change the estimate of a server.

        Args:
            index: of the server.
            change: from the old estimate to the new one; it runs under the pool's lock.
        """
        with self._lock:
            known = change(self._servers[index])
            withdrawn = {"failures": est.FAILURES_TO_EJECT, "down_until_s": math.inf}
            self._servers[index] = known._replace(**withdrawn) if index in self._withdrawn else known

    def heard(self, index: int, now_s: float) -> None:
        """Note that a server has answered a request, so that it need not be probed for a while.

        Args:
            index: of the server.
            now_s: when it answered.
        """
        self._heard_s[index] = now_s

    def add(self, address: str) -> int:
        """Add a server, and return its index; it is used once it has answered a probe.

        Args:
            address: `host:port`.
        """
        with self._lock:
            index = self.addresses.append(address)
            self._probing.append(False)
            self._heard_s.append(-math.inf)
            self._pongs.append(0)
            self._last_error.append("")
            self._servers.append(est.first_server(self._first_rate_bps, self._clock.now_s()))
        return index

    def move(self, index: int, address: str) -> None:
        """Give a server another address; nothing is known of it there.

        Args:
            index: of the server.
            address: `host:port`.
        """
        with self._lock:
            self.addresses.move(index, address)
            self._pongs[index] = 0
            self._heard_s[index] = -math.inf
            self._servers[index] = est.first_server(self._first_rate_bps, self._clock.now_s())

    def withdraw(self, index: int) -> None:
        """Ask a server no more until `admit`, since it does not serve the network any longer.

        Args:
            index: of the server.
        """
        if index not in self._withdrawn:
            self._withdrawn |= {index}
            self.update(index, lambda known: known)
            self.report(index, "serves this network no longer; the device goes on without it until it does again")

    def admit(self, index: int) -> None:
        """End a `withdraw`: the server is used again once it has answered a probe.

        Args:
            index: of the server.
        """
        if index in self._withdrawn:
            self._withdrawn -= {index}
            self.update(index, lambda known: known._replace(down_until_s=self._clock.now_s()))

    def reject(self, index: int, reason: str) -> None:
        """Let a server that cannot serve the network rest for a while, and say so in the log once.

        Args:
            index: of the server.
            reason: one line for people.
        """
        self.update(index, partial(est.after_rejection, now_s=self._clock.now_s()))
        self.report(index, f"cannot serve this network ({reason}); the device goes on without it")

    def start(self) -> None:
        """Probe all servers, and wait at most `START_S` until those that answer have prepared their segments.

        The first probes measure the round trip, later ones the rate too. Probing continues in the background. A log
        warning names each server that does not answer, once.
        """
        for _ in range(FIRST_EMPTY + 1):
            for update_done in [self._probe(index) for index in range(len(self.addresses))]:
                update_done.wait()
        until_s = self._clock.now_s() + START_S
        for thread in self._preparing:
            thread.join(max(until_s - self._clock.now_s(), 0.0))
        for index, error in enumerate(self._last_error):
            if error:
                self.report(index, f"does not answer ({error}); the device goes on without it until it does")
        self._thread.start()

    def close(self) -> None:
        """Stop probing."""
        self._closing.set()
        if self._thread.ident is not None:
            self._thread.join(PROBE_TIMEOUT_S)

    def _probe_loop(self) -> None:
        while not self._closing.wait(PROBE_INTERVAL_S / 4):
            now_s = self._clock.now_s()
            for index, server in enumerate(self.estimates()):
                if not self._probing[index] and is_probe_due(server, self._heard_s[index], self.asked_s, now_s):
                    self._probe(index)

    def _probe(self, index: int) -> threading.Event:
        """Send as many bytes as the link should carry in a small share of the interval; the event is set once the
        estimate is updated."""
        self._probing[index] = True
        update_done = threading.Event()
        server = self.estimates()[index]
        size_bytes = probe_bytes(server, self._pongs[index], self._clock.now_s())
        sent = partial(est.after_send, size_bits=bits_of_bytes(size_bytes), service_s=0.0, now_s=self._clock.now_s())
        self.update(index, sent)
        timeout_s = SUSPECT_TIMEOUT_S if is_suspect(server) else PROBE_TIMEOUT_S
        future = self._transport.ping(self.addresses[index], timeout_s, size_bytes)

        def on_reply(done: Future[Pong]) -> None:
            self._record(index, size_bytes, done)
            update_done.set()

        future.add_done_callback(on_reply)
        return update_done

    def _record(self, index: int, size_bytes: int, reply: Future[Pong]) -> None:
        now_s = self._clock.now_s()
        self._probing[index] = False
        self.update(index, partial(est.after_end, now_s=now_s))
        error = reply.exception() if not reply.cancelled() else TransportError("CANCELLED", "probe cancelled")
        self._pongs[index] = 0 if error is not None else self._pongs[index] + 1
        self._last_error[index] = "" if error is None else _one_line(error)
        if error is not None:
            is_late = isinstance(error, TransportError) and error.code == "DEADLINE_EXCEEDED"
            lost_bytes = size_bytes if is_late else 0
            self.update(index, lambda server: after_lost_probe(server, lost_bytes, now_s))
            self._report_if_alone(now_s)
            return
        self._is_alone = False
        self.heard(index, now_s)
        was_down = not forecast.usable(self.estimates()[index], now_s)
        self.update(index, lambda server: after_pong(server, reply.result(), size_bytes, now_s))
        if was_down and index not in self._withdrawn and not self._closing.is_set():
            thread = threading.Thread(target=self._on_up, args=(index,), name="coinfer-prepare", daemon=True)
            self._preparing = [*filter(threading.Thread.is_alive, self._preparing), thread]
            thread.start()

    def _report_if_alone(self, now_s: float) -> None:
        """Say once that no server can be reached, until one can."""
        if not self._is_alone and not any(forecast.usable(server, now_s) for server in self.estimates()):
            self._is_alone = True
            if self._thread.ident is not None:  # before, `start` names each server
                _log.warning("no server can be reached; this device answers by itself until one can")

    def report(self, index: int, problem: str) -> None:
        """Say something about a server in the log, unless it was said before.

        Args:
            index: of the server.
            problem: continues a sentence that begins with its address.
        """
        if (index, problem) not in self._reported:
            self._reported.add((index, problem))
            _log.warning("server %s %s", self.addresses[index], problem)


def is_suspect(server: ServerEstimate) -> bool:
    """Return true if a server has failed or was late, and not said anything since; one more time and it rests.

    Args:
        server: present estimate.
    """
    return 0 < server.failures < est.FAILURES_TO_EJECT


def _one_line(error: BaseException) -> str:
    """Return what went wrong with a probe."""
    if isinstance(error, TransportError):
        return f"{error.code} {error.reason or error.message}".partition("\n")[0]
    return type(error).__name__


def after_lost_probe(server: ServerEstimate, size_bytes: int, now_s: float) -> ServerEstimate:
    """Return the estimate after a probe was not answered: the server failed, or its link is too slow for the probe.

    Args:
        server: estimate so far.
        size_bytes: of the probe if no answer came in `PROBE_TIMEOUT_S`, else 0.
        now_s: when it was given up.
    """
    if size_bytes:
        return est.after_silence(server, bits_of_bytes(size_bytes), PROBE_TIMEOUT_S, now_s)
    return est.after_failure(server, now_s)


def is_probe_due(server: ServerEstimate, heard_s: float, asked_s: float, now_s: float) -> bool:
    """Return true if a server should be probed now, as it does not rest: it is suspect, silent for a while, or its link
    has turned out to be faster than was believed, by an unknown factor.

    A server that has not failed is left alone for a while if something is expected to be on its way to it: the probe
    would wait behind that, and look like the silence of a server that is gone.

    Args:
        server: present estimate.
        heard_s: when it last answered.
        asked_s: when the last request for an answer was made to the device.
        now_s: on the device's clock.
    """
    idle_s = min(IDLE_SHARE * (now_s - asked_s), IDLE_INTERVAL_S)
    probe_s = 0.0 if is_slow(server) else bits_of_bytes(PROBE_BYTES[0]) / server.link.rate_bps
    interval_s = max(PROBE_INTERVAL_S, idle_s, probe_s / MAX_PROBE_SHARE)
    is_quiet = now_s - max(server.link.at_s, heard_s) > interval_s
    is_free = server.failures > 0 or now_s >= min(server.link_free_s, heard_s + UPLOAD_S)
    return ((is_free and (is_quiet or server.link.is_bound)) or is_suspect(server)) and now_s >= server.down_until_s


def is_slow(server: ServerEstimate) -> bool:
    """Return true if the smallest probe for the rate would occupy a server's link for long.

    Args:
        server: present estimate.
    """
    return bits_of_bytes(PROBE_BYTES[0]) > SLOW_PROBE_S * server.link.rate_bps


def probe_bytes(server: ServerEstimate, answered: int, now_s: float) -> int:
    """Return the size of the next probe: 0 for the round trip, else what measures the rate.

    Args:
        server: present estimate.
        answered: probes that it has answered in a row.
        now_s: on the device's clock.
    """
    is_for_rate = server.link.is_bound or (answered - FIRST_EMPTY + 1) % EMPTY_EVERY
    if answered < FIRST_EMPTY or not is_for_rate or not forecast.usable(server, now_s) or is_suspect(server):
        return 0
    if is_slow(server):
        return SLOW_PROBE_BYTES
    share_bytes = server.link.rate_bps * PROBE_INTERVAL_S * PROBE_SHARE / bits_of_bytes(1)
    return int(min(max(share_bytes, PROBE_BYTES[0]), PROBE_BYTES[1]))


def after_pong(server: ServerEstimate, pong: Pong, size_bytes: int, now_s: float) -> ServerEstimate:
    """Return the estimate after a probe was answered.

    Args:
        server: estimate so far.
        pong: the answer.
        size_bytes: of the probe; an empty one measures the round trip, others the rate.
        now_s: when the answer arrived.
    """
    believed = max(server.free_s - now_s, 0.0), server.room
    backlog_s, room = (pong.load.backlog_s, pong.load.room) if pong.load else believed
    server = est.after_reply(server, backlog_s, room, now_s)
    if size_bytes == 0:
        return server._replace(link=after_ping(server.link, pong.round_trip_s))
    return server._replace(link=after_exchange(server.link, bits_of_bytes(size_bytes), pong.round_trip_s, now_s))
