"""The in-memory twin and the link shaper."""

import math
import threading
from concurrent.futures import CancelledError

import numpy as np
import pytest

from coinfer.runtime.clock import VirtualClock, WallClock
from coinfer.runtime.emulation.links import Link
from coinfer.runtime.protocol.messages import InferReply, InferRequest, TransportError, WireError, from_array
from coinfer.runtime.protocol.protobuf import reply_bits, request_bits
from coinfer.runtime.transport.base import InMemoryTransport, ShapedTransport
from coinfer.traces import Trace

REQUEST = InferRequest("m", (from_array("x", np.zeros(10_000, np.float32)),), deadline_s=5.0)


def answer(request):
    return InferReply(request.model, (from_array("y", np.ones(1_000, np.float32)),))


def code_of(future):
    with pytest.raises(TransportError) as caught:
        future.result(60)
    return caught.value.code


def test_nodes_in_memory_answer_refuse_fail_or_are_missing():
    def refuse(request):
        raise WireError("RESOURCE_EXHAUSTED", "full", "queue_full", 0.25)

    def fail(request):
        raise ZeroDivisionError

    never = threading.Event()
    transport = InMemoryTransport({"a": answer, "full": refuse, "bad": fail, "slow": lambda _: never.wait(60)})
    assert transport.send("a", REQUEST).result(60).outputs == answer(REQUEST).outputs
    assert transport.ping("a").result(60).load is None
    with pytest.raises(TransportError) as caught:
        transport.send("full", REQUEST).result(60)
    assert (caught.value.code, caught.value.reason, caught.value.pushback_s) == (
        "RESOURCE_EXHAUSTED",
        "queue_full",
        0.25,
    )
    assert code_of(transport.send("bad", REQUEST)) == "INTERNAL"
    assert code_of(transport.send("nowhere", REQUEST)) == code_of(transport.ping("nowhere")) == "UNAVAILABLE"
    assert code_of(transport.send("slow", REQUEST, 0.05)) == "DEADLINE_EXCEEDED"
    cancelled = transport.send("slow", REQUEST)
    assert cancelled.cancel()
    never.set()
    transport.close()


def test_the_shaper_takes_what_the_links_take_and_says_so():
    clock = VirtualClock()
    up = Link(Trace.constant(1e6), clock, burst_bits=0, latency_s=0.01)
    down = Link(Trace.constant(4e6), clock, burst_bits=0)
    seen = []
    inner = InMemoryTransport({"a": lambda request: (seen.append(request), answer(request))[1]})
    transport = ShapedTransport(inner, {"a": up}, {"a": down})
    reply = transport.send("a", REQUEST, 60.0).result(60)
    assert reply.upload_s == pytest.approx(request_bits(REQUEST) / 1e6 + 0.01)
    assert reply.download_s == pytest.approx(reply_bits(answer(REQUEST)) / 4e6)
    assert clock.now_s() == pytest.approx(reply.upload_s + reply.download_s)
    assert seen[0].deadline_s == pytest.approx(5.0 - reply.upload_s), "the node gets the time that is left"
    assert transport.ping("a", 60.0, size_bytes=12_500).result(60).round_trip_s > 0.11
    transport.close()


def test_one_link_carries_both_ways_in_turn():
    clock = VirtualClock()
    link = Link(Trace.constant(1e6), clock, burst_bits=0)
    transport = ShapedTransport(InMemoryTransport({"a": answer}), {"a": link})
    reply = transport.send("a", REQUEST, 60.0).result(60)
    bits = request_bits(REQUEST) + reply_bits(answer(REQUEST))
    assert reply.upload_s + reply.download_s == pytest.approx(bits / 1e6)
    transport.close()


def test_a_dead_link_times_out_and_can_be_given_up():
    class Dead:
        cancelled = threading.Event()

        def transmit(self, size_bits, cancel=None):
            WallClock().sleep(60.0, cancel)
            self.cancelled.set()
            from coinfer.runtime.emulation.links import TransferCancelled

            raise TransferCancelled

    for give_up in (False, True):
        dead = Dead()
        dead.cancelled = threading.Event()
        transport = ShapedTransport(InMemoryTransport({"a": answer}), {"a": dead})
        future = transport.send("a", REQUEST, math.inf if give_up else 0.05)
        if give_up:
            assert future.cancel()
            with pytest.raises(CancelledError):
                future.result(60)
        else:
            assert code_of(future) == "DEADLINE_EXCEEDED"
        assert dead.cancelled.wait(60), "the link is free again"
        transport.close()


def test_cancelling_a_shaped_request_cancels_the_call():
    class Inner(InMemoryTransport):
        def send(self, node, request, timeout_s=math.inf):
            self.call = super().send(node, request, timeout_s)
            self.sent.set()
            return self.call

    never = threading.Event()
    inner = Inner({"a": lambda _: never.wait(60)})
    inner.sent = threading.Event()
    transport = ShapedTransport(inner, {"a": Link(Trace.constant(1e9), WallClock())})
    future = transport.send("a", REQUEST)
    assert inner.sent.wait(60)
    assert future.cancel()
    with pytest.raises(CancelledError):
        inner.call.result(60)
    never.set()
    transport.close()


def test_errors_pass_through_the_shaper_and_a_closed_one_says_so():
    transport = ShapedTransport(InMemoryTransport({}), {"a": Link(Trace.constant(1e9), WallClock())})
    assert code_of(transport.send("a", REQUEST)) == "UNAVAILABLE"
    transport.close()
    assert code_of(transport.send("a", REQUEST)) == "CANCELLED"


def test_a_node_without_a_link_is_not_shaped():
    transport = ShapedTransport(InMemoryTransport({"a": answer}), {})
    reply = transport.send("a", REQUEST).result(60)
    assert (reply.upload_s, reply.download_s) == (0.0, 0.0)
    transport.close()
