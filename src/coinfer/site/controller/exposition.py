"""The controller's state as Prometheus text."""

from collections.abc import Callable, Iterator

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric

from coinfer.runtime.edge.metrics import PrometheusText
from coinfer.site.controller.registry import Node
from coinfer.site.controller.service import ControllerService

MAX_NODES = 256
"""Nodes with series of their own, the newest."""
_GAUGES: tuple[tuple[str, str, Callable[[Node], float]], ...] = (
    ("backlog_seconds", "Work that waits or runs at a node, per worker", lambda node: node.report.backlog_s),
    ("queue_length", "Requests that wait at a node", lambda node: node.report.queued),
    ("spooled", "Decisions that wait at a node for the controller", lambda node: node.report.spooled),
)
_COUNTERS: tuple[tuple[str, str, Callable[[Node], float]], ...] = (
    ("requests_received", "Requests that came to a node", lambda node: node.report.received),
    ("requests_failed", "Requests that a node did not answer", lambda node: node.report.failed),
    ("decisions_dropped", "Decisions that a node lost because its spool was full", lambda node: node.report.dropped),
)


class SiteExposition(PrometheusText):
    """What a controller knows of its site, as Prometheus text.

    Args:
        service: of the controller.
    """

    def __init__(self, service: ControllerService):
        self._service = service
        super().__init__()

    def collect(self) -> Iterator[Metric]:
        """Yield all metrics as they are now (`prometheus_client`'s collector protocol)."""
        yield from self._nodes()
        store = self._service.store
        yield CounterMetricFamily("coinfer_site_decisions_stored", "Decisions put into the log", value=store.stored)
        failing = GaugeMetricFamily("coinfer_site_store_failing", "1 while the log cannot be written")
        failing.add_metric([], int(bool(store.problem)))
        yield failing
        yield from self._service.history.times.collect()

    def _nodes(self) -> Iterator[Metric]:
        now_s = self._service.now_s()
        nodes = sorted(self._service.nodes.items(), key=lambda item: -item[1].joined_s)[:MAX_NODES]
        there = GaugeMetricFamily("coinfer_site_node_there", "1 if a node holds its lease", labels=["node", "role"])
        for name, node in nodes:
            there.add_metric([name, node.hello.role], int(node.is_there(now_s)))
        yield there
        for make, rows in ((GaugeMetricFamily, _GAUGES), (CounterMetricFamily, _COUNTERS)):
            for metric, text, read in rows:
                family = make(f"coinfer_site_node_{metric}", text, labels=["node", "role"])
                for name, node in nodes:
                    family.add_metric([name, node.hello.role], read(node))
                yield family
