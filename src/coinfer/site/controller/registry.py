"""Which nodes are there: pure decisions, so that they are tested without a socket or a sleep."""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import NamedTuple

from coinfer.site.messages import Hello, LinkReport, Report, ServerInfo, ServerLoad, WorkReport

LEASE_S = 1.5
"""A node that says nothing for so long counts as lost; it says something every third of it at least."""
INTERVAL_S = 0.05
"""Between the reports of a node under load, in a small site."""
NODES_PER_S = 250.0
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
    report_s: float = 0.0
    links: tuple[LinkReport, ...] = ()
    works: tuple[WorkReport, ...] = ()

    def is_there(self, now_s: float) -> bool:
        """Return true if the node holds its lease.

        Args:
            now_s: on the controller's clock.
        """
        return self.connected and now_s - self.seen_s <= LEASE_S


class Joined(NamedTuple):
    """What became of a node's `Hello`."""

    nodes: Mapping[str, Node]
    refusal: str
    """Why it is refused; empty if it is not."""
    superseded: int | None = None
    """The connection of an older node of the same name, which must go."""


def join(nodes: Mapping[str, Node], hello: Hello, session: int, now_s: float) -> Joined:
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


def hear(nodes: Mapping[str, Node], name: str, session: int, now_s: float, report: Report | None) -> Mapping[str, Node]:
    """Return the nodes after one has said something.

    Args:
        nodes: by name.
        name: of the node.
        session: number of its connection; what an older connection says changes nothing.
        now_s: on the controller's clock.
        report: what it said of its load, if it did.
    """
    node = nodes.get(name)
    if node is None or node.session != session:
        return nodes
    node = replace(node, seen_s=now_s)
    if report is not None:
        links = node.links if report.links is None else tuple(report.links)
        works = node.works if report.works is None else tuple(report.works)
        node = replace(node, report=report, report_s=now_s, links=links, works=works)
    return {**nodes, name: node}


def leave(nodes: Mapping[str, Node], name: str, session: int) -> Mapping[str, Node]:
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


def forget(nodes: Mapping[str, Node], now_s: float) -> Mapping[str, Node]:
    """Return the nodes without those that were lost long ago.

    Args:
        nodes: by name.
        now_s: on the controller's clock.
    """
    return {name: node for name, node in nodes.items() if node.is_there(now_s) or now_s - node.seen_s < FORGET_S}


def interval_s(nodes: Mapping[str, Node]) -> float:
    """Return the seconds between two reports of a node under load.

    Args:
        nodes: by name.
    """
    return max(INTERVAL_S, len(nodes) / NODES_PER_S)


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
            models=node.hello.models,
            links=list(node.links),
            works=list(node.works),
        )
        for name, node in sorted(nodes.items())
        if node.hello.role == "edge" and node.is_there(now_s)
    ]


def loads(nodes: Mapping[str, Node], now_s: float) -> list[ServerLoad]:
    """Return the loads of the edge servers that are there and have reported.

    Args:
        nodes: by name.
        now_s: on the controller's clock; the ages count from it.
    """
    return [
        ServerLoad(
            name=name,
            backlog_s=round(node.report.backlog_s, 6),
            queued=node.report.queued,
            room=node.report.room,
            age_s=round(max(now_s - node.report_s, 0.0), 4),
        )
        for name, node in sorted(nodes.items())
        if node.hello.role == "edge" and node.is_there(now_s) and node.report_s
    ]
