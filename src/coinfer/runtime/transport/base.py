"""The transport protocol, its version in memory, and the link shaper around either."""

import math
import threading
import time
from collections.abc import Callable, Mapping
from concurrent.futures import CancelledError, Future, ThreadPoolExecutor
from contextvars import copy_context
from dataclasses import dataclass
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
"""A request for this model is answered at once with the node's load, whatever waits in the queue."""


Reply = TypeVar("Reply")


class Pong(NamedTuple):
    """A node's answer to a ping."""

    round_trip_s: float
    load: LoadReport | None


class Transport(Protocol):
    """Sends requests to nodes named `host:port`. Futures fail with `TransportError` only, and may be cancelled."""

    def send(self, node: str, request: InferRequest, timeout_s: float = math.inf) -> Future[InferReply]:
        """Send a request to a node once; retries are the caller's business.

        Args:
            node: `host:port`.
            request: what to compute.
            timeout_s: after it the future fails with DEADLINE_EXCEEDED.

        Returns:
            A future of the reply; cancelling it cancels the call.
        """
        ...

    def ping(self, node: str, timeout_s: float = 1.0, size_bytes: int = 0) -> Future[Pong]:
        """Return a future of the node's pong; it fails if the node is not ready to work.

        Args:
            node: `host:port`.
            timeout_s: after it the future fails with DEADLINE_EXCEEDED.
            size_bytes: padding that the ping carries, to measure the uplink.
        """
        ...

    def close(self) -> None:
        """Close all connections; calls that are open fail."""
        ...


class LinkLike(Protocol):
    """What the shaper needs of a link (`links.Link`)."""

    def transmit(self, size_bits: float, cancel: threading.Event | None = None) -> float:
        """Wait until the link has carried a transfer.

        Args:
            size_bits: of the transfer.
            cancel: ends the wait once it is set.

        Returns:
            The seconds that it took, the wait for earlier transfers included.

        Raises:
            TransferCancelled: if `cancel` was set before the end.
        """
        ...


def ping_request(size_bytes: int) -> InferRequest:
    """Return a ping as a request.

    Args:
        size_bytes: padding that it carries.
    """
    return InferRequest(PING_MODEL, (WireTensor("padding", "UINT8", (size_bytes,), bytes(size_bytes)),), short=True)


class InMemoryTransport:
    """Calls nodes that live in this process.

    Args:
        nodes: the function that answers for each node; it may raise `WireError`. A missing node is unreachable.
        threads: requests that are answered at the same time.
    """

    def __init__(self, nodes: Mapping[str, Callable[[InferRequest], InferReply]], threads: int = 16):
        self._nodes = nodes
        self._pool = ThreadPoolExecutor(threads, "coinfer-memory")

    def send(self, node: str, request: InferRequest, timeout_s: float = math.inf) -> Future[InferReply]:
        """Return a future of the node's reply (`Transport.send`).

        Args:
            node: key of `nodes`.
            request: handed to the node as it is.
            timeout_s: the node goes on after it, but its reply is dropped.
        """
        outer: Future[InferReply] = Future()
        _call_later(timeout_s, outer, lambda: settle(outer, _timeout_error(node, timeout_s)))
        _submit(self._pool, outer, lambda: self._answer(outer, node, request))
        return outer

    def ping(self, node: str, timeout_s: float = 1.0, size_bytes: int = 0) -> Future[Pong]:
        """Return a future that is done already: a pong after no time and without load, or unreachable.

        Args:
            node: key of `nodes`.
            timeout_s: ignored.
            size_bytes: ignored.
        """
        outer: Future[Pong] = Future()
        settle(outer, Pong(0.0, None) if node in self._nodes else unreachable_error(node))
        return outer

    def close(self) -> None:
        """Cancel the requests that no thread has begun; those that run go on."""
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
    """What a shaped transport carries up and down the link."""

    size_bits: float
    call: Callable[[float, float], Future[Reply]]
    """Makes the call, given the seconds of the upload and those that are left."""
    size_of: Callable[[Reply], float]
    close: Callable[[Reply, float, float], Reply]
    """Returns the reply with the seconds of upload and download."""


class ShapedTransport:
    """Sends through emulated links: a request leaves once its link has carried its bits, and a reply likewise.

    Args:
        inner: does the sending; `close` closes it too.
        links: the link to each node; a node without one is not shaped.
        downlinks: links that carry replies; None means that a link carries both directions in turn.
        threads: transfers at the same time.
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
        """Return a future of the reply, with `upload_s` and `download_s` of the links (`Transport.send`).

        Args:
            node: `host:port`.
            request: the time of the upload is taken off its deadline.
            timeout_s: covers upload, call and download.
        """

        def call(upload_s: float, left_s: float) -> Future[InferReply]:
            sent = request._replace(deadline_s=max(request.deadline_s - upload_s, 0.0))
            return self._inner.send(node, sent, left_s)

        def close(reply: InferReply, upload_s: float, download_s: float) -> InferReply:
            return reply._replace(upload_s=upload_s, download_s=download_s)

        return self._start(node, _Exchange(request_bits(request), call, reply_bits, close), timeout_s)

    def ping(self, node: str, timeout_s: float = 1.0, size_bytes: int = 0) -> Future[Pong]:
        """Return a future of the pong, with the links' times in its round trip (`Transport.ping`).

        Args:
            node: `host:port`.
            timeout_s: covers upload, call and download.
            size_bytes: padding that the link carries up.
        """

        def call(upload_s: float, left_s: float) -> Future[Pong]:
            return self._inner.ping(node, left_s, size_bytes)

        def size_of(pong: Pong) -> float:
            return reply_bits(InferReply(PING_MODEL, (), load=LoadReport(0.0, 0, 0), short=True))

        def close(pong: Pong, upload_s: float, download_s: float) -> Pong:
            return pong._replace(round_trip_s=pong.round_trip_s + upload_s + download_s)

        return self._start(node, _Exchange(request_bits(ping_request(size_bytes)), call, size_of, close), timeout_s)

    def close(self) -> None:
        """Cancel the transfers that no thread has begun, and close the inner transport."""
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
        """Use uplink, call and downlink in turn. `stop` is set once the caller gave up or the time is over."""
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
        pool.submit(copy_context().run, work)
    except RuntimeError:
        settle(future, TransportError("CANCELLED", "the transport is closed", reason="closed"))


def _call_later(delay_s: float, future: Future[Reply], action: Callable[[], None]) -> None:
    """Run an action after a delay unless the future is done by then."""
    if delay_s < math.inf:
        timer = threading.Timer(delay_s, action)
        timer.daemon = True
        timer.start()
        future.add_done_callback(lambda _: timer.cancel())


def settle(future: Future[Reply], outcome: Reply | BaseException) -> None:
    """Give a future its result or error; do nothing if it was cancelled or settled before.

    Args:
        future: may be settled from several threads; the first one wins.
        outcome: an exception becomes the future's error.
    """
    with _SETTLE:
        if future.done() or future.running() or not future.set_running_or_notify_cancel():
            return
    if isinstance(outcome, BaseException):
        future.set_exception(outcome)
    else:
        future.set_result(outcome)


_SETTLE = threading.Lock()


def unreachable_error(node: str) -> TransportError:
    """Return the error for a node on whose address no server listens.

    Args:
        node: `host:port`.
    """
    return TransportError("UNAVAILABLE", f"{node}: unreachable; is its `coinfer edge` running?", reason="unreachable")


def _timeout_error(node: str, timeout_s: float) -> TransportError:
    return TransportError("DEADLINE_EXCEEDED", f"{node}: no reply within {timeout_s:.3f} s", reason="timeout")
