"""A node's stream to the controller: opened anew whenever it ends, on a thread of its own.

The node never waits for it: without a controller it goes on with what it knows, and its decisions stay in the spool.
"""

import itertools
import logging
import random
import threading
import time
from collections.abc import Iterator
from typing import NamedTuple, Protocol

import grpc

from coinfer.runtime.transport.grpc_transport import client_options
from coinfer.site.agent.spool import Spool
from coinfer.site.certificates.access import SITE
from coinfer.site.certificates.grpc_security import failure_text, open_channel
from coinfer.site.certificates.identity import Identity
from coinfer.site.messages import (
    MESSAGE_BYTES,
    Ack,
    FromController,
    Hello,
    MessageError,
    Policies,
    PolicyFile,
    Refused,
    Report,
    Revoked,
    View,
    Welcome,
    from_controller,
    to_bytes,
)

BACKOFF_S = (0.2, 2.0)
"""Shortest and longest wait before the next attempt."""
REFUSED_BACKOFF_S = 5.0
BATCH_INTERVAL_S = 1.0
"""Decisions are written and delivered this often."""
MAX_UNACKNOWLEDGED = 2
"""Batches that may be on their way: the controller sets the pace."""
log = logging.getLogger("coinfer.site")


class Node(Protocol):
    """What the stream needs of its node; called on the stream's threads."""

    def hello(self) -> Hello:
        """Return who this node is."""
        ...

    def report(self) -> Report:
        """Return load and counters now."""
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
    """Keeps a node connected to its controller.

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
        self._closing = threading.Event()
        self._leaving = threading.Event()
        """Set for the last words."""
        self._call: grpc.Call | None = None
        self._said = ""
        self._interval_s, self._lease_s = 0.05, 1.5
        self._unacknowledged = 0
        self._refused = False
        self._thread = threading.Thread(target=self._run, name="coinfer-site", daemon=True)

    def start(self) -> None:
        """Begin to connect."""
        self._thread.start()

    def close(self, last_words_s: float = 0.5) -> None:
        """Deliver what can be delivered at once, and end.

        Args:
            last_words_s: how long that may take.
        """
        self._leaving.set()
        if self.joined.is_set():
            until_s = time.monotonic() + last_words_s
            while self._spool.held and time.monotonic() < until_s and self.joined.is_set():
                time.sleep(0.02)
        self._closing.set()
        if self._call is not None:
            self._call.cancel()
        self._thread.join(2.0)
        self._spool.flush()

    def _run(self) -> None:
        for attempt in itertools.count():
            began_s = time.monotonic()
            try:
                self._session()
            except grpc.RpcError as error:
                why = failure_text(error, self._controller.identity)
                self._say("away", f"the controller at {self._controller.address} {why}; going on without")
            except Exception as error:
                self._say("broken", f"the stream to {self._controller.address} ended: {type(error).__name__}: {error}")
            self.joined.clear()
            if time.monotonic() - began_s > BACKOFF_S[1]:
                attempt = 0
            wait_s = min(BACKOFF_S[0] * 2 ** min(attempt, 5), BACKOFF_S[1]) * random.uniform(0.7, 1.3)
            if self._closing.wait(REFUSED_BACKOFF_S if self._refused else wait_s):
                return
            self._spool.flush()

    def _session(self) -> None:
        """Hold one connection until it ends."""
        identity = self._controller.identity
        version = identity.current().version if identity else 0
        options = [*client_options(MESSAGE_BYTES), ("grpc.default_compression_algorithm", 2)]
        channel = open_channel(identity, self._controller.address, "controller", options)
        self._spool.rewind()
        self._unacknowledged, self._refused = 0, False
        ended = threading.Event()
        try:
            call = channel.stream_stream(f"{SITE}/Join")(self._outgoing(ended, version))
            self._call = call
            if self._closing.is_set():
                return
            for data in call:
                self._take(from_controller(data))
        except MessageError as error:
            self._say("broken", f"the controller at {self._controller.address} sent what cannot be read: {error}")
        finally:
            ended.set()
            channel.close()

    def _take(self, message: FromController) -> None:
        match message:
            case Welcome():
                self._lease_s, self._interval_s = message.lease_s, message.interval_s
                self.joined.set()
                hello = self._node.hello()
                self._say(
                    "joined", f"joined the site of {self._controller.address} as {hello.name}, epoch {hello.epoch}"
                )
            case Refused():
                self._refused = True
                self._say("refused", f"refused by the controller at {self._controller.address}: {message.reason}")
            case View():
                self._node.on_view(message)
            case PolicyFile() | Policies():
                self._node.on_policy(message)
            case Ack():
                self._spool.acknowledge(message.epoch, message.seq)
                self._unacknowledged = max(self._unacknowledged - 1, 0)
            case Revoked() if self._controller.identity is not None:
                self._controller.identity.adopt_revocations(message.pem.encode())
            case _:
                pass

    def _outgoing(self, ended: threading.Event, version: int) -> Iterator[bytes]:
        """Yield what the node says; runs on a thread of gRPC's."""
        hello = self._node.hello()
        yield to_bytes(hello)
        last, last_s, batch_s = Report(), 0.0, 0.0
        while not self._closing.is_set() and not ended.wait(self._interval_s):
            now_s = time.monotonic()
            is_early = hello.role == "device" and now_s - last_s < self._lease_s / 3  # nobody waits for its load
            if not self.joined.is_set() or (is_early and not self._leaving.is_set()):
                continue
            report = self._node.report()
            if report != last or now_s - last_s > self._lease_s / 3:
                last, last_s = report, now_s
                yield to_bytes(report)
            if now_s - batch_s > BATCH_INTERVAL_S or self._leaving.is_set():
                batch_s = now_s
                self._spool.flush()
                yield from self._batches()
            identity = self._controller.identity
            if identity is not None and identity.current().version != version:
                return  # the next connection shows the renewed certificate

    def _batches(self) -> Iterator[bytes]:
        while self._unacknowledged < MAX_UNACKNOWLEDGED:
            taken = self._spool.take()
            if taken is None:
                return
            self._unacknowledged += 1
            epoch, lines = taken
            yield b'{"kind":"batch","epoch":%d,"records":[%s]}' % (epoch, b",".join(lines))

    def _say(self, state: str, text: str) -> None:
        """Log that the stream is in another state than before; the end that was asked for is none."""
        if state != self._said and not self._closing.is_set():
            self._said = state
            log.log(logging.INFO if state == "joined" else logging.WARNING, text)
