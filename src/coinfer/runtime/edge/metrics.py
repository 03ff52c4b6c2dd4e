"""Counters of an edge node: Triton's names and meanings, for dashboards that exist, and our own in base units."""

import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, NamedTuple

from prometheus_client import CollectorRegistry, PlatformCollector, ProcessCollector, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric

from coinfer.runtime.edge.histograms import TimeHistograms
from coinfer.runtime.edge.node_state import Counts
from coinfer.runtime.edge.served_model import VERSION
from coinfer.runtime.protocol.messages import LoadReport, WireError

if TYPE_CHECKING:
    from coinfer.runtime.executor import Runner
    from coinfer.runtime.piece_memory import PieceMemory

FAILURES = ("REJECTED", "CANCELED", "BACKEND", "OTHER")
TEXT_SHARE = 0.02
"""Share of the time that making Prometheus' text may take."""
_REJECTIONS = {"queue_full", "hopeless", "expired", "draining", "too_large"}


class Timing(NamedTuple):
    """What was computed here for a request, and how long each step took."""

    queue_s: float
    decode_s: float
    compute_s: float
    encode_s: float
    batch: int
    """Samples; 0 if nothing was computed here."""
    piece: str
    """From `histograms.piece_label`."""
    forward_s: float = 0.0
    """From sending to the next node to its reply; 0 if there was none."""
    upload_s: float | None = None
    """Of that, the way there; None if there was none."""
    executions: int = 1
    """Runs that are counted for it; of requests that ran as one batch, only one counts a run."""

    def steps(self) -> list[tuple[str, float]]:
        """Return the steps in their order, with their seconds."""
        own = ("queue", self.queue_s), ("decode", self.decode_s), ("compute", self.compute_s), ("encode", self.encode_s)
        upload_s = self.upload_s or 0.0
        return [*(own if self.batch else ()), ("upload", upload_s), ("forward", self.forward_s - upload_s)]


@dataclass
class ModelStats:
    """Counters of one model since the start: received = success + failures + in flight."""

    received: int = 0
    success: int = 0
    failures: dict[str, int] = field(default_factory=lambda: dict.fromkeys(FAILURES, 0))
    inferences: int = 0
    """Samples computed; a batch of 4 counts 4."""
    executions: int = 0
    """Runs of the engine; requests that ran as one batch count one."""
    last_ms: int = 0
    """End of the last execution, milliseconds since the epoch."""
    request_s: float = 0.0
    """Sum over successful requests, as are the times that follow."""
    queue_s: float = 0.0
    decode_s: float = 0.0
    compute_s: float = 0.0
    encode_s: float = 0.0
    failed_s: float = 0.0

    @property
    def in_flight(self) -> int:
        """Return the number of requests that have no answer yet."""
        return self.received - self.success - sum(self.failures.values())


@dataclass
class Metrics:
    """All counters of a node; only the event loop may touch them."""

    models: dict[str, ModelStats] = field(default_factory=dict)
    codes: dict[tuple[str, str], int] = field(default_factory=dict)
    """(protocol, status) of every answer."""
    refusals: dict[str, int] = field(default_factory=dict)
    nodes: dict[tuple[str, str], int] = field(default_factory=dict)
    """(model, node) of every answer of a gateway: the device, or the address of a server."""
    times: TimeHistograms = field(default_factory=TimeHistograms)
    forwarded: int = 0
    forward_failures: int = 0
    received_bytes: int = 0
    sent_bytes: int = 0

    @property
    def in_flight(self) -> int:
        """Return the number of requests that have no answer yet."""
        return sum(stats.in_flight for stats in self.models.values())

    def count_arrival(self, model: str) -> ModelStats:
        """Count a request that came in.

        Args:
            model: name; empty for a model that this node does not serve.

        Returns:
            The counters of the model; the caller counts the outcome in them.
        """
        stats = self.models.setdefault(model, ModelStats())
        stats.received += 1
        return stats

    def count_success(self, model: str, request_s: float, timing: Timing) -> None:
        """Count a request that was answered.

        Args:
            model: its name, that of `count_arrival`.
            request_s: from arrival to reply.
            timing: of its steps.
        """
        stats = self.models[model]
        stats.success += 1
        stats.executions += timing.executions
        stats.inferences += timing.batch
        stats.last_ms = int(time.time() * 1000)
        stats.request_s += request_s
        stats.queue_s += timing.queue_s
        stats.decode_s += timing.decode_s
        stats.compute_s += timing.compute_s
        stats.encode_s += timing.encode_s
        times_s = {"queue_wait": timing.queue_s, "compute": timing.compute_s} if timing.batch else {}
        times_s |= {} if timing.upload_s is None else {"upload": timing.upload_s}
        if times_s:  # a piece that was only prepared is no request of a user
            self.times.observe(model, timing.piece, {"request_latency": request_s, **times_s})

    def count_failure(self, stats: ModelStats, error: WireError | None, request_s: float) -> None:
        """Count a request that was not answered.

        Args:
            stats: counters of the request's model.
            error: what the client was told; None if its caller gave up.
            request_s: from arrival to the error.
        """
        stats.failures[failure_kind(error)] += 1
        stats.failed_s += request_s
        if error is not None and error.reason in _REJECTIONS:
            self.refusals[error.reason] = self.refusals.get(error.reason, 0) + 1

    def count_node(self, model: str, node: str) -> None:
        """Count who answered a request to a gateway.

        Args:
            model: its name.
            node: `device`, or the address of a server.
        """
        self.nodes[model, node] = self.nodes.get((model, node), 0) + 1

    def count_answer(self, protocol: str, code: str, received_bytes: int = 0, sent_bytes: int = 0) -> None:
        """Count an answer of any method, with its bytes.

        Args:
            protocol: `grpc`, `grpc_stream` or `http`.
            code: gRPC status code; `OK` for a success.
            received_bytes: size of the request.
            sent_bytes: size of the reply; 0 for an error.
        """
        self.codes[protocol, code] = self.codes.get((protocol, code), 0) + 1
        self.received_bytes += received_bytes
        self.sent_bytes += sent_bytes


def failure_kind(error: WireError | None) -> str:
    """Return Triton's word for why a request failed.

    Args:
        error: None if the caller gave up.
    """
    if error is None or error.code == "CANCELLED":
        return "CANCELED"
    if error.reason in _REJECTIONS:
        return "REJECTED"
    return "BACKEND" if error.code == "INTERNAL" else "OTHER"


class PrometheusText:
    """A collector with a registry of its own, which also tells of the process and the platform."""

    def __init__(self) -> None:
        self._recent, self._keep_until_s = b"", 0.0
        self._registry = CollectorRegistry()
        self._registry.register(self)
        ProcessCollector(registry=self._registry)
        PlatformCollector(registry=self._registry)

    def text(self) -> bytes:
        """Return all metrics in Prometheus' text format."""
        return generate_latest(self._registry)

    def recent_text(self) -> bytes:
        """Return the text, which is made anew so rarely that this takes `TEXT_SHARE` of the time, whoever asks."""
        began_s = time.monotonic()
        if began_s >= self._keep_until_s:
            self._recent = self.text()
            self._keep_until_s = began_s + (time.monotonic() - began_s) / TEXT_SHARE
        return self._recent

    def describe(self) -> list[Metric]:
        """Return no metrics: the registry then does not call `collect` when the collector registers."""
        return []

    def collect(self) -> Iterable[Metric]:
        """Return all metrics as they are now (`prometheus_client`'s collector protocol)."""
        raise NotImplementedError


class Exposition(PrometheusText):
    """The counters as Prometheus text.

    Args:
        metrics: counters of the node.
        load: returns the load of the node now.
        counts: returns the counts of its scheduler now.
        memory: that its models share, if they do.
    """

    def __init__(
        self,
        metrics: Metrics,
        load: Callable[[], LoadReport],
        counts: Callable[[], Counts],
        memory: "PieceMemory[Runner] | None" = None,
    ):
        self._memory = memory
        self._metrics = metrics
        self._load = load
        self._counts = counts
        super().__init__()

    def collect(self) -> Iterator[Metric]:
        """Yield all metrics as they are now (`prometheus_client`'s collector protocol)."""
        yield from self._triton_metrics()
        yield from self._coinfer_metrics()
        yield from self._memory_metrics()
        yield from self._metrics.times.collect()

    def _memory_metrics(self) -> Iterator[Metric]:
        if self._memory is not None:
            memory = self._memory.report()
            yield GaugeMetricFamily("coinfer_memory_bytes", "Weights and opened pieces", value=memory.used_bytes)
            yield GaugeMetricFamily("coinfer_memory_limit_bytes", "Limit of these", value=memory.limit_bytes)
            yield GaugeMetricFamily("coinfer_memory_pieces", "Opened pieces", value=memory.pieces)
            yield CounterMetricFamily("coinfer_piece_loads", "Pieces loaded", value=memory.loads)
            yield CounterMetricFamily("coinfer_piece_load_seconds", "Time of loading them", value=memory.load_s)
            yield CounterMetricFamily("coinfer_piece_evictions", "Pieces evicted", value=memory.evictions)

    def _triton_metrics(self) -> Iterator[Metric]:
        """Yield Triton's metrics; their names lack the suffix `_total`, which the library demands of counters."""
        rows: list[tuple[str, str, Callable[[ModelStats], float]]] = [
            ("request_success", "Requests answered", lambda s: s.success),
            ("count", "Inferences, a batch counting its samples", lambda s: s.inferences),
            ("exec_count", "Executions", lambda s: s.executions),
            ("pending_request_count", "Requests in flight", lambda s: s.in_flight),
            ("request_duration_us", "Time of answered requests", lambda s: int(s.request_s * 1e6)),
            ("queue_duration_us", "Time of waiting for a worker", lambda s: int(s.queue_s * 1e6)),
            ("compute_input_duration_us", "Time of decoding inputs", lambda s: int(s.decode_s * 1e6)),
            ("compute_infer_duration_us", "Time of computing", lambda s: int(s.compute_s * 1e6)),
            ("compute_output_duration_us", "Time of encoding outputs", lambda s: int(s.encode_s * 1e6)),
        ]
        for name, text, read in rows:
            metric = Metric(f"nv_inference_{name}", text, "gauge" if name.startswith("pending") else "unknown")
            for model, stats in self._metrics.models.items():
                metric.add_sample(metric.name, {"model": model, "version": VERSION}, read(stats))
            yield metric
        failures = Metric("nv_inference_request_failure", "Requests not answered", "unknown")
        for model, stats in self._metrics.models.items():
            for reason, count in stats.failures.items():
                failures.add_sample(failures.name, {"model": model, "version": VERSION, "reason": reason}, count)
        yield failures

    def _coinfer_metrics(self) -> Iterator[Metric]:
        received = CounterMetricFamily("coinfer_requests_received", "Inference requests", labels=["model"])
        for model, stats in self._metrics.models.items():
            received.add_metric([model], stats.received)
        yield received
        refused = CounterMetricFamily("coinfer_requests_refused", "Refused requests", labels=["reason"])
        for reason, count in self._metrics.refusals.items():
            refused.add_metric([reason], count)
        yield refused
        answers = CounterMetricFamily("coinfer_answers", "Answers by status code", labels=["protocol", "code"])
        for labels, count in self._metrics.codes.items():
            answers.add_metric(labels, count)
        yield answers
        if self._metrics.nodes:
            nodes = CounterMetricFamily("coinfer_answered_by", "Answers by who computed them", labels=["model", "node"])
            for labels, count in self._metrics.nodes.items():
                nodes.add_metric(labels, count)
            yield nodes
        jobs = CounterMetricFamily("coinfer_jobs", "Jobs of the queue by what became of them", labels=["what"])
        for what, count in self._counts()._asdict().items():
            jobs.add_metric([what], count)
        yield jobs
        m, load = self._metrics, self._load()
        yield CounterMetricFamily("coinfer_forwarded", "Results sent on to a next hop", value=m.forwarded)
        yield CounterMetricFamily("coinfer_forward_failures", "Next hops that did not answer", value=m.forward_failures)
        yield CounterMetricFamily("coinfer_received_bytes", "Bytes of requests", value=m.received_bytes)
        yield CounterMetricFamily("coinfer_sent_bytes", "Bytes of replies", value=m.sent_bytes)
        yield GaugeMetricFamily("coinfer_backlog_seconds", "Work that waits or runs, per worker", value=load.backlog_s)
        yield GaugeMetricFamily("coinfer_queue_length", "Requests that wait", value=load.queued)
        yield GaugeMetricFamily("coinfer_room", "Requests that would still be admitted", value=load.room)
