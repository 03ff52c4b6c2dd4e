"""What a node has measured of its jobs: how long each kind takes."""

from collections.abc import Hashable, Mapping
from typing import NamedTuple

RECENT = 9
"""Service times that are remembered of each kind."""
MAX_KINDS = 256


class ServiceTimes(NamedTuple):
    """Measured service times of one kind of job."""

    recent_s: tuple[float, ...]
    """The most recent ones, the newest last."""
    measured_s: float
    """When the newest one ended, on the node's clock."""

    @property
    def typical_s(self) -> float:
        """Return the mean of the recent times without the longest, so that one cold run does not count."""
        return typical(self.recent_s)


def typical(times_s: tuple[float, ...]) -> float:
    """Return the mean of service times without the longest one.

    Args:
        times_s: at least one; a single time is returned as it is.
    """
    kept = sorted(times_s)[: max(len(times_s) - 1, 1)]
    return sum(kept) / len(kept)


def after_service(
    service: Mapping[Hashable, ServiceTimes], kind: Hashable, service_s: float, now_s: float
) -> Mapping[Hashable, ServiceTimes]:
    """Return the service times after one more was measured; the kind that was not measured for longest is forgotten.

    Args:
        service: measured so far, by kind.
        kind: of the job.
        service_s: how long it took.
        now_s: when it ended, on the node's clock.
    """
    times = dict(service)
    old = times.pop(kind, None)
    if old is None and len(times) >= MAX_KINDS:
        del times[min(times, key=lambda k: times[k].measured_s)]
    recent_s = (*(old.recent_s if old else ()), service_s)[-RECENT:]
    return times | {kind: ServiceTimes(recent_s, now_s)}
