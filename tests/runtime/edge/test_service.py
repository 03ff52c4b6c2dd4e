"""What an edge node does with a request, without sockets: routes, fingerprints, deadlines, counters."""

import asyncio
import time
from concurrent.futures import Future

import numpy as np
import pytest
from prometheus_client import Metric
from tests.runtime.edge.edge_process import unencoded

from coinfer.graph.zoo import networks
from coinfer.runtime.clock import VirtualClock
from coinfer.runtime.codec.tensors import pack, unpack
from coinfer.runtime.edge import defaults
from coinfer.runtime.edge.metrics import TEXT_SHARE, Exposition, PrometheusText
from coinfer.runtime.edge.served_model import serve_echo, serve_graph
from coinfer.runtime.edge.service import EdgeService
from coinfer.runtime.executor import Executor, RequestError
from coinfer.runtime.protocol.messages import InferRequest, WireError, WireTensor, from_array, to_array
from coinfer.runtime.transport.base import PING_MODEL, InMemoryTransport, Pong
from coinfer.types import Hop

GRAPH = networks.build("resnet32")
EXECUTOR = Executor(GRAPH)
IMAGE = np.random.default_rng(0).standard_normal((1, 3, 32, 32)).astype(np.float32)
WHOLE = EXECUTOR.run({"input": IMAGE})[0]["logits"]
CUTS = [cut.tensors for cut in GRAPH.useful_cuts()]
INPUT = from_array("input", IMAGE)


def node(transport=None, **settings):
    return EdgeService([serve_graph(GRAPH, EXECUTOR), serve_echo()], transport=transport, **settings)


def ask(service, *requests):
    """The replies; each request on the same event loop."""

    async def run():
        try:
            return await asyncio.gather(
                *(service.infer(request, unencoded) for request in requests), return_exceptions=True
            )
        finally:
            service.close()

    return asyncio.run(run())


def request(inputs=(INPUT,), outputs=(), **fields):
    return InferRequest("resnet32", inputs, outputs, **fields)


def other_node(service):
    """A node of its own event loop, as a handler for `InMemoryTransport`."""

    def handle(message):
        return asyncio.run(service().infer(message, unencoded))

    return handle


def test_whole_pieces_and_codec_give_the_same_answer():
    (whole,) = ask(node(), request())
    np.testing.assert_array_equal(to_array(whole.outputs[0]), WHOLE)
    middle, _ = EXECUTOR.run({"input": IMAGE}, CUTS[7])
    for bits, tolerance in ((None, 1e-4), (32, 1e-4), (16, 1e-2), (8, 0.5)):
        inputs = tuple(pack(name, array, bits) for name, array in middle.items())
        (tail,) = ask(node(), request(inputs, ("logits",), bits=bits))
        assert tail.outputs[0].codec == (bits is not None)
        np.testing.assert_allclose(unpack(tail.outputs[0]), WHOLE, rtol=tolerance, atol=tolerance)
        assert tail.executed == (), "only routes are told; who was asked is known"
        assert tail.server_s > 0
    assert tail.load.room == 1 + defaults.QUEUE, "nothing runs any more"


@pytest.mark.parametrize("bits", [32, 16])
def test_a_route_over_three_nodes_equals_the_whole(bits):
    nodes = {}
    transport = InMemoryTransport(nodes)
    nodes["b:2"] = other_node(lambda: node(transport=transport, address="b:2"))
    nodes["c:3"] = other_node(lambda: node(address="c:3"))
    route = (Hop("b:2", CUTS[9], bits), Hop("c:3", ("logits",), 32))

    async def run():
        first = node(transport=transport, address="a:1")
        return await first.infer(request(outputs=CUTS[3], bits=bits, route=route, deadline_s=60.0), unencoded)

    reply = asyncio.run(run())
    transport.close()
    np.testing.assert_allclose(unpack(reply.outputs[0]), WHOLE, rtol=1e-3, atol=1e-3 if bits == 16 else 1e-5)
    assert [(hop.node, hop.cut) for hop in reply.executed] == [("a:1", CUTS[3]), ("b:2", CUTS[9]), ("c:3", ("logits",))]
    assert reply.forward_s >= sum(hop.server_s for hop in reply.executed[1:])
    assert [hop.link_bps > 0 for hop in reply.executed] == [False, True, True], "measured by what was forwarded"


class CountedPings(InMemoryTransport):
    """Counts pings, each of which takes 1 ms, and 1 ms more for 1000 bytes."""

    def __init__(self, nodes):
        super().__init__(nodes)
        self.sizes = []
        self.byte_s = 1e-6

    def ping(self, node, timeout_s=1.0, size_bytes=0):
        self.sizes.append(size_bytes)
        pong = super().ping(node)
        if pong.exception() is None:
            pong = Future()
            pong.set_result(Pong(1e-3 + size_bytes * self.byte_s, None))
        return pong


def test_a_server_says_how_fast_its_links_to_others_are():
    clock, transport = VirtualClock(), CountedPings({"b:2": None})

    async def run():
        service = node(transport, peers=["b:2", "gone:3"], clock=clock)

        def asked(peer):
            return service.infer(InferRequest(PING_MODEL, (), route=(Hop(peer, ("padding",), 32),)), unencoded)

        first, second = await asyncio.gather(asked("b:2"), asked("b:2"))
        sent = len(transport.sizes)
        clock.sleep(2.0)
        assert (await asked("b:2")).executed == second.executed
        assert len(transport.sizes) == sent, "it is known from a short time ago"
        clock.sleep(4.0)
        await asked("b:2")
        assert transport.sizes == [0, 0, 16_000] * 2
        transport.byte_s = 1e-3
        clock.sleep(10.0)
        await asked("b:2")
        clock.sleep(100.0)
        await asked("b:2")
        assert len(transport.sizes) == 9, "on a slow link a ping takes a small share of the time"
        transport.byte_s = 0.0
        clock.sleep(1000.0)
        await asked("b:2")
        assert transport.sizes[9:] == [0, 0, 16_000, 64_000, 256_000], "it goes on while they pass at once"
        refused = await asyncio.gather(asked("gone:3"), asked("other:4"), return_exceptions=True)
        service.close()
        return first, refused

    first, (gone, other) = asyncio.run(run())
    (hop,) = first.executed
    assert (hop.node, hop.cut, hop.round_trip_s) == ("b:2", (), 1e-3)
    assert hop.link_bps == pytest.approx(8e6, rel=0.2)
    assert (gone.code, gone.reason) == ("UNAVAILABLE", "next_hop")
    assert (other.code, other.reason) == ("INVALID_ARGUMENT", "route")


def two_hops(deadline_s: float):
    """The reply, and the deadlines that the second hop was given, where the first takes 2 s."""
    clock, given_s = VirtualClock(), []

    class Slow(Executor):
        def run(self, inputs, outputs=(), abort=None):
            clock.sleep(2.0)
            return super().run(inputs, outputs, abort)

    def second(message):
        given_s.append(message.deadline_s)
        return asyncio.run(node().infer(message, unencoded))

    transport = InMemoryTransport({"b:2": second})
    first = EdgeService([serve_graph(GRAPH, Slow(GRAPH))], transport=transport, clock=clock)
    route = (Hop("b:2", ("logits",), 32),)
    (reply,) = ask(first, request(outputs=CUTS[3], route=route, deadline_s=deadline_s))
    transport.close()
    uploads = [
        sample.value
        for family in first.metrics.times.collect()
        for sample in family.samples
        if sample.name == "coinfer_upload_seconds_count"
    ]
    assert uploads == ([] if isinstance(reply, WireError) else [1])
    return reply, given_s


def test_the_next_hop_gets_what_is_left_of_the_deadline():
    reply, given_s = two_hops(10.0)
    np.testing.assert_allclose(unpack(reply.outputs[0]), WHOLE, rtol=1e-4, atol=1e-5)
    assert given_s == [8.0]


def test_the_next_hop_is_not_asked_when_nothing_is_left():
    error, given_s = two_hops(1.5)
    assert (error.code, error.reason, given_s) == ("DEADLINE_EXCEEDED", "expired", [])


@pytest.mark.parametrize(
    ("code", "expected"),
    [
        ("UNAVAILABLE", "UNAVAILABLE"),
        ("RESOURCE_EXHAUSTED", "UNAVAILABLE"),
        ("INTERNAL", "UNAVAILABLE"),
        ("DEADLINE_EXCEEDED", "DEADLINE_EXCEEDED"),
        ("INVALID_ARGUMENT", "INVALID_ARGUMENT"),
        ("FAILED_PRECONDITION", "FAILED_PRECONDITION"),
    ],
)
def test_the_error_of_a_next_hop_says_which_one(code, expected):
    def refuse(_):
        raise WireError(code, "no", "because", 0.5)

    transport = InMemoryTransport({"b:2": refuse})
    service = node(transport=transport)
    (error,) = ask(service, request(outputs=CUTS[3], route=(Hop("b:2", ("logits",), 32),)))
    assert (error.code, error.reason) == (expected, "next_hop")
    assert "next hop b:2" in error.message
    assert service.metrics.forward_failures == 1


def test_routes_go_to_allowed_peers_only():
    route = (Hop("b:2", ("logits",), 32),)
    (none,) = ask(node(), request(outputs=CUTS[3], route=route))
    (other,) = ask(node(transport=InMemoryTransport({}), peers=("c:3",)), request(outputs=CUTS[3], route=route))
    assert none.code == other.code == "INVALID_ARGUMENT"
    assert "does not forward to b:2" in other.message


def test_another_network_of_the_same_name_is_refused_with_the_right_fingerprint():
    (right,) = ask(node(), request(fingerprint=GRAPH.fingerprint))
    np.testing.assert_array_equal(to_array(right.outputs[0]), WHOLE)
    assert ask(node(), request(fingerprint=GRAPH.short_fingerprint))[0].server_s > 0
    assert "network" in ask(node(), request(fingerprint=GRAPH.fingerprint[:8]))[0].message
    (wrong,) = ask(node(), request(fingerprint="0" * 64))
    assert wrong.code == "FAILED_PRECONDITION"
    assert "the same file and the same --shape" in wrong.message
    assert GRAPH.fingerprint in wrong.message


@pytest.mark.parametrize(
    ("bad", "code"),
    [
        (InferRequest("nope", (INPUT,)), "NOT_FOUND"),
        (request(version="2"), "NOT_FOUND"),
        (InferRequest("../resnet32", (INPUT,)), "NOT_FOUND"),
        (request(deadline_s=0.0), "DEADLINE_EXCEEDED"),
        (request(()), "INVALID_ARGUMENT"),
        (request(outputs=("nope",)), "INVALID_ARGUMENT"),
        (request((INPUT._replace(shape=(1, 3, 32, 31)),)), "INVALID_ARGUMENT"),
        (request((WireTensor("input", "UINT8", (3,), b"abc", codec=True),)), "INVALID_ARGUMENT"),
        (request((pack("input", IMAGE.astype(np.float64), 32),)), "INVALID_ARGUMENT"),
        (request((pack("input", np.zeros((64, 3, 32, 32), np.float32), 4),)), "RESOURCE_EXHAUSTED"),
    ],
)
def test_bad_requests_are_counted_and_do_not_disturb(bad, code):
    service = node(limit_bytes=500_000)
    error, good = ask(service, bad, request())
    assert error.code == code
    assert "\n" not in error.message
    np.testing.assert_array_equal(to_array(good.outputs[0]), WHOLE)
    stats = service.metrics.models[bad.model if bad.model == "resnet32" else ""]
    assert sum(stats.failures.values()) == 1
    assert sum(s.received for s in service.metrics.models.values()) == 2
    assert sum(s.in_flight for s in service.metrics.models.values()) == 0


def test_a_bug_is_told_without_its_traceback(caplog):
    class Broken(Executor):
        def run(self, inputs, outputs=(), abort=None):
            raise KeyError("/secret/path")

    service = EdgeService([serve_graph(GRAPH, Broken(GRAPH))])

    async def one_after_the_other():
        requests = (request(id="r7"), request(id="a\nrequest b failed"), request())
        found = [(await asyncio.gather(service.infer(r, unencoded), return_exceptions=True))[0] for r in requests]
        service.close()
        return found

    error, forged, nameless = asyncio.run(one_after_the_other())
    assert error.code == "INTERNAL"
    assert error.message == "internal error; see the node's log for request r7"
    named = nameless.message.removeprefix("internal error; see the node's log for request ")
    assert [record.getMessage() for record in caplog.records] == [
        f"request {id} failed: KeyError: '/secret/path'" for id in ("r7", r"a\nrequest b failed", named)
    ]
    assert forged.code == "INTERNAL"
    assert len(named) == 8, "a request without an id is found in the log, too"
    assert [bool(record.exc_info) for record in caplog.records] == [True, False, False], "one traceback is enough"
    assert service.metrics.models["resnet32"].failures["BACKEND"] == 3


def test_warming_opens_a_piece_and_measures_it():
    executor = Executor(GRAPH)
    service = EdgeService([serve_graph(GRAPH, executor)])
    placeholder = tuple(WireTensor(name, "UINT8", (0,), b"", codec=True) for name in CUTS[5])
    (reply,) = ask(service, request(placeholder, ("logits",), warm=True))
    assert executor.hold(CUTS[5], ("logits",))
    assert reply.server_s > 0
    assert reply.outputs == ()
    (error,) = ask(EdgeService([serve_graph(GRAPH, executor)]), request(placeholder[:0], ("logits",), warm=True))
    assert error.code == "INVALID_ARGUMENT"


def test_pings_jump_the_queue_until_the_node_drains():
    service = node()
    (pong,) = ask(service, InferRequest(PING_MODEL, ()))
    assert pong.load.room == 1 + defaults.QUEUE

    async def drained():
        service = node()
        service.drain()
        assert not service.is_ready
        return await asyncio.gather(
            service.infer(InferRequest(PING_MODEL, ()), unencoded),
            service.infer(request(), unencoded),
            return_exceptions=True,
        )

    assert [(error.code, error.reason) for error in asyncio.run(drained())] == [("UNAVAILABLE", "draining")] * 2


def test_two_models_of_one_name_are_refused():
    with pytest.raises(RequestError, match="two models are called 'echo'"):
        EdgeService([serve_echo(), serve_echo()])


def test_the_exposition_adds_up():
    async def run():
        service = node()
        await asyncio.gather(*(service.infer(request(), unencoded) for _ in range(4)))
        await asyncio.gather(service.infer(request(()), unencoded), return_exceptions=True)
        exposition = Exposition(service.metrics, service.scheduler.load, lambda: service.scheduler.state.counts)
        service.close()
        return exposition.text().decode()

    lines = dict(line.rsplit(" ", 1) for line in asyncio.run(run()).splitlines() if not line.startswith("#"))
    assert float(lines['nv_inference_request_success{model="resnet32",version="1"}']) == 4
    assert float(lines['nv_inference_request_failure{model="resnet32",reason="OTHER",version="1"}']) == 1
    assert float(lines['nv_inference_pending_request_count{model="resnet32",version="1"}']) == 0
    assert float(lines['coinfer_requests_received_total{model="resnet32"}']) == 5
    assert float(lines['coinfer_jobs_total{what="finished"}']) == 4
    piece = 'model="resnet32",piece="input to outputs"'
    assert float(lines[f'coinfer_request_latency_seconds_bucket{{le="+Inf",{piece}}}']) == 4
    seconds = float(lines[f"coinfer_compute_seconds_sum{{{piece}}}"])
    assert int(seconds * 1e6) == float(lines['nv_inference_compute_infer_duration_us{model="resnet32",version="1"}'])
    assert not any(name.startswith("coinfer_upload_seconds_") for name in lines), "nothing was sent on"
    parts = ("queue", "compute_input", "compute_infer", "compute_output")
    spent = sum(float(lines[f'nv_inference_{part}_duration_us{{model="resnet32",version="1"}}']) for part in parts)
    assert 0 < spent <= float(lines['nv_inference_request_duration_us{model="resnet32",version="1"}'])


def test_an_answer_over_the_limit_is_refused_before_it_is_encoded(caplog):
    class Wide(Executor):
        def run(self, inputs, outputs=(), abort=None):
            return {"logits": np.zeros((1, 30_000), np.float32)}, 0.0

    service = EdgeService([serve_graph(GRAPH, Wide(GRAPH))], limit_bytes=100_000)
    plain, packed = ask(service, request(id="r8"), request(bits=16))
    assert (plain.code, plain.reason, plain.pushback_s) == ("RESOURCE_EXHAUSTED", "too_large", -1.0)
    assert plain.message.startswith("message of 120000 bytes is over the limit of 100000")
    assert unpack(packed.outputs[0]).shape == (1, 30_000), "fewer bits, as the message says"
    stats = service.metrics.models["resnet32"]
    assert (stats.success, stats.failures["REJECTED"]) == (1, 1)
    assert [record.getMessage() for record in caplog.records] == [f"request r8 to 'resnet32': {plain.message}"]


def test_who_asks_for_metrics_without_end_takes_a_small_share_of_the_time():
    made_s: list[float] = []

    class Slow(PrometheusText):
        def collect(self) -> list[Metric]:
            return []

        def text(self) -> bytes:
            began_s = time.monotonic()
            time.sleep(0.001)
            made_s.append(time.monotonic() - began_s)
            return str(len(made_s)).encode()

    slow, began_s = Slow(), time.monotonic()
    while len(made_s) < 4:
        assert slow.recent_text() == str(len(made_s)).encode()
    assert sum(made_s[:-1]) <= TEXT_SHARE * (time.monotonic() - began_s), "the last one is not paid for yet"
