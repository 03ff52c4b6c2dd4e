"""Edge servers that batch and load, as the rules of `policies.heuristics.demand` know them, from what they told.

The server itself and all others make the same state of the same report. A network is what bears a name; pieces of it
run in batches of their own, and it is in memory if any of them is.
"""

import math
from collections.abc import Mapping, Sequence
from typing import NamedTuple

from coinfer.physics.batching import ALONE, BatchTimes
from coinfer.physics.loading import Loaded
from coinfer.policies.heuristics.server_times import Asked, ServerState
from coinfer.site.serving_messages import NetworkProfile, ServingLoad, ServingProfile

MAX_NUMBERS = 1024
"""Networks, or pieces, that are told apart; beyond that all are numbered anew."""


class Numbers:
    """Numbers names from 0, in the order in which they come."""

    def __init__(self) -> None:
        self._by_name: dict[str, int] = {}

    def __len__(self) -> int:
        return len(self._by_name)

    @property
    def names(self) -> tuple[str, ...]:
        """Return all names, by number."""
        return tuple(self._by_name)

    def of(self, name: str) -> int:
        """Return the number of a name.

        Args:
            name: may be new.
        """
        return self._by_name.setdefault(name, len(self._by_name))


class Catalogue:
    """The networks and pieces of a site, by number."""

    def __init__(self) -> None:
        self.networks, self.pieces = Numbers(), Numbers()

    @property
    def is_full(self) -> bool:
        """Return true if a new one should begin."""
        return max(len(self.networks), len(self.pieces)) > MAX_NUMBERS

    def add(self, profile: ServingProfile) -> None:
        """Number all that a server knows.

        Args:
            profile: of the server.
        """
        for network in profile.networks:
            self.networks.of(network.name)
        for piece in profile.pieces:
            self.pieces.of(piece.work)


class Told(NamedTuple):
    """What a server that batches or loads told last."""

    profile: ServingProfile
    load: ServingLoad


def does_serve(profile: ServingProfile | None) -> bool:
    """Return true if a server may have to load networks, or runs any as batches.

    Args:
        profile: of the server; None if it does neither.
    """
    if profile is None:
        return False
    return profile.memory_bytes is not None or any(one.sizes[-1] > 1 for one in profile.networks)


def server_state(told: Told, catalogue: Catalogue, services: Mapping[str, float], unknown_s: float) -> ServerState:
    """Return a server in the times of its report.

    Args:
        told: by the server.
        catalogue: has all networks and pieces of the profile, and those of the tasks to decide.
        services: seconds that it takes for one request alone, by the key of the work.
        unknown_s: believed time of work that is not among them.
    """
    profile, load = told
    own = {catalogue.networks.of(one.name): one for one in profile.networks}
    known = [own.get(x) for x in range(len(catalogue.networks))]
    load_s, sizes = _loads(profile, known)
    numbers = [catalogue.networks.of(one.name) for one in profile.networks]
    warm = {
        numbers[network]: Loaded(sizes[numbers[network]], load_s[numbers[network]], credit)
        for network, credit in zip(load.warm, load.credits, strict=True)
        if network < len(numbers)
    }
    return ServerState(
        times=[_times(one) for one in known],
        load_s=load_s,
        size_bytes=sizes,
        memory_bytes=math.inf if profile.memory_bytes is None else float(profile.memory_bytes),
        free_s=load.free_s,
        running=tuple(numbers[network] for network in load.running if network < len(numbers)),
        asked=_asked(told, catalogue, services, unknown_s),
        warm=warm,
        loading=_loading(load, numbers),
        wanted=tuple(numbers[network] for network in load.wanted if network < len(numbers)),
    )


def busy_state(catalogue: Catalogue, backlog_s: float) -> ServerState:
    """Return a server of which only its backlog is known: it runs every request alone, and loads nothing.

    Args:
        catalogue: has all networks of the tasks to decide.
        backlog_s: time until it could begin.
    """
    count = len(catalogue.networks)
    return ServerState([ALONE] * count, [0.0] * count, [1.0] * count, math.inf, free_s=backlog_s)


def _asked(told: Told, catalogue: Catalogue, services: Mapping[str, float], unknown_s: float) -> tuple[Asked, ...]:
    (profile, load), found = told, list[Asked]()
    queued = len(load.waiting) - load.cold
    for place, number in enumerate(load.waiting):
        if number >= len(profile.pieces) or profile.pieces[number].network >= len(profile.networks):
            continue
        piece = profile.pieces[number]
        deadline_s = load.deadlines_s[place] if load.deadlines_s else None
        found.append(
            Asked(
                ready_s=0.0,
                service_s=services.get(piece.work, unknown_s),
                piece=catalogue.pieces.of(piece.work),
                network=catalogue.networks.of(profile.networks[piece.network].name),
                deadline_s=math.inf if deadline_s is None else deadline_s,
                joined_s=0.0 if place < queued else math.inf,
            )
        )
    return tuple(found)


def _loads(profile: ServingProfile, known: Sequence[NetworkProfile | None]) -> tuple[list[float], list[float]]:
    """Return load seconds and bytes of networks; those that the server never loaded are believed as its others."""
    loaded = [one for one in profile.networks if one.size_bytes]
    usual_s = sum(one.load_s for one in loaded) / len(loaded) if loaded else 0.0
    usual_bytes = sum(one.size_bytes for one in loaded) / len(loaded) if loaded else 1.0
    rows = [(one.load_s, float(one.size_bytes)) if one and one.size_bytes else (usual_s, usual_bytes) for one in known]
    return [load for load, _ in rows], [size for _, size in rows]


def _loading(load: ServingLoad, numbers: list[int]) -> tuple[int, float] | None:
    known = load.loading is not None and load.loading < len(numbers)
    return (numbers[load.loading], load.loaded_s) if known and load.loading is not None else None


def _times(profile: NetworkProfile | None) -> BatchTimes:
    return ALONE if profile is None else BatchTimes(profile.sizes, profile.ratios).each_size()
