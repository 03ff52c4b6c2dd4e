"""Spans by OpenTelemetry, for those who install the extra `otel`. Nothing else imports it."""

import time
from collections.abc import Iterable
from importlib import import_module
from typing import Any

from coinfer.errors import UserError
from coinfer.runtime.tracing import Step, use_tracer

_INSTALL = "install it: pip install '.[otel]' in coinfer's folder"


def start_tracing(endpoint: str | None = None, *, service: str = "coinfer") -> None:
    """Tell spans of all requests of this process to OpenTelemetry from now on.

    Args:
        endpoint: `http://host:port` of a collector that takes OTLP over gRPC; None takes the tracer provider that this
            program has set up for OpenTelemetry itself.
        service: name of this process in the traces.

    Raises:
        UserError: if OpenTelemetry is not installed, or the endpoint is no such address.
    """
    api = _import("opentelemetry.trace")
    provider = api.get_tracer_provider() if endpoint is None else _exporting(endpoint, service)
    use_tracer(OpenTelemetryTracer(provider))


def _exporting(endpoint: str, service: str) -> Any:
    if not endpoint.startswith(("http://", "https://")) or not endpoint.partition("://")[2]:
        raise UserError(f"traces to {endpoint!r}: expected the address of a collector, such as http://127.0.0.1:4317")
    sdk, export = _import("opentelemetry.sdk.trace"), _import("opentelemetry.sdk.trace.export")
    otlp = _import("opentelemetry.exporter.otlp.proto.grpc.trace_exporter")
    resource = _import("opentelemetry.sdk.resources").Resource.create({"service.name": service})
    provider = sdk.TracerProvider(resource=resource)
    exporter = otlp.OTLPSpanExporter(endpoint=endpoint, insecure=endpoint.startswith("http://"))
    provider.add_span_processor(export.BatchSpanProcessor(exporter))
    return provider


def _import(name: str) -> Any:
    try:
        return import_module(name)
    except ImportError as error:
        raise UserError(f"traces need OpenTelemetry ({error}); {_INSTALL}") from None


class OpenTelemetryTracer:
    """Makes spans of OpenTelemetry (`tracing.Tracer`).

    Args:
        provider: a tracer provider of OpenTelemetry.
    """

    def __init__(self, provider: Any):
        self._api = _import("opentelemetry.trace")
        self._tracer = provider.get_tracer("coinfer")

    def begin(self, name: str, parent: str, began_ns: int, model: str) -> "_Span":
        """Return a span that has begun.

        Args:
            name: of what is done.
            parent: `traceparent` of the caller; empty for the program's present span, or a new trace.
            began_ns: nanoseconds since 1970.
            model: name of the network.
        """
        attributes = {"coinfer.model": model}
        span = self._tracer.start_span(name, self._context(parent), start_time=began_ns, attributes=attributes)
        return _Span(self._api, self._tracer, span, began_ns)

    def _context(self, parent: str) -> Any:
        if not parent:
            return None
        _, trace_id, span_id, flags = parent.split("-")
        known = self._api.SpanContext(int(trace_id, 16), int(span_id, 16), True, self._api.TraceFlags(int(flags, 16)))
        return self._api.set_span_in_context(self._api.NonRecordingSpan(known))


class _Span:
    def __init__(self, api: Any, tracer: Any, span: Any, began_ns: int):
        self._api, self._tracer, self._span, self._began_ns = api, tracer, span, began_ns

    @property
    def traceparent(self) -> str:
        known = self._span.get_span_context()
        return f"00-{known.trace_id:032x}-{known.span_id:016x}-{int(known.trace_flags):02x}"

    def steps(self, steps: Iterable[Step]) -> None:
        at_ns, within = self._began_ns, self._api.set_span_in_context(self._span)
        for name, took_s in steps:
            if took_s > 0:
                step = self._tracer.start_span(name, within, start_time=at_ns)
                at_ns += int(took_s * 1e9)
                step.end(end_time=at_ns)

    def end(self, problem: str = "") -> None:
        if problem:
            self._span.set_status(self._api.StatusCode.ERROR, problem)
        self._span.end(end_time=max(time.time_ns(), self._began_ns))
