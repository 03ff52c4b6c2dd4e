"""Carries requests to servers, reads their answers, and learns from every one of them."""

import math
import threading
from collections import deque
from collections.abc import Mapping
from concurrent.futures import Future
from functools import partial
from typing import NamedTuple

import numpy as np

from coinfer.graph.ir import ModelGraph
from coinfer.options.table import Piece
from coinfer.runtime.clock import Clock
from coinfer.runtime.codec.tensors import unpack
from coinfer.runtime.device import estimate as est
from coinfer.runtime.device.server_pool import Peers
from coinfer.runtime.protocol.messages import InferReply, InferRequest, TransportError, WireError, WireTensor
from coinfer.runtime.protocol.protobuf import reply_bits, request_bits
from coinfer.runtime.transport.base import Transport

LONGEST_WAIT_S = 30.0
SHORTEST_PUSHBACK_S = 0.02
REMEMBERED = 100
"""Replies from which the patience is learned."""


class Answer(NamedTuple):
    """Outputs and where their time went; `upload_s` of a device's answer is what it waited in vain."""

    outputs: dict[str, np.ndarray]
    upload_s: float
    queue_s: float = 0.0
    server_s: float = 0.0
    download_s: float = 0.0


class Sent(NamedTuple):
    """A request under way."""

    server: int
    piece: Piece
    """What the server is to compute."""
    size_bits: float
    at_s: float
    link_wait_s: float
    """Expected wait for transfers before it."""
    expected_s: float
    """Until the reply."""
    reply: Future[InferReply]
    learned: threading.Event | None = None
    """Set when the estimates have learned from the reply; none where nothing is learned."""


class Courier:
    """The way to all servers.

    Args:
        tail_s: time of each rest of the network on the profiled machine; these are prepared.
    """

    def __init__(
        self,
        graph: ModelGraph,
        addresses: tuple[str, ...],
        transport: Transport,
        clock: Clock,
        first_rate_bps: float,
        tail_s: Mapping[Piece, float],
    ):
        self.peers = Peers(addresses, transport, clock, first_rate_bps, self._prepare)
        self._graph = graph
        self._transport = transport
        self._clock = clock
        self._tail_s = tail_s
        self._ratios: deque[float] = deque(maxlen=REMEMBERED)
        self._preparing = threading.Lock()

    @property
    def patience(self) -> float:
        """How many times the expected time to wait before a reply is late."""
        return est.patience(self._ratios)

    def close(self) -> None:
        self.peers.close()
        self._transport.close()

    def send(self, server: int, piece: Piece, request: InferRequest, upload_bits: float, service_s: float) -> Sent:
        """Sends a request of about `upload_bits` that should take the server `service_s`."""
        now_s = self._clock.now_s()
        known = self.peers.now()[server]
        sent = self.carry(server, piece, request)._replace(
            link_wait_s=max(known.link_free_s - now_s, 0.0),
            expected_s=upload_bits / known.link.rate_bps + est.backlog_now_s(known, now_s) + service_s,
            learned=threading.Event(),
        )
        self.peers.change(server, partial(est.after_send, size_bits=sent.size_bits, service_s=service_s, now_s=now_s))
        sent.reply.add_done_callback(lambda _: self._learn(sent))
        return sent

    def carry(self, server: int, piece: Piece, request: InferRequest) -> Sent:
        """Sends a request from which nothing is learned, such as one that visits several servers."""
        reply = self._transport.send(self.peers.addresses[server], request, LONGEST_WAIT_S)
        return Sent(server, piece, request_bits(request), self._clock.now_s(), 0.0, math.inf, reply)

    def read(self, sent: Sent) -> tuple[Answer | None, str]:
        """The server's answer, or what was wrong with it. The estimates know of it by then, so that the next request is
        not planned without."""
        if sent.learned is not None:
            sent.learned.wait()
        try:
            reply = sent.reply.result()
            outputs = {tensor.name: unpack(tensor) for tensor in reply.outputs}
        except (TransportError, WireError) as error:
            return None, f"{error.code} {error.reason or error.message}"
        missing = set(sent.piece[1]) - set(outputs)
        if missing:
            return None, f"its reply lacks {sorted(missing)}"
        service_s = reply.server_s + reply.codec_s + reply.forward_s
        transfer_s = max(self._clock.now_s() - sent.at_s - service_s - reply.queue_s, 0.0)
        upload_s = transfer_s * sent.size_bits / (sent.size_bits + reply_bits(reply))
        return Answer(outputs, upload_s, reply.queue_s, service_s, transfer_s - upload_s), ""

    def is_late(self, sent: Sent) -> None:
        """Nothing came back in time: the estimates take note."""
        now_s = self._clock.now_s()
        silence = partial(est.after_silence, size_bits=sent.size_bits, waited_s=now_s - sent.at_s, now_s=now_s)
        self.peers.change(sent.server, silence)

    def _learn(self, sent: Sent) -> None:
        """Every reply and every failure teaches, also one that comes too late; runs on the transport's thread."""
        try:
            self._take_note(sent)
        finally:
            if sent.learned is not None:
                sent.learned.set()

    def _take_note(self, sent: Sent) -> None:
        now_s = self._clock.now_s()
        self.peers.change(sent.server, partial(est.after_end, now_s=now_s))
        if sent.reply.cancelled():
            return
        error = sent.reply.exception()
        if error is None:
            self._ratios.append((now_s - sent.at_s) / max(sent.expected_s, 1e-4))
            self.peers.change(sent.server, lambda known: self._after(known, sent, now_s))
        elif isinstance(error, TransportError) and error.code == "RESOURCE_EXHAUSTED":
            pushback_s = max(error.pushback_s or 0.0, SHORTEST_PUSHBACK_S)
            self.peers.change(sent.server, partial(est.after_refusal, pushback_s=pushback_s, now_s=now_s))
        elif not (isinstance(error, TransportError) and error.code == "DEADLINE_EXCEEDED"):
            self.peers.change(sent.server, partial(est.after_failure, now_s=now_s))

    def _after(self, known: est.ServerEstimate, sent: Sent, now_s: float) -> est.ServerEstimate:
        """What a reply says of link, load and speed."""
        reply = sent.reply.result()
        service_s = reply.server_s + reply.codec_s + reply.forward_s
        under_way_s = now_s - sent.at_s - service_s - reply.queue_s - sent.link_wait_s
        size_bits = sent.size_bits + reply_bits(reply)
        if sent.link_wait_s == 0 or under_way_s > known.link.round_trip_s:  # a wait is a guess, no proof
            known = known._replace(link=est.after_exchange(known.link, size_bits, under_way_s, now_s))
        backlog_s, room = (reply.load.backlog_s, reply.load.room) if reply.load else (0.0, math.inf)
        known = est.after_reply(known, backlog_s, room, now_s)
        return est.after_service(known, sent.piece, service_s, self._tail_s[sent.piece], now_s)

    def _prepare(self, server: int) -> None:
        """Has a server build every segment that it may be asked for; its measured times come back. One server after the
        other, so that servers that share a machine do not slow each other's measurement."""
        with self._preparing:
            for piece, tail_s in self._tail_s.items():
                cut, outputs = piece
                if cut == outputs:
                    continue
                request = InferRequest(
                    self._graph.name,
                    tuple(WireTensor(name, "UINT8", (0,), b"", codec=True) for name in cut),
                    outputs,
                    fingerprint=self._graph.fingerprint,
                    warm=True,
                )
                try:
                    reply = self._transport.send(self.peers.addresses[server], request, LONGEST_WAIT_S).result()
                except TransportError:
                    return
                measured = partial(est.after_service, piece=piece, service_s=reply.server_s, profiled_s=tail_s)
                self.peers.change(server, partial(measured, now_s=self._clock.now_s()))
