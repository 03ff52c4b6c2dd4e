"""A service as a process: its fronts start, serve, drain and end."""

import asyncio
import logging
import signal
from collections.abc import AsyncGenerator, Awaitable
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING

from coinfer.addresses import Address
from coinfer.runtime.edge.grpc_server import GrpcFront
from coinfer.runtime.edge.inference_service import InferenceService
from coinfer.runtime.edge.security import Security

if TYPE_CHECKING:
    from coinfer.runtime.edge.http_server import HttpFront

_HEARTBEAT_S = 0.2
"""Long enough for clients to learn of the end from a health check or a refusal."""
_LAST_ANSWERS_S = 1.0
"""Grace for answers that are being sent."""
_log = logging.getLogger("coinfer.edge")


@dataclass
class Fronts:
    """The gRPC server of a service and, if it is asked for, its HTTP server."""

    grpc: GrpcFront
    http: "HttpFront | None"
    host: str

    @property
    def address(self) -> str:
        """Return the address of the gRPC server, `host:port`."""
        return str(Address(self.host, self.grpc.port))

    @property
    def addresses(self) -> str:
        """Return both addresses as the line says them that a process prints when it is ready."""
        return f"grpc={self.address}" + (f" http={Address(self.host, self.http.port)}" if self.http else "")


@asynccontextmanager
async def open_fronts(
    service: InferenceService, host: str, grpc_port: int, http_port: int | None, security: Security | None = None
) -> AsyncGenerator[Fronts]:
    """Start the fronts of a service, and stop them and the service in the end, whatever happens meanwhile.

    The libraries for REST are loaded only if it is asked for.

    Args:
        service: answers the requests.
        host: name or IP address to listen on.
        grpc_port: 0 takes any free port.
        http_port: the same; None serves no REST.
        security: of a site's connections; None speaks plain text with anyone.

    Raises:
        PortError: if a port is taken.
    """
    grpc_front, http = GrpcFront(service, host, grpc_port, security), None
    async with AsyncExitStack() as stack:
        stack.callback(service.close)
        if http_port is not None:
            from coinfer.runtime.edge.http_server import HttpFront

            http = HttpFront(service, host, http_port, security)
            await http.start()
            stack.push_async_callback(http.stop, _LAST_ANSWERS_S)
        await grpc_front.start()
        stack.push_async_callback(grpc_front.stop, _LAST_ANSWERS_S)
        yield Fronts(grpc_front, http, host)


async def serve_until_signal(service: InferenceService, fronts: Fronts, name: str, grace_s: float) -> int:
    """Say that the service is ready, serve until SIGTERM or SIGINT, and then finish what was admitted.

    A second signal ends the wait.

    Args:
        service: refuses what comes after the first signal.
        fronts: are open; `open_fronts` closes them.
        name: of the program, for the line that says that it is ready.
        grace_s: how long admitted requests may take.

    Returns:
        The exit status: 0, or 1 if requests were cut off.
    """
    stop_signal = signal_event()
    print(f"coinfer {name} ready {fronts.addresses} models={','.join(service.models)}", flush=True)
    await stop_signal.wait()
    _log.info("draining: finishing what was admitted, at most %g s", grace_s)
    service.drain()
    await fronts.grpc.drain()
    second_signal = signal_event()
    all_answered = asyncio.ensure_future(_wait_until_answered(service, grace_s))
    await _wait_for_first(all_answered, second_signal.wait())
    return 0 if all_answered.done() and not all_answered.cancelled() else 1


async def _wait_until_answered(service: InferenceService, grace_s: float) -> None:
    """Wait until all requests are answered.

    New ones are refused meanwhile; closing the port first would leave them without an answer.
    """
    loop = asyncio.get_running_loop()
    end_s = loop.time() + grace_s
    await asyncio.sleep(_HEARTBEAT_S)
    while service.metrics.in_flight and loop.time() < end_s:
        await asyncio.sleep(_HEARTBEAT_S / 10)


def signal_event() -> asyncio.Event:
    """Return an event that the next SIGTERM or SIGINT sets; on Windows, also the next Ctrl-Break.

    An event loop's own handlers of signals are missing on Windows.
    """
    event = asyncio.Event()
    loop = asyncio.get_running_loop()

    def stop(_number: int, _frame: object) -> None:
        loop.call_soon_threadsafe(event.set)

    for name in ("SIGTERM", "SIGINT", "SIGBREAK"):
        if hasattr(signal, name):
            signal.signal(getattr(signal, name), stop)
    return event


async def _wait_for_first(*waits: Awaitable[object]) -> None:
    """Wait until the first of these has ended; cancel the others."""
    tasks = [asyncio.ensure_future(wait) for wait in waits]
    _, pending = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
    for task in pending:
        task.cancel()
    await asyncio.gather(*pending, return_exceptions=True)
