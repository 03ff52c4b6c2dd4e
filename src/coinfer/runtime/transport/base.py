"""How a request reaches a node: a small protocol, its twin in memory, and the link shaper around either."""

import math
import threading
import time
from collections.abc import Callable, Mapping
from concurrent.futures import CancelledError, Future, ThreadPoolExecutor
from dataclasses import dataclass, replace
from typing import Generic, NamedTuple, Protocol, TypeVar

from coinfer.runtime.emulation.links import TransferCancelled
from coinfer.runtime.protocol.messages import (
    InferReply,
    InferRequest,
    LoadReport,
    TransportError,
    WireError,
    WireTensor,
)
from coinfer.runtime.protocol.protobuf import reply_bits, request_bits

PING_MODEL = "coinfer/ping"
"""A node answers a request for it at once, whatever is queued, with its load."""


Reply = TypeVar("Reply")


class Pong(NamedTuple):
    """A node's answer to a ping."""

    round_trip_s: float
    load: LoadReport | None


class Transport(Protocol):
    """Sends requests to nodes named `host:port`. Futures fail with `TransportError` only, and may be cancelled."""

    def send(self, node: str, request: InferRequest, timeout_s: float = math.inf) -> Future[InferReply]: ...

    def ping(self, node: str, timeout_s: float = 1.0, size_bytes: int = 0) -> Future[Pong]:
        """Carry `size_bytes` there and the node's load back; it fails while the node is not ready to work."""
        ...

    def close(self) -> None: ...


class LinkLike(Protocol):
    """What the shaper needs of a link (`links.Link`)."""

    def transmit(self, size_bits: float, cancel: threading.Event | None = None) -> float:
        """Wait until the link has carried so many bits; return the seconds that this took."""
        ...


def ping_request(size_bytes: int) -> InferRequest:
    """Return a ping as a request."""
    return InferRequest(PING_MODEL, (WireTensor("padding", "UINT8", (size_bytes,), bytes(size_bytes)),))


class InMemoryTransport:
    """Calls nodes that live in this process.

    Args:
        nodes: what answers for each node; may raise `WireError`. A node that is missing is unreachable.
    """

    def __init__(self, nodes: Mapping[str, Callable[[InferRequest], InferReply]], threads: int = 16):
        self._nodes = nodes
        self._pool = ThreadPoolExecutor(threads, "coinfer-memory")

    def send(self, node: str, request: InferRequest, timeout_s: float = math.inf) -> Future[InferReply]:
        outer: Future[InferReply] = Future()
        _call_later(timeout_s, outer, lambda: settle(outer, _timeout_error(node, timeout_s)))
        _submit(self._pool, outer, lambda: self._answer(outer, node, request))
        return outer

    def ping(self, node: str, timeout_s: float = 1.0, size_bytes: int = 0) -> Future[Pong]:
        outer: Future[Pong] = Future()
        settle(outer, Pong(0.0, None) if node in self._nodes else unreachable_error(node))
        return outer

    def close(self) -> None:
        self._pool.shutdown(wait=False, cancel_futures=True)

    def _answer(self, outer: Future[InferReply], node: str, request: InferRequest) -> None:
        handler = self._nodes.get(node)
        if handler is None:
            return settle(outer, unreachable_error(node))
        try:
            settle(outer, handler(request))
        except WireError as error:
            settle(outer, TransportError(error.code, error.message, error.pushback_s, error.reason))
        except Exception as error:
            settle(outer, TransportError("INTERNAL", f"{node}: {type(error).__name__}"))


@dataclass(frozen=True)
class _Exchange(Generic[Reply]):
    """What a shaped transport carries there and back."""

    size_bits: float
    call: Callable[[float, float], Future[Reply]]
    """From the seconds of the upload and those that are left."""
    size_of: Callable[[Reply], float]
    close: Callable[[Reply, float, float], Reply]
    """The reply with the seconds of upload and download."""


class ShapedTransport:
    """Sends through links: a request leaves when its link has carried its bits, and its reply likewise.

    Args:
        links: the link to each node; a node without one is not shaped.
        downlinks: links that carry replies; None means that a link carries both directions in turn.
        threads: transfers at a time.
    """

    def __init__(
        self,
        inner: Transport,
        links: Mapping[str, LinkLike],
        downlinks: Mapping[str, LinkLike] | None = None,
        threads: int = 64,
    ):
        self._inner = inner
        self._up = links
        self._down = links if downlinks is None else downlinks
        self._pool = ThreadPoolExecutor(threads, "coinfer-link")

    def send(self, node: str, request: InferRequest, timeout_s: float = math.inf) -> Future[InferReply]:
        def call(upload_s: float, left_s: float) -> Future[InferReply]:
            sent = replace(request, deadline_s=max(request.deadline_s - upload_s, 0.0))
            return self._inner.send(node, sent, left_s)

        def close(reply: InferReply, upload_s: float, download_s: float) -> InferReply:
            return replace(reply, upload_s=upload_s, download_s=download_s)

        return self._start(node, _Exchange(request_bits(request), call, reply_bits, close), timeout_s)

    def ping(self, node: str, timeout_s: float = 1.0, size_bytes: int = 0) -> Future[Pong]:
        def call(upload_s: float, left_s: float) -> Future[Pong]:
            return self._inner.ping(node, left_s, size_bytes)

        def size_of(pong: Pong) -> float:
            return reply_bits(InferReply(PING_MODEL, (), load=LoadReport(0.0, 0, 0)))

        def close(pong: Pong, upload_s: float, download_s: float) -> Pong:
            return pong._replace(round_trip_s=pong.round_trip_s + upload_s + download_s)

        return self._start(node, _Exchange(request_bits(ping_request(size_bytes)), call, size_of, close), timeout_s)

    def close(self) -> None:
        self._pool.shutdown(wait=False, cancel_futures=True)
        self._inner.close()

    def _start(self, node: str, exchange: "_Exchange[Reply]", timeout_s: float) -> "Future[Reply]":
        outer: Future[Reply] = Future()
        stop = threading.Event()
        outer.add_done_callback(lambda _: stop.set())
        _submit(self._pool, outer, lambda: self._carry(outer, stop, node, exchange, timeout_s))
        return outer

    def _carry(
        self,
        outer: "Future[Reply]",
        stop: threading.Event,
        node: str,
        exchange: "_Exchange[Reply]",
        timeout_s: float,
    ) -> None:
        """Use uplink, call and downlink in turn. `stop` is set when the caller gave up or the time is over."""
        began_s = time.monotonic()
        _call_later(timeout_s, outer, lambda: settle(outer, _timeout_error(node, timeout_s)))
        try:
            upload_s = _transmit(self._up.get(node), exchange.size_bits, stop)
            inner = exchange.call(upload_s, max(timeout_s - (time.monotonic() - began_s), 0.0))
            outer.add_done_callback(lambda _: inner.cancel())
            reply = inner.result()
            download_s = _transmit(self._down.get(node), exchange.size_of(reply), stop)
            settle(outer, exchange.close(reply, upload_s, download_s))
        except TransferCancelled:
            pass  # whoever set `stop` has settled the future
        except TransportError as error:
            settle(outer, error)
        except CancelledError:
            settle(outer, TransportError("CANCELLED", f"{node}: the call was cancelled", reason="cancelled"))
        except Exception as error:
            settle(outer, TransportError("INTERNAL", f"{node}: {type(error).__name__}: {error}"))


def _transmit(link: LinkLike | None, size_bits: float, stop: threading.Event) -> float:
    return 0.0 if link is None else link.transmit(size_bits, stop)


def _submit(pool: ThreadPoolExecutor, future: Future[Reply], work: Callable[[], None]) -> None:
    """Start work that settles a future; a closed pool settles it at once."""
    try:
        pool.submit(work)
    except RuntimeError:
        settle(future, TransportError("CANCELLED", "the transport is closed", reason="closed"))


def _call_later(delay_s: float, future: Future[Reply], action: Callable[[], None]) -> None:
    """Do something after a delay unless the future is done by then."""
    if delay_s < math.inf:
        timer = threading.Timer(delay_s, action)
        timer.daemon = True
        timer.start()
        future.add_done_callback(lambda _: timer.cancel())


def settle(future: Future[Reply], outcome: Reply | BaseException) -> None:
    """Give a future its result or error, unless it was cancelled or settled before."""
    with _SETTLE:
        if future.done() or future.running() or not future.set_running_or_notify_cancel():
            return
    if isinstance(outcome, BaseException):
        future.set_exception(outcome)
    else:
        future.set_result(outcome)


_SETTLE = threading.Lock()


def unreachable_error(node: str) -> TransportError:
    """Return the error for a node that nothing listens at."""
    return TransportError("UNAVAILABLE", f"{node}: unreachable; is its `coinfer edge` running?", reason="unreachable")


def _timeout_error(node: str, timeout_s: float) -> TransportError:
    return TransportError("DEADLINE_EXCEEDED", f"{node}: no reply within {timeout_s:.3f} s", reason="timeout")
