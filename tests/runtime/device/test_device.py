"""The device answers every request rightly, whatever its servers do. Servers live in memory here."""

import math
import threading
import time
from collections.abc import Callable
from concurrent.futures import Future

import numpy as np
import pytest
from tests.tables import analytic_table, made_up_accuracy

from coinfer.errors import UserError
from coinfer.graph.zoo import early_exits, networks
from coinfer.runtime.clock import VirtualClock, WallClock
from coinfer.runtime.codec.tensors import pack, unpack
from coinfer.runtime.device.config import DeviceError
from coinfer.runtime.device.device import Device
from coinfer.runtime.device.inputs import ItemError
from coinfer.runtime.device.objective import Objective
from coinfer.runtime.executor import Executor
from coinfer.runtime.images import ImageError, load_images, preprocess
from coinfer.runtime.protocol.messages import InferReply, InferRequest, LoadReport, WireError
from coinfer.runtime.transport.base import PING_MODEL, InMemoryTransport
from coinfer.types import DEVICE, Hop, OffloadDecision, Route

GRAPH = networks.build("alexnet-cifar")
TABLE = analytic_table(GRAPH, whole_s=20.0)
PICTURES = [picture for _, picture in load_images()]
EXACT = Executor(GRAPH)
Node = Callable[[InferRequest], InferReply]


def exact(picture: np.ndarray) -> np.ndarray:
    assert GRAPH.image is not None
    return EXACT.run({"input": preprocess(picture, GRAPH.image)}, GRAPH.outputs)[0][GRAPH.outputs[0]]


def good_node(server_s: float = 1e-4) -> Node:
    """A server that computes what it is asked for."""

    def handle(request: InferRequest) -> InferReply:
        load = LoadReport(0.0, 0, 8)
        if request.warm:
            return InferReply(request.model, (), server_s=server_s, load=load)
        inputs = {tensor.name: unpack(tensor) for tensor in request.inputs}
        outputs, _ = EXACT.run(inputs, request.outputs)
        packed = tuple(pack(name, array, request.bits) for name, array in outputs.items())
        return InferReply(request.model, packed, server_s=server_s, load=load)

    return handle


class Switched:
    """A good node until `bad` is set to something that raises or hangs."""

    def __init__(self) -> None:
        self.bad: Callable[[], None] | None = None
        self.good = good_node()
        self.asked = 0

    def __call__(self, request: InferRequest) -> InferReply:
        if self.bad is None or request.warm:
            return self.good(request)
        self.asked += 1
        self.bad()
        return self.good(request)


def fails(code: str, reason: str = "", pushback_s: float | None = None) -> Callable[[], None]:
    def bad() -> None:
        raise WireError(code, "on purpose", reason, pushback_s)  # pyright: ignore[reportArgumentType]

    return bad


class SlowClock(WallClock):
    """A thousandth of the time passes: what rests for a second does so for the whole test."""

    def now_s(self) -> float:
        return time.monotonic() / 1000


def device(nodes: dict[str, Node], **settings) -> Device:
    """`hedge=False` where a test wants the server's answer: on a busy machine the device may overtake any server."""
    # whatever the servers' names, they are asked in memory
    return Device(GRAPH, servers=list(nodes), profile=TABLE, transport=InMemoryTransport(nodes), bits=(32,), **settings)


def test_without_servers_the_device_answers():
    with device({}) as alone:
        result = alone.infer(PICTURES[0])
    np.testing.assert_allclose(result.output, exact(PICTURES[0]), rtol=1e-5)
    assert result.executed_on == "device"
    assert result.fallback == ""
    assert result.sent_bits == 0
    assert result.outcome.admitted


def test_a_fast_server_answers_and_the_times_add_up():
    with device({"a:1": good_node()}, hedge=False) as ours:
        results = [ours.infer(picture) for picture in PICTURES]
    for picture, result in zip(PICTURES, results, strict=True):
        np.testing.assert_allclose(result.output, exact(picture), rtol=1e-4)
        assert result.executed_on == "a:1"
        parts = result.outcome[:5]
        assert sum(parts) == pytest.approx(result.outcome.latency_s)
        assert min(parts) >= 0
        assert result.sent_bits > 0


@pytest.mark.parametrize(
    "code", ["UNAVAILABLE", "INTERNAL", "RESOURCE_EXHAUSTED", "NOT_FOUND", "FAILED_PRECONDITION", "UNKNOWN"]
)
def test_a_failing_server_is_replaced_by_the_other_or_the_device(code: str):
    bad, good = Switched(), good_node()
    with device({"bad:1": bad, "good:1": good}, hedge=False) as both:
        bad.bad = fails(code)
        result = both.infer(PICTURES[0], policy=lambda _: OffloadDecision(np.array([0]), np.array([0])))
    np.testing.assert_allclose(result.output, exact(PICTURES[0]), rtol=1e-4)
    assert result.executed_on in ("good:1", "device")
    assert result.fallback.startswith(f"bad:1: {code}")


def test_all_servers_failing_leaves_the_device_itself():
    bad = {f"bad:{i}": Switched() for i in range(1, 4)}
    with device(dict(bad), hedge=False, clock=VirtualClock(1.0)) as surrounded:
        surrounded._parts.client.pool.close()  # a probe that is answered in between would clear it
        for node in bad.values():
            node.bad = fails("UNAVAILABLE")
        results = [surrounded.infer(picture) for picture in PICTURES * 3]
    for picture, result in zip(PICTURES * 3, results, strict=True):
        np.testing.assert_allclose(result.output, exact(picture), rtol=1e-4)
        assert result.executed_on == "device"
    asked = sum(node.asked for node in bad.values())
    assert asked <= 2 * 3, "after two failures in a row a server rests"


def test_a_request_asks_two_servers_and_no_third():
    bad = {f"bad:{i}": Switched() for i in range(1, 5)}
    with device(dict(bad), hedge=False, clock=VirtualClock(1.0)) as surrounded:
        for node in bad.values():
            node.bad = fails("UNAVAILABLE")
        result = surrounded.infer(PICTURES[0])
    assert sum(node.asked for node in bad.values()) == 2
    assert result.executed_on == "device"
    assert result.fallback.count("UNAVAILABLE") == 2


class Noting(InMemoryTransport):
    """Keeps what was sent, but for requests to prepare."""

    def __init__(self, nodes: dict[str, Node]):
        super().__init__(nodes)
        self.sent: list[Future[InferReply]] = []

    def send(self, node: str, request: InferRequest, timeout_s: float = math.inf) -> Future[InferReply]:
        reply = super().send(node, request, timeout_s)
        self.sent += [] if request.warm else [reply]
        return reply


def test_a_request_that_was_overtaken_is_cancelled():
    hang, release = Switched(), threading.Event()
    transport = Noting({"hang:1": hang})
    with Device(
        GRAPH, servers=["hang:1"], profile=TABLE, transport=transport, bits=(32,), clock=SlowClock()
    ) as waiting:
        hang.bad = lambda: (release.wait(200), None)[1]
        result = waiting.infer(PICTURES[0])
        release.set()
    assert result.executed_on == "device"
    assert [reply.cancelled() for reply in transport.sent] == [True]


def test_a_hanging_server_is_overtaken_and_then_avoided():
    hang, release = Switched(), threading.Event()
    with device({"hang:1": hang}, clock=SlowClock()) as waiting:
        waiting._parts.client.pool.close()  # a probe that is answered in between would clear it
        hang.bad = lambda: (release.wait(200), None)[1]
        results = [waiting.infer(picture) for picture in PICTURES * 2]
        release.set()
    for picture, result in zip(PICTURES * 2, results, strict=True):
        np.testing.assert_allclose(result.output, exact(picture), rtol=1e-4)
        assert result.executed_on == "device"
    assert results[0].fallback.startswith("hang:1: no reply after")
    assert hang.asked <= 3


def test_a_request_that_waits_for_a_silent_server_goes_to_another_one():
    """The device is a thousand times slower than the other server, which it asks while it begins itself."""
    hang, release = Switched(), threading.Event()
    with device({"hang:1": hang, "good:1": good_node()}, clock=SlowClock(), slowdown=1000.0) as both:
        hang.bad = lambda: (release.wait(200), None)[1]
        result = both.infer(PICTURES[0], policy=lambda _: OffloadDecision(np.array([0]), np.array([0])))
        release.set()
    np.testing.assert_allclose(result.output, exact(PICTURES[0]), rtol=1e-4)
    assert result.executed_on == "good:1"
    assert result.fallback.startswith("hang:1: no reply after")
    assert sum(result.outcome[:5]) == pytest.approx(result.outcome.latency_s)


def test_what_the_device_does_for_a_failed_server_may_exit_early_where_the_request_may():
    graph = early_exits.build("alexnet-cifar-exits")
    table, accuracy, bad = analytic_table(graph, whole_s=20.0), made_up_accuracy(graph), Switched()
    to_last = {"accuracy": accuracy, "confidence": 1.0, "objective": Objective(min_accuracy=0.75)}
    with Device(
        graph, servers=["bad:1"], profile=table, transport=InMemoryTransport({"bad:1": bad}), **to_last
    ) as ours:
        bad.bad = fails("UNAVAILABLE")
        options = ours.options
        sends = next(i for i, cut in enumerate(options.cuts) if cut == graph.inputs and options.exit[i] == 2)
        to_bad = OffloadDecision(np.array([sends]), np.array([0]))
        early, late = (ours.infer(PICTURES[0], policy=lambda _: to_bad, early_exit=may) for may in (True, False))
    assert (early.executed_on, early.exit) == ("device", 0), "every answer is sure enough"
    assert (late.executed_on, late.exit) == ("device", 2)


def test_a_full_server_is_not_asked_until_its_backlog_is_done():
    full = Switched()
    with device({"full:1": full}, hedge=False, clock=VirtualClock(1.0)) as alone:
        full.bad = fails("RESOURCE_EXHAUSTED", "queue_full", 60.0)
        results = [alone.infer(picture) for picture in PICTURES]
    assert full.asked == 1
    assert [result.executed_on for result in results] == ["device"] * len(PICTURES)
    assert not results[0].outcome.admitted


@pytest.mark.parametrize(("reason", "pushback_s"), [("too_large", -1.0), ("too_large", None), ("", -1.0)])
def test_what_is_too_large_for_a_server_is_not_sent_again_but_what_is_smaller(reason: str, pushback_s: float | None):
    good, sent = good_node(), list[str]()
    too_large = {cut.tensors[0] for cut in GRAPH.useful_cuts()[:4]}

    def small(request: InferRequest) -> InferReply:
        if not request.warm:
            sent.append(request.inputs[0].name)
            if sent[-1] in too_large:
                raise WireError("RESOURCE_EXHAUSTED", "on purpose", reason, pushback_s)
        return good(request)

    with device({"small:1": small}, hedge=False, clock=VirtualClock(1.0)) as ours:
        count = len(ours.options.bits)
        results = [ours.infer(PICTURES[0]) for _ in range(count + 1)]
    refused = [name for name in sent if name in too_large]
    assert 1 < len(refused) == len(set(refused)), "each cut that is too large was tried once"
    assert sent[: len(refused)] == refused
    places = ["device"] * len(refused) + ["small:1"] * (count + 1 - len(refused))
    assert [result.executed_on for result in results] == places, "the server is not taken for broken"
    assert all(result.outcome.admitted for result in results), "no admission control refused anything"


def test_a_reply_without_the_outputs_does_not_count():
    def liar(request: InferRequest) -> InferReply:
        return InferReply(request.model, (), load=LoadReport(0.0, 0, 8))

    with device({"liar:1": liar}, hedge=False) as trusting:
        result = trusting.infer(PICTURES[0])
    np.testing.assert_allclose(result.output, exact(PICTURES[0]), rtol=1e-4)
    assert "lacks" in result.fallback


def test_every_option_that_is_planned_computes_the_same():
    with device({"a:1": good_node()}, hedge=False) as ours:
        for option in range(len(ours.options.bits) - 1):
            decision = OffloadDecision(np.array([option]), np.array([0]))
            result = ours.infer(PICTURES[1], policy=lambda _, decision=decision: decision)
            assert result.executed_on == "a:1"
            assert result.route.hops[0].cut == ours.options.cuts[option]
            np.testing.assert_allclose(result.output, exact(PICTURES[1]), rtol=1e-4, atol=1e-5)


def test_a_given_route_is_followed_over_several_servers():
    cuts = GRAPH.useful_cuts()[2:8:2]
    nodes = ["a:1", "b:1", "c:1"]
    hops = [Hop("device", cuts[0].tensors, 32)]
    hops += [Hop(node, cut.tensors, 32) for node, cut in zip(nodes[:2], cuts[1:], strict=True)]
    route = Route((*hops, Hop("c:1", GRAPH.outputs, 32)), 0, 60.0)
    asked: list[tuple[str, ...]] = []

    def forwarding(request: InferRequest) -> InferReply:
        if request.warm or not request.route or request.model == PING_MODEL:
            return good_node()(request)
        asked.append(tuple(hop.node for hop in request.route))
        first = good_node()(request)
        return forwarding(request._replace(inputs=first.outputs, outputs=request.route[0].cut, route=request.route[1:]))

    with device(dict.fromkeys(nodes, forwarding)) as ours:
        result = ours.infer_by_route(PICTURES[2], route)
        np.testing.assert_allclose(result.output, exact(PICTURES[2]), rtol=1e-4, atol=1e-5)
        assert result.executed_on == "c:1"
        assert asked == [("b:1", "c:1"), ("c:1",)]
        with pytest.raises(DeviceError, match="expected 'device' first"):
            ours.infer_by_route(PICTURES[0], Route((Hop("a:1", GRAPH.outputs, 32),), 0, 1.0))
        with pytest.raises(DeviceError, match="expected 'device' first"):
            ours.infer_by_route(PICTURES[0], Route((hops[0], Hop("z:9", GRAPH.outputs, 32)), 0, 1.0))
        with pytest.raises(DeviceError, match="route ends at"):
            ours.infer_by_route(PICTURES[0], Route(tuple(hops), 0, 1.0))


def test_a_route_that_fails_is_finished_on_the_device():
    bad = Switched()
    with device({"bad:1": bad}) as ours:
        bad.bad = fails("UNAVAILABLE")
        cut = GRAPH.useful_cuts()[4].tensors
        route = Route((Hop("device", cut, 8), Hop("bad:1", GRAPH.outputs, 32)), 0, 60.0)
        result = ours.infer_by_route(PICTURES[0], route)
    np.testing.assert_allclose(result.output, exact(PICTURES[0]), rtol=1e-4, atol=1e-5)
    assert (result.executed_on, result.fallback) == ("device", "bad:1: UNAVAILABLE on purpose")


def raises(_: object) -> OffloadDecision:
    raise RuntimeError("a policy with a bug")


@pytest.mark.parametrize(
    "policy",
    [
        raises,
        lambda _: None,
        lambda _: OffloadDecision(np.array([9999]), np.array([0])),
        lambda _: OffloadDecision(np.array([0]), np.array([DEVICE])),
        lambda _: OffloadDecision(np.array([np.nan]), np.array([0])),
    ],
)
def test_a_broken_policy_never_breaks_inference(policy):
    with device({"a:1": good_node()}, policy=policy) as ours:
        result = ours.infer(PICTURES[0])
    np.testing.assert_allclose(result.output, exact(PICTURES[0]), rtol=1e-4)


def test_many_threads_share_a_device():
    with device({"a:1": good_node(), "b:1": good_node()}) as shared:
        results: dict[int, np.ndarray] = {}

        def work(i: int) -> None:
            results[i] = shared.infer(PICTURES[i % len(PICTURES)]).output

        threads = [threading.Thread(target=work, args=(i,)) for i in range(24)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert len(results) == 24
    for i, output in results.items():
        np.testing.assert_allclose(output, exact(PICTURES[i % len(PICTURES)]), rtol=1e-4)


def test_arrays_and_mappings_are_inputs_too():
    assert GRAPH.image is not None
    array = preprocess(PICTURES[0], GRAPH.image)
    with device({"a:1": good_node()}) as ours:
        for item in (array, {"input": array}):
            np.testing.assert_allclose(ours.infer(item).output, exact(PICTURES[0]), rtol=1e-4)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"servers": "127.0.0.1:8001"}, "servers is one string"),
        ({"servers": [8001]}, "servers holds 8001; expected texts such as"),
        ({"objective": "accuracy"}, "objective is 'accuracy'; expected coinfer.Objective"),
        ({"bits": 8}, r"bits is 8; expected a sequence such as \(8,\)"),
        ({"deadline_s": "1"}, "deadline_s is '1'; expected seconds above 0"),
        ({"servers": ["localhost"]}, "expected host:port"),
        ({"servers": ["a:0"]}, "expected host:port"),
        ({"deadline_s": -1.0}, "deadline_s is -1.0"),
        ({"deadline_s": float("nan")}, "deadline_s is nan"),
        ({"bits": (7,)}, "expected some of 32, 16, 12, 8, 4"),
        ({"jpeg_quality": 96}, "jpeg_quality is 96; expected 1 to 95"),
        ({"threads": 0}, "threads is 0"),
        ({"provider": "magic"}, "provider is 'magic', which is not installed here; there are cpu"),
        ({"slowdown": 0.5}, "slowdown is 0.5"),
    ],
)
def test_wrong_settings_are_one_line(settings: dict, message: str):
    with pytest.raises(UserError, match=message):
        Device(GRAPH, profile=TABLE, **settings)


@pytest.mark.parametrize(
    ("item", "error", "message"),
    [
        ("missing.jpg", ImageError, "no such file"),
        (np.zeros((4, 4), np.uint8), Exception, "expected"),
        (np.zeros((1, 3, 32, 32), np.float64), Exception, "expected float32, got float64"),
        (np.zeros((1, 3, 31, 32), np.float32), Exception, "expected shape"),
        ({"nonsense": np.zeros(3, np.float32)}, Exception, "nonsense"),
        (3.14, ItemError, "cannot infer from a float"),
    ],
)
def test_wrong_items_are_one_line(item, error: type[Exception], message: str):
    with device({"a:1": good_node()}) as ours, pytest.raises(error, match=message) as caught:
        ours.infer(item)
    assert "\n" not in str(caught.value)


def test_deadlines_that_passed_are_reported_not_hidden():
    with device({}) as alone:
        result = alone.infer(PICTURES[0], deadline_s=1e-9)
        assert not result.outcome.in_time
        with pytest.raises(DeviceError, match="deadline_s is -1"):
            alone.infer(PICTURES[0], deadline_s=-1)
