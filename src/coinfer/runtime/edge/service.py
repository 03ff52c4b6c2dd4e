"""How an edge node answers a request, whatever protocol carried it."""

import asyncio
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import NamedTuple

from coinfer.runtime.clock import Clock, WallClock
from coinfer.runtime.codec.tensors import pack, unpack
from coinfer.runtime.edge import defaults
from coinfer.runtime.edge.dispatcher import Dispatcher
from coinfer.runtime.edge.histograms import piece_label
from coinfer.runtime.edge.inference_service import Encode, Encoded, find_model
from coinfer.runtime.edge.metadata import EXTENSIONS
from coinfer.runtime.edge.metrics import Metrics, Timing
from coinfer.runtime.edge.request_log import RequestLog
from coinfer.runtime.edge.scheduler import SHUTTING_DOWN, Scheduler
from coinfer.runtime.edge.served_model import VERSION, ServedModel, models_by_name
from coinfer.runtime.executor import Abort
from coinfer.runtime.protocol.messages import (
    DEFAULT_LIMIT_BYTES,
    ExecutedHop,
    InferReply,
    InferRequest,
    TransportError,
    WireError,
    WireTensor,
    check_size,
    to_array,
)
from coinfer.runtime.transport.base import PING_MODEL, Transport

MAX_PENDING_PIECES = 8
"""Pieces of networks that may wait to be opened; it limits a client that asks for one new cut after the other."""
MAX_FAILED_SERVERS = 2
"""Servers that a request which leaves the choice open may be sent to in vain; then this server computes."""
_FORWARDED_CODES = {"INVALID_ARGUMENT", "FAILED_PRECONDITION", "NOT_FOUND", "DEADLINE_EXCEEDED"}


class _Work(NamedTuple):
    """What a worker made of a request, and how long each step took."""

    outputs: tuple[WireTensor, ...]
    decode_s: float
    compute_s: float
    encode_s: float
    batch: int


class EdgeService:
    """Serves models through one bounded queue.

    Args:
        served: models with different names.
        workers: requests that are computed at the same time.
        queue: requests that may wait.
        address: how this node names itself in replies.
        transport: reaches the next hops of a route; without one, routes are refused. `close` closes it.
        peers: the only next hops that are allowed; None allows any.
        limit_bytes: largest request, reply and decoded tensor.
        clock: deadlines and durations are on it; the wall clock without it.

    Raises:
        RequestError: if two models have the same name.
    """

    def __init__(
        self,
        served: Sequence[ServedModel],
        *,
        workers: int = 1,
        queue: int = defaults.QUEUE,
        address: str = "",
        transport: Transport | None = None,
        peers: Sequence[str] | None = None,
        limit_bytes: int = DEFAULT_LIMIT_BYTES,
        clock: Clock | None = None,
    ):
        self.models = models_by_name(served)
        self.address = address
        self.limit_bytes = limit_bytes
        self._transport = transport
        self._peers = None if peers is None else frozenset(peers)
        self._clock = clock or WallClock()
        self._log = RequestLog(self.models, self._clock)
        self.scheduler = Scheduler(workers, queue, self._clock)
        self._opener = ThreadPoolExecutor(1, "coinfer-opener")
        self._opening = 0
        self.dispatcher: Dispatcher | None = None
        """Chooses for requests that leave it to this server who computes; without one this server does."""

    @property
    def extensions(self) -> Sequence[str]:
        """Return what it offers beyond the protocol."""
        return (*EXTENSIONS, "coinfer_split")

    @property
    def is_ready(self) -> bool:
        """Whether the node admits requests; false once it drains."""
        return not self.scheduler.state.draining

    @property
    def metrics(self) -> Metrics:
        """Return the counters."""
        return self._log.metrics

    async def infer(self, request: InferRequest, encode: Encode[Encoded]) -> Encoded:
        """Return the reply to a request in the form in which it is sent.

        Args:
            request: its deadline counts from now.
            encode: makes that form; an error that it raises fails the request like any other.

        Raises:
            WireError: for every failure; only cancellation passes through as it is.
        """
        if request.model == PING_MODEL:
            return await encode(self._pong(request))
        return await self._log.answer(request, self._serve, encode)

    def drain(self) -> None:
        """Refuse new requests from now on; admitted ones are finished."""
        self.scheduler.drain()

    def close(self) -> None:
        """Abort what runs, and close the transport."""
        self.scheduler.close()
        self._opener.shutdown(wait=False, cancel_futures=True)
        if self._transport is not None:
            self._transport.close()

    async def _serve(self, request: InferRequest, began_s: float) -> tuple[InferReply, Timing]:
        model = find_model(self.models, request.model, request.version)
        self._check(model, request)
        deadline_s = began_s + request.deadline_s
        if request.dispatch and not request.warm and self.dispatcher is not None:
            return await self._dispatch(self.dispatcher, request._replace(dispatch=False), began_s)
        inputs = tuple(tensor.name for tensor in request.inputs)
        if not model.runs.is_ready(inputs, request.outputs):
            await self._open(model, request)
        kind = (model.name, inputs, request.outputs, request.warm)
        task = _warm if request.warm else _compute
        work, queue_s = await self.scheduler.run(
            kind, deadline_s, lambda abort: task(model, request, self.limit_bytes, abort), request.priority
        )
        check_size(sum(len(tensor.data) for tensor in work.outputs), self.limit_bytes)
        reply = InferReply(
            model.name,
            work.outputs,
            request.id,
            VERSION,
            queue_s=queue_s,
            server_s=work.compute_s,
            codec_s=work.decode_s + work.encode_s,
        )
        piece = piece_label(inputs, request.outputs)
        timing = Timing(queue_s, work.decode_s, work.compute_s, work.encode_s, work.batch, piece)
        if request.route and not request.warm:
            reply, upload_s = await self._forward(request, reply, deadline_s)
            timing = timing._replace(forward_s=reply.forward_s, upload_s=upload_s)
        return reply._replace(load=self.scheduler.load()), timing

    async def _dispatch(
        self, dispatcher: Dispatcher, request: InferRequest, began_s: float
    ) -> tuple[InferReply, Timing]:
        """Have a request computed where the dispatcher says; a server that fails is left out, and asked no more."""
        failed: set[str] = set()
        while True:
            left_s = began_s + request.deadline_s - self._clock.now_s()
            onward = request._replace(deadline_s=max(left_s, 0.0))
            assignment = await dispatcher.assign(onward, frozenset(failed))
            done = False
            try:
                if assignment.node is None or len(failed) >= MAX_FAILED_SERVERS:
                    reply, timing = await self._serve(request, began_s)
                else:
                    reply, timing = await self._send_on(assignment.node, onward)
                done = True
                assignment.done(True, reply.queue_s, reply.server_s)
                return reply, timing
            except TransportError as error:
                self.metrics.forward_failures += 1
                if error.code in _FORWARDED_CODES:
                    raise WireError(error.code, error.message, error.reason, error.pushback_s) from None
                failed.add(assignment.node or "")
            finally:
                if not done:
                    assignment.done(False)

    async def _send_on(self, node: str, request: InferRequest) -> tuple[InferReply, Timing]:
        """Return the reply of another server to a whole request; what it took beside its own work is `forward_s`."""
        assert self._transport is not None
        self.metrics.forwarded += 1
        began_s = self._clock.now_s()
        answer = await asyncio.wrap_future(self._transport.send(node, request, request.deadline_s))
        spent_s = self._clock.now_s() - began_s
        transfer_s = _transfer_s(answer, spent_s)
        forward_s, load = answer.forward_s + transfer_s, self.scheduler.load()
        executed = answer.executed or (ExecutedHop(node, request.outputs, answer.server_s, answer.queue_s),)
        reply = answer._replace(forward_s=forward_s, load=load, executed=executed)
        piece = piece_label([tensor.name for tensor in request.inputs], request.outputs)
        upload_s = transfer_s * _upload_share(request, answer)
        return reply, Timing(answer.queue_s, 0.0, 0.0, 0.0, 0, piece, spent_s, upload_s)

    def _check(self, model: ServedModel, request: InferRequest) -> None:
        """Refuse what is wrong as far as that shows without decoding; such a request never reaches the queue."""
        if request.fingerprint and not model.has(request.fingerprint):
            text = (
                f"model {model.name!r} is another network here: expected fingerprint {model.fingerprint}, "
                f"got {request.fingerprint[:64]}; give both nodes the same file and the same --shape"
            )
            raise WireError("FAILED_PRECONDITION", text, "fingerprint")
        if not request.warm:
            model.runs.check({tensor.name: to_array(tensor) for tensor in request.inputs if not tensor.codec})
        if request.route:
            node = request.route[0].node
            if self._transport is None or (self._peers is not None and node not in self._peers):
                raise WireError("INVALID_ARGUMENT", f"parameter route: this node does not forward to {node}", "route")

    async def _open(self, model: ServedModel, request: InferRequest) -> None:
        """Open the piece off the workers, so that requests in the queue do not wait for it too."""
        if self._opening >= MAX_PENDING_PIECES:
            raise WireError("RESOURCE_EXHAUSTED", "too many new cuts are being opened; try later", "queue_full", 1.0)
        self._opening += 1
        try:
            inputs = [tensor.name for tensor in request.inputs]
            loop = asyncio.get_running_loop()
            await loop.run_in_executor(self._opener, model.runs.prepare, inputs, request.outputs)
        finally:
            self._opening -= 1

    async def _forward(self, request: InferRequest, reply: InferReply, deadline_s: float) -> tuple[InferReply, float]:
        """Send the outputs on to the next hop, and return its reply as ours, with the seconds of the upload."""
        assert self._transport is not None
        hop, began_s = request.route[0], self._clock.now_s()
        onward = request._replace(
            inputs=reply.outputs,
            outputs=hop.cut,
            bits=hop.bits,
            route=request.route[1:],
            deadline_s=deadline_s - began_s,
        )
        if onward.deadline_s <= 0:
            raise WireError("DEADLINE_EXCEEDED", "the deadline passed before the next hop", "expired")
        self.metrics.forwarded += 1
        try:
            sent = self._transport.send(hop.node, onward, onward.deadline_s)
            answer = await asyncio.wrap_future(sent)
        except TransportError as error:
            self.metrics.forward_failures += 1
            code = error.code if error.code in _FORWARDED_CODES else "UNAVAILABLE"
            raise WireError(code, f"next hop {hop.node}: {error.message}", "next_hop", error.pushback_s) from None
        forward_s = self._clock.now_s() - began_s
        here = ExecutedHop(self.address, request.outputs, reply.server_s, reply.queue_s)
        last = ExecutedHop(hop.node, hop.cut, answer.server_s, answer.queue_s)
        executed = (here, *(answer.executed or (last,)))
        upload_s = _transfer_s(answer, forward_s) * _upload_share(onward, answer)
        return reply._replace(outputs=answer.outputs, forward_s=forward_s, executed=executed), upload_s

    def _pong(self, request: InferRequest) -> InferReply:
        if not self.is_ready:
            raise WireError("UNAVAILABLE", SHUTTING_DOWN, "draining")
        return InferReply(PING_MODEL, (), request.id, load=self.scheduler.load())


def _transfer_s(answer: InferReply, elapsed_s: float) -> float:
    """Return how long a request and its reply were under way: what the other server did not spend."""
    return max(elapsed_s - answer.queue_s - answer.server_s - answer.codec_s - answer.forward_s, 0.0)


def _upload_share(sent: InferRequest, answer: InferReply) -> float:
    """Return the part of a transfer's time that the request took, by its share of the bytes."""
    up, down = (sum(len(tensor.data) for tensor in tensors) for tensors in (sent.inputs, answer.outputs))
    return up / max(up + down, 1)


def _compute(model: ServedModel, request: InferRequest, limit_bytes: int, abort: Abort) -> _Work:
    """Decode, run and encode. On a worker."""
    clock = WallClock()
    began_s = clock.now_s()
    inputs = {tensor.name: unpack(tensor, limit_bytes, model.symbols.get(tensor.name)) for tensor in request.inputs}
    decoded_s = clock.now_s()
    outputs, compute_s = model.runs.run(inputs, request.outputs, abort)
    computed_s = clock.now_s()
    packed = tuple(pack(name, array, request.bits) for name, array in outputs.items())
    batch = next((array.shape[0] for array in inputs.values() if array.ndim), 1)
    return _Work(packed, decoded_s - began_s, compute_s, clock.now_s() - computed_s, batch)


def _warm(model: ServedModel, request: InferRequest, limit_bytes: int, abort: Abort) -> _Work:
    inputs = [tensor.name for tensor in request.inputs]
    return _Work((), 0.0, model.runs.warm(inputs, request.outputs), 0.0, 0)
