"""The REST front on a thread of this process."""

import asyncio
import contextlib
import gzip
import http.client
import json
import logging
import socket
import zlib

import numpy as np
import pytest
from starlette.requests import Request
from tests.patience import wait_until
from tests.runtime.edge.edge_process import edge_thread

from coinfer.runtime.edge.http_body import read_body, unpack
from coinfer.runtime.edge.http_protocol import HttpLimits
from coinfer.runtime.edge.served_model import serve_echo
from coinfer.runtime.edge.service import EdgeService
from coinfer.runtime.protocol.messages import ALIGNMENT, WireError


def test_replies_over_a_kept_connection_do_not_wait_for_an_acknowledgement():
    """Nagle's algorithm is off on the sockets that the server accepts."""
    with edge_thread(lambda: EdgeService([serve_echo()])) as edge:
        client = http.client.HTTPConnection(edge.http, timeout=60)
        for _ in range(2):
            client.request("GET", "/v2/health/ready")
            assert client.getresponse().read() == b""
        (connection,) = edge._http._server.server_state.connections
        accepted = connection.transport.get_extra_info("socket")
        assert accepted.getpeername() == client.sock.getsockname()
        assert accepted.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)
        client.close()


REQUEST = b"GET /v2/health/ready HTTP/1.1\r\nHost: x\r\n\r\n"
BODY = b"POST /v2/models/echo/infer HTTP/1.1\r\nHost: x\r\nContent-Length: 100000\r\n\r\n{"
NEVER_S = 1e6


@contextlib.contextmanager
def connected(limits: HttpLimits):
    with edge_thread(lambda: EdgeService([serve_echo()]), limits=limits) as edge:
        host, _, port = edge.http.rpartition(":")
        with socket.create_connection((host, int(port)), timeout=60) as connection:
            yield edge, connection


def until_closed(connection: socket.socket) -> bytes:
    """What comes until the server closes the connection."""
    received = b""
    with contextlib.suppress(ConnectionResetError):
        while chunk := connection.recv(65536):
            received += chunk
    return received


@pytest.mark.parametrize(
    ("sent", "limit"),
    [
        (b"", "idle_s"),
        (b"\r\n", "idle_s"),
        (REQUEST, "idle_s"),
        (b"GET /v2 HTTP/1.1\r\nHost:", "head_s"),
        (REQUEST + b"GET /v2 HT", "head_s"),
        (BODY, "body_s"),
    ],
)
def test_a_connection_that_stops_is_closed_without_a_word(sent: bytes, limit: str, caplog: pytest.LogCaptureFixture):
    """Each by the limit that is for it; the others never end."""
    limits = HttpLimits(NEVER_S, NEVER_S, NEVER_S, rate=1e6)._replace(**{limit: 1.0 if REQUEST in sent else 0.2})
    with caplog.at_level(logging.WARNING), connected(limits) as (edge, connection):
        connection.sendall(sent)
        assert until_closed(connection).count(b"200 OK") == sent.count(REQUEST)
        assert not edge._http._server.server_state.connections
    assert not caplog.records


def test_a_slow_body_has_time_for_its_size():
    """Every byte that has come gives it a thousand seconds more than the one that all bodies have."""
    with connected(HttpLimits(NEVER_S, NEVER_S, body_s=1.0, rate=1e-3)) as (edge, connection):
        connection.sendall(BODY)
        connection.sendall(b" " * 100)
        edge.run(asyncio.sleep(1.5))
        connection.sendall(b" " * (100000 - 101))
        assert connection.recv(100).startswith(b"HTTP/1.1 400")


def test_a_peer_that_does_not_read_its_replies_is_cut_off():
    """64 requests for a long reply in one go, of which none is read."""
    with connected(HttpLimits(NEVER_S, NEVER_S, body_s=0.2, rate=1e9)) as (edge, connection):
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        with contextlib.suppress(ConnectionError):
            for _ in range(2000):
                connection.sendall(b"GET /metrics HTTP/1.1\r\nHost: x\r\n\r\n")
        wait_until(lambda: not edge._http._server.server_state.connections, 60, "it is closed")


def test_a_peer_holds_so_many_connections_and_is_told():
    with connected(HttpLimits(connections=1)) as (_, connection):
        connection.sendall(REQUEST)
        assert connection.recv(100).startswith(b"HTTP/1.1 200")
        with socket.create_connection(connection.getpeername(), timeout=60) as second:
            refused = until_closed(second)
        assert refused.startswith(b"HTTP/1.1 429")
        assert b"127.0.0.1 has 1 connections open here" in refused
        connection.sendall(REQUEST)
        assert connection.recv(100).startswith(b"HTTP/1.1 200")


def test_a_server_ends_while_a_request_is_being_sent(caplog: pytest.LogCaptureFixture):
    with caplog.at_level(logging.WARNING), connected(HttpLimits()) as (edge, connection):
        connection.sendall(BODY)
        wait_until(lambda: edge._http._server.server_state.tasks, 60, "it has begun")
        edge.run(edge._http.stop(60))
        assert until_closed(connection) == b""
    assert not caplog.records


@pytest.mark.parametrize("json_bytes", [0, 1, 16, 77])
def test_the_bytes_after_the_json_can_be_computed_on_in_place(json_bytes: int):
    parts = [b"{" * json_bytes + b"a", b"", b"b" * 31]
    messages = iter([{"type": "http.request", "body": part, "more_body": part != parts[-1]} for part in parts])

    async def receive():
        return next(messages)

    body = asyncio.run(read_body(Request({"type": "http", "headers": []}, receive), 200, json_bytes))
    assert body == b"".join(parts)
    assert np.frombuffer(body, np.uint8)[json_bytes:].ctypes.data % ALIGNMENT == 0


def raw_deflate(body: bytes) -> bytes:
    packer = zlib.compressobj(wbits=-15)
    return packer.compress(body) + packer.flush()


TEXT = json.dumps({"inputs": [{"name": "x", "datatype": "FP32", "shape": [2], "data": [1, 2]}]}).encode()
BOMB = bytes(10_000_000)


@pytest.mark.parametrize(
    ("encoding", "pack"), [("gzip", gzip.compress), ("deflate", zlib.compress), ("deflate", raw_deflate)]
)
def test_a_compressed_body_is_unpacked_up_to_the_limit(encoding: str, pack):
    assert unpack(pack(TEXT), encoding, len(TEXT)) == TEXT
    with pytest.raises(WireError, match="the body unpacks to more than the limit of 1000 bytes") as caught:
        unpack(pack(BOMB), encoding, 1000)
    assert (caught.value.code, caught.value.reason) == ("RESOURCE_EXHAUSTED", "too_large")
    for damaged in (pack(TEXT)[:-1], pack(TEXT)[:20], b"", pack(TEXT) + b"x", b"\xff" * 50):
        with pytest.raises(WireError, match=f"the body is not (valid|one whole) {encoding}") as caught:
            unpack(damaged, encoding, 10_000)
        assert caught.value.code == "INVALID_ARGUMENT"


def test_compressed_requests_are_answered_or_refused_in_one_line():
    with edge_thread(lambda: EdgeService([serve_echo()], limit_bytes=1_000_000)) as edge:
        client = http.client.HTTPConnection(edge.http, timeout=60)

        def ask(body: bytes, encoding: str) -> tuple[int, dict]:
            client.request("POST", "/v2/models/echo/infer", body, {"Content-Encoding": encoding})
            reply = client.getresponse()
            return reply.status, json.loads(reply.read())

        status, reply = ask(gzip.compress(TEXT), "gzip")
        assert (status, reply["outputs"][0]["data"]) == (200, [1.0, 2.0])
        for body, encoding, expected, said in (
            (gzip.compress(BOMB), "gzip", 413, "unpacks to more than the limit"),
            (TEXT, "deflate", 400, "not valid deflate"),
            (TEXT, "br", 501, "Content-Encoding 'br' is not offered; expected gzip, deflate or identity"),
        ):
            status, reply = ask(body, encoding)
            assert (status, said in reply["error"]) == (expected, True), reply
        client.close()
