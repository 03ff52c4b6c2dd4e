"""The controller's page: document, script and style, a stream of what changes (server-sent events); and /metrics."""

import asyncio
import contextlib
import json
import math
import time
from collections.abc import AsyncIterator, Generator, Mapping
from typing import Any

import uvicorn
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response, StreamingResponse
from starlette.routing import Route

from coinfer.addresses import Address
from coinfer.resources import PAGE_FILES
from coinfer.runtime.edge.http_protocol import HttpConfig, HttpLimits
from coinfer.runtime.edge.http_server import listen
from coinfer.site.certificates.access import PAGE
from coinfer.site.certificates.identity import Identity
from coinfer.site.controller.exposition import SiteExposition
from coinfer.site.controller.service import ControllerService

INTERVAL_S = 0.5
"""Between two states of the stream, while nobody comes or goes."""
POLL_S = 0.1
"""Between two looks at who is present: who falls silent is shown at once, not at the next state."""
MAX_READERS = 32
_LISTS = {"nodes": "name", "series": "number", "events": "number"}
"""Keys of a state whose values are lists, and what tells their items apart."""
_TYPES = {"": "text/html", ".css": "text/css", ".js": "text/javascript"}
_HEADERS = {
    "Content-Security-Policy": "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; "
    "img-src data:",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cache-Control": "no-store",
}


class _Quiet(uvicorn.Server):
    """A server that leaves signals to the process."""

    @contextlib.contextmanager
    def capture_signals(self) -> Generator[None]:
        yield


class States:
    """The states of a site as they are streamed: the first one whole, then what changes, written once for all readers.

    Args:
        service: of the controller.
    """

    def __init__(self, service: ControllerService):
        self._service = service
        self._text = ""
        self._last: Mapping[str, Any] = {}
        self._number = 0
        self._new = asyncio.Condition()
        self._closed = False
        self.readers = 0

    async def run(self) -> None:
        """Write a state now and then while somebody reads; ends by cancellation."""
        sent_s, present = -math.inf, frozenset[str]()
        while True:
            now_s, before, present = time.monotonic(), present, self._service.present()
            if self.readers and (present != before or now_s - sent_s >= INTERVAL_S):
                sent_s, state = now_s, self._service.state()
                self._text, self._last = _json(changes(self._last, state)), state
                self._number += 1
                async with self._new:
                    self._new.notify_all()
            await asyncio.sleep(POLL_S)

    async def close(self) -> None:
        """End all streams."""
        self._closed = True
        async with self._new:
            self._new.notify_all()

    async def stream(self) -> AsyncIterator[str]:
        """Yield states as server-sent events, the present one at once."""
        self.readers += 1
        try:
            sent = self._number
            yield f"retry: 1000\nevent: whole\ndata: {_json(self._service.state())}\n\n"
            while True:
                async with self._new:
                    while not self._closed and self._number == sent:
                        await self._new.wait()
                if self._closed:
                    return
                missed, sent = self._number - sent - 1, self._number
                if missed:  # this reader was slow
                    yield f"id: {sent}\nevent: whole\ndata: {_json(self._last)}\n\n"
                else:
                    yield f"id: {sent}\ndata: {self._text}\n\n"
        finally:
            self.readers -= 1


def _json(value: object) -> str:
    return json.dumps(value, separators=(",", ":"))


def changes(before: Mapping[str, Any], after: Mapping[str, Any]) -> dict[str, Any]:
    """Return what is new in a state: of nodes, the series and the events only those that are, of the rest whole keys.

    A reader that knows any state between the two has the later one afterwards.

    Args:
        before: an earlier state; empty if there is none.
        after: the present one.
    """
    found = {key: value for key, value in after.items() if key not in _LISTS and value != before.get(key)}
    for key, mark in _LISTS.items():
        known = {one[mark]: one for one in before.get(key, ())}
        if new := [one for one in after[key] if one != known.get(one[mark])]:
            found[key] = new
    if gone := {one["name"] for one in before.get("nodes", ())} - {one["name"] for one in after["nodes"]}:
        found["forgotten"] = sorted(gone)
    return found


def make_app(service: ControllerService, states: States) -> Starlette:
    """Return the page's application.

    Args:
        service: of the controller.
        states: to stream.
    """
    files = {f"/{name}" if suffix else "/": (PAGE_FILES / name, suffix) for name, suffix in _names()}

    async def file(request: Request) -> Response:
        path, suffix = files[request.url.path]
        return Response(path.read_bytes(), media_type=_TYPES[suffix], headers=_HEADERS)

    async def state(request: Request) -> Response:
        return Response(json.dumps(service.state()), media_type="application/json", headers=_HEADERS)

    async def events(request: Request) -> Response:
        if states.readers >= MAX_READERS:
            return Response("too many pages are open", 503, headers=_HEADERS)
        return StreamingResponse(states.stream(), media_type="text/event-stream", headers=_HEADERS)

    exposition = SiteExposition(service)

    async def metrics(request: Request) -> Response:
        return Response(exposition.recent_text(), media_type="text/plain; version=0.0.4", headers=_HEADERS)

    routes = [Route(path, file) for path in files]
    further = {"/state": state, "/events": events, "/metrics": metrics}
    return Starlette(routes=[*routes, *(Route(path, handler) for path, handler in further.items())])


def _names() -> list[tuple[str, str]]:
    return [("index.html", ""), ("page.css", ".css"), ("page.js", ".js")]


class PageServer:
    """Serves the page on the running event loop.

    Args:
        service: of the controller.
        host: name or IP address to listen on.
        port: 0 takes any free port.
        identity: of the controller; None speaks plain text.

    Raises:
        PortError: if it cannot listen there.
    """

    def __init__(self, service: ControllerService, host: str, port: int, identity: Identity | None):
        self._sockets = listen(host, port)
        address = Address(host, self._sockets[0].getsockname()[1])
        self.url = f"{'http' if identity is None else 'https'}://{address}/"
        self._states = States(service)
        app = make_app(service, self._states)
        config = HttpConfig(app, HttpLimits(), log_level="warning", lifespan="off", timeout_graceful_shutdown=1)
        if identity is not None:
            from coinfer.site.certificates.https_security import secure

            secure(config, identity, PAGE)
        self._server = _Quiet(config)
        self._tasks: list[asyncio.Future[None]] = []

    async def start(self) -> None:
        """Start to serve, and wait until the server accepts connections."""
        serve = asyncio.ensure_future(self._server.serve(self._sockets))
        self._tasks = [serve, asyncio.ensure_future(self._states.run())]
        while not self._server.started and not serve.done():
            await asyncio.sleep(0.002)

    async def stop(self) -> None:
        """Close the port and all connections."""
        await self._states.close()
        self._tasks[1].cancel()
        self._server.should_exit = True
        await asyncio.gather(*self._tasks, return_exceptions=True)
