"""The Open Inference Protocol v2 over HTTP, for the same service as gRPC, and /metrics."""

import asyncio
import contextlib
import errno
import json
import math
import socket
from collections.abc import Awaitable, Callable, Coroutine, Generator
from typing import cast

import uvicorn
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response
from starlette.types import Message

from coinfer.runtime.edge import metadata
from coinfer.runtime.edge.http_body import read_body
from coinfer.runtime.edge.http_protocol import HttpConfig, HttpLimits
from coinfer.runtime.edge.inference_service import InferenceService, PortError, find_model, model_stats
from coinfer.runtime.edge.metrics import Exposition
from coinfer.runtime.edge.security import Security
from coinfer.runtime.protocol import json_messages
from coinfer.runtime.protocol.messages import Code, InferReply, WireError, bad_request, check_size
from coinfer.runtime.tracing import receive
from coinfer.runtime.turns import set_address
from coinfer.units import MIB

JSON_LENGTH_HEADER = "Inference-Header-Content-Length"
STATUS: dict[Code, int] = {
    "INVALID_ARGUMENT": 400,
    "UNAUTHENTICATED": 401,
    "PERMISSION_DENIED": 403,
    "NOT_FOUND": 404,
    "FAILED_PRECONDITION": 409,
    "RESOURCE_EXHAUSTED": 429,
    "CANCELLED": 499,
    "INTERNAL": 500,
    "UNKNOWN": 500,
    "UNIMPLEMENTED": 501,
    "UNAVAILABLE": 503,
    "DEADLINE_EXCEEDED": 504,
}
_SLOW_JSON_BYTES = MIB // 4
"""Larger bodies are parsed off the event loop, because JSON is slow."""
_SLOW_NUMBER_BYTES = 16_384
"""Tensors that are larger than this become numbers off the event loop; binary ones are only copied."""
_MODEL = "/v2/models/{model}"
_VERSIONED = _MODEL + "/versions/{version}"
ANY_IPV6 = "::"
"""Accepts IPv4 too, as gRPC's sockets do."""

DEFAULT_LIMITS = HttpLimits()

Handler = Callable[[Request], Awaitable[Response]]


def make_app(service: InferenceService) -> Starlette:
    """Return the HTTP application of a service.

    Args:
        service: holds all state; the application has none of its own.
    """
    app = Starlette()

    async def infer(request: Request) -> Response:
        return await _infer(service, request)

    for prefix in (_MODEL, _VERSIONED):
        app.add_route(f"{prefix}/infer", _wrap(service, infer), methods=["POST"])  # first, as routes are tried in order
    for path, handler in _get_handlers(service).items():
        app.add_route(path, _wrap(service, handler), methods=["GET"])
    for path, handler in _repository_handlers(service).items():
        app.add_route(f"/v2/repository/{path}", _wrap(service, handler), methods=["POST"])
    app.add_exception_handler(HTTPException, _unknown_path)
    return app


def _get_handlers(service: InferenceService) -> dict[str, Handler]:
    """Return the handler of each path that GET may ask for."""
    exposition = Exposition(
        service.metrics, service.scheduler.load, lambda: service.scheduler.state.counts, service.memory
    )

    async def ready(request: Request) -> Response:
        return Response(status_code=200 if service.is_ready else 503)

    async def live(request: Request) -> Response:
        return Response()

    async def server(request: Request) -> Response:
        return _json(metadata.server_metadata(service.extensions))

    async def model_ready(request: Request) -> Response:
        find_model(service.models, *_model_of(request))
        return await ready(request)

    async def model(request: Request) -> Response:
        return _json(metadata.model_metadata(find_model(service.models, *_model_of(request))))

    async def config(request: Request) -> Response:
        return _json(metadata.model_config(find_model(service.models, *_model_of(request))))

    async def stats(request: Request) -> Response:
        return _json(metadata.statistics(model_stats(service, *_model_of(request))))

    async def metrics(request: Request) -> Response:
        return Response(exposition.recent_text(), media_type="text/plain; version=0.0.4")

    handlers: dict[str, Handler] = {"/v2": server, "/v2/health/live": live, "/v2/health/ready": ready}
    handlers |= {"/v2/models/stats": stats, "/metrics": metrics}
    for prefix in (_MODEL, _VERSIONED):
        handlers |= {
            prefix: model,
            f"{prefix}/ready": model_ready,
            f"{prefix}/config": config,
            f"{prefix}/stats": stats,
        }
    return handlers


def _repository_handlers(service: InferenceService) -> dict[str, Handler]:
    """Return the handler of each path of the repository protocol."""

    async def index(request: Request) -> Response:
        return _json(metadata.repository_index(service, (await _content(request)).get("ready") is True))

    async def load(request: Request) -> Response:
        parameters = (await _content(request)).get("parameters")
        names = [str(name) for name in cast(dict[str, object], parameters or {})]
        await metadata.repository_of(service, names).load(_model_of(request)[0])
        return Response()

    async def unload(request: Request) -> Response:
        await metadata.repository_of(service).unload(_model_of(request)[0])
        return Response()

    async def _content(request: Request) -> dict[str, object]:
        return json_messages.json_object(bytes(await read_body(request, service.limit_bytes)) or b"{}")

    return {"index": index, "models/{model}/load": load, "models/{model}/unload": unload}


async def _infer(service: InferenceService, request: Request) -> Response:
    receive(request.headers.items())
    set_address(request.client.host if request.client else "")
    json_bytes = _json_length(request)
    body = await read_body(request, service.limit_bytes, json_bytes or 0)
    parse = (*_model_of(request), body, json_bytes)
    slow = len(body) > _SLOW_JSON_BYTES and parse[-1] is None
    parsed, is_binary = (
        await asyncio.to_thread(json_messages.parse_request, *parse) if slow else json_messages.parse_request(*parse)
    )

    async def encode(reply: InferReply) -> Response:
        number_bytes = sum(len(tensor.data) for tensor in reply.outputs if not is_binary(tensor.name))
        if number_bytes > _SLOW_NUMBER_BYTES:
            body, json_bytes = await asyncio.to_thread(json_messages.reply_body, reply, is_binary)
        else:
            body, json_bytes = json_messages.reply_body(reply, is_binary)
        check_size(len(body), service.limit_bytes)
        if json_bytes is None:
            return Response(body, media_type="application/json")
        headers = {JSON_LENGTH_HEADER: str(json_bytes)}
        return Response(body, headers=headers, media_type="application/octet-stream")

    return await _cancel_on_disconnect(request, service.infer(parsed, encode))


def _wrap(service: InferenceService, handler: Handler) -> Handler:
    """Wrap a handler: a `WireError` becomes the status, and every answer is counted."""

    async def call(request: Request) -> Response:
        try:
            response = await handler(request)
        except WireError as error:
            service.metrics.count_answer("http", error.code)
            return _error(error)
        service.metrics.count_answer("http", "OK", int(request.headers.get("content-length", 0)), len(response.body))
        return response

    return call


def _error(error: WireError) -> Response:
    """Return `{"error": ...}` as Triton does, with the reason for programs and when to try again."""
    status = 413 if error.reason == "too_large" else STATUS[error.code]
    content: dict[str, object] = {"error": error.message, "code": error.code, "reason": error.reason}
    headers: dict[str, str] = {}
    if error.pushback_s is not None and error.pushback_s >= 0:
        content["pushback_s"] = error.pushback_s
        headers["Retry-After"] = str(math.ceil(error.pushback_s))
    return _json(content, status, headers)


async def _unknown_path(request: Request, problem: Exception) -> Response:
    status = problem.status_code if isinstance(problem, HTTPException) else 500
    text = f"{request.method} {request.url.path[:100]}: {problem.detail if isinstance(problem, HTTPException) else ''}"
    return _json({"error": text}, status)


def _json(content: object, status: int = 200, headers: dict[str, str] | None = None) -> Response:
    return Response(json.dumps(content), status, headers, "application/json")


def _json_length(request: Request) -> int | None:
    text = request.headers.get(JSON_LENGTH_HEADER)
    if text is not None and not (text.isascii() and text.isdigit() and len(text) < 12):
        raise bad_request(f"{JSON_LENGTH_HEADER}: expected a number of bytes, got {text[:32]!r}")
    return None if text is None else int(text)


async def _cancel_on_disconnect(request: Request, answer: Coroutine[None, None, Response]) -> Response:
    """Wait for the answer; a caller that hangs up cancels it."""
    task, hung_up = asyncio.current_task(), list[bool]()
    assert task is not None
    disconnected = asyncio.ensure_future(request.receive())

    def cancel(done: asyncio.Future[Message]) -> None:
        if not done.cancelled():
            hung_up.append(task.cancel())

    disconnected.add_done_callback(cancel)
    try:
        return await answer
    except asyncio.CancelledError:
        if hung_up:
            raise WireError("CANCELLED", "the caller hung up", "cancelled") from None
        raise
    finally:
        disconnected.remove_done_callback(cancel)
        disconnected.cancel()


def _model_of(request: Request) -> tuple[str, str]:
    """Return model and version from the path; empty if the path does not name them."""
    return request.path_params.get("model", ""), request.path_params.get("version", "")


class _Server(uvicorn.Server):
    """A uvicorn server that leaves signals to the process."""

    @contextlib.contextmanager
    def capture_signals(self) -> Generator[None]:
        yield


def listen(host: str, port: int) -> list[socket.socket]:
    """Return one listening socket for each address of a host; they share one port.

    The sockets name their protocol, because only then does asyncio turn Nagle's algorithm off on the connections that
    they accept. With it, replies over a persistent connection wait 40 ms for the client's delayed acknowledgement.

    Args:
        host: name or IP address; `::` takes IPv4 too.
        port: 0 takes any free port.

    Raises:
        PortError: if this machine has no such address, or another server has taken the port.
    """
    sockets: list[socket.socket] = []
    try:
        for family, kind, _, _, address in socket.getaddrinfo(host, port, 0, socket.SOCK_STREAM):
            bound_port = sockets[0].getsockname()[1] if sockets else port
            with contextlib.suppress(_NoSuchAddress):
                sockets.append(_listen_at(family, kind, (address[0], bound_port, *address[2:])))
    except OSError:
        for one in sockets:
            one.close()
        sockets = []
    if not sockets:
        raise PortError(host, port)
    return sockets


class _NoSuchAddress(Exception):
    """This machine lacks the address, or IPv6 altogether."""


def _listen_at(family: int, kind: int, address: tuple[str | int, ...]) -> socket.socket:
    try:
        listener = socket.socket(family, kind, socket.IPPROTO_TCP)
    except OSError:
        raise _NoSuchAddress from None
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if family == socket.AF_INET6:
            listener.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, int(address[0] != ANY_IPV6))
        listener.bind(address)
        listener.listen()
    except OSError as error:
        listener.close()
        raise (_NoSuchAddress if error.errno == errno.EADDRNOTAVAIL else error) from None
    return listener


class HttpFront:
    """An HTTP server for a service, on the running event loop.

    Args:
        service: answers the requests.
        host: name or IP address to listen on.
        port: 0 takes any free port.
        security: of a site's connections; None speaks plain text with anyone.
        limits: of its connections.

    Raises:
        PortError: if the server cannot listen there.
    """

    def __init__(
        self,
        service: InferenceService,
        host: str,
        port: int,
        security: Security | None = None,
        limits: HttpLimits = DEFAULT_LIMITS,
    ):
        self._sockets = listen(host, port)
        self.port: int = self._sockets[0].getsockname()[1]
        """The port that it listens on, also if 0 was asked for."""
        config = HttpConfig(make_app(service), limits, log_level="warning", lifespan="off")
        if security is not None:
            security.secure_http(config)
        self._server = _Server(config)
        self._task: asyncio.Task[None] | None = None

    async def start(self) -> None:
        """Start to serve, and wait until the server accepts connections."""
        self._task = asyncio.ensure_future(self._server.serve(self._sockets))
        while not self._server.started and not self._task.done():
            await asyncio.sleep(0.002)

    async def stop(self, grace_s: float) -> None:
        """Close the port, and every connection once its requests have ended or the grace period is over.

        Args:
            grace_s: how long requests may still take; rounded up to whole seconds.
        """
        self._server.config.timeout_graceful_shutdown = math.ceil(grace_s)
        self._server.should_exit = True
        if self._task is not None:
            await self._task
