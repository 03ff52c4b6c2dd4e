"""The channel profile, each argument by its effect: gRPC ignores names that it does not know."""

import contextlib
import signal
import socket
import threading
import time
from concurrent.futures import CancelledError, ThreadPoolExecutor

import grpc
import numpy as np
import pytest
from tests.patience import patient_transport, wait_until
from tests.runtime.edge.edge_process import Sleeper, edge_process, edge_thread, seconds

from coinfer.runtime.edge.served_model import ECHO, serve_echo
from coinfer.runtime.edge.service import EdgeService
from coinfer.runtime.protocol.messages import InferRequest, TransportError, from_array, to_array
from coinfer.runtime.transport.grpc_transport import MAX_NODES, GrpcTransport, client_options, server_options
from coinfer.units import MIB

FOUND_S = 30.0
"""A second on a calm machine."""


@pytest.fixture(scope="module")
def sleeper():
    return Sleeper()


@pytest.fixture(scope="module")
def edge(sleeper):
    with edge_thread(lambda: EdgeService([serve_echo(), sleeper.served()], queue=2, limit_bytes=16 * MIB)) as edge:
        yield edge


@pytest.fixture
def transport():
    transport = patient_transport(16 * MIB)
    yield transport
    transport.close()


@pytest.fixture
def watchful():
    """As a device has it: a server that does not answer a ping within half a second is lost."""
    transport = GrpcTransport(16 * MIB)
    yield transport
    transport.close()


def echo(values):
    return InferRequest(ECHO, (from_array("x", values),), ("y",))


def asleep(duration_s, **fields):
    return InferRequest("sleeper", (from_array("seconds", seconds(duration_s)),), **fields)


def error_of(future, timeout_s=90):
    with pytest.raises(TransportError) as caught:
        future.result(timeout_s)
    return caught.value


@pytest.mark.parametrize("size_bytes", [4, 300_000, 5 * MIB, 12_845_056])
def test_tensors_of_any_size_arrive_bit_for_bit(edge, transport, size_bytes):
    values = np.random.default_rng(0).integers(0, 2**32, size_bytes // 4, np.uint32).view(np.float32)
    reply = transport.send(edge.grpc, echo(values), 60.0).result(60)
    np.testing.assert_array_equal(to_array(reply.outputs[0]).view(np.uint32), values.view(np.uint32))


def test_too_large_is_refused_by_either_side(edge, transport):
    values = np.zeros(16 * MIB // 4, np.float32)
    here = error_of(transport.send(edge.grpc, echo(values), 60.0))
    careless = patient_transport(64 * MIB)
    there = error_of(careless.send(edge.grpc, echo(values), 60.0))
    careless.close()
    for error in (here, there):
        assert (error.code, error.reason, error.pushback_s) == ("RESOURCE_EXHAUSTED", "too_large", -1.0)


def test_pings_do_not_end_long_calls(edge, transport):
    """The server allows the client's keepalive of once a second; by default it closes after 5 s."""
    assert transport.send(edge.grpc, asleep(7.0), 60.0).result(60).server_s == 7.0


def test_pongs_tell_the_load(edge, transport):
    running = transport.send(edge.grpc, asleep(60.0))
    waiting = transport.send(edge.grpc, asleep(60.0))
    while transport.ping(edge.grpc, 60.0, 1000).result(60).load.queued < 1:
        time.sleep(0.01)
    assert transport.ping(edge.grpc, 60.0).result(60).load.room == 1
    assert running.cancel()
    assert waiting.cancel()
    with pytest.raises(CancelledError):
        running.result(1)
    while transport.ping(edge.grpc, 60.0).result(60).load.room < 3:
        time.sleep(0.01)


def test_a_full_queue_says_when_to_come_back(edge, transport, sleeper):
    known = [transport.send(edge.grpc, asleep(0.05)) for _ in range(2)]
    assert all(future.result(60).server_s == pytest.approx(0.05) for future in known)
    started = len(sleeper.started)
    running = transport.send(edge.grpc, asleep(60.0))
    while len(sleeper.started) == started:
        time.sleep(0.01)
    waiting = [transport.send(edge.grpc, asleep(60.0)) for _ in range(2)]
    while transport.ping(edge.grpc, 60.0).result(60).load.room > 0:
        time.sleep(0.01)
    error = error_of(transport.send(edge.grpc, asleep(0.0)))
    assert (error.code, error.reason) == ("RESOURCE_EXHAUSTED", "queue_full")
    assert error.pushback_s > 0
    late = error_of(transport.send(edge.grpc, asleep(0.0, deadline_s=0.0)))
    assert (late.code, late.reason) == ("DEADLINE_EXCEEDED", "expired")
    for future in (running, *waiting):
        future.cancel()
    while transport.ping(edge.grpc, 60.0).result(60).load.room < 3:
        time.sleep(0.01)


def test_a_deadline_of_the_call_is_kept_by_the_client(edge, transport):
    error = error_of(transport.send(edge.grpc, asleep(60.0), 0.1))
    assert error.code == "DEADLINE_EXCEEDED"
    while transport.ping(edge.grpc, 60.0).result(60).load.room < 3:
        time.sleep(0.01)


def test_a_call_starts_no_thread_of_grpc(edge, transport):
    """One of ours waits for the reply, and for those of later calls."""
    before = set(threading.enumerate())
    for _ in range(3):
        running = transport.send(edge.grpc, asleep(60.0))
        started = set(threading.enumerate()) - before
        assert [thread.name for thread in started] == ["coinfer-reply"]
        running.cancel()
        wait_until(lambda: transport._threads._idle == 1, 60.0, "the thread is free again")


def test_nobody_listens(transport):
    with socket.socket() as bound:  # nobody else gets the port, and nobody listens
        bound.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{bound.getsockname()[1]}"
        error = error_of(transport.ping(address, 60.0))
    assert (error.code, error.reason) == ("UNAVAILABLE", "unreachable")
    assert address in error.message


def test_a_closed_transport_says_so(edge):
    transport = GrpcTransport()
    transport.ping(edge.grpc, 60.0).result(60)
    transport.close()
    assert transport.ping(edge.grpc, 60.0).result(60).round_trip_s > 0, "it opens again when needed"
    transport.close()


def test_connections_are_bounded_and_the_one_in_use_is_kept(edge, transport):
    for i in range(MAX_NODES + 10):
        transport.ping(f"127.0.0.1:{i + 1}", 0.01).cancel()
        assert transport.ping(edge.grpc, 60.0).result(60).round_trip_s > 0
    assert len(transport._nodes) == MAX_NODES
    assert edge.grpc in transport._nodes


def answers(transport, address):
    try:
        return transport.ping(address, 1.0).result(60).round_trip_s > 0
    except TransportError:
        return False


def test_calls_that_are_given_up_are_freed(edge, transport, monkeypatch):
    """gRPC keeps a call, with its message, until all of its events were taken."""
    infer, calls = transport._infer(edge.grpc), []

    def kept(*arguments):
        calls.append(infer(*arguments))
        return calls[-1]

    monkeypatch.setattr(transport, "_infer", lambda node: kept)
    for wait_s in (0.0, 0.01) * 10:  # before and after the reader of the call has begun to wait
        future = transport.send(edge.grpc, asleep(5.0), 60.0)
        time.sleep(wait_s)
        assert future.cancel()
    wait_until(lambda: not any(call._state.due for call in calls), 60, "all is taken")
    assert len(calls) == 20


def test_a_frozen_server_is_noticed_long_before_the_deadline(watchful):
    """SIGSTOP: the kernel still acknowledges, only the ping's own time-out tells."""
    with edge_process("(), grpc_port=0, http_port=None, echo=True") as edge:
        wait_until(lambda: answers(watchful, edge.grpc), FOUND_S, "it answers")
        edge.process.send_signal(signal.SIGSTOP)
        error = error_of(watchful.send(edge.grpc, echo(np.zeros(1000, np.float32)), 60.0))
        assert error.code == "UNAVAILABLE", "a deadline would say DEADLINE_EXCEEDED"
        edge.process.send_signal(signal.SIGCONT)
        wait_until(lambda: answers(watchful, edge.grpc), FOUND_S, "it is found again")


def test_a_killed_server_fails_at_once_and_its_successor_is_found(watchful):
    with edge_process("(), grpc_port=0, http_port=None, echo=True") as first:
        address = first.grpc
        wait_until(lambda: answers(watchful, address), FOUND_S, "it answers")
        first.process.kill()
        first.process.wait()
        assert error_of(watchful.ping(address, 60.0)).code == "UNAVAILABLE"
    port = address.rpartition(":")[2]
    with edge_process(f"(), grpc_port={port}, http_port=None, echo=True"):
        wait_until(lambda: answers(watchful, address), FOUND_S, "its successor is found")


def test_many_threads_share_one_transport(edge, transport):
    wrong = []

    def call(k):
        values = np.full(1000, k, np.float32)
        for _ in range(20):
            try:
                reply = transport.send(edge.grpc, echo(values), 60.0).result(60)
                if not np.array_equal(to_array(reply.outputs[0]), values):
                    wrong.append(k)
            except TransportError as error:
                if error.reason != "queue_full":
                    wrong.append(error)

    threads = [threading.Thread(target=call, args=(k,)) for k in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong


@pytest.mark.parametrize("said", [b"", b"\x00\x40\x00\x01\x04\x00\x00\x00\x01"], ids=["never reads", "half a call"])
def test_a_client_that_answers_no_pings_is_closed_and_the_others_are_not(said):
    """After the handshake it says no more, or stops in the middle of a call's headers."""
    server = grpc.server(ThreadPoolExecutor(1), options=server_options(keepalive_s=1.0, patience_s=0.5))
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    settings = b"\x00\x00\x00\x04\x00\x00\x00\x00\x00"
    with grpc.insecure_channel(f"127.0.0.1:{port}", client_options(patience_s=60.0)) as channel:
        grpc.channel_ready_future(channel).result(60)
        changes: list[grpc.ChannelConnectivity] = []
        channel.subscribe(changes.append)
        with socket.create_connection(("127.0.0.1", port), 60.0) as dead:
            dead.sendall(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + settings + said)
            with contextlib.suppress(ConnectionResetError):
                while dead.recv(4096):
                    pass
        assert set(changes) <= {grpc.ChannelConnectivity.READY}
    server.stop(0)
