"""The recent past of a site in numbers: what the page and `coinfer top` show."""

import itertools
import math
import time
from collections import Counter, deque
from collections.abc import Mapping, Sequence

from coinfer.runtime.edge.histograms import TimeHistograms, piece_label
from coinfer.site.controller.registry import Node
from coinfer.site.messages import Decision

STEP_S = 1.0
KEPT = 120
"""Steps that are kept."""
MAX_EVENTS = 50
LINKS_INTERVAL_S = 5.0
MAX_LINKS = 30
"""Of the links the slowest are shown."""


class History:
    """Rates and latencies by second, decisions by server and cut, and what has happened."""

    def __init__(self) -> None:
        self.times = TimeHistograms("coinfer_site", ["decided_by"])
        """Of all decisions since the start."""
        self._points = itertools.count()
        self._series: deque[dict[str, float]] = deque(maxlen=KEPT)
        self._numbers = itertools.count()
        self._events: deque[dict[str, object]] = deque(maxlen=MAX_EVENTS)
        self._links: list[dict[str, object]] = []
        self._link_count = 0
        self._links_s = -math.inf
        self._last: dict[str, tuple[int, int, int, float]] = {}
        self._last_s = 0.0
        self._servers: Counter[str] = Counter()
        self._cuts: Counter[str] = Counter()
        self._policies: Counter[str] = Counter()

    def note(self, text: str) -> None:
        """Add an event.

        Args:
            text: one line for people.
        """
        self._events.append({"number": next(self._numbers), "at_s": round(time.time(), 1), "text": text})

    def count(self, records: Sequence[Decision]) -> None:
        """Count decisions.

        Args:
            records: new ones.
        """
        for record in records:
            self._policies[record.policy] += 1
            if not record.dispatched:  # else the server that was reached tells where it went
                self._servers[record.executed_on] += 1
            if not record.group:  # the cut was the device's decision
                self._cuts[f"{record.model}: {record.cut or 'nothing sent'}"] += 1
            self._observe_times(record)

    def _observe_times(self, record: Decision) -> None:
        """Add the times of a request; an edge server that has decided knows nothing of the way to it."""
        times_s = {"request_latency": record.latency_s, "compute": record.device_s + record.server_s}
        if record.executed_on != "device":
            times_s["queue_wait"] = record.queue_s
            if not record.group:
                times_s["upload"] = record.upload_s
        piece = piece_label((record.cut or "input",), ())
        self.times.observe(record.model, piece, times_s, "edge" if record.group else "device")

    def observe(self, nodes: Mapping[str, Node], now_s: float) -> None:
        """Add a step to the series if one is due.

        Args:
            nodes: by name.
            now_s: on the controller's clock.
        """
        took_s = now_s - self._last_s
        if took_s < STEP_S:
            return
        sums = [0, 0, 0, 0.0]
        present: dict[str, tuple[int, int, int, float]] = {}
        for name, node in nodes.items():
            report = node.report
            now = (report.received, report.success, report.failed, report.request_s)
            before = self._last.get(name, now)
            if now[0] < before[0]:  # it was restarted
                before = (0, 0, 0, 0.0)
            present[name] = now
            if node.hello.role == "edge":
                sums = [total + new - old for total, new, old in zip(sums, now, before, strict=True)]
        if self._last_s:
            received, success, failed, request_s = sums
            point = {"received": received / took_s, "success": success / took_s, "failed": failed / took_s}
            point["latency_ms"] = 1e3 * request_s / success if success else 0.0
            rounded = {name: round(value, 3) for name, value in point.items()}
            self._series.append({"number": next(self._points), **rounded})
        self._last, self._last_s = present, now_s

    def state(self, nodes: Mapping[str, Node], now_s: float) -> dict[str, object]:
        """Return everything as JSON has it.

        Args:
            nodes: by name.
            now_s: on the controller's clock.
        """
        self._look_at_links(nodes, now_s)
        return {
            "at_s": round(time.time(), 3),
            "nodes": [_node(name, node, now_s) for name, node in sorted(nodes.items())],
            "links": self._links,
            "link_count": self._link_count,
            "series": list(self._series),
            "events": list(self._events),
            "servers": dict(self._servers.most_common(20)),
            "cuts": dict(self._cuts.most_common(20)),
            "policies": dict(self._policies.most_common(20)),
        }

    def _look_at_links(self, nodes: Mapping[str, Node], now_s: float) -> None:
        """Find the slowest links, now and then: fifty servers have thousands."""
        if now_s - self._links_s < LINKS_INTERVAL_S:
            return
        self._links_s = now_s
        found = [(link, name) for name, node in nodes.items() if node.is_there(now_s) for link in node.links]
        self._link_count = len(found)
        slowest = sorted(found, key=lambda one: (one[0].rate_bps, one[1], one[0].to))[:MAX_LINKS]
        self._links = [{"from": name, **link.model_dump()} for link, name in slowest]


def _node(name: str, node: Node, now_s: float) -> dict[str, object]:
    report = node.report
    return {
        "name": name,
        "role": node.hello.role,
        "address": node.hello.address,
        "models": [*dict.fromkeys(model.name for model in node.models)],
        "there": node.is_there(now_s),
        "silent_s": 0 if node.is_there(now_s) else round(now_s - node.seen_s),
        "backlog_ms": round(report.backlog_s * 1e3, 1),
        "queued": report.queued,
        "room": report.room,
        "pieces": report.pieces,
        "received": report.received,
        "success": report.success,
        "failed": report.failed,
        "forwarded": report.forwarded,
        "spooled": report.spooled,
        "dropped": report.dropped,
        "policies": report.policies,
    }
