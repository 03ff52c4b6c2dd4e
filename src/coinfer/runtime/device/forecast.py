"""What estimates predict for a request that is made now: waits, service times, and which servers may be asked."""

import math
from collections.abc import Sequence

import numpy as np

from coinfer.runtime.device.estimate import FAILURES_TO_EJECT, ServerEstimate, Work

SERVICE_HALF_LIFE_S = 10.0
"""A slow spell of a server is half forgotten after this time without news, so that it is tried again. All that one run
showed is half forgotten after twice the time, what n runs showed after 2^n times: a first run may have been slow for
reasons that are gone, and a server that is slow in truth is asked again ever less often."""
PATIENCE = 2.0
"""A reply that takes this many times what was predicted is late, until enough replies show how far predictions err."""
PATIENCE_RANGE = (1.15, 3.0)
PATIENCE_QUANTILE = 0.95
PATIENCE_SAMPLES = 20
MIN_PATIENCE = 1.25
"""A server gets at least this many times the predicted time, even if the deadline leaves less, or the device would take
less."""
SLACK_S = 0.02
"""Allowance for delays that no prediction covers."""


def service_now_s(server: ServerEstimate, work: Work, profiled_s: float, now_s: float) -> float:
    """Return the expected time of a piece on a server (`services_now_s`).

    Args:
        server: present estimate.
        work: what it would compute.
        profiled_s: time on the profiled machine.
        now_s: on the device's clock.
    """
    return services_now_s(server, (work,), (profiled_s,), now_s)[0]


def services_now_s(
    server: ServerEstimate, works: Sequence[Work], profiled_s: Sequence[float], now_s: float
) -> list[float]:
    """Return the expected time of each of some pieces on a server.

    A measured piece takes its mean time, which decays to its fastest one while there is no news, and that, more slowly,
    to what a piece takes that was never measured: the profiled time, scaled by how slow the server is. A piece that it
    does not have takes forever; one that it has to load takes that time too, which decays like the mean, as others may
    have had it loaded.

    Args:
        server: present estimate.
        works: what it would compute.
        profiled_s: time of each on the profiled machine.
        now_s: on the device's clock.
    """
    scale = min(server.scale, 1.0)
    scale += _weight(now_s - server.scale_s, server.scale_runs) * (server.scale - scale)
    return [_service_s(server, work, one_s * scale, now_s) for work, one_s in zip(works, profiled_s, strict=True)]


def _service_s(server: ServerEstimate, work: Work, scaled_s: float, now_s: float) -> float:
    """Return the expected time of a piece that would take `scaled_s` if it was never measured."""
    if work.piece in server.lacks:
        return math.inf
    load_s = server.cold.get(work.piece, 0.0)
    load_s *= _weight(now_s - server.cold_s) if load_s else 0.0
    known = server.service.get(work)
    if known is None:
        return scaled_s + load_s
    age_s = now_s - known.at_s
    hoped_s = min(scaled_s, known.fastest_s) if scaled_s > 0 else known.fastest_s
    best_s = hoped_s + _weight(age_s, known.runs) * (known.fastest_s - hoped_s)
    return best_s + _weight(age_s) * (known.mean_s - known.fastest_s) + load_s


def _weight(age_s: float, runs: int = 0) -> float:
    """Return what is left of something seen so long ago, in so many runs."""
    return 0.5 ** (age_s / (SERVICE_HALF_LIFE_S * 2.0 ** min(runs, 60)))


def patience(ratios: Sequence[float]) -> float:
    """Return after how many times the predicted time a reply counts as late.

    It is the 95 % quantile of measured over predicted times, so that in calm about one request in twenty is hedged.

    Args:
        ratios: measured over predicted time of recent replies; fewer than `PATIENCE_SAMPLES` give `PATIENCE`.
    """
    if len(ratios) < PATIENCE_SAMPLES:
        return PATIENCE
    return float(np.clip(np.quantile(list(ratios), PATIENCE_QUANTILE), *PATIENCE_RANGE))


def patience_s(patience: float, expected_s: float, here_s: float, spare_s: float) -> float:
    """Return how long to wait for a server.

    Whoever waits as long as the device would take is at worst done in twice that time (Karlin et al., "Competitive
    snoopy caching", 1988, on renting or buying).

    Args:
        patience: after so many times the expected time nearly all replies have come.
        expected_s: until the reply.
        here_s: that the device would take.
        spare_s: time after which the device cannot meet the deadline any more.
    """
    least_s = MIN_PATIENCE * expected_s
    longest_s = patience * expected_s + SLACK_S
    if spare_s > least_s:
        longest_s = min(longest_s, spare_s)
    return min(longest_s, max(least_s, here_s) + SLACK_S)


def overdue_s(server: ServerEstimate, now_s: float) -> float:
    """Return how long ago everything in flight should have been answered; 0 if nothing is in flight or overdue.

    Args:
        server: present estimate.
        now_s: on the device's clock.
    """
    return max(now_s - max(server.free_s, server.link_free_s), 0.0) if server.in_flight else 0.0


def link_wait_s(server: ServerEstimate, now_s: float) -> float:
    """Return how long an upload that begins now would wait for the link, in seconds.

    Overdue requests are expected to take as long again and to hold up the link, so that a dead link is noticed before
    any transfer over it has ended.

    Args:
        server: present estimate.
        now_s: on the device's clock.
    """
    return max(server.link_free_s - now_s, overdue_s(server, now_s))


def server_wait_s(server: ServerEstimate, now_s: float) -> float:
    """Return when the server will have served everything sent to it so far, in seconds from now.

    A request that is sent now waits less than this, as its upload takes time too (`physics.latency`).

    Args:
        server: present estimate.
        now_s: on the device's clock.
    """
    if server.free_s <= server.reported_s:
        return overdue_s(server, now_s)
    came_s = server.others_share * (now_s - server.reported_s)
    return max(server.free_s - now_s + came_s, overdue_s(server, now_s))


def standing_wait_s(server: ServerEstimate, now_s: float) -> float:
    """Return the part of `server_wait_s` that others' new work will have replaced by the time a request arrives.

    A queue of q seconds that others fill for a share r of the server's time is (1 - r) t shorter after t. So a request
    that arrives after t waits r q, and max((1 - r) q - t, 0) more, up to the moment at which the queue is empty.

    Args:
        server: present estimate.
        now_s: on the device's clock.
    """
    return server.others_share * server_wait_s(server, now_s)


def room_now(server: ServerEstimate, now_s: float) -> float:
    """Return how many requests the server's queue takes; a full server is assumed to take one once its backlog is done.

    Args:
        server: present estimate.
        now_s: on the device's clock.
    """
    return server.room if server.room > 0 or server_wait_s(server, now_s) > 0 else 1.0


def usable(server: ServerEstimate, now_s: float) -> bool:
    """Return true if the server may be asked: it answers, and does not rest after failures.

    Args:
        server: present estimate.
        now_s: on the device's clock.
    """
    return server.failures < FAILURES_TO_EJECT and now_s >= server.down_until_s


def full_servers_s(servers: Sequence[ServerEstimate], now_s: float) -> dict[int, float]:
    """Return the servers that are up and whose queues take nothing now, with the seconds until they will.

    Args:
        servers: present estimate of each.
        now_s: on the device's clock.
    """
    return {
        index: server_wait_s(server, now_s)
        for index, server in enumerate(servers)
        if usable(server, now_s) and room_now(server, now_s) <= 0
    }
