"""Calls that never end are bounded for each peer, and end by themselves; real connections, also from 127.0.0.2."""

import contextlib
import socket
import threading
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import grpc
from tests.patience import wait_until
from tests.runtime.edge.edge_process import edge_thread

from coinfer.runtime.edge.peer_limit import CallLimits
from coinfer.runtime.edge.served_model import serve_echo
from coinfer.runtime.edge.service import EdgeService
from coinfer.runtime.protocol.protobuf import request_bytes
from coinfer.runtime.transport.base import ping_request
from coinfer.runtime.transport.grpc_transport import SERVICE, client_options

WATCH = "/grpc.health.v1.Health/Watch"


def edge(**limits):
    return edge_thread(lambda: EdgeService([serve_echo()]), calls=CallLimits(**limits))


@contextlib.contextmanager
def silent_calls(address: str, count: int) -> Iterator[list]:
    """Calls of all kinds that never end: a third sends no message, and a third is a stream that sends none."""
    ended = threading.Event()

    def no_message() -> Iterator[bytes]:
        ended.wait(300)
        yield from ()

    with grpc.insecure_channel(address) as channel:
        unary = channel.stream_unary(f"/{SERVICE}/ModelInfer")
        stream, watch = channel.stream_stream(f"/{SERVICE}/ModelStreamInfer"), channel.unary_stream(WATCH)
        starts = [lambda: unary.future(no_message()), lambda: stream(no_message()), lambda: watch(b"")]
        yield [starts[i % 3]() for i in range(count)]
        ended.set()


@contextlib.contextmanager
def other_peer(address: str) -> Iterator[str]:
    """The address of a relay, which calls the server from 127.0.0.2."""
    host, _, port = address.rpartition(":")
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def copy(source: socket.socket, target: socket.socket) -> None:
            with contextlib.suppress(OSError):
                while data := source.recv(65536):
                    target.sendall(data)
                target.shutdown(socket.SHUT_WR)

        def relay() -> None:
            near, _ = listener.accept()
            far = socket.create_connection((host, int(port)), source_address=("127.0.0.2", 0))
            with near, far:
                back = threading.Thread(target=copy, args=(far, near))
                back.start()
                copy(near, far)
                back.join(60)

        thread = threading.Thread(target=relay)
        thread.start()
        yield f"127.0.0.1:{listener.getsockname()[1]}"
        thread.join(60)


def code_of(address: str) -> tuple[str, str]:
    """Status and message of a call that is answered at once."""
    with grpc.insecure_channel(address) as channel:
        try:
            assert channel.unary_unary(f"/{SERVICE}/ServerLive")(b"", timeout=60)
        except grpc.RpcError as error:
            return error.code().name, error.details()
        return "OK", ""


def test_a_peer_whose_calls_never_end_shuts_out_itself_only():
    with edge(calls=9) as running, silent_calls(running.grpc, 40) as calls:
        wait_until(lambda: sum(call.done() for call in calls) == 31, 60, "9 are open, the others refused")
        assert {call.code().name for call in calls if call.done()} == {"RESOURCE_EXHAUSTED"}
        code, said = code_of(running.grpc)
        assert code == "RESOURCE_EXHAUSTED"
        assert said == "ipv4:127.0.0.1 has 9 calls open here; wait for their answers, or end them"
        with other_peer(running.grpc) as address:
            assert code_of(address) == ("OK", "")
        for call in calls:
            call.cancel()
        wait_until(lambda: code_of(running.grpc)[0] == "OK", 60, "its places are free again")


def test_calls_that_are_given_up_do_not_shut_out_those_beside_them():
    """gRPC counts calls that were given up until they are freed, and refuses others meanwhile where there are many."""
    message, codes = request_bytes(ping_request(64)), Counter[str]()

    def work(channel: grpc.Channel) -> None:
        call = channel.unary_unary(f"/{SERVICE}/ModelInfer")
        for _ in range(20):
            call.future(message, timeout=60).cancel()
            wanted = call.future(message, timeout=60)
            codes["OK" if wanted.exception() is None else wanted.code().name] += 1

    with (
        edge_thread(lambda: EdgeService([serve_echo()], queue=300)) as running,
        grpc.insecure_channel(running.grpc, client_options()) as channel,
        ThreadPoolExecutor(90) as pool,
    ):
        for _ in range(90):
            pool.submit(work, channel)
        pool.shutdown()
    assert codes == {"OK": 1800}


def test_calls_whose_messages_do_not_come_end():
    with edge(calls=9, message_s=0.1) as running, silent_calls(running.grpc, 2) as calls:
        for call in calls:
            assert call.code().name == "DEADLINE_EXCEEDED"
            assert call.details() == "no message came for 0.1 s; open a new call when there is one"


def test_a_call_without_a_message_is_refused():
    with edge(calls=9) as running, grpc.insecure_channel(running.grpc) as channel:
        call = channel.stream_unary(f"/{SERVICE}/ModelInfer").future(iter(()))
        assert (call.code().name, call.details()) == ("INVALID_ARGUMENT", "the call has no message; expected one")


def test_calls_that_come_when_a_server_ends_are_held_and_then_refused_with_a_reason():
    with edge(calls=8) as server, grpc.insecure_channel(server.grpc) as channel:
        ping = channel.unary_unary(f"/{SERVICE}/ModelInfer")
        message = request_bytes(ping_request(0))
        assert ping(message, timeout=60)
        server.run(server._grpc._limit.hold())
        call = ping.future(message, timeout=60)
        wait_until(lambda: server._grpc._limit._open.total() == 1, 60, "the call is held")
        assert not call.done()

        async def end() -> None:
            server.service.drain()
            await server._grpc.stop(60)

        server.run(end())
        assert call.code() is grpc.StatusCode.UNAVAILABLE
        assert "this node is shutting down" in call.details()
