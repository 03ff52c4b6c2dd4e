"""The requests of a log one by one: when each came and to whom, and how long it took until it was answered.

A request whose server is chosen by the one that it reaches may be decided several times, if servers refuse it or fail,
and its device may answer last. All of these decisions bear its id.
"""

from collections.abc import Iterable, Sequence
from typing import NamedTuple

from coinfer.scenario.recorded import RecordedRequest
from coinfer.site.fitting.evidence import Decided
from coinfer.site.fitting.fit import SiteFit
from coinfer.site.messages import Decision

SLOTS_BETWEEN = 10
"""Slots in the mean time between two requests."""
MIN_SLOT_S = 1e-4


class Asked(NamedTuple):
    """An answered request."""

    at_s: float
    """When it came, on the clock of its node."""
    node: str
    """The device, or the server that it reached first and that chose for it."""
    model: str
    cut: str
    """What was sent to that server; empty of a device."""
    latency_s: float
    """Since it came there until it was answered, by whomever."""


def asked(decisions: Iterable[Decided], by_server: bool) -> list[Asked]:
    """Return the answered requests of a log in the order in which they came.

    Args:
        decisions: of the log, those of devices among them, as these tell when they answered a refused request.
        by_server: those that reached servers which chose for them; else those about which devices decided.
    """
    if by_server:
        return _asked_by_server(decisions)
    own = [(one.node, one.record) for one in decisions if not one.by_server]
    return sorted(Asked(r.at_s - r.latency_s, node, r.model, "", r.latency_s) for node, r in own)


def _asked_by_server(decisions: Iterable[Decided]) -> list[Asked]:
    attempts: dict[str, list[Decided]] = {}
    answers: dict[str, Decision] = {}
    for number, one in enumerate(decisions):
        if one.by_server:
            attempts.setdefault(one.record.request or f"number {number}", []).append(one)
        elif one.record.request:
            answers[one.record.request] = one.record
    found = (_asked(sorted(own, key=lambda one: one.record.at_s), answers.get(id)) for id, own in attempts.items())
    return sorted(one for one in found if one is not None)


def _asked(attempts: Sequence[Decided], answer: Decision | None) -> Asked | None:
    first, last = attempts[0].record, attempts[-1].record
    latency_s = last.at_s + last.latency_s - first.at_s
    if not last.admitted:
        if answer is None:
            return None
        latency_s = answer.at_s - first.at_s  # devices tell when they have answered
    return Asked(first.at_s, attempts[0].node, first.model, first.cut, max(latency_s, 0.0))


def recorded_requests(fit: SiteFit, requests: Sequence[Asked]) -> list[RecordedRequest]:
    """Return requests as a fitted world has them, from the first one on; what it does not know is left out.

    Args:
        fit: of the same site.
        requests: in the order in which they came. What was sent in an unusual form counts as the usual one.
    """
    kinds = {(kind.model, kind.cut): number for number, kind in enumerate(fit.kinds)}
    usual = {kind.model: number for number, kind in sorted(enumerate(fit.kinds), key=lambda one: one[1].share)}
    known = [(one, kinds.get((one.model, one.cut), usual.get(one.model))) for one in requests]
    return [
        RecordedRequest(one.at_s - requests[0].at_s, fit.deciders.index(one.node), kind)
        for one, kind in known
        if kind is not None and one.node in fit.deciders
    ]


def with_short_slots(fit: SiteFit) -> SiteFit:
    """Return a fit with slots so short that few requests are decided together that were not.

    Args:
        fit: of a site.
    """
    return fit._replace(slot_s=min(fit.slot_s, max(float(f"{1 / (SLOTS_BETWEEN * fit.rate_per_s):.2g}"), MIN_SLOT_S)))
