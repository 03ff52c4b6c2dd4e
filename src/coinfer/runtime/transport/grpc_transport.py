"""The transport over gRPC, and the channel arguments of both sides.

gRPC ignores an argument whose name it does not know, so a test checks each by its effect (`test_grpc_transport`).
gRPC's own retries are off: it silently never retries a message over 256 KiB, and cannot hedge.
"""

import math
import time
from collections.abc import Callable
from concurrent.futures import Future
from threading import Lock
from typing import Any, NamedTuple, Protocol, TypeVar, cast

import grpc

from coinfer.runtime.protocol import protobuf
from coinfer.runtime.protocol.messages import (
    DEFAULT_LIMIT_BYTES,
    Code,
    InferReply,
    InferRequest,
    TransportError,
    WireError,
    check_size,
)
from coinfer.runtime.tracing import headers
from coinfer.runtime.transport.base import Pong, ping_request, settle
from coinfer.runtime.transport.reply_threads import ReplyThreads
from coinfer.units import MIB

SERVICE = "inference.GRPCInferenceService"
PUSHBACK_TRAILER = "grpc-retry-pushback-ms"
REASON_TRAILER = "coinfer-reason"
MAX_NODES = 64
"""Open connections at most; a hostile route could name one new node after the other."""
REPLACED_S = 60.0
"""A replaced channel is closed after this time; no call takes longer."""
_OVER_LIMIT = "larger than max"
"""gRPC's words for a message that it does not accept; it gives no other sign."""
_HEADROOM_BYTES = MIB
"""gRPC's own limit exceeds ours by this much; ours is exact and says why."""
_POLL_BY_READER = ("SingleThreadedUnaryStream", 1)
"""The thread that reads a call's reply polls for it. Otherwise gRPC starts a thread for a call that finds no other
open, which takes 2 to 4 ms on a busy core every now and then."""

Options = list[tuple[str, int]]
Reply = TypeVar("Reply")


class _Call(Protocol):
    """A call whose reply is a stream of one message to the client, as gRPC has `_POLL_BY_READER` for streams only."""

    def __next__(self) -> bytes: ...
    def cancel(self) -> bool: ...


class _Infer(Protocol):
    def __call__(self, request: bytes, timeout: float | None, metadata: tuple[tuple[str, str], ...]) -> _Call: ...


def client_options(
    limit_bytes: int = DEFAULT_LIMIT_BYTES, keepalive_s: float = 1.0, idle_pings: bool = True, patience_s: float = 0.5
) -> Options:
    """Return the arguments of a client's channel.

    A frozen peer or a cut link is noticed after at most `keepalive_s` plus `patience_s`; a peer that came back is
    reached again within a second.

    Args:
        limit_bytes: largest message; gRPC itself allows a little more, so that our own check can say why.
        keepalive_s: between pings; longer saves battery.
        idle_pings: ping also while no call is open.
        patience_s: how long a peer may take to answer a ping. On a busy machine some take longer than half a second.
    """
    patience_ms = int(patience_s * 1000)
    return [
        ("grpc.keepalive_time_ms", int(keepalive_s * 1000)),
        ("grpc.keepalive_timeout_ms", patience_ms),
        ("grpc.keepalive_permit_without_calls", int(idle_pings)),
        ("grpc.http2.max_pings_without_data", 0),
        ("grpc.http2.ping_timeout_ms", patience_ms),
        ("grpc.initial_reconnect_backoff_ms", 100),
        ("grpc.min_reconnect_backoff_ms", 1000),
        ("grpc.max_reconnect_backoff_ms", 1000),
        ("grpc.enable_retries", 0),
        ("grpc.enable_http_proxy", 0),
        ("grpc.use_local_subchannel_pool", 1),
        *_both(limit_bytes),
    ]


def server_options(
    limit_bytes: int = DEFAULT_LIMIT_BYTES, keepalive_s: float = 30.0, patience_s: float = 10.0, calls: int = 100
) -> Options:
    """Return the arguments of a server: it accepts the clients' pings and closes silent, dead and old connections.

    Args:
        limit_bytes: largest message; gRPC itself allows a little more, so that our own check can say why.
        keepalive_s: between pings. Every HTTP/2 client answers them; who stopped half-way or never reads does not.
        patience_s: how long a client may take to answer a ping.
        calls: which a connection may have open. gRPC's own limit is at least twice that: it counts calls that were
            given up until they are freed, and refuses what is beyond without a reason.
    """
    return [
        ("grpc.keepalive_time_ms", int(keepalive_s * 1000)),
        ("grpc.keepalive_timeout_ms", int(patience_s * 1000)),
        ("grpc.http2.max_pings_without_data", 0),
        ("grpc.http2.ping_timeout_ms", int(patience_s * 1000)),
        ("grpc.http2.min_ping_interval_without_data_ms", 400),
        ("grpc.keepalive_permit_without_calls", 1),
        ("grpc.server_handshake_timeout_ms", 10_000),
        ("grpc.max_connection_idle_ms", 300_000),
        ("grpc.max_connection_age_ms", 3_600_000),
        ("grpc.max_connection_age_grace_ms", 30_000),
        ("grpc.max_concurrent_streams", 2 * max(calls, 100)),
        ("grpc.so_reuseport", 0),
        *_both(limit_bytes),
    ]


def _both(limit_bytes: int) -> Options:
    return [
        ("grpc.max_send_message_length", limit_bytes + _HEADROOM_BYTES),
        ("grpc.max_receive_message_length", limit_bytes + _HEADROOM_BYTES),
    ]


class Connector(NamedTuple):
    """How connections to nodes are opened."""

    open: Callable[[str, Options], grpc.Channel]
    """Opens a channel to `host:port` with these arguments."""
    version: Callable[[], int]
    """Grows when new channels would differ, such as after a certificate was renewed; old ones are then replaced."""


def _open_plain(node: str, options: Options) -> grpc.Channel:
    return grpc.insecure_channel(f"dns:///{node}", options)  # the scheme is there as a host may be called "unix"


PLAIN = Connector(_open_plain, lambda: 0)
"""Without encryption."""


class _Connection(NamedTuple):
    channel: grpc.Channel
    infer: _Infer
    version: int


class GrpcTransport:
    """Sends requests to edge nodes (or any OIP server) over one connection to each, opened when first needed.

    Args:
        limit_bytes: largest request that is sent.
        options: arguments of the channels; `client_options` without them.
        connector: opens the channels.
    """

    def __init__(
        self, limit_bytes: int = DEFAULT_LIMIT_BYTES, options: Options | None = None, connector: Connector = PLAIN
    ):
        self._limit_bytes = limit_bytes
        self._options = client_options(limit_bytes) if options is None else options
        self._connector = connector
        self._nodes: dict[str, _Connection] = {}
        """The connection to each node, the most recently used last."""
        self._replaced: list[tuple[float, grpc.Channel]] = []
        """Channels that carry calls no more, with the time from when on they may be closed."""
        self._lock = Lock()
        self._threads = ReplyThreads()

    def send(self, node: str, request: InferRequest, timeout_s: float = math.inf) -> Future[InferReply]:
        """Return a future of the reply (`Transport.send`).

        Args:
            node: `host:port`.
            request: if its message is over the limit, the future has failed already (RESOURCE_EXHAUSTED).
            timeout_s: gRPC's deadline of the call.
        """
        try:
            message = protobuf.request_bytes(request)
            check_size(len(message), self._limit_bytes)
        except WireError as error:
            failed: Future[InferReply] = Future()
            settle(failed, TransportError(error.code, error.message, error.pushback_s, error.reason))
            return failed
        return self._call(node, message, timeout_s, protobuf.parse_reply)

    def ping(self, node: str, timeout_s: float = 1.0, size_bytes: int = 0) -> Future[Pong]:
        """Return a future of the node's pong; it fails if the node is not ready to work (`Transport.ping`).

        Args:
            node: `host:port`.
            timeout_s: gRPC's deadline of the call.
            size_bytes: padding that the ping carries, to measure the uplink.
        """
        message = protobuf.request_bytes(ping_request(size_bytes))
        began_s = time.monotonic()

        def read(reply: bytes) -> Pong:
            return Pong(time.monotonic() - began_s, protobuf.parse_reply(reply).load)

        return self._call(node, message, timeout_s, read)

    def close(self) -> None:
        """Close all connections; calls that are open fail."""
        with self._lock:
            for channel in [*(one.channel for one in self._nodes.values()), *(one for _, one in self._replaced)]:
                channel.close()
            self._nodes.clear()
            self._replaced.clear()
        self._threads.close()

    def _call(self, node: str, message: bytes, timeout_s: float, read: Callable[[bytes], Reply]) -> Future[Reply]:
        outer: Future[Reply] = Future()
        timeout = timeout_s if timeout_s < math.inf else None
        try:
            call = self._infer(node)(message, timeout, headers())
        except ValueError:  # the channel was closed
            settle(outer, TransportError("CANCELLED", f"{node}: the transport is closed", reason="closed"))
            return outer

        def cancel(done: Future[Reply]) -> None:
            if done.cancelled():
                call.cancel()

        outer.add_done_callback(cancel)
        self._threads.run(lambda: _finish(outer, node, call, read))
        return outer

    def _infer(self, node: str) -> _Infer:
        """Return the call of the node's `ModelInfer`."""
        with self._lock:
            version = self._connector.version()
            connection = self._nodes.pop(node, None)
            if connection is not None and connection.version != version:
                self._replaced.append((time.monotonic() + REPLACED_S, connection.channel))
                connection = None
            if connection is None:
                channel = self._connector.open(node, [*self._options, _POLL_BY_READER])
                infer = cast(_Infer, channel.unary_stream(f"/{SERVICE}/ModelInfer"))
                connection = _Connection(channel, infer, version)
            self._nodes[node] = connection
            if len(self._nodes) > MAX_NODES:
                self._nodes.pop(next(iter(self._nodes))).channel.close()
            self._close_replaced()
            return connection.infer

    def _close_replaced(self) -> None:
        """Close replaced channels whose last calls have ended by now."""
        while self._replaced and self._replaced[0][0] <= time.monotonic():
            self._replaced.pop(0)[1].close()


def _finish(outer: Future[Reply], node: str, call: _Call, read: Callable[[bytes], Reply]) -> None:
    """Wait for a call to end, and settle its future. That comes last: whoever waits for it then finds this thread idle,
    and no two threads compete for Python's lock, which halves the switches between threads."""
    try:
        message = next(call)
        next(call, None)  # the status, which comes with the message; a call that is dropped before counts as cancelled
        settle(outer, read(message))
    except StopIteration:
        settle(outer, TransportError("INTERNAL", f"{node}: a call ended without a reply", reason="bad_reply"))
    except grpc.RpcError as error:
        _drain(call)
        settle(outer, _error(node, cast(grpc.Call, error)))
    except WireError as error:
        settle(outer, TransportError(error.code, f"{node}: {error.message}", error.pushback_s, error.reason))
    except Exception as error:
        settle(outer, TransportError("INTERNAL", f"{node}: {type(error).__name__}: {error}"))


def _drain(call: Any) -> None:
    """Take what is left of a call that was cancelled or failed. With `_POLL_BY_READER` gRPC frees a call when all of it
    was taken, and the reader of a cancelled one stops before. There is no public way to ask for it; a gRPC without the
    private one costs memory, not answers."""
    consume, due = getattr(call, "_consume_next_event", None), getattr(getattr(call, "_state", None), "due", ())
    while consume and due:
        consume()


def _error(node: str, error: grpc.Call) -> TransportError:
    trailers = {key: value for key, value in error.trailing_metadata() or ()}
    try:
        pushback_ms = float(trailers[PUSHBACK_TRAILER])
        pushback_s = -1.0 if pushback_ms < 0 else pushback_ms / 1000
    except (KeyError, ValueError):
        pushback_s = None
    code = cast(Code, error.code().name)
    reason = str(trailers.get(REASON_TRAILER, ""))
    details = " ".join((error.details() or code).split())
    if code == "CANCELLED" and not reason:  # not by us: a server that closes says this of calls that it did not begin
        return TransportError("UNAVAILABLE", f"{node}: it is shutting down", pushback_s, "draining")
    if code == "RESOURCE_EXHAUSTED" and not reason and _OVER_LIMIT in details:
        return TransportError(code, f"{node}: its reply is over the limit of this side ({details})", -1.0, "too_large")
    if code == "UNAVAILABLE" and not reason:
        return TransportError(code, f"{node}: unreachable ({details[:120]})", pushback_s, "unreachable")
    return TransportError(code, f"{node}: {details}", pushback_s, reason)
