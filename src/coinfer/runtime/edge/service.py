"""How an edge node answers a request, whatever protocol carried it."""

import asyncio
from collections.abc import Hashable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial

from coinfer.errors import short_repr
from coinfer.options.table import Names
from coinfer.profile.sizing import rounded_sizes
from coinfer.runtime.clock import Clock, WallClock
from coinfer.runtime.edge import defaults
from coinfer.runtime.edge.computing import Work, compute, compute_batch, warm, yield_to_others
from coinfer.runtime.edge.dispatcher import Dispatcher
from coinfer.runtime.edge.histograms import piece_label
from coinfer.runtime.edge.inference_service import Encode, Encoded, find_model
from coinfer.runtime.edge.metadata import EXTENSIONS
from coinfer.runtime.edge.metrics import Metrics, Timing
from coinfer.runtime.edge.openings import Openings
from coinfer.runtime.edge.peer_links import PeerLinks, transfer_s, upload_share
from coinfer.runtime.edge.repository import Repository
from coinfer.runtime.edge.request_log import RequestLog
from coinfer.runtime.edge.scheduler import SHUTTING_DOWN, Batch, Scheduler
from coinfer.runtime.edge.served_model import VERSION, ServedModel, models_by_name
from coinfer.runtime.edge.service_times import MAX_KINDS
from coinfer.runtime.executor import Abort, Runner
from coinfer.runtime.piece_memory import PieceMemory
from coinfer.runtime.protocol.messages import (
    DEFAULT_LIMIT_BYTES,
    ColdPiece,
    ExecutedHop,
    InferReply,
    InferRequest,
    TransportError,
    WireError,
    check_size,
    view_array,
)
from coinfer.runtime.transport.base import PING_MODEL, Transport

MAX_COLD = 32
"""Pieces that a reply says are not in memory."""
QUICK_S = 1e-3
"""Requests that typically take less are computed on the event loop: a worker would get them and give them back in about
this time on a busy machine."""
MAX_FAILED_SERVERS = 2
"""Servers that a request which leaves the choice open may be sent to in vain; then this server computes."""
_FORWARDED_CODES = {"INVALID_ARGUMENT", "FAILED_PRECONDITION", "NOT_FOUND", "DEADLINE_EXCEEDED"}
_UNSERVED_CODES = {"FAILED_PRECONDITION", "NOT_FOUND"}
"""A server that answers with one of these does not serve the network any more, and another one may."""


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
        batch_limit: requests for one piece that may run as one batch; 1 runs each alone.
        memory: that the models share; None if each has its own.
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
        batch_limit: int = defaults.BATCH,
        memory: PieceMemory[Runner] | None = None,
        clock: Clock | None = None,
    ):
        self.models = dict(models_by_name(served))
        self.memory = memory
        self.repository: Repository | None = None
        """Loads and unloads models; without one they stay."""
        self.address = address
        self.limit_bytes = limit_bytes
        self._clock = clock or WallClock()
        self._transport = transport
        self._links = None if transport is None else PeerLinks(transport, self._clock)
        self._peers = None if peers is None else frozenset(peers)
        self._log = RequestLog(self.models, self._clock)
        self.scheduler = Scheduler(workers, queue, self._clock, QUICK_S)
        self.openings = Openings(self._clock)
        """Pieces that are being opened for requests."""
        self._batch_limit = batch_limit
        self._measurer = ThreadPoolExecutor(1, "coinfer-measurer", initializer=yield_to_others)
        self._measured: set[Hashable] = set()
        self.dispatcher: Dispatcher | None = None
        """Chooses for requests that leave it to this server who computes; without one this server does."""

    @property
    def extensions(self) -> Sequence[str]:
        """Return what it offers beyond the protocol."""
        return (*EXTENSIONS, "coinfer_split", *(["model_repository"] if self.repository else []))

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
            return await encode(await self._pong(request))
        if request.options is not None:
            return await encode(await self._choose(request))
        return await self._log.answer(request, self._serve, encode)

    def drain(self) -> None:
        """Refuse new requests from now on; admitted ones are finished."""
        self.scheduler.drain()

    def close(self) -> None:
        """Abort what runs, and close the transport."""
        self.scheduler.close()
        self.openings.close()
        self._measurer.shutdown(wait=False, cancel_futures=True)
        if self._transport is not None:
            self._transport.close()

    async def _serve(self, request: InferRequest, began_s: float) -> tuple[InferReply, Timing]:
        dispatcher = self.dispatcher if request.dispatch and not request.warm else None
        if dispatcher is not None and not self._serves(request) and dispatcher.may_be_served(request):
            return await self._dispatch(dispatcher, request._replace(dispatch=False), began_s)
        model = find_model(self.models, request.model, request.version)
        sizes = self._check(model, request)
        deadline_s = began_s + request.deadline_s
        if dispatcher is not None:
            return await self._dispatch(dispatcher, request._replace(dispatch=False), began_s)
        inputs = tuple(tensor.name for tensor in request.inputs)
        kind = (model.name, inputs, request.outputs, request.warm, tuple(sorted(rounded_sizes(sizes).items())))
        task = partial(_warm, model, request) if request.warm else partial(compute, model, request, self.limit_bytes)
        batch = None if request.warm or sizes else self._batch(model, request, inputs)
        load_s = await self.openings.hold(model, inputs, request.outputs, deadline_s)
        try:
            work, wait_s = await self.scheduler.run(kind, deadline_s, task, request.priority, batch)
        finally:
            model.runs.release(inputs, request.outputs)
        if wait_s > 0 and not request.warm:
            self._measure(model, inputs, request.outputs)
        check_size(sum(len(tensor.data) for tensor in work.outputs), self.limit_bytes)
        queue_s = load_s + wait_s + work.others_s
        reply = InferReply(
            model.name,
            work.outputs,
            request.id,
            VERSION,
            queue_s=queue_s,
            server_s=work.alone_s,
            codec_s=work.decode_s + work.encode_s,
            details={"batch": work.requests} if work.requests > 1 else {},
            cold=self._cold(model),
        )
        piece, times_s = piece_label(inputs, request.outputs), (work.decode_s, work.compute_s, work.encode_s)
        timing = Timing(load_s + wait_s, *times_s, work.samples, piece, executions=work.executions)
        if request.route and not request.warm:
            reply, upload_s = await self._forward(request, reply, deadline_s)
            timing = timing._replace(forward_s=reply.forward_s, upload_s=upload_s)
        return reply._replace(load=self.scheduler.load()), timing

    async def _dispatch(
        self, dispatcher: Dispatcher, request: InferRequest, began_s: float
    ) -> tuple[InferReply, Timing]:
        """Have a request computed where the dispatcher says; a server that fails, or does not serve the network any
        more, is left out, and asked no more. This one may stop to serve it meanwhile; then others are asked, too."""
        failed: dict[str, TransportError] = {}
        while True:
            served = self._serves(request)
            left_s = began_s + request.deadline_s - self._clock.now_s()
            onward = request._replace(deadline_s=max(left_s, 0.0))
            assignment = await dispatcher.assign(onward, frozenset(failed))
            done = False
            try:
                node = None if served and len(failed) >= MAX_FAILED_SERVERS else assignment.node
                if node is None and failed and not served:
                    raise _as_wire_error(failed.popitem()[1])
                if node is None and served and not self._serves(request):
                    continue
                reply, timing = await (self._send_on(node, onward) if node else self._serve(request, began_s))
                done = True
                assignment.done(True, reply.queue_s, reply.server_s + reply.codec_s)
                return reply, timing
            except TransportError as error:
                self.metrics.forward_failures += 1
                if error.code in _FORWARDED_CODES - _UNSERVED_CODES:
                    raise _as_wire_error(error) from None
                failed[assignment.node or ""] = error
            finally:
                if not done:
                    assignment.done(False)

    def _serves(self, request: InferRequest) -> bool:
        """Return true if the network that a request names is served here now."""
        model = self.models.get(request.model)
        return model is not None and (not request.fingerprint or model.has(request.fingerprint))

    async def _send_on(self, node: str, request: InferRequest) -> tuple[InferReply, Timing]:
        """Return the reply of another server to a whole request; what it took beside its own work is `forward_s`."""
        assert self._transport is not None
        self.metrics.forwarded += 1
        began_s = self._clock.now_s()
        answer = await asyncio.wrap_future(self._transport.send(node, request, request.deadline_s))
        spent_s = self._clock.now_s() - began_s
        under_way_s = transfer_s(answer, spent_s)
        forward_s, load = answer.forward_s + under_way_s, self.scheduler.load()
        executed = answer.executed or (ExecutedHop(node, request.outputs, answer.server_s, answer.queue_s),)
        reply = answer._replace(forward_s=forward_s, load=load, executed=executed)
        piece = piece_label([tensor.name for tensor in request.inputs], request.outputs)
        upload_s = under_way_s * upload_share(request, answer)
        return reply, Timing(answer.queue_s, 0.0, 0.0, 0.0, 0, piece, spent_s, upload_s)

    def _batch(self, model: ServedModel, request: InferRequest, inputs: Names) -> Batch | None:
        """Return how a request runs together with others; None if it never does."""
        times = model.runs.batches(inputs, request.outputs).times
        if min(times.limit, self._batch_limit) == 1:
            return None
        return Batch(times, request, partial(compute_batch, model, times, self.limit_bytes))

    def _measure(self, model: ServedModel, inputs: Names, outputs: Names) -> None:
        """Measure batches of a piece for which requests had to wait, once, beside the workers."""
        piece = (model.name, model.fingerprint, inputs, outputs)
        if self._batch_limit == 1 or piece in self._measured or len(self._measured) >= MAX_KINDS:
            return
        self._measured.add(piece)
        if model.runs.batches(inputs, outputs).is_unmeasured:
            self._measurer.submit(model.runs.measure_batches, inputs, outputs, self._batch_limit)

    def _check(self, model: ServedModel, request: InferRequest) -> Mapping[str, int]:
        """Refuse what is wrong as far as that shows without decoding; such a request never reaches the queue.

        Returns:
            Sizes of free axes that are not the smallest, as far as they show.
        """
        _check_fingerprint(model, request)
        plain = [] if request.warm else [tensor for tensor in request.inputs if not tensor.codec]
        sizes = model.runs.check({tensor.name: view_array(tensor) for tensor in plain})
        self._check_route(request)
        return sizes

    def _check_route(self, request: InferRequest) -> None:
        node = request.route[0].node if request.route else ""
        if node and (self._transport is None or (self._peers is not None and node not in self._peers)):
            raise WireError("INVALID_ARGUMENT", f"parameter route: this node does not forward to {node}", "route")

    def _cold(self, model: ServedModel) -> tuple[ColdPiece, ...]:
        """Return the pieces of a model that would have to be loaded again; none where memory has no limit."""
        if self.memory is None:
            return ()
        return tuple(ColdPiece(*piece, load_s) for piece, load_s in [*model.runs.cold().items()][-MAX_COLD:])

    async def _forward(self, request: InferRequest, reply: InferReply, deadline_s: float) -> tuple[InferReply, float]:
        """Send the outputs on to the next hop, and return its reply as ours, with the seconds of the upload."""
        assert self._transport is not None
        assert self._links is not None
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
            self._links.lose(hop.node)
            raise _next_hop_error(hop.node, error) from None
        forward_s = self._clock.now_s() - began_s
        link = self._links.after_transfer(hop.node, onward, answer, forward_s)
        here = ExecutedHop(self.address, request.outputs, reply.server_s, reply.queue_s)
        next_, *later = answer.executed or (ExecutedHop(hop.node, hop.cut, answer.server_s, answer.queue_s),)
        next_ = next_._replace(link_bps=link.rate_bps, round_trip_s=link.round_trip_s)
        upload_s = transfer_s(answer, forward_s) * upload_share(onward, answer)
        return reply._replace(outputs=answer.outputs, forward_s=forward_s, executed=(here, next_, *later)), upload_s

    async def _choose(self, request: InferRequest) -> InferReply:
        """Return what the sender should do with a request; it takes no place in the queue."""
        model = find_model(self.models, request.model, request.version)
        _check_fingerprint(model, request)
        if not self.is_ready:
            raise WireError("UNAVAILABLE", SHUTTING_DOWN, "draining")
        if self.dispatcher is None:
            text = "parameter options: this server is in no site, and chooses for nobody; decide on the device"
            raise WireError("UNIMPLEMENTED", text, "unoffered")
        choice = await self.dispatcher.choose(request)
        return InferReply(model.name, (), request.id, VERSION, load=self.scheduler.load(), choice=choice)

    async def _pong(self, request: InferRequest) -> InferReply:
        """Answer a ping, with what is known of the link to the next hop if it names one."""
        if not self.is_ready:
            raise WireError("UNAVAILABLE", SHUTTING_DOWN, "draining")
        if not request.route:
            return InferReply(PING_MODEL, (), request.id, load=self.scheduler.load())
        self._check_route(request)
        assert self._links is not None
        node = request.route[0].node
        try:
            link = await self._links.measured(node)
        except TransportError as error:
            raise _next_hop_error(node, error) from None
        hop = ExecutedHop(node, (), 0.0, 0.0, link.rate_bps, link.round_trip_s)
        return InferReply(PING_MODEL, (), request.id, load=self.scheduler.load(), executed=(hop,))


def _check_fingerprint(model: ServedModel, request: InferRequest) -> None:
    if request.fingerprint and not model.has(request.fingerprint):
        text = (
            f"model {model.name!r} is another network here: expected fingerprint {model.fingerprint}, "
            f"got {short_repr(request.fingerprint, 66)}; give both nodes the same file and the same --shape"
        )
        raise WireError("FAILED_PRECONDITION", text, "fingerprint")


def _as_wire_error(error: TransportError) -> WireError:
    return WireError(error.code, error.message, error.reason, error.pushback_s)


def _warm(model: ServedModel, request: InferRequest, _abort: Abort) -> Work:
    return warm(model, request)


def _next_hop_error(node: str, error: TransportError) -> WireError:
    """Return the error for a caller whose request the next hop did not answer."""
    code = error.code if error.code in _FORWARDED_CODES else "UNAVAILABLE"
    return WireError(code, f"next hop {node}: {error.message}", "next_hop", error.pushback_s)
