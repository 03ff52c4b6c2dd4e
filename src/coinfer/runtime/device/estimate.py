"""What a device believes of its links and servers, learned from its own transfers. Pure functions over values."""

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from coinfer.options.table import Piece

HALF_LIFE_S = 1.5
"""Age at which a transfer counts half in the link's rate."""
SERVICE_GAIN = 0.3
"""Weight of the newest measured service time."""
SERVICE_HALF_LIFE_S = 10.0
"""A slow spell of a server is half forgotten after this time without news, so that it is tried again."""
PATIENCE = 2.0
"""A reply that takes this many times what was predicted is late, until it is known how far predictions err."""
PATIENCE_RANGE = (1.15, 3.0)
PATIENCE_QUANTILE = 0.95
PATIENCE_SAMPLES = 20
FIRST_BACKOFF_S = 0.5
LONGEST_BACKOFF_S = 8.0
FAILURES_TO_EJECT = 2


class LinkEstimate(NamedTuple):
    """Decayed sums: the rate is `bits / seconds`, so long transfers count for what they are."""

    bits: float
    seconds: float
    at_s: float
    """When the last transfer ended."""
    round_trip_s: float
    """Smallest round trip of an empty message."""

    @property
    def rate_bps(self) -> float:
        return self.bits / self.seconds


class ServiceEstimate(NamedTuple):
    """How long a server takes for the rest of the network between one cut and one exit."""

    mean_s: float
    """Of the newest runs."""
    fastest_s: float
    at_s: float
    """When it last ran."""


class ServerEstimate(NamedTuple):
    link: LinkEstimate
    scale: float
    """Service time over the profiled machine's time for the same work."""
    service: dict[Piece, ServiceEstimate]
    """By the rest that it computes."""
    free_s: float
    """When it will have worked off what it reported and what was sent to it since."""
    link_free_s: float
    """When the link will have carried what was sent."""
    in_flight: int
    """Requests sent to it that it has not answered."""
    room: float
    reported_s: float
    """When it last reported."""
    failures: int
    """In a row."""
    down_until_s: float
    """Not asked before this time; infinite past means that it may be asked."""
    limit_bits: float
    """Smallest upload that was too large for it; infinite if none was."""


def first_link(rate_bps: float, now_s: float) -> LinkEstimate:
    """Return a guess to start from; it weighs as much as a transfer of 10 ms."""
    return LinkEstimate(rate_bps * 0.01, 0.01, now_s, 0.0)


def first_server(rate_bps: float, now_s: float) -> ServerEstimate:
    """Return a server of which nothing is known yet: it must answer a probe before it is used."""
    return ServerEstimate(
        link=first_link(rate_bps, now_s),
        scale=1.0,
        service={},
        free_s=now_s,
        link_free_s=now_s,
        in_flight=0,
        room=math.inf,
        reported_s=now_s,
        failures=FAILURES_TO_EJECT,
        down_until_s=now_s,
        limit_bits=math.inf,
    )


def after_transfer(link: LinkEstimate, size_bits: float, seconds: float, now_s: float) -> LinkEstimate:
    """Return the link after `size_bits` took `seconds`, the round trip's latency not counted."""
    weight = 0.5 ** (max(now_s - link.at_s, 0.0) / HALF_LIFE_S)
    return link._replace(
        bits=link.bits * weight + size_bits, seconds=link.seconds * weight + max(seconds, 1e-6), at_s=now_s
    )


def after_exchange(link: LinkEstimate, size_bits: float, seconds: float, now_s: float) -> LinkEstimate:
    """The link after `size_bits` there and back took `seconds`, the round trip's latency included. Whatever was
    exchanged in less than the round trip shows that this is shorter, and says nothing of the rate."""
    if seconds <= link.round_trip_s:
        return link._replace(round_trip_s=seconds) if seconds > 0 else link
    return after_transfer(link, size_bits, seconds - link.round_trip_s, now_s)


def after_ping(link: LinkEstimate, round_trip_s: float) -> LinkEstimate:
    """Return the link with the smallest round trip seen, forgetting slowly so that a changed path shows."""
    known = link.round_trip_s
    return link._replace(round_trip_s=round_trip_s if known == 0.0 else min(known * 1.05, round_trip_s))


def after_send(server: ServerEstimate, size_bits: float, service_s: float, now_s: float) -> ServerEstimate:
    """A request is on its way: the link and then the server are taken."""
    link_free_s = max(server.link_free_s, now_s) + size_bits / server.link.rate_bps
    free_s = max(server.free_s, link_free_s) + service_s
    return server._replace(link_free_s=link_free_s, free_s=free_s, in_flight=server.in_flight + 1)


def after_end(server: ServerEstimate, now_s: float) -> ServerEstimate:
    """A request was answered, failed or was given up; with the last of them, what was expected of it is void."""
    in_flight = server.in_flight - 1
    if in_flight > 0:
        return server._replace(in_flight=in_flight)
    return server._replace(in_flight=0, link_free_s=now_s, free_s=now_s)


def after_reply(server: ServerEstimate, backlog_s: float, room: float, now_s: float) -> ServerEstimate:
    """The server answered: it is up, and said how loaded it is."""
    expected_s = server.free_s if server.in_flight else -math.inf
    limit_bits = server.limit_bits if server.failures < FAILURES_TO_EJECT else math.inf  # may differ after a restart
    return server._replace(
        free_s=max(now_s + backlog_s, expected_s),
        room=room,
        reported_s=now_s,
        failures=0,
        down_until_s=-math.inf,
        limit_bits=limit_bits,
    )


def after_service(
    server: ServerEstimate, piece: Piece, service_s: float, profiled_s: float, now_s: float
) -> ServerEstimate:
    """The server computed a rest of the network in `service_s`; the profiled machine takes `profiled_s`."""
    old = server.service.get(piece, ServiceEstimate(service_s, service_s, now_s))
    mean_s = old.mean_s + SERVICE_GAIN * (service_s - old.mean_s)
    new = ServiceEstimate(mean_s, min(old.fastest_s, service_s), now_s)
    scale = server.scale
    if profiled_s > 0:
        ratio = service_s / profiled_s
        scale = ratio if not server.service else scale + SERVICE_GAIN * (ratio - scale)
    return server._replace(service={**server.service, piece: new}, scale=scale)


def service_now_s(server: ServerEstimate, piece: Piece, profiled_s: float, now_s: float) -> float:
    """Return the expected time of a rest of the network.

    It is as measured, going back to the fastest time while there is no news, or by the server's scale if it was never
    measured.
    """
    known = server.service.get(piece)
    if known is None:
        return profiled_s * server.scale
    weight = 0.5 ** ((now_s - known.at_s) / SERVICE_HALF_LIFE_S)
    return known.fastest_s + weight * (known.mean_s - known.fastest_s)


def patience(ratios: Sequence[float]) -> float:
    """Return how many times the predicted time to wait before a reply counts as late.

    It is the 95 % quantile of measured over predicted times, so that in calm about one request in twenty is hedged.
    """
    if len(ratios) < PATIENCE_SAMPLES:
        return PATIENCE
    return float(np.clip(np.quantile(list(ratios), PATIENCE_QUANTILE), *PATIENCE_RANGE))


def after_failure(server: ServerEstimate, now_s: float) -> ServerEstimate:
    """The server failed: after `FAILURES_TO_EJECT` in a row it rests, twice as long each time up to 8 s."""
    failures = server.failures + 1
    if failures < FAILURES_TO_EJECT:
        return server._replace(failures=failures)
    rest_s = min(FIRST_BACKOFF_S * 2 ** min(failures - FAILURES_TO_EJECT, 10), LONGEST_BACKOFF_S)
    return server._replace(failures=failures, down_until_s=now_s + rest_s)


def after_rejection(server: ServerEstimate, now_s: float) -> ServerEstimate:
    """The server cannot serve the network: it rests for the longest time, and is then looked at again."""
    return server._replace(failures=FAILURES_TO_EJECT, down_until_s=now_s + LONGEST_BACKOFF_S)


def after_silence(server: ServerEstimate, size_bits: float, waited_s: float, now_s: float) -> ServerEstimate:
    """Nothing came back in `waited_s`: the server may have failed, or its link is at least so slow."""
    if size_bits / waited_s < server.link.rate_bps:
        server = server._replace(link=after_transfer(server.link, size_bits, waited_s, now_s))
    return after_failure(server, now_s)


def after_refusal(server: ServerEstimate, pushback_s: float, now_s: float) -> ServerEstimate:
    """The server is full: not broken, but not to be asked for a while."""
    return server._replace(room=0.0, free_s=max(server.free_s, now_s + pushback_s), reported_s=now_s)


def after_oversize(server: ServerEstimate, upload_bits: float) -> ServerEstimate:
    """Return the server after an upload was too large for it: neither broken nor full, but never to be sent as much.

    Args:
        server: what was believed before.
        upload_bits: upload that the planner expected of the refused option.
    """
    return server._replace(limit_bits=min(server.limit_bits, upload_bits))


def overdue_s(server: ServerEstimate, now_s: float) -> float:
    """Return for how long all that is under way should have been answered; 0 if nothing is under way."""
    return max(now_s - max(server.free_s, server.link_free_s), 0.0) if server.in_flight else 0.0


def link_wait_s(server: ServerEstimate, now_s: float) -> float:
    """Return how long an upload that begins now would wait for the link.

    What is overdue is expected to take as long again, and to hold up the link: a link that has just died is known
    before any transfer over it has ended.
    """
    return max(server.link_free_s - now_s, overdue_s(server, now_s))


def server_wait_s(server: ServerEstimate, now_s: float) -> float:
    """Return when the server will have served all that was sent to it before, in seconds from now.

    A request that is sent now does not wait so long: its upload takes time, too (`physics.latency`).
    """
    return max(server.free_s - now_s, overdue_s(server, now_s))


def room_now(server: ServerEstimate, now_s: float) -> float:
    """Return the room of the queue; a full server is taken to have room again once its backlog is worked off."""
    return server.room if server.room > 0 or server_wait_s(server, now_s) > 0 else 1.0


def usable(server: ServerEstimate, now_s: float) -> bool:
    """Return true if the server may be asked."""
    return server.failures < FAILURES_TO_EJECT and now_s >= server.down_until_s
