"""The controller's gRPC service: one stream for each node, the site's state and its experience for operators."""

import asyncio
import itertools
import json
import logging
from collections.abc import AsyncIterator
from typing import Any

import grpc

from coinfer.runtime.clock import Clock, WallClock
from coinfer.runtime.tracing import tell
from coinfer.site.certificates.access import SITE
from coinfer.site.certificates.grpc_security import caller
from coinfer.site.certificates.identity import Identity
from coinfer.site.controller import registry
from coinfer.site.controller.history import History
from coinfer.site.controller.policies import policies_of, policy_file, policy_methods
from coinfer.site.controller.registry import LEASE_S, Node
from coinfer.site.controller.session import Session
from coinfer.site.controller.views import Views
from coinfer.site.load import is_news
from coinfer.site.messages import (
    Ack,
    Batch,
    Hello,
    MessageError,
    Refused,
    Report,
    Revoked,
    Welcome,
    from_node,
    to_bytes,
)
from coinfer.site.store import ExperienceStore, read_experience
from coinfer.site.updater.updater import Updater

HELLO_S = 10.0
"""A connection that has not said who it is by then is closed."""
COLLECT_S = 0.01
"""Nodes report at about the same time, some time after the last view; the next view waits so long for all of them."""
CHECK_INTERVAL_S = 1.0
"""The certificate of an open stream is checked again after this time."""
PAGE_RECORDS = 500
"""Decisions read from the log at a time."""
_log = logging.getLogger("coinfer.site")


class ControllerService(grpc.GenericRpcHandler):
    """Registry, site view and log behind one gRPC service. It lives on one event loop.

    Args:
        store: takes the experience.
        identity: of the controller; None speaks plain text and believes what nodes say of themselves.
        clock: leases are on it.
    """

    def __init__(self, store: ExperienceStore, identity: Identity | None, clock: Clock | None = None):
        self.store = store
        self.updater: Updater | None = None
        """Decides which policies the servers use; None to leave them what they were started with."""
        self.nodes: dict[str, Node] = {}
        self.history = History()
        """What the page shows of the recent past."""
        self._identity = identity
        self._clock = clock or WallClock()
        self._sessions: dict[int, Session] = {}
        self._ids = itertools.count(1)
        self._changed = asyncio.Event()
        self._views = Views()
        self._revoked: frozenset[int] = frozenset()
        self._refused: dict[str, int] = {}
        """Epoch of the node of each name that was refused last."""
        self._handlers = {
            f"{SITE}/Join": grpc.stream_stream_rpc_method_handler(self._join),
            f"{SITE}/State": grpc.unary_unary_rpc_method_handler(self._state),
            f"{SITE}/Experience": grpc.unary_stream_rpc_method_handler(self._experience),
            **policy_methods(lambda: self.updater, self._name_of),
        }

    def service(self, handler_call_details: grpc.HandlerCallDetails) -> Any:
        """Return the handler of a call, or None if there is no such method.

        Args:
            handler_call_details: `method` is the full name, such as `/coinfer.Site/Join`.
        """
        return self._handlers.get(handler_call_details.method)

    @property
    def methods(self) -> tuple[str, ...]:
        """Return the full names of all methods."""
        return tuple(self._handlers)

    def now_s(self) -> float:
        """Return the time on the controller's clock."""
        return self._clock.now_s()

    def state(self) -> dict[str, object]:
        """Return what is known of the site now, for the page and `coinfer top`."""
        now_s = self.now_s()
        return self.history.state(self.nodes, now_s) | {
            "stored": self.store.stored,
            "store_problem": self.store.problem,
            "policy": None if self.updater is None else self.updater.state(),
        }

    async def run(self) -> None:
        """Send views while the service lives; ends by cancellation."""
        while True:
            alarm = asyncio.get_running_loop().call_later(LEASE_S / 3, self._changed.set)
            await self._changed.wait()  # `wait_for` of Python 3.11 may swallow a cancellation
            alarm.cancel()
            await asyncio.sleep(COLLECT_S)
            self._changed.clear()
            self.nodes = registry.forget(self.nodes, self.now_s())
            self.history.observe(self.nodes, self.now_s())
            self._check_revocations()
            self._broadcast()
            self._send_policies()
            await asyncio.sleep(registry.interval_s(self.nodes))  # an earlier view would put their reports off

    def _broadcast(self) -> None:
        now_s = self.now_s()
        self._views.observe(self.nodes, now_s)
        for session in self._sessions.values():
            session.view, session.view_s = self._views.view(self.nodes, session.sent_s), now_s
            if session.view or session.acks:
                session.wake.set()

    def _send_policies(self) -> None:
        """Tell the nodes who decides, where that is new to them, and send versions that they do not have."""
        updater = self.updater
        if updater is None:
            return
        for session in self._sessions.values():
            node = self.nodes.get(session.name)
            if node is None or node.session != session.id or not node.hello.decides:
                continue
            is_server = node.hello.role == "edge"
            if is_server:
                updater.node_refused(session.name, node.report.policy_problem)
            if session.told_of is updater.rollout:
                continue
            session.told_of = updater.rollout
            policies = policies_of(updater, session.name, explores=is_server)
            text = to_bytes(policies)
            if text == session.sent_policies or (not policies.shares and not session.sent_policies):
                continue
            for one in policies.shares:
                if one.version and one.version not in session.sent_versions:
                    session.sent_versions.add(one.version)
                    session.send(policy_file(updater, one.version))
            session.sent_versions &= {one.version for one in policies.shares}
            session.sent_policies = text
            session.send(policies)

    def present(self) -> frozenset[str]:
        """Return the names of the nodes that hold their leases."""
        now_s = self.now_s()
        return frozenset(name for name, node in self.nodes.items() if node.is_there(now_s))

    def edges(self) -> dict[str, str]:
        """Return the addresses of the edge servers that are there, by name."""
        return {info.name: info.address for info in registry.servers(self.nodes, self.now_s())}

    def _name_of(self, context: Any) -> str:
        """Return who calls: role and name of the certificate."""
        if self._identity is None:
            return "somebody without a certificate"
        peer = caller(self._identity, context)
        return f"{peer.role} {peer.name}"

    def _check_revocations(self) -> None:
        """Tell all nodes of a new revocation list, and end the connections of those who are on it."""
        if self._identity is None:
            return
        revoked = self._identity.current().revoked
        if revoked != self._revoked:
            self._revoked = revoked
            pem = self._identity.revocations().decode()
            for session in self._sessions.values():
                session.send(Revoked(pem=pem))

    # --- one node's stream

    async def _join(self, messages: AsyncIterator[bytes], context: Any) -> AsyncIterator[bytes]:
        try:
            first = await asyncio.wait_for(anext(aiter(messages)), HELLO_S)
            hello = self._hello(first, context)
        except (MessageError, asyncio.TimeoutError, StopAsyncIteration) as error:
            yield to_bytes(Refused(reason=str(error) or "no hello came"))
            return
        session = Session(next(self._ids), hello.name)
        joined = registry.join(self.nodes, hello, session.id, self.now_s())
        if joined.refusal:
            self._say_refused(hello, joined.refusal)
            yield to_bytes(Refused(reason=joined.refusal))
            return
        self._supersede(joined, hello)
        self.nodes = joined.nodes
        self._sessions[session.id] = session
        _log.info("%s %s joined from %s, epoch %d", hello.role, hello.name, hello.address or "nowhere", hello.epoch)
        self.history.note(f"{hello.role} {hello.name} joined")
        if self._identity is not None:
            session.send(Revoked(pem=self._identity.revocations().decode()))
        self._changed.set()
        reader = asyncio.ensure_future(self._read(messages, session, context))
        try:
            yield to_bytes(Welcome(lease_s=LEASE_S, interval_s=registry.interval_s(self.nodes)))
            async for message in self._outgoing(session, reader):
                yield message
        finally:
            reader.cancel()
            self._sessions.pop(session.id, None)
            if self.nodes.get(hello.name, None) and self.nodes[hello.name].session == session.id:
                _log.info("%s %s is gone", hello.role, hello.name)
                self.history.note(f"{hello.role} {hello.name} is gone")
            self.nodes = registry.leave(self.nodes, hello.name, session.id)
            self._changed.set()

    def _hello(self, data: bytes, context: Any) -> Hello:
        hello = from_node(data)
        if not isinstance(hello, Hello):
            raise MessageError("expected a hello first")
        if self._identity is not None:
            peer = caller(self._identity, context)
            if (peer.name, peer.role) != (hello.name, hello.role):
                raise MessageError(f"the certificate is of {peer.role} {peer.name}, not of {hello.role} {hello.name}")
        return hello

    def _supersede(self, joined: registry.Joined, hello: Hello) -> None:
        old = self._sessions.get(joined.superseded or 0)
        if old is not None:
            where = f" at {hello.address}" if hello.address else ""
            reason = f"a newer node called {hello.name}{where} joined; stop one of them, or give it another name"
            self._say_refused(self.nodes[hello.name].hello, reason)
            old.send(Refused(reason=reason))
            old.ended = True

    def _say_refused(self, hello: Hello, reason: str) -> None:
        """Log once that a node is refused, however often it tries."""
        if self._refused.get(hello.name) != hello.epoch:
            self._refused[hello.name] = hello.epoch
            _log.warning("refused %s %s of epoch %d: %s", hello.role, hello.name, hello.epoch, reason)

    async def _outgoing(self, session: Session, reader: "asyncio.Future[None]") -> AsyncIterator[bytes]:
        reader.add_done_callback(lambda _: session.wake.set())
        while True:
            await session.wake.wait()
            session.wake.clear()
            while session.urgent:
                yield to_bytes(session.urgent.pop(0))
            if session.ended or reader.done():
                return
            if session.view or session.acks:
                yield session.next_view()

    async def _read(self, messages: AsyncIterator[bytes], session: Session, context: Any) -> None:
        """Take in what a node says, until it ends or says something that cannot be accepted."""
        try:
            async for data in messages:
                self._check_caller(session, context)
                message = from_node(data)
                if isinstance(message, Hello):
                    raise MessageError("a second hello")
                self._hear(session, message)
                if message.batch is not None:
                    await self._keep(session, message.batch)
        except Exception as error:
            if not isinstance(error, grpc.RpcError):
                _log.warning("%s is cut off: %s", session.name, error)
                session.send(Refused(reason=str(error)[:1000]))

    def _check_caller(self, session: Session, context: Any) -> None:
        """End a stream whose certificate was revoked or has expired meanwhile."""
        if self._identity is not None and self.now_s() - session.checked_s >= CHECK_INTERVAL_S:
            session.checked_s = self.now_s()
            caller(self._identity, context)

    def _hear(self, session: Session, report: Report) -> None:
        node = self.nodes.get(session.name)
        if node is None or node.session != session.id:  # a newer connection speaks for it
            return
        if report.batch is not None:
            report = report.model_copy(update={"batch": None})
        self.nodes[session.name] = registry.hear(node, self.now_s(), report)
        if is_news(node.report, report):
            self._changed.set()

    async def _keep(self, session: Session, batch: Batch) -> None:
        """Store a batch. While the store is full, nothing more is read from this node."""
        while self.store.is_full:
            await asyncio.sleep(0.02)
        self.history.count(batch.records)
        stored, came_s = self.store.put(session.name, batch), self.now_s()

        def acknowledge(done: "asyncio.Future[int]") -> None:
            if not done.cancelled():
                session.acks.append(Ack(epoch=batch.epoch, seq=done.result()))
                self._changed.set()
                for record in batch.records:
                    tell("keep", record.model, record.traceparent, self.now_s() - came_s)

        asyncio.wrap_future(stored).add_done_callback(acknowledge)

    # --- for operators

    async def _state(self, message: bytes, context: Any) -> bytes:
        return json.dumps(self.state()).encode()

    async def _experience(self, message: bytes, context: Any) -> AsyncIterator[bytes]:
        """Send the log in pages, each a JSON list; the request is the number after which to begin."""
        after = int(message) if message.isdigit() else 0
        while True:
            page = await asyncio.to_thread(list, read_experience(self.store.path, after, PAGE_RECORDS))
            if not page:
                return
            after = int(str(page[-1]["id"]))
            yield json.dumps(page).encode()
