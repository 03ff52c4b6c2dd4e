"""What nodes hear of the edge servers: of all that the controller knows only what is new to each of them."""

import math
from collections.abc import Iterable, Mapping
from typing import TypeVar

from coinfer.site.controller import registry
from coinfer.site.controller.registry import Node
from coinfer.site.messages import ServedName, ServerInfo, ServerProfile, ServingProfile, View, to_bytes

Told = TypeVar("Told", ServerInfo, ServerProfile)
INFO_INTERVAL_S = 1.0
"""Who is there and what they serve is sent at once; new service times of the servers after this time."""


class Views:
    """Composes views, and remembers since when each piece of knowledge is as it is."""

    def __init__(self) -> None:
        self._infos: dict[str, tuple[ServerInfo, float]] = {}
        self._present: tuple[tuple[str, int], ...] = ()
        self._profiles: dict[str, tuple[ServerProfile, float]] = {}
        self._served: tuple[tuple[tuple[ServedName, ...], ServingProfile | None], ...] = ()
        self._interval_s = 0.0
        self._present_s, self._looked_s = 0.0, -math.inf
        self._composed: dict[float, bytes] = {}
        self._now_s = 0.0

    def observe(self, nodes: Mapping[str, Node], now_s: float) -> None:
        """Take in what is known now, before views are composed of it.

        Args:
            nodes: by name.
            now_s: on the controller's clock.
        """
        self._composed, self._now_s = {}, now_s
        edges = ((name, node) for name, node in sorted(nodes.items()) if node.hello.role == "edge")
        there = [(name, node) for name, node in edges if node.is_there(now_s)]
        present = tuple((name, node.session) for name, node in there)
        served = tuple((node.models, node.profile) for _, node in there)
        interval_s = registry.interval_s(nodes)
        is_other = (present, interval_s) != (self._present, self._interval_s)
        if is_other:
            self._present, self._interval_s, self._present_s = present, interval_s, now_s
        if is_other or served != self._served or now_s - self._looked_s >= INFO_INTERVAL_S:
            self._looked_s, self._served = now_s, served
            self._infos = _since(self._infos, registry.servers(nodes, now_s), now_s)
            self._profiles = _since(self._profiles, registry.profiles(nodes, now_s), now_s)

    def view(self, nodes: Mapping[str, Node], since_s: float) -> bytes:
        """Return the view for a node as it travels; empty if there is nothing new to it.

        Args:
            nodes: by name, as they were observed.
            since_s: when the last view was composed that was sent to the node.
        """
        if since_s not in self._composed:
            self._composed[since_s] = self._compose(nodes, since_s)
        return self._composed[since_s]

    def _compose(self, nodes: Mapping[str, Node], since_s: float) -> bytes:
        is_other = self._present_s > since_s
        view = View(
            names=tuple(self._infos) if is_other else None,
            interval_s=self._interval_s if is_other else None,
            servers=tuple(info for info, at_s in self._infos.values() if at_s > since_s),
            profiles=tuple(profile for profile, at_s in self._profiles.values() if at_s > since_s),
            loads=registry.loads(nodes, self._now_s, since_s),
        )
        return to_bytes(view) if view != View() else b""


def _since(
    known: Mapping[str, tuple[Told, float]], told: Iterable[Told], now_s: float
) -> dict[str, tuple[Told, float]]:
    """Return what is told of each server, with the time since which it is so."""
    found = ((one, known.get(one.name)) for one in told)
    return {one.name: old if old and old[0] == one else (one, now_s) for one, old in found}
