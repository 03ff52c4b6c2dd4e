"""What a device believes about a link: a mean over its transfers of late. Pure functions over values."""

from typing import NamedTuple

HALF_LIFE_S = 0.05
"""Age at which a transfer counts half in the mean. What is longer ago says little of a link that others share, or that
moves; several means side by side, and a margin for their errors, gained nothing (benchmarks/README.md)."""
CERTAIN_S = 0.002
"""Time on the link from which a transfer tells its rate; what took less may have passed at once."""
FEW_PACKETS_BITS, FEW_PACKETS_S = 64_000.0, 0.01
"""So few bits may pass at once on any link; if they do, it is believed to carry them in this time."""
MUCH_FASTER = 2.0
"""Ratio to the believed rate from which what passed at once calls for a measurement."""


class LinkEstimate(NamedTuple):
    """What is believed of a link."""

    bits: float
    """Carried by past transfers, decayed with `HALF_LIFE_S`."""
    seconds: float
    """That these took, decayed likewise; so a long transfer counts more than a short one."""
    at_s: float
    """When the last transfer ended."""
    round_trip_s: float
    """Smallest round trip of an empty message."""
    is_bound: bool = False
    """The last transfer passed at once, so that the link may be much faster than it is believed to be."""

    @property
    def rate_bps(self) -> float:
        """Return the expected rate: a mean over time."""
        return self.bits / self.seconds


def first_link(rate_bps: float, now_s: float) -> LinkEstimate:
    """Return a first guess about a link; it weighs as much as a transfer of 10 ms.

    Args:
        rate_bps: guessed rate, above 0.
        now_s: on the device's clock.
    """
    return LinkEstimate(rate_bps * 0.01, 0.01, now_s, 0.0)


def after_transfer(link: LinkEstimate, size_bits: float, seconds: float, now_s: float) -> LinkEstimate:
    """Return the link after a transfer.

    Args:
        link: estimate so far.
        size_bits: carried by the transfer.
        seconds: time on the link, without the round trip's latency.
        now_s: when the transfer ended.
    """
    keep = 0.5 ** (max(now_s - link.at_s, 0.0) / HALF_LIFE_S)
    bits, past_s = link.bits * keep + size_bits, link.seconds * keep + max(seconds, 1e-6)
    return link._replace(bits=bits, seconds=past_s, at_s=now_s, is_bound=False)


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
    faster = size_bits / at_most_s / link.rate_bps
    link = after_transfer(link, size_bits, at_most_s, now_s) if faster > 1 else link
    return link._replace(is_bound=faster > MUCH_FASTER)


def after_ping(link: LinkEstimate, round_trip_s: float) -> LinkEstimate:
    """Return the link with the smallest round trip seen; it grows by 5 % per ping, so that a changed path shows.

    Args:
        link: estimate so far.
        round_trip_s: of an empty message.
    """
    known = link.round_trip_s
    return link._replace(round_trip_s=round_trip_s if known == 0.0 else min(known * 1.05, round_trip_s))
