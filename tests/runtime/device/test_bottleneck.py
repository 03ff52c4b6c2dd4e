"""A device sends the symbols of a bottleneck where that is best, and does without where a server lacks it."""

import logging
from collections.abc import Callable

import numpy as np
import pytest
from tests.exit_training.bottlenecks import profile, rated, small_network, stripes
from tests.runtime.edge.edge_process import in_memory_node

from coinfer.graph.ir import ModelGraph
from coinfer.runtime.codec.symbols import symbol_codec
from coinfer.runtime.device.config import DeviceError
from coinfer.runtime.device.device import Device
from coinfer.runtime.device.objective import Objective
from coinfer.runtime.device.planning.preview import Preview
from coinfer.runtime.executor import Executor
from coinfer.runtime.images import normalise
from coinfer.runtime.protocol.messages import InferRequest, WireError, WireTensor
from coinfer.runtime.transport.base import InMemoryTransport
from coinfer.types import Hop, OffloadDecision, OffloadObservation, Route

PICTURES = stripes(8, seed=3).images
ANSWER = ("code4/answer",)


GRAPH = rated({"code2": 80, "code4": 90})
assert GRAPH.bottleneck is not None


def device(graph: ModelGraph, seen: list[InferRequest], **settings) -> Device:
    transport = InMemoryTransport({"a:1": in_memory_node(graph, seen)})
    return Device(GRAPH, servers=["a:1"], profile=profile(GRAPH), transport=transport, hedge=False, **settings)


def of_cut(device: Device, cut: tuple[str, ...]) -> Callable[[OffloadObservation], OffloadDecision]:
    """The policy that always sends this."""
    option = device.options.cuts.index(cut)
    return lambda observation: OffloadDecision(np.array([option]), np.array([0]))


def through_code(picture: np.ndarray) -> np.ndarray:
    assert GRAPH.image is not None
    return Executor(GRAPH).run({"input": normalise(picture, GRAPH.image)}, ANSWER)[0][ANSWER[0]]


def test_symbols_are_sent_and_answer_under_the_networks_name():
    seen = list[InferRequest]()
    with device(GRAPH, seen) as ours:
        results = [ours.infer(picture, policy=of_cut(ours, ("code4",))) for picture in PICTURES]
    for picture, result in zip(PICTURES, results, strict=True):
        assert result.executed_on == "a:1"
        assert result.fallback == ""
        assert list(result.outputs) == ["logits"]
        np.testing.assert_allclose(result.output, through_code(picture), rtol=1e-4, atol=1e-5)
        assert result.outcome.accuracy == 1.0
    codec = symbol_codec(GRAPH, "code4")
    assert codec is not None
    for request in seen:
        assert request.fingerprint == GRAPH.bottleneck.graph.short_fingerprint  # pyright: ignore[reportOptionalMemberAccess]
        (sent,) = request.inputs
        assert codec.decode(bytes(sent.data), limit_bytes=10_000).shape == (1, 4, 4, 4)


def test_the_planner_sends_symbols_over_a_slow_link_only_if_they_lose_little():
    with device(GRAPH, []) as ours:
        offered = {cut for cut in ours.options.cuts if GRAPH.part(cut) is not GRAPH}
        assert offered == {("code4",)}, "code2 loses ten points"
        ranges = list(Preview(ours.options, Objective()).ranges())
        assert [ours.options.cuts[option] for _, _, option in ranges] == [("logits",), ("code4",)]
    with device(GRAPH, [], bits=(32,)) as exact:
        assert not any(GRAPH.part(cut) is not GRAPH for cut in exact.options.cuts)


def test_a_server_without_the_bottleneck_is_sent_something_else(caplog):
    seen = list[InferRequest]()
    with caplog.at_level(logging.WARNING), device(small_network(), seen) as ours:
        observed = ours.observe()
        at = ours.options.cuts.index(("code4",))
        assert np.isinf(observed.option_server_s[0, at, 0])
        result = ours.infer(PICTURES[0], policy=of_cut(ours, ("input",)))
        assert result.executed_on == "a:1"
        assert result.fallback == ""
        assert ours.plan().hops[0].cut != ("code4",)
    assert "a:1 does not have this network's bottleneck; the device sends it other tensors" in caplog.text
    assert [request.fingerprint for request in seen] == [small_network().short_fingerprint]


def test_a_server_that_lost_the_bottleneck_costs_one_fallback():
    seen = list[InferRequest]()
    with device(GRAPH, seen) as ours:
        transport = ours._parts.client._transport
        assert isinstance(transport, InMemoryTransport)
        transport._nodes = {"a:1": in_memory_node(small_network(), seen)}
        result = ours.infer(PICTURES[0], policy=of_cut(ours, ("code4",)))
        assert result.executed_on == "device"
        assert "FAILED_PRECONDITION" in result.fallback
        np.testing.assert_allclose(result.output, through_code(PICTURES[0]), rtol=1e-4, atol=1e-5)
        again = ours.infer(PICTURES[1], policy=of_cut(ours, ("input",)))
        assert again.executed_on == "a:1", "it serves everything else"


def test_a_route_may_go_through_a_code():
    seen = list[InferRequest]()
    with device(GRAPH, seen) as ours:
        route = Route((Hop("device", ("code2",), 2), Hop("a:1", ("code2/answer",), 32)), 0, 1e6)
        result = ours.infer_by_route(PICTURES[0], route)
        assert result.executed_on == "a:1"
        assert list(result.outputs) == ["logits"]
        with pytest.raises(DeviceError, match="route ends at"):
            ours.infer_by_route(PICTURES[0], route._replace(hops=(route.hops[0], Hop("a:1", ("code2",), 32))))


def test_without_servers_and_in_batches_nothing_needs_it():
    with Device(GRAPH, profile=profile(GRAPH)) as alone:
        assert alone.infer(PICTURES[0]).executed_on == "device"
    seen = list[InferRequest]()
    with device(GRAPH, seen) as ours:
        batch = np.concatenate([normalise(one, GRAPH.image) for one in PICTURES])  # pyright: ignore[reportArgumentType]
        result = ours.infer(batch, policy=of_cut(ours, ("code4",)))
        assert result.executed_on == "a:1"
        expected = np.concatenate([through_code(picture) for picture in PICTURES])
        np.testing.assert_allclose(result.output, expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(("data", "problem"), [(b"CINF", "holds no symbols"), (b"CB\x01\x01\x00abcdef", "damaged")])
def test_a_server_refuses_what_are_no_symbols(data, problem):
    tensor = WireTensor("code4", "UINT8", (len(data),), data, codec=True)
    with pytest.raises(WireError, match=problem) as refused:
        in_memory_node(GRAPH, [])(InferRequest("small", (tensor,), ANSWER))
    assert refused.value.code == "INVALID_ARGUMENT"
