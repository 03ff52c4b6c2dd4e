"""What a device believes about its links and servers, learned from its own transfers. Pure functions over values."""

import math
from collections.abc import Mapping
from types import MappingProxyType
from typing import NamedTuple

from coinfer.options.table import Piece
from coinfer.runtime.device.link_estimate import LinkEstimate, after_exchange, after_transfer, first_link

SERVICE_GAIN = 0.3
"""Weight of the newest measured service time."""
REST_S = 0.5
"""A server that failed is probed again after this time. The transport limits how often it is connected to."""
REJECTED_REST_S = 8.0
"""The same of a server that does not serve the network."""
OTHERS_HALF_LIFE_S = 0.5
"""Age at which a report counts half in the share of a server's time that others take."""
FAILURES_TO_EJECT = 2
MAX_SIZED = 256
"""Pieces of large requests whose times are kept; the oldest are forgotten."""


class Work(NamedTuple):
    """What a server computes for a request."""

    piece: Piece
    sizes: tuple[tuple[str, int], ...] = ()
    """Free axes that are larger than their smallest size, with their sizes: a batch of 32, a long sequence."""


class ServiceEstimate(NamedTuple):
    """How long a server takes for one piece of the network, from a cut to an exit."""

    mean_s: float
    """Exponential mean of its runs."""
    fastest_s: float
    """Shortest run."""
    at_s: float
    """When it last ran."""
    runs: int = 0
    """How often it has run there."""


class Answered(NamedTuple):
    """What was measured of a request that a server answered."""

    size_bits: float
    """Of request and reply."""
    took_s: float
    """From sending to the answer."""
    link_wait_s: float
    """Expected wait for transfers before it."""
    queue_s: float
    """Wait on the server, as it says."""
    service_s: float
    """Decoding, computing and encoding, as it says."""
    backlog_s: float
    """Work that waits there, as it says."""
    room: float
    """Requests that its queue still takes; infinite if it does not say."""


class ServerEstimate(NamedTuple):
    """What a device believes about one server and the link to it. Moments are on the device's clock."""

    link: LinkEstimate
    scale: float
    """Service time over the profiled machine's time for the same work."""
    scale_runs: int
    """Runs behind `scale`."""
    scale_s: float
    """When the last of them ended."""
    service: dict[Work, ServiceEstimate]
    """By piece and size of the request: what large requests take says nothing of single ones."""
    free_s: float
    """When it will be done with the backlog that it reported and with all that was sent to it since."""
    link_free_s: float
    """When the link will have carried what was sent."""
    in_flight: int
    """Requests sent to it that it has not answered."""
    room: float
    """Requests that its queue still takes: as it last reported, less those sent since; infinite if it does not say."""
    reported_s: float
    """When it last reported."""
    backlog_s: float
    """Work that waited there then."""
    failures: int
    """In a row."""
    down_until_s: float
    """The device does not ask it before this time; minus infinity if it does not rest."""
    limit_bits: float
    """Smallest upload that was too large for it; infinite if none was."""
    others_share: float = 0.0
    """Share of its time, 0 to 1, that new work of others takes: so much slower its backlog becomes shorter."""
    lacks: frozenset[Piece] = frozenset()
    """Pieces of a bottleneck that it does not have."""
    cold: Mapping[Piece, float] = MappingProxyType({})
    """Pieces that it said it has to load, with the seconds that this takes."""
    cold_s: float = -math.inf
    """When it said so."""


def first_server(rate_bps: float, now_s: float) -> ServerEstimate:
    """Return the estimate of a server about which nothing is known: it must answer a probe before it is used.

    Args:
        rate_bps: guessed rate of its link, above 0.
        now_s: on the device's clock.
    """
    return ServerEstimate(
        link=first_link(rate_bps, now_s),
        scale=1.0,
        scale_runs=0,
        scale_s=now_s,
        service={},
        free_s=now_s,
        link_free_s=now_s,
        in_flight=0,
        room=math.inf,
        reported_s=now_s,
        backlog_s=0.0,
        failures=FAILURES_TO_EJECT,
        down_until_s=now_s,
        limit_bits=math.inf,
    )


def after_send(server: ServerEstimate, size_bits: float, service_s: float, now_s: float) -> ServerEstimate:
    """Return the server with one more request in flight, which occupies first the link and then the server.

    Args:
        server: estimate so far.
        size_bits: of the request's message.
        service_s: how long the server is expected to compute.
        now_s: when the request was sent.
    """
    link_free_s = max(server.link_free_s, now_s) + size_bits / server.link.rate_bps
    free_s = max(server.free_s, link_free_s) + service_s
    room = max(server.room - 1, 0.0) if service_s > 0 else server.room  # a probe takes none
    return server._replace(link_free_s=link_free_s, free_s=free_s, in_flight=server.in_flight + 1, room=room)


def after_end(server: ServerEstimate, now_s: float) -> ServerEstimate:
    """Return the server with one request less in flight: answered, failed or abandoned.

    If it was the last one, the link counts as free now, and the server has what it last reported to do, whatever was
    expected of the request.

    Args:
        server: estimate so far.
        now_s: when the request ended.
    """
    in_flight = server.in_flight - 1
    if in_flight > 0:
        return server._replace(in_flight=in_flight)
    return server._replace(in_flight=0, link_free_s=now_s, free_s=server.reported_s + server.backlog_s)


def after_reply(server: ServerEstimate, backlog_s: float, room: float, now_s: float) -> ServerEstimate:
    """Return the server after a reply or pong: it is up, and has said how loaded it is.

    Args:
        server: estimate so far.
        backlog_s: work that waits there, as it reports.
        room: requests that its queue still takes; infinite if it does not say.
        now_s: when the reply arrived.
    """
    limit_bits = server.limit_bits if server.failures < FAILURES_TO_EJECT else math.inf  # may differ after a restart
    server = _with_load(server, backlog_s, room, now_s)
    return server._replace(failures=0, down_until_s=-math.inf, limit_bits=limit_bits)


def after_report(server: ServerEstimate, backlog_s: float, room: float, at_s: float) -> ServerEstimate:
    """Return the server after others have told of its load; what it said itself counts if it is newer.

    Args:
        server: estimate so far.
        backlog_s: work that waited there.
        room: requests that its queue still took.
        at_s: when that was so; a link, or whether it answers, is not known from this.
    """
    return server if at_s <= server.reported_s else _with_load(server, backlog_s, room, at_s)


def _with_load(server: ServerEstimate, backlog_s: float, room: float, at_s: float) -> ServerEstimate:
    free_s = max(at_s + backlog_s, server.free_s if server.in_flight else -math.inf)
    share = _others_share(server, backlog_s, at_s)
    return server._replace(free_s=free_s, backlog_s=backlog_s, room=room, reported_s=at_s, others_share=share)


def _others_share(server: ServerEstimate, backlog_s: float, now_s: float) -> float:
    """Return the share of a server's time that others take, from how much backlog is there that was not expected.

    A server that has work now is taken to have had some all the time: if the last report is older than the work that
    waited then, it cannot be told, and a queue that stands would else look as if it were soon worked off.
    """
    since_s = now_s - server.reported_s
    if since_s <= 0:
        return server.others_share
    came_s = backlog_s - (server.free_s - now_s)
    now_share = min(max(came_s / since_s, 0.0), 1.0) if backlog_s > 0 else 0.0
    return now_share + 0.5 ** (since_s / OTHERS_HALF_LIFE_S) * (server.others_share - now_share)


def after_service(
    server: ServerEstimate, work: Work, service_s: float, profiled_s: float, now_s: float
) -> ServerEstimate:
    """Return the server after it computed a piece of the network.

    Args:
        server: estimate so far.
        work: what it computed.
        service_s: how long that took it.
        profiled_s: how long the profiled machine takes; if 0, the server's scale stays as it is.
        now_s: when it was done.
    """
    old = server.service.get(work, ServiceEstimate(service_s, service_s, now_s))
    mean_s = old.mean_s + SERVICE_GAIN * (service_s - old.mean_s)
    new = ServiceEstimate(mean_s, min(old.fastest_s, service_s), now_s, old.runs + 1)
    if profiled_s > 0:
        gain = SERVICE_GAIN if server.scale_runs else 1.0
        scale = server.scale + gain * (service_s / profiled_s - server.scale)
        server = server._replace(scale=scale, scale_runs=server.scale_runs + 1, scale_s=now_s)
    service = {**server.service, work: new}
    sized = [known for known in service if known.sizes]
    if len(sized) > MAX_SIZED:
        del service[min(sized, key=lambda known: service[known].at_s)]
    return server._replace(service=service)


def after_answer(
    server: ServerEstimate, work: Work, answered: Answered, profiled_s: float, now_s: float, onward_s: float = 0.0
) -> ServerEstimate:
    """Return the server after it answered a request: what that says of its link, its load and its speed.

    Args:
        server: estimate so far.
        work: what it computed.
        answered: what was measured of the request.
        profiled_s: how long the profiled machine takes for the work.
        now_s: when the answer arrived.
        onward_s: part of the service that others did.
    """
    under_way_s = answered.took_s - answered.service_s - answered.queue_s - answered.link_wait_s
    if answered.link_wait_s == 0 or under_way_s > server.link.round_trip_s:  # a wait is a guess, no proof
        server = server._replace(link=after_exchange(server.link, answered.size_bits, under_way_s, now_s))
    server = after_reply(server, answered.backlog_s, answered.room, now_s)
    return after_service(server, work, answered.service_s - onward_s, profiled_s, now_s)


def after_failure(server: ServerEstimate, now_s: float) -> ServerEstimate:
    """Return the server after a failure.

    After `FAILURES_TO_EJECT` failures in a row it rests until a probe is answered.

    Args:
        server: estimate so far.
        now_s: when it failed.
    """
    failures = server.failures + 1
    if failures < FAILURES_TO_EJECT:
        return server._replace(failures=failures)
    return server._replace(failures=failures, down_until_s=now_s + REST_S)


def after_rejection(server: ServerEstimate, now_s: float) -> ServerEstimate:
    """Return a server that cannot serve the network: it rests for `REJECTED_S`, and is then probed again.

    Args:
        server: estimate so far.
        now_s: when it said so.
    """
    return server._replace(failures=FAILURES_TO_EJECT, down_until_s=now_s + REJECTED_REST_S)


def after_silence(server: ServerEstimate, size_bits: float, waited_s: float, now_s: float) -> ServerEstimate:
    """Return the server after a late reply: it may have failed, or its link is at most as fast as the silence shows.

    Args:
        server: estimate so far.
        size_bits: of the request that is unanswered.
        waited_s: time since it was sent, above 0.
        now_s: on the device's clock.
    """
    if size_bits / waited_s < server.link.rate_bps:
        server = server._replace(link=after_transfer(server.link, size_bits, waited_s, now_s))
    return after_failure(server, now_s)


def after_refusal(server: ServerEstimate, pushback_s: float, now_s: float) -> ServerEstimate:
    """Return the server after it refused a request because it is full: it has no room until its backlog is worked off.

    Args:
        server: estimate so far.
        pushback_s: time after which it may be asked again.
        now_s: when the refusal arrived.
    """
    backlog_s = max(server.free_s - now_s, pushback_s)
    return server._replace(room=0.0, free_s=now_s + backlog_s, backlog_s=backlog_s, reported_s=now_s)


def after_hopeless(server: ServerEstimate, work: Work, left_s: float, now_s: float) -> ServerEstimate:
    """Return the server after it refused a request whose deadline it could not meet: so long it has to do at least.

    Args:
        server: estimate so far.
        work: what it was to compute.
        left_s: time to the deadline when the refusal arrived.
        now_s: when it arrived.
    """
    service_s = server.service[work].mean_s if work in server.service else 0.0
    backlog_s = max(left_s - service_s, server.free_s - now_s, 0.0)
    return server._replace(free_s=now_s + backlog_s, backlog_s=backlog_s, reported_s=now_s)


def after_oversize(server: ServerEstimate, upload_bits: float) -> ServerEstimate:
    """Return the server after an upload was too large for it: neither broken nor full, but never to be sent as much.

    Args:
        server: estimate so far.
        upload_bits: upload that the planner expected of the refused option.
    """
    return server._replace(limit_bits=min(server.limit_bits, upload_bits))
