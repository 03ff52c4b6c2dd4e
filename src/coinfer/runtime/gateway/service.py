"""How a gateway answers a request: its `Device` does, with its servers or without."""

import json
import math
from collections.abc import Mapping, Sequence
from contextvars import copy_context
from dataclasses import replace
from functools import partial
from typing import NamedTuple

import numpy as np

from coinfer.graph.fingerprints import is_fingerprint_of
from coinfer.graph.ir import GraphError, ModelGraph
from coinfer.graph.sizes import sizes_of
from coinfer.runtime.clock import Clock, WallClock
from coinfer.runtime.codec.tensors import unpack
from coinfer.runtime.device.admission import Reason, RefusedError
from coinfer.runtime.device.device import Device
from coinfer.runtime.device.inputs import without_pictures
from coinfer.runtime.device.objective import Objective
from coinfer.runtime.device.result import Result
from coinfer.runtime.device.terms import InferSettings
from coinfer.runtime.edge.histograms import piece_label
from coinfer.runtime.edge.inference_service import Encode, Encoded, find_model
from coinfer.runtime.edge.metadata import EXTENSIONS
from coinfer.runtime.edge.metrics import Metrics, Timing
from coinfer.runtime.edge.request_log import RequestLog
from coinfer.runtime.edge.scheduler import Scheduler
from coinfer.runtime.edge.served_model import PLATFORM, VERSION, Signature, models_by_name, signatures
from coinfer.runtime.executor import Abort
from coinfer.runtime.gateway import defaults
from coinfer.runtime.protocol.messages import (
    DEFAULT_LIMIT_BYTES,
    Code,
    ExecutedHop,
    InferReply,
    InferRequest,
    RequestedObjective,
    WireError,
    WireTensor,
    bad_request,
    check_size,
    from_array,
    view_array,
)
from coinfer.runtime.turns import present_turn

_CODES: Mapping[Reason, Code] = {
    "queue_full": "RESOURCE_EXHAUSTED",
    "hopeless": "DEADLINE_EXCEEDED",
    "expired": "DEADLINE_EXCEEDED",
}


class GatewayModel(NamedTuple):
    """A network behind a gateway."""

    name: str
    inputs: tuple[Signature, ...]
    outputs: tuple[Signature, ...]
    platform: str
    device: Device


class GatewayService:
    """Answers whole-model requests with devices, one for each network, through one bounded queue.

    Args:
        devices: open, of networks with different names; `close` closes them.
        concurrency: requests that are under way at the same time; most of their time is a wait for servers, or for the
            device's processor, where callers take turns and where what would be late is refused on arrival.
        queue: further requests that may wait.
        limit_bytes: largest request, reply and decoded tensor.
        clock: deadlines and durations are on it; the wall clock without it.

    Raises:
        RequestError: if two networks have the same name.
    """

    def __init__(
        self,
        devices: Sequence[Device],
        *,
        concurrency: int = defaults.CONCURRENCY,
        queue: int = defaults.QUEUE,
        limit_bytes: int = DEFAULT_LIMIT_BYTES,
        clock: Clock | None = None,
    ):
        self.models = models_by_name([_model(device) for device in devices])
        self.limit_bytes = limit_bytes
        self._clock = clock or WallClock()
        self._log = RequestLog(self.models, self._clock)
        self.scheduler = Scheduler(concurrency, queue, self._clock, forecasts=False)

    @property
    def metrics(self) -> Metrics:
        """Return the counters."""
        return self._log.metrics

    @property
    def extensions(self) -> Sequence[str]:
        """Return what it offers beyond the protocol."""
        return EXTENSIONS

    memory = None
    repository = None

    @property
    def is_ready(self) -> bool:
        """Whether requests are admitted; false once the gateway drains."""
        return not self.scheduler.state.draining

    async def infer(self, request: InferRequest, encode: Encode[Encoded]) -> Encoded:
        """Return the reply to a request in the form in which it is sent.

        Args:
            request: for a whole network; its deadline counts from now.
            encode: makes that form; an error that it raises fails the request like any other.

        Raises:
            WireError: for every failure; only cancellation passes through as it is.
        """
        return await self._log.answer(request, self._serve, encode)

    def drain(self) -> None:
        """Refuse new requests from now on; admitted ones are finished."""
        self.scheduler.drain()

    def close(self) -> None:
        """Abort what runs, and close the devices."""
        self.scheduler.close()
        for model in self.models.values():
            model.device.close()

    async def _serve(self, request: InferRequest, began_s: float) -> tuple[InferReply, Timing]:
        model = find_model(self.models, request.model, request.version)
        exit_, objective = _check(model, request), _objective(model.device, request.objective)
        deadline_s, context = began_s + request.deadline_s, copy_context()  # which holds the trace and the caller
        context.run(present_turn.set, present_turn.get()._replace(priority=request.priority))

        def answer(abort: Abort) -> tuple[Result, float]:
            started_s = self._clock.now_s()
            item = {tensor.name: unpack(tensor, self.limit_bytes) for tensor in request.inputs}
            left_s = None if request.deadline_s == math.inf else max(deadline_s - self._clock.now_s(), 1e-6)
            decode_s = self._clock.now_s() - started_s
            settings = InferSettings(deadline_s=left_s, objective=objective, exit=exit_, abort=abort)
            return context.run(partial(model.device.infer, item, **settings)), decode_s

        kind = (model.name, *(tensor.shape for tensor in request.inputs))
        try:
            (result, decode_s), queue_s = await self.scheduler.run(kind, deadline_s, answer, request.priority)
        except RefusedError as refused:
            raise WireError(_CODES[refused.reason], str(refused), refused.reason, refused.pushback_s) from None
        self.metrics.count_node(model.name, result.executed_on)
        queue_s += result.wait_s
        reply = _reply(request, result, model.device, queue_s)._replace(codec_s=decode_s, load=self.scheduler.load())
        check_size(sum(len(tensor.data) for tensor in reply.outputs), self.limit_bytes)
        return reply, _timing(request, result, queue_s, decode_s)


def _model(device: Device) -> GatewayModel:
    return GatewayModel(device.graph.name, *signatures(device.graph), PLATFORM, device)


def _timing(request: InferRequest, result: Result, queue_s: float, decode_s: float) -> Timing:
    outcome, sent = result.outcome, result.executed_on != "device"
    piece = piece_label([tensor.name for tensor in request.inputs], result.route.hops[0].cut)
    forward_s, upload_s = (outcome.latency_s - outcome.device_s, outcome.upload_s) if sent else (0.0, None)
    computed_s = outcome.device_s - result.wait_s
    return Timing(queue_s, decode_s, computed_s, 0.0, _samples(request), piece, forward_s, upload_s)


def _samples(request: InferRequest) -> int:
    """Return the samples in a request; a picture of height, width and channels is one."""
    first = request.inputs[0]
    return first.shape[0] if len(first.shape) != 3 and first.shape and not first.codec else 1


def _check(model: GatewayModel, request: InferRequest) -> int | None:
    """Refuse what is wrong before it reaches the queue; return the only exit that may answer, or None for any."""
    graph = model.device.graph
    beyond = (request.route, request.bits is not None, request.warm, request.dispatch, request.options is not None)
    if any(beyond):
        text = "a gateway answers whole networks; route, bits, warm, dispatch and options are for edge servers"
        raise WireError("UNIMPLEMENTED", text, "unoffered")
    if request.fingerprint and not is_fingerprint_of(request.fingerprint, graph.fingerprint):
        text = f"model {model.name!r} is another network here: expected fingerprint {graph.fingerprint}"
        raise WireError("FAILED_PRECONDITION", text, "fingerprint")
    names = [tensor.name for tensor in request.inputs]
    if set(names) != set(graph.inputs):
        raise bad_request(f"model {model.name!r}: expected the inputs {list(graph.inputs)}, got {names}")
    try:
        sizes_of(
            graph, {tensor.name: view_array(tensor) for tensor in request.inputs if not _is_picture(model, tensor)}
        )
    except GraphError as error:
        raise bad_request(f"{error}{_picture_hint(graph, request.inputs)}") from None
    return _exit(model, request.outputs)


def _picture_hint(graph: ModelGraph, tensors: Sequence[WireTensor]) -> str:
    """Return how a picture is sent, if one of these tensors seems to be one in another form."""
    sent = next((tensor for tensor in tensors if tensor.datatype == "UINT8" and len(tensor.shape) in (3, 4)), None)
    if sent is None or graph.tensors[sent.name].dtype == np.uint8:
        return ""
    if graph.image is None:
        return f"; {without_pictures(graph)}"
    if sent.name != graph.picture_input:
        return f"; pictures are for input {graph.picture_input!r}"
    return "; a picture in bytes is sent by itself, as UINT8 [height, width, channels]"


def _is_picture(model: GatewayModel, tensor: WireTensor) -> bool:
    """Return true for a picture in bytes, height by width by channels, where the network says how it takes pictures;
    `Device.infer` makes the input of it. A payload of the codec is checked once it is decoded."""
    graph = model.device.graph
    is_bytes = tensor.datatype == "UINT8" and len(tensor.shape) == 3
    return tensor.codec or (graph.image is not None and tensor.name == graph.picture_input and is_bytes)


def _exit(model: GatewayModel, outputs: Sequence[str]) -> int | None:
    exits = model.device.planner.exits
    found = next((index for index, names in enumerate(exits) if set(outputs) <= set(names)), None)
    if found is None:
        raise bad_request(
            f"model {model.name!r}: expected outputs of one of {list(map(list, exits))}, got {list(outputs)}"
        )
    return found if outputs and len(exits) > 1 else None


def _objective(device: Device, requested: RequestedObjective) -> Objective | None:
    """Return the objective of a request, or None if it leaves that to the device.

    Raises:
        UserError: if it is out of range, or the device does not know the accuracy or the energy that it is about.
    """
    if requested == RequestedObjective():
        return None
    given = {name: value for name, value in requested._asdict().items() if value not in ("", None)}
    objective = replace(device.config.objective, **given)
    if objective.counts_accuracy and device.planner.accuracy is None:
        raise bad_request(f"{device.graph.name} has no accuracy table here; goal accuracy and min_accuracy need one")
    return objective


def _reply(request: InferRequest, result: Result, device: Device, queue_s: float) -> InferReply:
    """Return a result as a reply that says who computed what, and how long each step took."""
    outcome, first, *_ = result.outcome, *result.route.hops
    outputs = {name: result.outputs[name] for name in request.outputs or result.outputs}
    computed_s = outcome.device_s - result.wait_s
    hops = [ExecutedHop("device", tuple(result.outputs), computed_s, queue_s)]
    if result.executed_on != "device":
        here = ExecutedHop("device", first.cut, computed_s, queue_s)
        hops = [here, ExecutedHop(result.executed_on, tuple(result.outputs), outcome.server_s, outcome.queue_s)]
    return InferReply(
        request.model,
        tuple(from_array(name, np.asarray(array)) for name, array in outputs.items()),
        request.id,
        VERSION,
        queue_s=queue_s,
        server_s=computed_s,
        forward_s=outcome.latency_s - outcome.device_s,
        executed=tuple(hops),
        details=_details(result, is_accuracy_known=device.planner.accuracy is not None),
    )


def _details(result: Result, *, is_accuracy_known: bool) -> dict[str, str | int | float]:
    outcome = result.outcome
    details: dict[str, str | int | float] = {
        "executed_on": result.executed_on,
        "latency_s": outcome.latency_s,
        "predicted_s": result.predicted_s,
        "upload_s": outcome.upload_s,
        "download_s": outcome.download_s,
        "sent_bits": int(result.sent_bits),
        "exit": result.exit,
        "in_time": outcome.in_time,
        "unmet": json.dumps(result.unmet),
    }
    if is_accuracy_known:
        details["accuracy"] = outcome.accuracy
    if outcome.energy_j > 0:  # else no power is known
        details["energy_j"] = outcome.energy_j
    if result.fallback:
        details["fallback"] = result.fallback
    return details
