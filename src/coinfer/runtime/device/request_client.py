"""Sends requests to servers, reads their answers, and updates the estimates with each of them."""

import math
import threading
from collections import deque
from collections.abc import Mapping, Sequence
from concurrent.futures import CancelledError, Future
from functools import partial

from coinfer.graph.ir import ModelGraph
from coinfer.options.table import Piece
from coinfer.physics import latency
from coinfer.runtime.clock import Clock
from coinfer.runtime.codec.tensors import unpack
from coinfer.runtime.device import estimate as est
from coinfer.runtime.device import forecast
from coinfer.runtime.device.exchange import Answer, Failure, PendingRequest
from coinfer.runtime.device.pair_links import Pair, PairLinks, link_question
from coinfer.runtime.device.planning.plan import SeveralHops
from coinfer.runtime.device.server_pool import ServerPool
from coinfer.runtime.executor import Abort
from coinfer.runtime.protocol.messages import (
    InferReply,
    InferRequest,
    TransportError,
    WireError,
    WireTensor,
)
from coinfer.runtime.protocol.protobuf import reply_bits, request_bits
from coinfer.runtime.protocol.task_options import Choice
from coinfer.runtime.transport.base import Transport

MAX_WAIT_S = 30.0
"""Longest wait for a reply."""
MIN_PUSHBACK_S = 0.02
CHOICE_REST_S = 5.0
"""A server that chose nothing of use is not asked again for so long."""
RATIO_WINDOW = 100
"""Number of latest replies from which the patience is learned."""
UNFIT_CODES = {"NOT_FOUND", "FAILED_PRECONDITION", "UNIMPLEMENTED", "PERMISSION_DENIED", "UNAUTHENTICATED"}
"""A server that answers a preparation with one of these does not serve this network to this device."""
MISSING_CODES = UNFIT_CODES | {"INVALID_ARGUMENT"}
"""A server that answers a request for a piece of a bottleneck with one of these does not have the bottleneck."""
REFUSAL_REASONS = {"queue_full", "hopeless", "draining"}
"""Reasons with which admission control refuses a request."""


def can_retry(error: TransportError | WireError) -> bool:
    """Return true if a server without a resource may take the same request later: it is full, not too small.

    Args:
        error: why the server did not answer.
    """
    is_final = error.reason == "too_large" or (error.pushback_s is not None and error.pushback_s < 0)
    return error.code == "RESOURCE_EXHAUSTED" and not is_final


class RequestClient:
    """Carries requests to all servers.

    Args:
        graph: the network.
        addresses: of the servers, `host:port`.
        transport: carries messages; the client closes it.
        clock: the device's.
        first_rate_bps: believed rate of each link until the first transfer.
        tail_s: profiled time of each piece that a server may compute; servers prepare these.
    """

    def __init__(
        self,
        graph: ModelGraph,
        addresses: Sequence[str],
        transport: Transport,
        clock: Clock,
        *,
        first_rate_bps: float,
        tail_s: Mapping[Piece, float],
    ):
        self.pool = ServerPool(addresses, transport, clock, first_rate_bps, self._prepare)
        self._graph = graph
        self._transport = transport
        self._clock = clock
        self._tail_s = tail_s
        self.pairs = PairLinks(self.pool.addresses)
        self._ratios: deque[float] = deque(maxlen=RATIO_WINDOW)
        self._preparing = threading.Lock()
        self._no_choice_until_s: dict[str, float] = {}
        """By the address of a server."""

    @property
    def patience(self) -> float:
        """Return after how many times the expected time a reply counts as late."""
        return forecast.patience(self._ratios)

    def close(self) -> None:
        """Stop probing and close all connections."""
        self.pool.close()
        self._transport.close()

    def send(
        self,
        server: int,
        work: est.Work,
        request: InferRequest,
        *,
        upload_bits: float,
        service_s: float,
        profiled_s: float,
        several: SeveralHops | None = None,
    ) -> PendingRequest:
        """Send a request, count it as in flight, and learn from its reply.

        Args:
            server: index of the server.
            work: what the server computes.
            request: the message.
            upload_bits: upload that the planner expects of the option; nothing as large is sent again if it is refused.
            service_s: expected time of the server for the work, with round trip and `forecast.standing_wait_s`.
            profiled_s: time of the profiled machine for it.
            several: what this server and others after it do; None if it answers itself.

        Returns:
            The pending request, whose `read` waits for the reply.
        """
        now_s = self._clock.now_s()
        known = self.pool.estimates()[server]
        ready_s = latency.ready_s(0.0, forecast.link_wait_s(known, now_s), upload_bits / known.link.rate_bps)
        standing_s = forecast.standing_wait_s(known, now_s)
        pending = self.send_untracked(server, work, request)._replace(
            link_wait_s=max(known.link_free_s - now_s, 0.0),
            expected_s=latency.end_s(ready_s, forecast.server_wait_s(known, now_s) - standing_s, service_s)
            + (0.0 if several is None else several.onward_s),
            profiled_s=profiled_s,
            upload_bits=upload_bits,
            deadline_s=request.deadline_s,
            update_done=threading.Event(),
            several=several,
        )
        own_s = max(service_s - standing_s, 0.0)
        self.pool.update(server, partial(est.after_send, size_bits=pending.size_bits, service_s=own_s, now_s=now_s))
        pending.reply.add_done_callback(lambda _: self._on_reply(pending))
        return pending

    def send_untracked(self, server: int, work: est.Work, request: InferRequest) -> PendingRequest:
        """Send a request from which nothing is learned, such as one that visits several servers.

        Args:
            server: index of the first server.
            work: cut of the device and outputs of the whole request.
            request: the message.

        Returns:
            The pending request; no reply is expected at any time.
        """
        at_s = self._clock.now_s()  # before it is sent: on a busy core the server may be done when `send` returns
        reply = self._transport.send(self.pool.addresses[server], request, MAX_WAIT_S)
        return PendingRequest(server, work, request_bits(request), at_s, 0.0, math.inf, reply)

    def choose(self, server: int, request: InferRequest, timeout_s: float, abort: Abort) -> Choice | None:
        """Return what a server has chosen; None if it says nothing in time.

        Args:
            server: index of the server.
            request: what the device could do.
            timeout_s: longest wait.
            abort: ends the wait.
        """
        reply = self._transport.send(self.pool.addresses[server], request, timeout_s)
        abort.on_set(reply.cancel)
        try:
            return reply.result().choice
        except (TransportError, CancelledError):
            return None

    def may_choose(self, server: int) -> bool:
        """Return true if a server has not failed to choose a short time ago.

        Args:
            server: index of the server.
        """
        return self._clock.now_s() >= self._no_choice_until_s.get(self.pool.addresses[server], -math.inf)

    def avoid_choices(self, server: int) -> None:
        """Have a server choose nothing for a while.

        Args:
            server: index of the server.
        """
        self._no_choice_until_s[self.pool.addresses[server]] = self._clock.now_s() + CHOICE_REST_S

    def read(self, pending: PendingRequest) -> Answer | Failure:
        """Return the server's answer, or why there is none; wait until the reply has come.

        By then the estimates are updated, so that the next plan uses what this request showed.

        Args:
            pending: from `send` or `send_untracked`.
        """
        if pending.update_done is not None:
            pending.update_done.wait()
        address = self.pool.addresses[pending.server]
        try:
            reply = pending.reply.result()
            outputs = {tensor.name: unpack(tensor) for tensor in reply.outputs}
        except (TransportError, WireError) as error:
            refused = can_retry(error) or error.reason in REFUSAL_REASONS
            is_next_hop = error.reason == "next_hop"
            problem = error.message if is_next_hop else error.reason or error.message
            return Failure(address, f"{error.code} {problem}", refused, is_next_hop)
        work = pending.work if pending.several is None else pending.several.parts[-1].work
        missing = set(work.piece[1]) - set(outputs)
        if missing:
            return Failure(address, f"its reply lacks {sorted(missing)}")
        service_s = reply.server_s + reply.codec_s + reply.forward_s
        transfer_s = max(self._clock.now_s() - pending.at_s - service_s - reply.queue_s, 0.0)
        upload_s = transfer_s * pending.size_bits / (pending.size_bits + reply_bits(reply))
        return Answer(outputs, upload_s, reply.queue_s, service_s, transfer_s - upload_s)

    def record_silence(self, pending: PendingRequest) -> None:
        """Update the estimates because no reply came in time.

        Args:
            pending: from `send`.
        """
        now_s = self._clock.now_s()
        silence = partial(est.after_silence, size_bits=pending.size_bits, waited_s=now_s - pending.at_s, now_s=now_s)
        self.pool.update(pending.server, silence)
        self.pairs.lose_route(pending.several)

    def _on_reply(self, pending: PendingRequest) -> None:
        """Learn from every reply and failure, also from one that comes too late; runs on the transport's thread."""
        try:
            self._record(pending)
        finally:
            if pending.update_done is not None:
                pending.update_done.set()

    def _record(self, pending: PendingRequest) -> None:
        now_s = self._clock.now_s()
        self.pool.update(pending.server, partial(est.after_end, now_s=now_s))
        if pending.reply.cancelled():
            return
        error = pending.reply.exception()
        if error is None:
            self.pool.heard(pending.server, now_s)
            self._ratios.append((now_s - pending.at_s) / max(pending.expected_s, 1e-4))
            self.pool.update(pending.server, lambda known: self._after_reply(known, pending, now_s))
            for part, hop in self.pairs.record_route(pending.several, pending.reply.result().executed):
                learned = partial(est.after_service, work=part.work, service_s=hop.server_s, profiled_s=part.profiled_s)
                self.pool.update(part.server, partial(learned, now_s=now_s))
        elif isinstance(error, TransportError) and error.reason == "next_hop":
            self.pairs.lose_route(pending.several)
        elif isinstance(error, TransportError) and can_retry(error):
            pushback_s = max(error.pushback_s or 0.0, MIN_PUSHBACK_S)
            self.pool.update(pending.server, partial(est.after_refusal, pushback_s=pushback_s, now_s=now_s))
        elif isinstance(error, TransportError) and error.code == "RESOURCE_EXHAUSTED":
            self.pool.update(pending.server, partial(est.after_oversize, upload_bits=pending.upload_bits))
        elif self._is_missing(pending.work.piece, error):
            self._lack(pending.server, pending.work.piece)
        elif isinstance(error, TransportError) and error.reason == "hopeless":
            left_s = pending.deadline_s - (now_s - pending.at_s)
            hopeless = partial(est.after_hopeless, work=pending.work, left_s=left_s, now_s=now_s)
            self.pool.update(pending.server, hopeless)
        elif not (isinstance(error, TransportError) and error.code == "DEADLINE_EXCEEDED"):
            self.pool.update(pending.server, partial(est.after_failure, now_s=now_s))

    def _is_missing(self, piece: Piece, error: BaseException) -> bool:
        """Return true if an error says that a server does not have the bottleneck that a piece belongs to."""
        belongs = self._graph.part(piece[1]) is not self._graph
        return belongs and isinstance(error, TransportError) and error.code in MISSING_CODES

    def _lack(self, server: int, piece: Piece) -> None:
        """Remember that a server does not have a piece of the bottleneck; everything else it may be asked for."""
        self.pool.update(server, lambda known: known._replace(lacks=known.lacks | {piece}))
        self.pool.report(server, "does not have this network's bottleneck; the device sends it other tensors")

    def _after_reply(self, known: est.ServerEstimate, pending: PendingRequest, now_s: float) -> est.ServerEstimate:
        """Return the estimate with what a reply says of link, load and speed."""
        reply = pending.reply.result()
        backlog_s, room = (reply.load.backlog_s, reply.load.room) if reply.load else (0.0, math.inf)
        service_s = reply.server_s + reply.codec_s + reply.forward_s
        answered = est.Answered(
            size_bits=pending.size_bits + reply_bits(reply),
            took_s=now_s - pending.at_s,
            link_wait_s=pending.link_wait_s,
            queue_s=reply.queue_s,
            service_s=service_s,
            backlog_s=backlog_s,
            room=room,
        )
        known = known._replace(cold={(one.inputs, one.outputs): one.load_s for one in reply.cold}, cold_s=now_s)
        onward_s = 0.0 if pending.several is None else reply.forward_s
        return est.after_answer(known, pending.work, answered, pending.profiled_s, now_s, onward_s)

    def ask_link(self, pair: Pair, timeout_s: float) -> Future[InferReply]:
        """Return the reply of a server that is asked for its link to another one.

        Args:
            pair: the server that is asked, and the other one.
            timeout_s: longest wait.
        """
        return self._transport.send(pair[0], link_question(pair[1]), timeout_s)

    def prepare_piece(self, server: int, piece: Piece, profiled_s: float) -> None:
        """Have a server build a segment, and learn how long it takes there.

        Args:
            server: index of the server.
            piece: tensors that it starts from and outputs.
            profiled_s: time of the profiled machine for it.

        Raises:
            TransportError: if the server cannot.
        """
        request = self._preparation(*piece)
        reply = self._transport.send(self.pool.addresses[server], request, MAX_WAIT_S).result()
        measured = partial(est.after_service, work=est.Work(piece), service_s=reply.server_s, profiled_s=profiled_s)
        self.pool.update(server, partial(measured, now_s=self._clock.now_s()))

    def _prepare(self, server: int) -> None:
        """Have a server build every segment that it may be asked for; its measured times come back.

        One server after the other, so that servers that share a machine do not slow each other's measurement.
        """
        with self._preparing:
            for piece, tail_s in self._tail_s.items():
                cut, outputs = piece
                if cut == outputs:
                    continue
                try:
                    self.prepare_piece(server, piece, tail_s)
                except TransportError as error:
                    if self._is_missing(piece, error):
                        self._lack(server, piece)
                        continue
                    if error.code in UNFIT_CODES:
                        self.pool.reject(server, f"{error.code} {error.message}".partition("\n")[0])
                    return

    def _preparation(self, cut: tuple[str, ...], outputs: tuple[str, ...]) -> InferRequest:
        """Return a request without data that only builds the segment."""
        return InferRequest(
            self._graph.name,
            tuple(WireTensor(name, "UINT8", (0,), b"", codec=True) for name in cut),
            outputs,
            fingerprint=self._graph.part(outputs).short_fingerprint,
            warm=True,
            short=True,
        )
