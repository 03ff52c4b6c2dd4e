"""Which nodes are there: pure decisions, so that they are tested without a socket or a sleep."""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import NamedTuple

from coinfer.site.messages import (
    Hello,
    LinkReport,
    Report,
    ServedName,
    ServerInfo,
    ServerLoad,
    ServerProfile,
    ServingProfile,
    WorkReport,
)

LEASE_S = 1.5
"""A node that says nothing for so long counts as lost; it says something every third of it at least."""
INTERVAL_S = 0.06
"""From a view to the next report of a node under load, in a small site: what a node knows of another is as old as this,
the wait for the others' reports, and two ways through the network at most."""
NODES_PER_S = 200.0
"""Nodes that may report in a second; with many nodes each reports less often."""
FORGET_S = 3600.0
"""A node that is lost is shown for so long."""


@dataclass(frozen=True)
class Node:
    """What is known of a node."""

    hello: Hello
    session: int
    """Number of its connection."""
    joined_s: float
    seen_s: float
    """When it last said something."""
    connected: bool = True
    report: Report = field(default_factory=Report)
    report_s: float = -math.inf
    links: tuple[LinkReport, ...] = ()
    works: tuple[WorkReport, ...] = ()
    loaded: tuple[ServedName, ...] | None = None
    """What it serves, as it reported since it joined; None for what its hello says."""
    told: ServingProfile | None = None
    """How it batches and loads, the same way."""

    @property
    def profile(self) -> ServingProfile | None:
        """Return how it batches and loads; None if it does neither, or does not say."""
        return self.told or self.hello.serving

    @property
    def models(self) -> tuple[ServedName, ...]:
        """Return what it serves now."""
        return self.hello.models if self.loaded is None else self.loaded

    def is_there(self, now_s: float) -> bool:
        """Return true if the node holds its lease.

        Args:
            now_s: on the controller's clock.
        """
        return self.connected and now_s - self.seen_s <= LEASE_S


class Joined(NamedTuple):
    """What became of a node's `Hello`."""

    nodes: dict[str, Node]
    refusal: str
    """Why it is refused; empty if it is not."""
    superseded: int | None = None
    """The connection of an older node of the same name, which must go."""


def join(nodes: dict[str, Node], hello: Hello, session: int, now_s: float) -> Joined:
    """Return the nodes after one has said hello. Of two nodes with one name the one that started later stays.

    Args:
        nodes: by name.
        hello: of the node.
        session: number of its connection.
        now_s: on the controller's clock.
    """
    known = nodes.get(hello.name)
    if known is not None and known.is_there(now_s) and known.hello.epoch > hello.epoch:
        where = f" at {known.hello.address}" if known.hello.address else ""
        reason = f"a newer node called {hello.name}{where} is there; stop one of them, or give it another name"
        return Joined(nodes, reason)
    superseded = known.session if known is not None and known.connected else None
    return Joined({**nodes, hello.name: Node(hello, session, now_s, now_s)}, "", superseded)


def hear(node: Node, now_s: float, report: Report) -> Node:
    """Return a node after it has reported.

    Args:
        node: before.
        now_s: on the controller's clock.
        report: what it said.
    """
    links = node.links if report.links is None else tuple(report.links)
    works = node.works if report.works is None else tuple(report.works)
    loaded = node.loaded if report.models is None else report.models
    told = report.profile or node.told
    return replace(
        node, seen_s=now_s, report=report, report_s=now_s, links=links, works=works, loaded=loaded, told=told
    )


def leave(nodes: dict[str, Node], name: str, session: int) -> dict[str, Node]:
    """Return the nodes after a connection has ended.

    Args:
        nodes: by name.
        name: of the node.
        session: number of the connection; the end of an older one changes nothing.
    """
    node = nodes.get(name)
    if node is None or node.session != session:
        return nodes
    return {**nodes, name: replace(node, connected=False)}


def forget(nodes: Mapping[str, Node], now_s: float) -> dict[str, Node]:
    """Return the nodes without those that were lost long ago.

    Args:
        nodes: by name.
        now_s: on the controller's clock.
    """
    return {name: node for name, node in nodes.items() if node.is_there(now_s) or now_s - node.seen_s < FORGET_S}


def interval_s(nodes: Mapping[str, Node]) -> float:
    """Return the seconds from a view to a node's next report, under load.

    Args:
        nodes: by name.
    """
    return max(INTERVAL_S, sum(node.connected for node in nodes.values()) / NODES_PER_S)


def servers(nodes: Mapping[str, Node], now_s: float) -> list[ServerInfo]:
    """Return the edge servers that are there, by name.

    Args:
        nodes: by name.
        now_s: on the controller's clock.
    """
    return [
        ServerInfo(
            name=name,
            address=node.hello.address,
            models=node.models,
            works=node.works,
        )
        for name, node in sorted(nodes.items())
        if node.hello.role == "edge" and node.is_there(now_s)
    ]


def profiles(nodes: Mapping[str, Node], now_s: float) -> list[ServerProfile]:
    """Return how the edge servers that are there batch and load, of those that do.

    Args:
        nodes: by name.
        now_s: on the controller's clock.
    """
    return [
        ServerProfile(name, node.profile)
        for name, node in sorted(nodes.items())
        if node.hello.role == "edge" and node.profile is not None and node.is_there(now_s)
    ]


def loads(nodes: Mapping[str, Node], now_s: float, since_s: float = -math.inf) -> tuple[ServerLoad, ...]:
    """Return the loads of the edge servers that are there.

    Args:
        nodes: by name.
        now_s: on the controller's clock; the ages count from it.
        since_s: only of those that have reported later.
    """
    return tuple(
        ServerLoad(
            name,
            round(node.report.backlog_s, 4),
            node.report.queued,
            node.report.room,
            round(max(now_s - node.report_s, 0.0), 4),
            node.report.serving,
        )
        for name, node in sorted(nodes.items())
        if node.hello.role == "edge" and node.report_s > since_s and node.is_there(now_s)
    )
