"""Keeps one peer from taking all calls of a gRPC server, and ends calls whose messages do not come."""

import asyncio
import inspect
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any, NamedTuple, cast

import grpc
from grpc import aio

from coinfer.runtime.edge.metrics import Metrics

_QUIET_S, _LONGEST_S = 0.05, 0.5
"""Calls are held at the end until none has come for so long, at most for so long."""
_END: object = cast(Any, aio).EOF
"""What a read returns after the last message; grpc's types lack it."""


class CallLimits(NamedTuple):
    """How many calls a peer may have open, and how long the server waits for a message."""

    calls: int
    """Open at the same time, for each peer address."""
    message_s: float = 600.0
    """For the message of a call, and for each one of a stream; a slow link may need minutes for a large one."""


def peer_host(peer: str) -> str:
    """Return the host of gRPC's name of a peer.

    Args:
        peer: such as `ipv4:192.168.1.20:40312`.
    """
    return peer.rpartition(":")[0]


class _NoMessageError(Exception):
    """A message has not come in time."""


class PeerLimit(aio.ServerInterceptor):
    """Refuses the calls of a peer that has too many open, and ends those whose messages do not come.

    A call of one message is handled as a stream of requests: only so its handler runs before the message is here.

    Args:
        limits: of each peer.
        metrics: counts what is refused.
    """

    def __init__(self, limits: CallLimits, metrics: Metrics):
        self._limits = limits
        self._metrics = metrics
        self._open: Counter[str] = Counter()
        """Open calls by peer address."""
        self._held: asyncio.Event | None = None
        """Calls that come now wait for it."""
        self._came_s = 0.0
        """When the last call came, on the loop's clock."""

    async def intercept_service(
        self, continuation: Callable[[grpc.HandlerCallDetails], Awaitable[Any]], handler_call_details: Any
    ) -> Any:
        """Return the handler of a call, with the limits around it.

        Args:
            continuation: returns the handler.
            handler_call_details: `method` is the full name.
        """
        handler = await continuation(handler_call_details)
        if handler is None:
            return handler
        codecs = handler.request_deserializer, handler.response_serializer

        async def unary(context: Any) -> Any:
            return await handler.unary_unary(await self._message(context), context)

        async def unary_stream(context: Any) -> None:
            await _write(handler.unary_stream(await self._message(context), context), context)

        async def stream(context: Any) -> None:
            await _write(handler.stream_stream(self._messages(context), context), context)

        if handler.unary_unary is not None:
            return grpc.stream_unary_rpc_method_handler(self._bounded(unary), *codecs)
        answer = stream if handler.unary_stream is None else unary_stream
        return grpc.stream_stream_rpc_method_handler(self._bounded(answer), *codecs)

    def _bounded(self, answer: Callable[[Any], Awaitable[Any]]) -> Callable[[Any, Any], Awaitable[Any]]:
        async def call(_messages: Any, context: Any) -> Any:
            peer = peer_host(context.peer())
            if self._open[peer] >= self._limits.calls:
                self._metrics.count_answer("grpc", "RESOURCE_EXHAUSTED")
                text = f"{peer} has {self._limits.calls} calls open here; wait for their answers, or end them"
                await context.abort(grpc.StatusCode.RESOURCE_EXHAUSTED, text)
            self._open[peer] += 1
            self._came_s = asyncio.get_running_loop().time()
            try:
                if self._held is not None:
                    await self._held.wait()
                return await answer(context)
            except _NoMessageError:
                text = f"no message came for {self._limits.message_s:g} s; open a new call when there is one"
                await context.abort(grpc.StatusCode.DEADLINE_EXCEEDED, text)
            finally:
                self._open[peer] -= 1
                if not self._open[peer]:
                    del self._open[peer]

        return call

    async def hold(self) -> None:
        """Hold the calls that come from now on, until those who ask again and again all wait for an answer.

        A server that ends then can say that it does before it answers them: nobody's call comes in between, which gRPC
        would answer with CANCELLED instead of a reason.
        """
        loop, self._held = asyncio.get_running_loop(), self._held or asyncio.Event()
        began_s = self._came_s = loop.time()
        while (wait_s := min(self._came_s + _QUIET_S, began_s + _LONGEST_S) - loop.time()) > 0:
            await asyncio.sleep(wait_s)

    def release(self) -> None:
        """Handle the calls that are held."""
        if self._held is not None:
            self._held.set()

    async def _messages(self, context: Any) -> AsyncIterator[Any]:
        while (message := await self._read(context)) is not _END:
            yield message

    async def _message(self, context: Any) -> Any:
        message = await self._read(context)
        if message is _END:
            try:
                await context.abort(grpc.StatusCode.INVALID_ARGUMENT, "the call has no message; expected one")
            except aio.InternalError:  # gRPC has ended the call by itself, as its message was too large
                raise asyncio.CancelledError from None
        return message

    async def _read(self, context: Any) -> Any:
        """Return the next message, or `_END`. A timer is cheaper than `asyncio.wait_for`, which starts a task."""
        task, late = asyncio.current_task(), list[bool]()
        assert task is not None

        def end() -> None:
            late.append(task.cancel())

        timer = asyncio.get_running_loop().call_later(self._limits.message_s, end)
        try:
            return await context.read()
        except asyncio.CancelledError:
            if late:
                raise _NoMessageError from None
            raise
        finally:
            timer.cancel()


async def _write(replies: Any, context: Any) -> None:
    """Send what a handler yields; one that writes by itself is only waited for (grpc.aio knows both)."""
    if not inspect.isasyncgen(replies):
        return await replies
    async for reply in replies:
        await context.write(reply)
