"""A trace goes from a client through device, servers and controller, and each says what it did for it."""

import asyncio
import json
import sys
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from tests.patience import wait_until
from tests.runtime.edge.edge_process import edge_thread, unencoded
from tests.site.site_processes import WAIT_S, controller_thread, member_edge
from tests.tables import analytic_table

import coinfer
from coinfer.errors import UserError
from coinfer.graph.zoo import networks
from coinfer.runtime import tracing
from coinfer.runtime.device.device import Device
from coinfer.runtime.edge.served_model import serve_echo, serve_graph
from coinfer.runtime.edge.service import EdgeService
from coinfer.runtime.executor import Executor
from coinfer.runtime.images import load_images
from coinfer.runtime.protocol.messages import InferReply, InferRequest, TransportError, from_array
from coinfer.runtime.transport.base import InMemoryTransport
from coinfer.runtime.transport.grpc_transport import GrpcTransport
from coinfer.site.agent.edge_agent import AgentSettings
from coinfer.site.store import read_experience
from coinfer.types import Hop, Route

GRAPH = networks.build("alexnet-cifar")
CUTS = [cut.tensors for cut in GRAPH.useful_cuts()]
TRACE, CLIENT = "4bf92f3577b34da6a3ce929d0e0e4736", "00f067aa0ba902b7"
TRACEPARENT = f"00-{TRACE}-{CLIENT}-01"
STATE = "vendor=t61rcWkgMzE,other=1"
INVALID = ("", "00-0-0-01", f"00-{'0' * 32}-{CLIENT}-01", f"00-{TRACE}-{'0' * 16}-01", f"ff-{TRACE}-{CLIENT}-01", "ü")


@pytest.fixture
def spans() -> Iterator[object]:
    """What OpenTelemetry gets; it is not installed everywhere."""
    sdk = pytest.importorskip("opentelemetry.sdk.trace")
    from opentelemetry.sdk.trace.export import SimpleSpanProcessor
    from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

    from coinfer.runtime.open_telemetry import OpenTelemetryTracer

    exporter, provider = InMemorySpanExporter(), sdk.TracerProvider(shutdown_on_exit=False)
    provider.add_span_processor(SimpleSpanProcessor(exporter))
    tracing.use_tracer(OpenTelemetryTracer(provider))
    yield exporter
    tracing.use_tracer(None)


def children(spans, parent: str) -> list:
    """The spans below one, in the order of their begin."""
    found = [span for span in spans.get_finished_spans() if span.parent and f"{span.parent.span_id:016x}" == parent]
    return sorted(found, key=lambda span: span.start_time)


def own_id(span) -> str:
    return f"{span.get_span_context().span_id:016x}"


def test_a_request_is_seen_from_the_client_to_the_last_hop_and_in_the_controller(spans, tmp_path: Path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    store = tmp_path / "store"
    models = [serve_graph(GRAPH, Executor(GRAPH))]
    with (
        controller_thread(store) as controller,
        member_edge(AgentSettings("edge-1", tmp_path / "1", controller.address), models=models) as first,
        member_edge(AgentSettings("edge-2", tmp_path / "2", controller.address), models=models) as second,
    ):
        wait_until(lambda: len(controller.there()) == 2, WAIT_S, "both are there")
        addresses = [first.address, second.address]
        hops = (Hop("device", CUTS[1], 32), Hop(addresses[0], CUTS[3], 32), Hop(addresses[1], GRAPH.outputs, 32))
        table = analytic_table(GRAPH)
        with Device(GRAPH, controller=controller.address, servers=addresses, name="camera", profile=table) as camera:

            def answered() -> bool:
                spans.clear()
                with coinfer.trace_context(TRACEPARENT):
                    route = Route(hops, len(camera.planner.exits) - 1, float("inf"))
                    return camera.infer_by_route(load_images()[0][1], route).executed_on == addresses[1]

            wait_until(answered, WAIT_S, "the route answers")
            assert tracing.current() == ""
            (asked,) = children(spans, CLIENT)

            def is_kept() -> bool:
                return any(span.name == "keep" for span in children(spans, own_id(asked)))

            wait_until(is_kept, WAIT_S, "the controller has it")
    assert asked.name == "infer"
    assert asked.attributes == {"coinfer.model": GRAPH.name}
    own = children(spans, own_id(asked))
    assert {span.name for span in own} >= {"compute", "upload", "forward", "request", "keep"}
    one = next(span for span in own if span.name == "request")
    steps = children(spans, own_id(one))
    assert {span.name for span in steps} >= {"queue", "decode", "compute", "encode", "upload", "forward", "request"}
    two = next(span for span in steps if span.name == "request")
    assert {span.name for span in children(spans, own_id(two))} >= {"queue", "compute"}
    assert asked.start_time <= one.start_time <= two.start_time < two.end_time <= one.end_time <= asked.end_time
    assert {f"{span.context.trace_id:032x}" for span in (asked, *own, *steps)} == {TRACE}
    kept = [record["traceparent"] for record in read_experience(store) if "traceparent" in record]
    assert f"00-{TRACE}-{own_id(asked)}-01" in kept


def test_clients_bring_their_trace_over_rest_and_grpc_and_others_get_a_new_one(spans):
    with edge_thread(lambda: EdgeService([serve_echo()])) as edge:
        body = {"inputs": [{"name": "x", "datatype": "FP32", "shape": [2], "data": [1, 2]}]}
        for headers in ({"traceparent": TRACEPARENT}, {"traceparent": INVALID[1]}):
            url, data = f"http://{edge.http}/v2/models/echo/infer", json.dumps(body).encode()
            urllib.request.urlopen(urllib.request.Request(url, data, headers), timeout=WAIT_S).close()
        transport = GrpcTransport()
        with tracing.trace_context(TRACEPARENT):
            message = InferRequest("echo", (from_array("x", np.ones(3, np.float32)),))
            transport.send(edge.grpc, message, WAIT_S).result(WAIT_S)
            with pytest.raises(TransportError, match="NOT_FOUND"):
                transport.send(edge.grpc, message._replace(model="none"), WAIT_S).result(WAIT_S)
        transport.close()
    requests = [span for span in spans.get_finished_spans() if span.name == "request"]
    from_client = [span for span in requests if span.parent is not None]
    assert [f"{span.context.trace_id:032x}" == TRACE for span in requests] == [True, False, True, True]
    assert {f"{span.parent.span_id:016x}" for span in from_client} == {CLIENT}
    assert [span.status.description for span in requests] == [None, None, None, "NOT_FOUND"]


def forwarded(traceparent: str) -> list[dict[str, str]]:
    """What the second server of a route is told of the trace, where nothing traces."""
    seen: list[dict[str, str]] = []

    def second(message: InferRequest) -> InferReply:
        seen.append(dict(tracing.headers()))
        return InferReply(message.model, message.inputs)

    picture = np.zeros(GRAPH.tensors[GRAPH.inputs[0]].shape, np.float32)
    service = EdgeService([serve_graph(GRAPH, Executor(GRAPH))], transport=InMemoryTransport({"b:2": second}))
    route = (Hop("b:2", GRAPH.outputs, 32),)
    request = InferRequest(GRAPH.name, (from_array(GRAPH.inputs[0], picture),), CUTS[1], route=route)

    async def infer() -> None:
        tracing.receive([("traceparent", traceparent), ("tracestate", STATE)])
        await service.infer(request, unencoded)

    asyncio.run(infer())
    service.close()
    return seen


@pytest.mark.parametrize("traceparent", [TRACEPARENT, *INVALID[:2]])
def test_without_a_tracer_a_trace_is_carried_on_as_it_came(traceparent: str):
    whole = {"traceparent": TRACEPARENT, "tracestate": STATE}
    assert forwarded(traceparent) == [whole if traceparent == TRACEPARENT else {}]


@pytest.mark.parametrize("state", ["", "a=\n", "a=" + "x" * 600])
def test_what_is_no_tracestate_is_left_out(state: str):
    with tracing.trace_context(""):
        tracing.receive([("traceparent", TRACEPARENT), ("tracestate", state)])
        assert tracing.headers() == (("traceparent", TRACEPARENT),)


@pytest.mark.parametrize("traceparent", INVALID)
def test_what_is_no_traceparent_counts_as_none(traceparent: str):
    with tracing.trace_context(""):
        tracing.receive([("user-agent", "x"), ("traceparent", traceparent)])
        assert tracing.current() == ""
        assert tracing.headers() == ()


def test_without_opentelemetry_one_line_says_what_to_install(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setitem(sys.modules, "opentelemetry.trace", None)
    with pytest.raises(UserError, match=r"traces need OpenTelemetry \(.*\); install it: pip install '\.\[otel\]' in"):
        coinfer.start_tracing()


def test_an_endpoint_that_is_none_is_refused():
    pytest.importorskip("opentelemetry.sdk.trace")
    with pytest.raises(UserError, match="expected the address of a collector"):
        coinfer.start_tracing("collector")
