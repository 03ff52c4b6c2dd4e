"""uvicorn's HTTP/1.1 with bounded patience: slow, idle and too many connections of a peer are closed."""

import asyncio
import json
from collections import Counter
from typing import Any, NamedTuple

import h11
import uvicorn
from uvicorn.protocols.http.h11_impl import H11Protocol


class HttpLimits(NamedTuple):
    """How long a connection may take, and how many of them a peer may hold."""

    idle_s: float = 30.0
    """Without a request."""
    head_s: float = 10.0
    """From the first byte of a request to the end of its headers."""
    body_s: float = 20.0
    """For a body, and for a reply that the peer does not read; longer by what `rate` gives for its size."""
    rate: float = 1000.0
    """Bytes a second that a peer must manage at least."""
    connections: int = 200
    """Open at the same time, for each peer address."""


class HttpConfig(uvicorn.Config):
    """Settings of an HTTP server whose connections are bounded.

    Args:
        app: ASGI application.
        limits: of its connections.
        more: settings of uvicorn.
    """

    def __init__(self, app: Any, limits: HttpLimits, **more: Any):
        super().__init__(app, http=BoundedProtocol, timeout_keep_alive=round(limits.idle_s), **more)
        self.limits = limits
        self.connections: Counter[str] = Counter()
        """Open connections by peer address."""


class BoundedProtocol(H11Protocol):
    """A connection that is aborted, without a word in the log, when its peer takes too long."""

    def __init__(self, config: uvicorn.Config, *args: Any, **kwargs: Any):
        super().__init__(config, *args, **kwargs)
        self._limits = config.limits if isinstance(config, HttpConfig) else HttpLimits()
        self._open = config.connections if isinstance(config, HttpConfig) else Counter[str]()
        self._phase: tuple[str, object] = ("", None)
        """What the peer is to do now, and for which request."""
        self._due_s = float("inf")
        """When it must have done so, on the loop's clock."""
        self._alarm: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Begin; one connection too many is told so and closed.

        Args:
            transport: of the connection.
        """
        super().connection_made(transport)
        self._open[self._peer] += 1
        if self._open[self._peer] > self._limits.connections:
            transport.write(_refusal(f"{self._peer} has {self._limits.connections} connections open here; use them"))
            transport.close()
        self._watch()

    def connection_lost(self, exc: Exception | None) -> None:
        """End.

        Args:
            exc: what went wrong, if anything.
        """
        super().connection_lost(exc)
        self._open[self._peer] -= 1
        if not self._open[self._peer]:
            del self._open[self._peer]
        if self._alarm is not None:
            self._alarm.cancel()

    def data_received(self, data: bytes) -> None:
        """Take in what the peer sent.

        Args:
            data: any part of requests.
        """
        if self.transport.is_closing():
            return
        super().data_received(data)
        self._watch()
        if self._phase[0] == "body":
            self._due_s += len(data) / self._limits.rate  # `_end` sets the alarm anew

    def on_response_complete(self) -> None:
        """Go on to the next request."""
        super().on_response_complete()
        self._watch()

    def pause_writing(self) -> None:
        """Wait for the peer to read."""
        super().pause_writing()
        self._watch()

    def resume_writing(self) -> None:
        """Go on, as the peer has read."""
        super().resume_writing()
        self._watch()

    def shutdown(self) -> None:
        """Finish what is being answered; a server that ends takes no further requests."""
        super().shutdown()
        if self._phase[0] == "body":
            self.transport.abort()

    @property
    def _peer(self) -> str:
        return self.client[0] if self.client else ""

    def _watch(self) -> None:
        """Give the peer its time for what it is to do, once that is something new."""
        phase = (self._awaited(), self.cycle)
        if phase == self._phase or self.transport.is_closing():
            return
        self._phase = phase
        buffered_s = self.transport.get_write_buffer_size() / self._limits.rate
        patience_s = {
            "head": self._limits.head_s,
            "idle": self._limits.idle_s,
            "body": self._limits.body_s,
            "read": self._limits.body_s + buffered_s,
        }.get(phase[0], float("inf"))
        self._due_s = self.loop.time() + patience_s
        self._set_alarm()

    def _awaited(self) -> str:
        """Return what the peer is to do now: read a reply, or send a body, a head or anything; empty for nothing."""
        if self.flow.write_paused:
            return "read"
        if self.conn.their_state is h11.SEND_BODY:
            return "body"
        if self.conn.their_state is h11.IDLE:
            return "head" if self.conn.trailing_data[0] else "idle"
        return ""

    def _set_alarm(self) -> None:
        if self._alarm is not None:
            self._alarm.cancel()
        self._alarm = self.loop.call_at(self._due_s, self._end) if self._due_s < float("inf") else None

    def _end(self) -> None:
        if self.loop.time() < self._due_s:  # more of the body has come since
            self._set_alarm()
        else:
            self.transport.abort()


def _refusal(text: str) -> bytes:
    body = json.dumps({"error": text, "code": "RESOURCE_EXHAUSTED", "reason": "peer_limit"})
    head = "HTTP/1.1 429 Too Many Requests\r\nConnection: close\r\nContent-Type: application/json\r\n"
    return f"{head}Content-Length: {len(body)}\r\n\r\n{body}".encode()
