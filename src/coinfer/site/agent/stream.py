"""A node's stream to the controller: opened anew whenever it ends.

The node never waits for it: without a controller it goes on with what it knows, and its decisions stay in the spool. On
a server it lives on the server's own event loop, since to wake another thread costs more than all that the stream does;
nodes without a loop give it one with a thread (`StreamThread`).
"""

import asyncio
import logging
import math
import random
import threading
import time
from contextlib import suppress
from typing import Any, NamedTuple, Protocol

import grpc

from coinfer.runtime.transport.grpc_transport import client_options
from coinfer.site.agent.spool import Spool
from coinfer.site.certificates.access import SITE
from coinfer.site.certificates.grpc_security import failure_text, open_stream_channel
from coinfer.site.certificates.identity import Identity
from coinfer.site.load import is_news
from coinfer.site.messages import (
    CONTROLLER_BYTES,
    STREAM_OPTIONS,
    FromController,
    Hello,
    MessageError,
    Policies,
    PolicyFile,
    Refused,
    Report,
    Revoked,
    ServedName,
    ServingProfile,
    View,
    Welcome,
    from_controller,
    packed,
    to_bytes,
    with_part,
)

BACKOFF_S = (0.2, 2.0)
"""Shortest and longest wait before the next attempt."""
REFUSED_BACKOFF_S = 5.0
BATCH_INTERVAL_S = 1.0
"""Decisions are written and delivered this often."""
MAX_UNACKNOWLEDGED = 2
"""Batches that may be on their way: the controller sets the pace."""
SETTLE_INTERVALS, SETTLE_S = 3.0, 0.1
"""After so many intervals between reports, and so much for the ways, all have heard what a node says next: it speaks
within one and a half, and the next view goes out within one."""
PATIENCE = 1.5
"""A node reports some time after the last view, and at the latest this many times that after its last report."""
log = logging.getLogger("coinfer.site")


class Node(Protocol):
    """What the stream needs of its node; called on the stream's event loop, policies on another thread."""

    def hello(self) -> Hello:
        """Return who this node is."""
        ...

    def report(self) -> Report:
        """Return load and counters now; what is served stands in `hello`."""
        ...

    def on_view(self, view: View) -> None:
        """Take in what the controller says of the edge servers.

        Args:
            view: as it came.
        """
        ...

    def on_policy(self, message: PolicyFile | Policies) -> None:
        """Take in a version of the site's policy, or who decides from now on.

        Args:
            message: as it came.
        """
        ...


class Controller(NamedTuple):
    """Where the controller is, and how to speak to it."""

    address: str
    identity: Identity | None
    """None speaks plain text."""


class ControllerStream:
    """Keeps a node connected to its controller, on one event loop.

    Args:
        node: tells who it is and how it is.
        controller: to connect to.
        spool: decisions to deliver.
    """

    def __init__(self, node: Node, controller: Controller, spool: Spool):
        self.joined = threading.Event()
        """Set while the controller has accepted this node."""
        self._node = node
        self._controller = controller
        self._spool = spool
        self._call: Any = None
        self._task: asyncio.Task[None] | None = None
        self._writing = asyncio.Lock()
        self._closing = False
        self._said = ""
        self._interval_s, self._lease_s = 0.05, 1.5
        self._last = Report()
        self._served: tuple[ServedName, ...] = ()
        """What the controller was told last that this node serves."""
        self._profile: ServingProfile | None = None
        """How it batches and loads, the same way."""
        self._told_s = self._looked_s = self._viewed_s = self._kept_s = -math.inf
        self._unacknowledged = 0
        self._refused = self._was_reached = False

    @property
    def settle_s(self) -> float:
        """Return after how long all of the site act on what this node says next; 0 while nobody hears it."""
        return SETTLE_INTERVALS * self._interval_s + SETTLE_S if self.joined.is_set() else 0.0

    def start(self) -> None:
        """Begin to connect; on the event loop."""
        self._task = asyncio.ensure_future(self._run())

    async def close(self, last_words_s: float = 0.5) -> None:
        """Deliver what can be delivered at once, and end.

        Args:
            last_words_s: how long that may take.
        """
        if self.joined.is_set():
            with suppress(Exception):
                await asyncio.wait_for(self._say_last_words(), last_words_s)
        self._closing = True
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)
            self._task = None  # it holds the call, and that the connection
        self.joined.clear()
        await asyncio.to_thread(self._spool.flush)

    async def _run(self) -> None:
        attempt = 0
        while True:
            began_s = time.monotonic()
            try:
                await self._session()
            except grpc.RpcError as error:
                why = failure_text(error, self._controller.identity, was_reached=self._was_reached)
                self._say("away", f"the controller at {self._controller.address} {why}; going on without")
            except Exception as error:
                self._say("broken", f"the stream to {self._controller.address} ended: {type(error).__name__}: {error}")
            self.joined.clear()
            attempt = 0 if time.monotonic() - began_s > BACKOFF_S[1] else attempt + 1
            wait_s = min(BACKOFF_S[0] * 2 ** min(attempt, 5), BACKOFF_S[1]) * random.uniform(0.7, 1.3)
            await asyncio.sleep(REFUSED_BACKOFF_S if self._refused else wait_s)
            await asyncio.to_thread(self._spool.flush)

    async def _session(self) -> None:
        """Hold one connection until it ends."""
        identity = self._controller.identity
        version = identity.current().version if identity else 0
        options = [*client_options(CONTROLLER_BYTES), *STREAM_OPTIONS]
        self._spool.rewind()
        self._unacknowledged, self._refused = 0, False
        self._last, self._told_s = Report(), -math.inf
        async with open_stream_channel(identity, self._controller.address, "controller", options) as channel:
            self._call = call = channel.stream_stream(f"{SITE}/Join")()
            hello = self._node.hello()
            self._served, self._profile = hello.models, hello.serving
            await call.write(to_bytes(hello))
            teller = asyncio.ensure_future(self._tell(version))
            try:
                async for data in call:
                    await self._take(from_controller(data))
            except MessageError as error:
                self._say("broken", f"the controller at {self._controller.address} sent what cannot be read: {error}")
            except asyncio.CancelledError:
                if self._closing or not call.done():
                    raise
                self._say("broken", f"the stream to {self._controller.address} was cancelled")
            finally:
                self._call = None
                teller.cancel()
                await asyncio.gather(teller, return_exceptions=True)

    async def _take(self, message: FromController) -> None:
        match message:
            case Welcome():
                self._lease_s, self._interval_s = message.lease_s, message.interval_s
                self._was_reached = True
                self.joined.set()
                hello = self._node.hello()
                self._say(
                    "joined", f"joined the site of {self._controller.address} as {hello.name}, epoch {hello.epoch}"
                )
            case Refused():
                self._refused = True
                self._say("refused", f"refused by the controller at {self._controller.address}: {message.reason}")
            case View():
                self._take_view(message)
            case PolicyFile() | Policies():
                await asyncio.to_thread(self._node.on_policy, message)
            case Revoked() if self._controller.identity is not None:
                await asyncio.to_thread(self._controller.identity.adopt_revocations, message.pem.encode())
            case _:
                pass

    def _take_view(self, view: View) -> None:
        self._viewed_s = time.monotonic()
        if view.interval_s is not None:
            self._interval_s = view.interval_s
        for ack in view.acks:
            self._spool.acknowledge(ack.epoch, ack.seq)
            self._unacknowledged = max(self._unacknowledged - 1, 0)
        self._node.on_view(view)

    async def _tell(self, version: int) -> None:
        """Say how the node is, until the connection ends or another one must show the renewed certificate."""
        is_edge = self._node.hello().role == "edge"
        while True:
            pause_s, begin_s = self._lease_s / 3, self._looked_s  # nobody waits for the load of a device
            if is_edge:
                pause_s = self._interval_s
                begin_s = min(max(self._looked_s, self._viewed_s), self._looked_s + (PATIENCE - 1) * pause_s)
            wait_s = begin_s + pause_s - time.monotonic()
            if wait_s > 0 or not self.joined.is_set():
                await asyncio.sleep(max(wait_s, 0.005))
                continue
            await self._speak()
            identity = self._controller.identity
            if identity is not None and identity.current().version != version:
                await self._call.done_writing()
                return

    async def _speak(self, last: bool = False) -> None:
        """Report what is new, with decisions if it is time for them."""
        async with self._writing:
            if self._call is None:
                return
            self._looked_s = now_s = time.monotonic()
            batch = b""
            if last or now_s - self._kept_s > BATCH_INTERVAL_S or self._spool.has_unsent:
                batch = await asyncio.to_thread(self._next_batch)
            report, hello = self._node.report(), self._node.hello()
            if hello.models != self._served:
                self._served, report = hello.models, report.model_copy(update={"models": hello.models})
            if hello.serving != self._profile:
                self._profile, report = hello.serving, report.model_copy(update={"profile": hello.serving})
            is_due = now_s - self._told_s >= self._lease_s / 3
            if batch or is_due or is_news(self._last, report) or report.links is not None:
                self._last, self._told_s = report, now_s
                text = to_bytes(report)
                await self._call.write(packed(with_part(text, "batch", batch)) if batch else text)

    def _next_batch(self) -> bytes:
        """Return the next decisions as JSON; empty if there are none, or enough are on their way."""
        if time.monotonic() - self._kept_s > BATCH_INTERVAL_S or self._closing:
            self._kept_s = time.monotonic()
            self._spool.flush()
        taken = self._spool.take() if self._unacknowledged < MAX_UNACKNOWLEDGED else None
        if taken is None:
            return b""
        self._unacknowledged += 1
        epoch, lines = taken
        return b'{"epoch":%d,"records":[%s]}' % (epoch, b",".join(lines))

    async def _say_last_words(self) -> None:
        self._kept_s = -math.inf
        while self._spool.held:
            await self._speak(last=True)
            await asyncio.sleep(0.02)

    def _say(self, state: str, text: str) -> None:
        """Log that the stream is in another state than before; the end that was asked for is none."""
        if state != self._said and not self._closing:
            self._said = state
            log.log(logging.INFO if state == "joined" else logging.WARNING, text)


class StreamThread:
    """A stream on a thread and an event loop of its own.

    Args:
        stream: that was not started.
    """

    def __init__(self, stream: ControllerStream):
        self._stream = stream
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="coinfer-site", daemon=True)

    def start(self) -> None:
        """Begin to connect."""
        self._thread.start()
        self._loop.call_soon_threadsafe(self._stream.start)

    def close(self, last_words_s: float = 0.5) -> None:
        """Deliver what can be delivered at once, and end.

        Args:
            last_words_s: how long that may take.
        """
        asyncio.run_coroutine_threadsafe(self._stream.close(last_words_s), self._loop).result()
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(2.0)
        if not self._thread.is_alive():
            self._loop.close()
