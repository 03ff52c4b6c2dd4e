"""What a site measured of its requests: times on servers, how far they vary, and what else a request takes.

Everything is the median over the nodes of what each of them saw.
"""

import math
from collections.abc import Callable, Iterable, Sequence

import numpy as np

from coinfer.site.fitting.evidence import Decided
from coinfer.types import DEVICE

MIDDLE = 0.9
"""A uniform variable has this share of its range between its percentiles 5 and 95."""
MIN_RUNS = 3
"""Of fewer runs on a server a node tells no mean."""
MIN_RATIOS = 20
"""So few say nothing of how far computing times are from expected ones."""
ON_DEVICE = "device"
"""Who executed a request that its device answered."""


def half_range(values: np.ndarray) -> float:
    """Return half of the range of a uniform variable around 1, from its percentiles; 0 below 2 %.

    Args:
        values: around 1.
    """
    low, high = np.percentile(values, (5, 95))
    half = float(min((high - low) / 2 / MIDDLE, 0.9))
    return half if half >= 0.02 else 0.0


def computing(decisions: Sequence[Decided], expected_s: Callable[[Decided], float]) -> tuple[float, float]:
    """Return the ratio of measured to expected computing times, and how far it varies from one request to the next.

    Args:
        decisions: of which those count that a server carried out as it was decided.
        expected_s: from a decision to the time that is expected of its server.
    """
    ratios: dict[str, list[float]] = {}
    for one in decisions:
        if is_carried_out(one) and 0 < (usual_s := expected_s(one)) < math.inf:
            ratios.setdefault(one.node, []).append(one.record.server_s / usual_s)
    if sum(map(len, ratios.values())) < MIN_RATIOS:
        return 1.0, 0.0
    usual = float(np.median([np.median(own) for own in ratios.values()]))
    errors = [half_range(np.asarray(own) / np.median(own)) for own in ratios.values()]
    return usual, float(np.median(errors))


def believed_s(one: Decided) -> float:
    """Return the time on its server that a request's decider believed in.

    Args:
        one: sent to a server.
    """
    return float(one.observation.option_server_s[one.record.task, one.record.option, one.record.server])


def is_carried_out(one: Decided) -> bool:
    """Return true if the server that was chosen computed.

    Args:
        one: any decision.
    """
    r = one.record
    return r.server != DEVICE and r.admitted and r.server_s > 0 and one.addresses[r.server] == r.executed_on


def server_s(decisions: Sequence[Decided], address: str) -> float | None:
    """Return the mean time of a server for requests of one kind and option; None if hardly any was measured.

    Args:
        decisions: of that kind.
        address: of the server.
    """
    runs = [(one.node, one.record.server_s) for one in decisions if is_carried_out(one)
            and one.record.executed_on == address]  # fmt: skip
    means = [float(np.mean(own)) for own in _by_node(runs) if len(own) >= MIN_RUNS]
    return float(np.median(means)) if means else None


def download_s(decisions: Sequence[Decided]) -> float:
    """Return what a request takes beside uploads, waits and computing.

    A server does not tell how long an answer was under way to it: that, and what else it does not tell, is the rest.

    Args:
        decisions: all of devices, or all of servers.
    """
    if not decisions[0].by_server:
        return float(np.median([one.record.download_s for one in decisions]))
    rests = [(one.node, _rest_s(one)) for one in decisions if is_carried_out(one)]
    return float(np.median([np.mean(own) for own in _by_node(rests)])) if rests else 0.0


def _rest_s(one: Decided) -> float:
    r, o = one.record, one.observation
    upload_s = float(o.option_upload_bits[r.task, r.option] / o.uplink_bps[r.task, r.server])
    return max(r.latency_s - upload_s - r.queue_s - r.server_s, 0.0)


def refused_s(decisions: Sequence[Decided], model: str) -> float | None:
    """Return how long devices take to answer for a network themselves; None if none did.

    Args:
        decisions: of devices.
        model: name of the network.
    """
    times = [(one.node, one.record.device_s) for one in decisions
             if one.record.executed_on == ON_DEVICE and one.record.model == model]  # fmt: skip
    return float(np.median([np.median(own) for own in _by_node(times)])) if times else None


def _by_node(values: Iterable[tuple[str, float]]) -> list[list[float]]:
    found: dict[str, list[float]] = {}
    for node, value in values:
        found.setdefault(node, []).append(value)
    return list(found.values())
