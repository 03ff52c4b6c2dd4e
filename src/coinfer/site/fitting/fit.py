"""The parameters of a simulated world from the decisions of a site.

What a server takes is the median over the nodes of what each node saw, so that a minority of nodes that tell nonsense
changes little. Where servers choose for others, each of them saw how long requests were computed, and its mean counts;
where devices decide, what they believed counts, scaled to what they measured. Rates are those that each node saw of its
own links.
"""

import math
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from itertools import pairwise
from typing import NamedTuple, TypeVar

import numpy as np

from coinfer.errors import UserError
from coinfer.site.fitting import measured
from coinfer.site.fitting.evidence import Decided

MIN_DECISIONS = 100
"""Fewer do not tell an arrival rate within some 20 % (1.96 / sqrt(100))."""
MIN_KIND = 20
"""A network of which there are fewer is left out."""
PAUSE_S = 60.0
"""The newest stretch of the log without such a pause is fitted, or one of twenty usual gaps if that is longer."""
SAME_BITS = 0.02
"""Options are the same if their sizes differ by less than this part."""


Value = TypeVar("Value")


class FitError(UserError):
    """Experience that does not tell enough; the message is one line for a person."""


class Kind(NamedTuple):
    """Requests that have the same options: a network, or a piece of one."""

    name: str
    model: str
    cut: str
    """What is sent, if servers decide; empty if devices do, which have several options."""
    share: float
    bits: np.ndarray
    """[O] sent for each option; 0 if nothing leaves the device."""
    device_s: np.ndarray
    """[U, O]"""
    server_s: np.ndarray
    """[O, N]; infinite where a server does not serve it."""
    refused_s: float | None
    """On the device, if no server took it; None if that is one of the options, or no device told."""
    accuracy: float
    deadline_s: tuple[float, float] | None
    """Least and greatest; None if most requests have none."""


class SiteFit(NamedTuple):
    """U deciders of requests, N servers."""

    by_server: bool
    """Whether servers decided for the requests that reached them; their devices decided otherwise."""
    deciders: tuple[str, ...]
    """[U] devices, or the edge servers that requests reached."""
    servers: tuple[str, ...]
    """[N] addresses."""
    kinds: tuple[Kind, ...]
    rate_bps: np.ndarray
    """[U, N]"""
    rate_variation: float
    """Rates lie within this part of their means."""
    capacity: tuple[int | None, ...]
    """[N] tasks that each held at most."""
    download_s: float
    compute_error: float
    """Computing times lie within this part of the believed ones."""
    age_s: float
    """Of what was known about other servers."""
    rate_per_s: float
    dispersion: float
    """Variance over mean of the arrivals in a slot; 1 for a Poisson process."""
    slot_s: float
    since_s: float
    """When the first of these decisions was made, seconds since 1970."""
    decisions: int
    notes: tuple[str, ...]


def fit(decisions: Sequence[Decided], slot_s: float | None = None, pause_s: float = PAUSE_S) -> SiteFit:
    """Return the parameters of the world that decisions were made in.

    Args:
        decisions: of the log. If edge servers decided some, those are taken, else those of devices.
        slot_s: time between two decisions of the simulator; None for that in which as many requests come as were
            decided together.
        pause_s: what was decided before such a pause does not count.

    Raises:
        FitError: if there are too few decisions, or they tell too little.
    """
    by_server = sum(one.by_server for one in decisions) >= MIN_DECISIONS
    chosen = _newest([one for one in decisions if one.by_server == by_server and one.addresses], pause_s)
    if len(chosen) < MIN_DECISIONS:
        raise FitError(
            f"only {len(chosen)} decisions with all that was observed; expected at least {MIN_DECISIONS}, "
            "without a pause, before a world can be fitted"
        )
    kinds, notes = _kinds(chosen)
    taken = [one for group in kinds.values() for one in group]
    if not taken:
        raise FitError(f"no network was asked for {MIN_KIND} times with the same options; let the site run for longer")
    deciders = tuple(sorted({one.node for one in taken}))
    servers = _servers(taken)
    rate_bps, variation = _rates(taken, deciders, servers)
    rate_per_s, counts_per = _arrivals(taken)
    together = len(taken) / len({(one.node, one.record.group, one.record.at_s) for one in taken})
    slot_s = slot_s or float(f"{min(max(together / rate_per_s, 1e-3), 10.0):.2g}")
    stretch, error = measured.computing(taken, measured.believed_s)
    fitted = [_kind(name, group, deciders, servers, stretch, len(taken)) for name, group in kinds.items()]
    if by_server:
        on_devices = [one for one in decisions if not one.by_server]
        fitted = [kind._replace(refused_s=measured.refused_s(on_devices, kind.model)) for kind in fitted]
        error = measured.computing(taken, lambda one: _fitted_s(one, fitted, servers))[1]
    for kind in fitted:
        unserved = [servers[n] for n in np.flatnonzero(~np.isfinite(kind.server_s).all(axis=0))]
        notes += [f"{kind.name}: no time known of {', '.join(unserved)}"] if unserved else []
    return SiteFit(
        by_server=by_server,
        deciders=deciders,
        servers=servers,
        kinds=tuple(fitted),
        rate_bps=rate_bps,
        rate_variation=variation,
        capacity=_capacity(taken, servers),
        download_s=measured.download_s(taken),
        compute_error=error,
        age_s=_age(taken),
        rate_per_s=rate_per_s,
        dispersion=counts_per(slot_s),
        slot_s=slot_s,
        since_s=min(one.record.at_s for one in taken),
        decisions=len(taken),
        notes=tuple(notes),
    )


def _newest(decisions: Sequence[Decided], pause_s: float) -> list[Decided]:
    """Return the decisions after the last long pause of each node, by the nodes' clocks."""
    found: list[Decided] = []
    for node in {one.node for one in decisions}:
        own = sorted((one for one in decisions if one.node == node), key=lambda one: one.record.at_s)
        gaps = [later.record.at_s - one.record.at_s for one, later in pairwise(own)]
        limit_s = max(pause_s, 20 * float(np.mean(sorted(gaps)[: len(gaps) * 9 // 10 + 1]))) if gaps else pause_s
        last = max((number for number, gap in enumerate(gaps, 1) if gap > limit_s), default=0)
        found += own[last:]
    return found


def _kinds(decisions: Sequence[Decided]) -> tuple[dict[str, list[Decided]], list[str]]:
    """Return the decisions by what was asked for, each with the options that most of them had, and notes."""
    named: dict[tuple[str, str], list[Decided]] = {}
    for one in decisions:
        named.setdefault((one.record.model, one.record.cut if one.by_server else ""), []).append(one)
    kinds: dict[str, list[Decided]] = {}
    left_out = 0
    for (model, _), group in sorted(named.items()):
        lengths = Counter(one.observation.option_mask.shape[1] for one in group)
        usual = [one for one in group if one.observation.option_mask.shape[1] == lengths.most_common(1)[0][0]]
        bits = np.median([_bits(one) for one in usual], axis=0)
        same = [one for one in usual if one.by_server or np.allclose(_bits(one), bits, rtol=SAME_BITS, atol=1.0)]
        left_out += len(group) - (len(same) if len(same) >= MIN_KIND else 0)
        if len(same) >= MIN_KIND:
            count = sum(one[0].record.model == model for one in kinds.values())
            kinds[f"{model}-{count + 1}" if count else model] = same
    return kinds, [f"{left_out} decisions with unusual options are left out"] if left_out else []


def _bits(one: Decided) -> np.ndarray:
    return one.observation.option_upload_bits[one.record.task]


def _servers(decisions: Sequence[Decided]) -> tuple[str, ...]:
    """Return the servers that at least half of the deciders knew."""
    known: dict[str, set[str]] = {}
    for one in decisions:
        known.setdefault(one.node, set()).update(one.addresses)
    counts = Counter(address for addresses in known.values() for address in addresses)
    found = tuple(sorted(address for address, count in counts.items() if 2 * count >= len(known)))
    if not found:
        raise FitError("the deciders know no server in common")
    return found


def _by_node(
    decisions: Sequence[Decided], servers: Sequence[str], value: Callable[[Decided, int], Value]
) -> Mapping[tuple[str, str], list[Value]]:
    """Return all values of each node about each server."""
    found: dict[tuple[str, str], list[Value]] = {}
    for one in decisions:
        for n, address in enumerate(one.addresses[: one.observation.option_server_s.shape[2]]):
            if address in servers:
                found.setdefault((one.node, address), []).append(value(one, n))
    return found


def _rates(decisions: Sequence[Decided], deciders: Sequence[str], servers: Sequence[str]) -> tuple[np.ndarray, float]:
    seen = _by_node(decisions, servers, lambda one, n: float(one.observation.uplink_bps[one.record.task, n]))
    usual = {pair: float(np.median(rates)) for pair, rates in seen.items()}
    others = float(np.median(list(usual.values())))
    rate_bps = np.array([[usual.get((node, address), others) for address in servers] for node in deciders])
    relative = np.concatenate([np.asarray(rates) / max(usual[pair], 1.0) for pair, rates in seen.items()])
    return np.clip(rate_bps, 1.0, 1e12), measured.half_range(relative)


def _kind(
    name: str,
    decisions: Sequence[Decided],
    deciders: Sequence[str],
    servers: Sequence[str],
    stretch: float,
    total: int,
) -> Kind:
    seen = _by_node(decisions, servers, lambda one, n: one.observation.option_server_s[one.record.task, :, n])
    options = len(_bits(decisions[0]))

    def usual(address: str) -> np.ndarray:
        measured_s = measured.server_s(decisions, address) if decisions[0].by_server else None
        if measured_s is not None:
            return np.array([measured_s])
        medians = [np.median(np.array(times), axis=0) for (_, to), times in seen.items() if to == address]
        return np.median(medians, axis=0) * stretch if medians else np.full(options, math.inf)

    own = {
        node: np.median([o.observation.option_device_s[o.record.task] for o in decisions if o.node == node], axis=0)
        for node in {one.node for one in decisions}
    }
    others = np.median(list(own.values()), axis=0)
    deadlines = np.array([one.observation.deadline_s[one.record.task] for one in decisions])
    finite = deadlines[np.isfinite(deadlines)]
    return Kind(
        name=name,
        model=decisions[0].record.model,
        cut=decisions[0].record.cut if decisions[0].by_server else "",
        share=len(decisions) / total,
        bits=np.median([_bits(one) for one in decisions], axis=0),
        device_s=np.array([own.get(node, others) for node in deciders]),
        server_s=np.array([usual(address) for address in servers]).T,
        refused_s=None,
        accuracy=float(np.median([one.observation.option_accuracy[one.record.task].max() for one in decisions])),
        deadline_s=(float(finite.min()), float(finite.max())) if 2 * len(finite) > len(deadlines) else None,
    )


def _fitted_s(one: Decided, kinds: Sequence[Kind], servers: Sequence[str]) -> float:
    """Return the time of the server that a request was given to by another one; infinite if it is not known."""
    r = one.record
    if r.executed_on not in servers:
        return math.inf
    place = servers.index(r.executed_on)
    known = (kind.server_s[0, place] for kind in kinds if (kind.model, kind.cut) == (r.model, r.cut))
    return float(next(known, math.inf))


def _capacity(decisions: Sequence[Decided], servers: Sequence[str]) -> tuple[int | None, ...]:
    """Return the greatest room of each server that any moment showed, by the median of the nodes."""
    seen = _by_node(decisions, servers, lambda one, n: float(one.observation.server_room[n]))
    most = [[float(np.max(rooms)) for (_, to), rooms in seen.items() if to == address] for address in servers]
    usual = [float(np.median(rooms)) if rooms else math.inf for rooms in most]
    return tuple(round(room) if math.isfinite(room) and room >= 1 else None for room in usual)


def _age(decisions: Sequence[Decided]) -> float:
    """Return the usual age of what was known about servers that are not the decider itself."""
    ages = np.concatenate([one.observation.observation_age_s for one in decisions])
    ages = ages[np.isfinite(ages) & (ages > 0)]
    return float(np.median(ages)) if len(ages) else 0.0


def _arrivals(decisions: Sequence[Decided]) -> tuple[float, Callable[[float], float]]:
    """Return the requests per second, and the dispersion of their counts in slots of a given length.

    Dispersion is that of all nodes together, while most of them were there.
    """
    moments = [np.sort([one.record.at_s for one in decisions if one.node == node]) for node in _nodes(decisions)]
    rate = sum((len(own) - 1) / (own[-1] - own[0]) for own in moments if own[-1] > own[0])
    if rate <= 0:
        raise FitError("all decisions were made at one moment, so how often requests come is not known")
    first, last = (float(np.median([own[i] for own in moments])) for i in (0, -1))
    at_s = np.concatenate(moments)

    def dispersion(slot_s: float) -> float:
        slots = int((last - first) / slot_s)
        if slots < 2:
            return 1.0
        inside = at_s[(at_s >= first) & (at_s < first + slots * slot_s)]
        counts = np.bincount(((inside - first) / slot_s).astype(int), minlength=slots)
        return float(counts.var(ddof=1) / counts.mean()) if counts.any() else 1.0

    return float(rate), dispersion


def _nodes(decisions: Sequence[Decided]) -> list[str]:
    return sorted({one.node for one in decisions})
