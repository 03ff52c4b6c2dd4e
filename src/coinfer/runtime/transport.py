"""How a request reaches a node: a small protocol, its twin in memory, and the link shaper around either."""

import math
import threading
import time
from collections.abc import Callable, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import replace
from typing import Any, Protocol

from coinfer.runtime.messages import InferReply, InferRequest, TransportError, WireError
from coinfer.runtime.wire import reply_bits, request_bits


class Transport(Protocol):
    """Sends requests to nodes named `host:port`. Futures fail with `TransportError` only, and may be cancelled."""

    def send(self, node: str, request: InferRequest, timeout_s: float = math.inf) -> Future[InferReply]: ...

    def ping(self, node: str, timeout_s: float = 1.0) -> Future[float]:
        """Seconds there and back to a node that is ready to work."""
        ...

    def close(self) -> None: ...


class LinkLike(Protocol):
    """What the shaper needs of a link."""

    def transmit(self, size_bits: float) -> float:
        """Waits until the link has carried so many bits; returns the seconds this took."""
        ...


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
        if timeout_s < math.inf:
            late = TransportError("DEADLINE_EXCEEDED", f"{node}: no reply within {timeout_s:.3f} s")
            timer = threading.Timer(timeout_s, settle, (outer, late))
            timer.daemon = True
            timer.start()
            outer.add_done_callback(lambda _: timer.cancel())
        self._pool.submit(self._answer, outer, node, request)
        return outer

    def ping(self, node: str, timeout_s: float = 1.0) -> Future[float]:
        outer: Future[float] = Future()
        settle(outer, 0.0 if node in self._nodes else unreachable(node))
        return outer

    def close(self) -> None:
        self._pool.shutdown(wait=False, cancel_futures=True)

    def _answer(self, outer: Future[InferReply], node: str, request: InferRequest) -> None:
        handler = self._nodes.get(node)
        if handler is None:
            return settle(outer, unreachable(node))
        try:
            settle(outer, handler(request))
        except WireError as error:
            settle(outer, TransportError(error.code, error.message, error.pushback_s, error.reason))
        except Exception as error:
            settle(outer, TransportError("INTERNAL", f"{node}: {type(error).__name__}"))


class ShapedTransport:
    """Sends through links: a request leaves when its link has carried its bits, and its reply likewise.

    Args:
        links: the link to each node; a node without one is not shaped.
        downlinks: links that carry replies; None means that a link carries both directions in turn.
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
        outer: Future[InferReply] = Future()
        if node in self._up or node in self._down:
            self._pool.submit(self._carry, outer, node, request, timeout_s)
            return outer
        return self._inner.send(node, request, timeout_s)

    def ping(self, node: str, timeout_s: float = 1.0) -> Future[float]:
        return self._inner.ping(node, timeout_s)

    def close(self) -> None:
        self._pool.shutdown(wait=False, cancel_futures=True)
        self._inner.close()

    def _carry(self, outer: Future[InferReply], node: str, request: InferRequest, timeout_s: float) -> None:
        started_s = time.monotonic()
        try:
            upload_s = _transmit(self._up.get(node), request_bits(request))
            left_s = timeout_s - (time.monotonic() - started_s)
            if outer.cancelled():
                return
            if left_s <= 0:
                raise TransportError("DEADLINE_EXCEEDED", f"{node}: the link took {upload_s:.3f} s")
            sent = replace(request, deadline_s=max(request.deadline_s - upload_s, 0.0))
            inner = self._inner.send(node, sent, left_s)
            outer.add_done_callback(lambda done: inner.cancel() if done.cancelled() else None)
            reply = inner.result()
            download_s = _transmit(self._down.get(node), reply_bits(reply))
            settle(outer, replace(reply, upload_s=upload_s, download_s=download_s))
        except BaseException as error:
            settle(outer, error)


def _transmit(link: LinkLike | None, size_bits: float) -> float:
    return 0.0 if link is None else link.transmit(size_bits)


def settle(future: Future[Any], outcome: Any) -> None:
    """Gives a future its result or error, unless it was cancelled or settled before."""
    with _SETTLE:
        if future.done() or future.running() or not future.set_running_or_notify_cancel():
            return
    if isinstance(outcome, BaseException):
        future.set_exception(outcome)
    else:
        future.set_result(outcome)


_SETTLE = threading.Lock()


def unreachable(node: str) -> TransportError:
    """The error for a node that nothing listens at."""
    return TransportError("UNAVAILABLE", f"{node}: unreachable; is its `coinfer edge` running?", reason="unreachable")
