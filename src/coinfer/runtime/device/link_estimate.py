"""What a device believes about a link: several estimators side by side, of which the one that erred least counts.

Pure functions over values. An estimator that suits one link misleads on another: after a stall the mean over time is
too low for long, and on a link that jitters the last transfer says little. So each is asked before every transfer what
it expects, and judged by how far it was off.
"""

import math
from typing import NamedTuple

HALF_LIVES_S = (0.05, 2.0)
"""Ages at which a transfer counts half in each estimator's mean; the first of them is about the last transfer."""
ERROR_GAIN = 0.15
"""Weight of the newest error in an estimator's mean error."""
FIRST_ERROR = 0.5
"""Mean error of an estimator that was not asked yet."""
CLEARLY = 0.8
"""The first estimator counts unless another's error is less than this share of its own."""
CERTAIN_S = 0.002
"""Time on the link from which a transfer tells its rate; what took less may have passed at once."""
FEW_PACKETS_BITS, FEW_PACKETS_S = 64_000.0, 0.01
"""So few bits may pass at once on any link; if they do, it is believed to carry them in this time."""
MAX_MARGIN = 2.0
"""Largest factor by which the mean time of a transfer exceeds the typical one."""


class LinkEstimate(NamedTuple):
    """The state of all estimators. Errors and spread are of the natural logarithm of the rate."""

    sums: tuple[tuple[float, float], ...]
    """Bits and seconds of past transfers, decayed with each of `HALF_LIVES_S`; long transfers count more."""
    errors: tuple[float, ...]
    """Mean absolute error of each estimator of late, in the order of `estimates_bps`."""
    at_s: float
    """When the last transfer ended."""
    round_trip_s: float
    """Smallest round trip of an empty message."""

    @property
    def estimates_bps(self) -> tuple[float, ...]:
        """Return the rate that each estimator expects: a mean over time."""
        return tuple(bits / seconds for bits, seconds in self.sums)

    @property
    def error(self) -> float:
        """Return the mean absolute error of the estimator that counts."""
        return self.errors[self._best]

    @property
    def rate_bps(self) -> float:
        """Return what the estimator expects that erred least of late."""
        return self.estimates_bps[self._best]

    @property
    def _best(self) -> int:
        """Return the index of the estimator that counts: the first, unless another errs clearly less."""
        best = min(range(len(self.errors)), key=lambda i: self.errors[i])
        return best if self.errors[best] < CLEARLY * self.errors[0] else 0

    @property
    def cautious_bps(self) -> float:
        """Return the rate that gives the mean time of a transfer, which is longer than at the typical rate.

        With a normal error of the rate's logarithm, of standard deviation d, it is longer by exp(d^2 / 2), where the
        mean absolute error is d sqrt(2 / pi).
        """
        return self.rate_bps / min(math.exp(self.error**2 * math.pi / 4), MAX_MARGIN)


def first_link(rate_bps: float, now_s: float) -> LinkEstimate:
    """Return a first guess about a link; it weighs as much as a transfer of 10 ms.

    Args:
        rate_bps: guessed rate, above 0.
        now_s: on the device's clock.
    """
    sums = tuple((rate_bps * 0.01, 0.01) for _ in HALF_LIVES_S)
    return LinkEstimate(sums, (FIRST_ERROR,) * len(sums), now_s, 0.0)


def after_transfer(link: LinkEstimate, size_bits: float, seconds: float, now_s: float) -> LinkEstimate:
    """Return the link after a transfer.

    Args:
        link: estimate so far.
        size_bits: carried by the transfer.
        seconds: time on the link, without the round trip's latency.
        now_s: when the transfer ended.
    """
    seconds = max(seconds, 1e-6)
    rate_bps, age_s = size_bits / seconds, max(now_s - link.at_s, 0.0)
    errors = tuple(
        error + ERROR_GAIN * (abs(math.log(rate_bps / expected_bps)) - error)
        for error, expected_bps in zip(link.errors, link.estimates_bps, strict=True)
    )
    sums = tuple(
        (bits * keep + size_bits, past_s * keep + seconds)
        for (bits, past_s), keep in zip(link.sums, (0.5 ** (age_s / half_s) for half_s in HALF_LIVES_S), strict=True)
    )
    return link._replace(sums=sums, errors=errors, at_s=now_s)


def after_exchange(link: LinkEstimate, size_bits: float, seconds: float, now_s: float) -> LinkEstimate:
    """Return the link after a message and its reply.

    An exchange that took no longer than the believed round trip shows that the round trip is shorter. One that took
    hardly longer shows only that the rate is no less than what it carried in `CERTAIN_S`, or in `FEW_PACKETS_S` if it
    was small.

    Args:
        link: estimate so far.
        size_bits: of the message and its reply together.
        seconds: from sending to the reply, including the round trip's latency and without the server's work.
        now_s: when the reply arrived.
    """
    on_link_s = seconds - link.round_trip_s
    if on_link_s <= 0 and seconds > 0:
        link = link._replace(round_trip_s=seconds)
    if on_link_s >= CERTAIN_S:
        return after_transfer(link, size_bits, on_link_s, now_s)
    at_most_s = CERTAIN_S if size_bits > FEW_PACKETS_BITS else FEW_PACKETS_S
    return after_transfer(link, size_bits, at_most_s, now_s) if size_bits / at_most_s > link.rate_bps else link


def after_ping(link: LinkEstimate, round_trip_s: float) -> LinkEstimate:
    """Return the link with the smallest round trip seen; it grows by 5 % per ping, so that a changed path shows.

    Args:
        link: estimate so far.
        round_trip_s: of an empty message.
    """
    known = link.round_trip_s
    return link._replace(round_trip_s=round_trip_s if known == 0.0 else min(known * 1.05, round_trip_s))
