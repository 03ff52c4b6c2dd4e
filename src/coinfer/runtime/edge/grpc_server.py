"""The Open Inference Protocol v2 over gRPC.

Handlers take raw bytes and parse them themselves: gRPC's own parsing answers a malformed message with INTERNAL or
UNKNOWN, and some of its servers lose memory with each.
"""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any, Protocol, TypeAlias, cast

import grpc
from grpc import aio
from grpc_health.v1 import health, health_pb2, health_pb2_grpc

from coinfer.addresses import Address
from coinfer.runtime.edge import metadata
from coinfer.runtime.edge.inference_service import Encode, InferenceService, PortError, find_model, model_stats
from coinfer.runtime.edge.peer_limit import CallLimits, PeerLimit, peer_host
from coinfer.runtime.edge.security import Security, listen
from coinfer.runtime.edge.served_model import ModelInfo
from coinfer.runtime.protocol import protobuf
from coinfer.runtime.protocol.messages import InferReply, InferRequest, WireError, check_size
from coinfer.runtime.protocol.metadata import (
    message_bytes,
    repository_request,
    requested_model,
    stream_error,
    stream_reply,
)
from coinfer.runtime.tracing import receive
from coinfer.runtime.transport.grpc_transport import PUSHBACK_TRAILER, REASON_TRAILER, SERVICE, server_options
from coinfer.runtime.turns import set_address

_SPARE_CALLS = 64
"""Open calls of a peer beyond those that compute or wait: health, metadata, refusals that are being sent."""
_FAREWELL_S = 0.01
"""From the end of a server, of which gRPC tells its peers, to its answers to the calls that it holds."""
_PEERS = 4
"""So many peers may have all their calls open."""


Context: TypeAlias = "aio.ServicerContext[bytes, bytes]"


class HealthServicer(Protocol):
    """`grpc_health.v1.health.aio.HealthServicer`, which ships without types."""

    async def set(self, service: str, status: health_pb2.HealthCheckResponse.ServingStatus) -> None:
        """Set the status that health checks report.

        Args:
            service: name of the service; empty for the whole server.
            status: such as SERVING.
        """
        ...

    async def enter_graceful_shutdown(self) -> None:
        """Report NOT_SERVING for every service from now on."""
        ...


class Handlers(grpc.GenericRpcHandler):
    """The methods of the protocol on raw bytes."""

    def __init__(self, service: InferenceService):
        self._service = service
        methods: dict[str, Callable[[bytes], Awaitable[bytes]]] = {
            "ServerLive": self._live,
            "ServerReady": self._ready,
            "ModelReady": self._model_ready,
            "ServerMetadata": self._server_metadata,
            "ModelMetadata": self._model_metadata,
            "ModelConfig": self._model_config,
            "ModelStatistics": self._statistics,
            "ModelInfer": self._infer,
            "RepositoryIndex": self._index,
            "RepositoryModelLoad": self._load,
            "RepositoryModelUnload": self._unload,
        }
        self._handlers: dict[str, grpc.RpcMethodHandler[bytes, bytes]] = {
            f"/{SERVICE}/{name}": grpc.unary_unary_rpc_method_handler(self._wrap(method))
            for name, method in methods.items()
        }
        self._handlers[f"/{SERVICE}/ModelStreamInfer"] = grpc.stream_stream_rpc_method_handler(self._stream)

    def service(self, handler_call_details: grpc.HandlerCallDetails) -> "grpc.RpcMethodHandler[bytes, bytes] | None":
        """Return the handler of a call, or None if the protocol has no such method (gRPC then answers UNIMPLEMENTED).

        Args:
            handler_call_details: `method` is the full name, such as `/inference.GRPCInferenceService/ModelInfer`.
        """
        return self._handlers.get(handler_call_details.method)

    def _wrap(self, method: Callable[[bytes], Awaitable[bytes]]) -> Callable[[bytes, Context], Awaitable[bytes]]:
        """Wrap a method: a `WireError` becomes the call's status, and every answer is counted."""
        metrics = self._service.metrics

        async def call(message: bytes, context: Context) -> bytes:
            receive(context.invocation_metadata())
            set_address(peer_host(context.peer()))
            try:
                reply = await method(message)
            except WireError as error:
                metrics.count_answer("grpc", error.code, len(message))
                await context.abort(getattr(grpc.StatusCode, error.code), error.message, trailers(error))
                raise
            except asyncio.CancelledError:
                metrics.count_answer("grpc", "CANCELLED", len(message))
                raise
            metrics.count_answer("grpc", "OK", len(message), len(reply))
            return reply

        return call

    async def _infer(self, message: bytes) -> bytes:
        request = protobuf.parse_request(message, self._service.limit_bytes)
        return await self._service.infer(request, self._encode_for(request))

    def _encode_for(self, request: InferRequest) -> Encode[bytes]:
        """Return what makes the message of the reply to a request."""

        async def encode(reply: InferReply) -> bytes:
            message = protobuf.reply_bytes(reply._replace(short=request.short))
            check_size(len(message), self._service.limit_bytes)
            return message

        return encode

    async def _stream(self, messages: AsyncIterator[bytes], context: Context) -> AsyncIterator[bytes]:
        """Answer the requests of a stream in order; a failed one gets its error, the stream goes on."""
        set_address(peer_host(context.peer()))
        async for message in messages:
            id = ""
            receive(context.invocation_metadata())
            try:
                request = protobuf.parse_request(message, self._service.limit_bytes)
                id = request.id
                reply = stream_reply(await self._service.infer(request, self._encode_for(request)))
            except WireError as error:
                reply = stream_error(id, f"[{error.code}] {error.message}")
                self._service.metrics.count_answer("grpc_stream", error.code, len(message))
            else:
                self._service.metrics.count_answer("grpc_stream", "OK", len(message), len(reply))
            yield reply

    async def _live(self, message: bytes) -> bytes:
        return message_bytes("ServerLiveResponse", {"live": True})

    async def _ready(self, message: bytes) -> bytes:
        return message_bytes("ServerReadyResponse", {"ready": self._service.is_ready})

    async def _model_ready(self, message: bytes) -> bytes:
        """Say that an unknown model is not ready, as Triton does: its clients expect no error here."""
        try:
            self._find(message)
        except WireError as error:
            if error.code != "NOT_FOUND":
                raise
            return message_bytes("ModelReadyResponse", {"ready": False})
        return message_bytes("ModelReadyResponse", {"ready": self._service.is_ready})

    async def _server_metadata(self, message: bytes) -> bytes:
        return message_bytes("ServerMetadataResponse", metadata.server_metadata(self._service.extensions))

    async def _model_metadata(self, message: bytes) -> bytes:
        return message_bytes("ModelMetadataResponse", metadata.model_metadata(self._find(message)))

    async def _model_config(self, message: bytes) -> bytes:
        return message_bytes("ModelConfigResponse", {"config": metadata.model_config(self._find(message))})

    async def _statistics(self, message: bytes) -> bytes:
        name, version = requested_model(message)
        return message_bytes("ModelStatisticsResponse", metadata.statistics(model_stats(self._service, name, version)))

    async def _index(self, message: bytes) -> bytes:
        asked = repository_request("RepositoryIndexRequest", message)
        models = metadata.repository_index(self._service, asked.ready)
        return message_bytes("RepositoryIndexResponse", {"models": models})

    async def _load(self, message: bytes) -> bytes:
        asked = repository_request("RepositoryModelLoadRequest", message)
        await metadata.repository_of(self._service, asked.parameters).load(asked.model)
        return message_bytes("RepositoryModelLoadResponse", {})

    async def _unload(self, message: bytes) -> bytes:
        asked = repository_request("RepositoryModelUnloadRequest", message)
        await metadata.repository_of(self._service).unload(asked.model)
        return message_bytes("RepositoryModelUnloadResponse", {})

    def _find(self, message: bytes) -> ModelInfo:
        return find_model(self._service.models, *requested_model(message))


def trailers(error: WireError) -> tuple[tuple[str, str], ...]:
    """Return the trailers of a refused call: the reason, and when the client may try again.

    Args:
        error: a negative `pushback_s` becomes "-1", which tells gRPC never to retry.
    """
    pairs = [(REASON_TRAILER, error.reason)] if error.reason else []
    if error.pushback_s is not None:
        pairs.append((PUSHBACK_TRAILER, "-1" if error.pushback_s < 0 else str(round(error.pushback_s * 1000))))
    return tuple(pairs)


class GrpcFront:
    """A gRPC server for a service, with `grpc.health.v1`.

    Args:
        service: answers the requests.
        host: name or IP address to listen on.
        port: 0 takes any free port.
        security: of a site's connections; None speaks plain text with anyone.
        limits: of each peer's calls; without any, a peer may fill workers and queue.

    Raises:
        PortError: if the server cannot listen there.
    """

    def __init__(
        self,
        service: InferenceService,
        host: str,
        port: int,
        security: Security | None = None,
        limits: CallLimits | None = None,
    ):
        state = service.scheduler.state
        limits = limits or CallLimits(state.workers + state.queue + _SPARE_CALLS)
        self._limit = PeerLimit(limits, service.metrics)
        self._server = aio.server(
            options=server_options(service.limit_bytes, calls=limits.calls),
            maximum_concurrent_rpcs=_PEERS * limits.calls,
            interceptors=[self._limit, *([security.access] if security else ())],
        )
        self._server.add_generic_rpc_handlers((Handlers(service),))
        servicer = cast(Any, health).aio.HealthServicer()
        cast(Any, health_pb2_grpc).add_HealthServicer_to_server(servicer, self._server)
        self._health: HealthServicer = servicer
        self._service = service
        self._changing: set[asyncio.Task[None]] = set()
        try:
            self.port = listen(self._server, Address(host, port), security)
            """The port that it listens on, also if 0 was asked for."""
        except RuntimeError:
            raise PortError(host, port) from None

    async def start(self) -> None:
        """Open the port and report every model as SERVING."""
        for name in ("", SERVICE, *self._service.models):
            await self._set_health(name, True)
        if self._service.repository is not None:
            self._service.repository.on_change.append(self._note_change)
        await self._server.start()

    def _note_change(self, name: str, is_served: bool) -> None:
        task = asyncio.ensure_future(self._set_health(name, is_served))
        self._changing.add(task)
        task.add_done_callback(self._changing.discard)

    async def _set_health(self, name: str, is_served: bool) -> None:
        health = health_pb2.HealthCheckResponse
        await self._health.set(name, health.SERVING if is_served else health.SERVICE_UNKNOWN)

    async def drain(self) -> None:
        """Make health checks report that no new request should come."""
        await self._health.enter_graceful_shutdown()

    async def stop(self, grace_s: float) -> None:
        """Close the port, and every connection once its calls have ended or the grace period is over.

        Args:
            grace_s: how long calls may still take.
        """
        await self._limit.hold()
        stopped = asyncio.ensure_future(self._server.stop(grace_s))
        await asyncio.sleep(_FAREWELL_S)
        self._limit.release()
        await stopped
