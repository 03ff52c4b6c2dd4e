"""The gateway as a process: it opens a device for each network, serves, drains and ends."""

import asyncio
import logging
import sys
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field, replace

from coinfer.addresses import parse_host
from coinfer.errors import UserError
from coinfer.runtime.device.config import DEFAULTS, DeviceConfig
from coinfer.runtime.device.device import Device
from coinfer.runtime.device.processor_queue import ProcessorQueue
from coinfer.runtime.edge import defaults as edge_defaults
from coinfer.runtime.edge.loading import shapes_for_one_hint, shapes_of
from coinfer.runtime.edge.security import Security
from coinfer.runtime.edge.serving import open_fronts, serve_until_signal
from coinfer.runtime.gateway import defaults
from coinfer.runtime.gateway.service import GatewayService
from coinfer.runtime.malloc import keep_freed_memory
from coinfer.runtime.protocol.messages import DEFAULT_LIMIT_BYTES

_log = logging.getLogger("coinfer.gateway")


@dataclass(frozen=True)
class GatewaySettings:
    """Settings of a gateway.

    Raises:
        UserError: if one cannot work; the message names it, its value and what is allowed.
    """

    models: tuple[str, ...]
    """ONNX files or names of zoo networks."""
    device: DeviceConfig = DEFAULTS
    """Of the device of each network; its shapes are not used."""
    shapes: Mapping[str, str] = field(default_factory=dict[str, str])
    """Sizes of axes that files leave free, as `open_model` takes them; `MODEL:NAME` is for one model alone."""
    host: str = edge_defaults.HOST
    """A name or an IP address to listen on; `::` and `0.0.0.0` are all addresses of this machine."""
    grpc_port: int = edge_defaults.GRPC_PORT
    """0 takes any free port."""
    http_port: int | None = edge_defaults.HTTP_PORT
    """0 takes any free port; None serves no REST."""
    concurrency: int = defaults.CONCURRENCY
    """Requests that are under way at the same time."""
    queue: int = defaults.QUEUE
    """Further requests that may wait."""
    limit_bytes: int = DEFAULT_LIMIT_BYTES
    """Largest message in either direction."""
    grace_s: float = edge_defaults.GRACE_S
    """How long requests may take to finish after SIGTERM."""

    def __post_init__(self) -> None:
        if not self.models:
            raise UserError("no model to serve; name an ONNX file or a zoo network")
        if self.device.profile is not None and len(self.models) > 1:
            raise UserError("a profile belongs to one network; with several, they are measured or taken from the cache")
        if len(self.models) > 1 and self.device.controller and (self.device.site is not None or self.device.name):
            raise UserError("a member of a site has one network; start a gateway for each, under its own name")
        for name, least in (("concurrency", 1), ("queue", 0), ("grace_s", 0), ("limit_bytes", 1)):
            if getattr(self, name) < least:
                raise UserError(f"{name} is {getattr(self, name)}; expected {least} or more")
        object.__setattr__(self, "host", parse_host(self.host))


def run_gateway(settings: GatewaySettings, security: Security | None = None) -> int:
    """Serve until SIGTERM or SIGINT, then finish the admitted requests; a second signal ends the process at once.

    Args:
        settings: names the networks and the servers.
        security: of the fronts in a site; None speaks plain text with anyone.

    Returns:
        The exit status: 0, or 1 if a second signal cut requests off.

    Raises:
        UserError: if networks or settings cannot be served.
        PortError: if a port is taken.
    """
    keep_freed_memory()
    logging.basicConfig(level=logging.INFO, stream=sys.stderr, format="%(asctime)s %(levelname)s %(name)s %(message)s")
    with ExitStack() as stack:
        queue = ProcessorQueue()
        stack.callback(queue.close)
        devices = [stack.enter_context(_open_device(spec, settings, queue)) for spec in settings.models]
        return asyncio.run(_serve(settings, devices, security))


def _open_device(spec: str, settings: GatewaySettings, queue: ProcessorQueue) -> Device:
    """Return a device that refuses what would be late: it has more callers than one."""
    shapes = shapes_of(spec, settings.models, settings.shapes)
    config = replace(settings.device, shapes=shapes, refuse_late=True, max_in_flight=settings.concurrency)
    _log.info("opening %s; that takes a while if it was never measured on this machine", spec)
    with shapes_for_one_hint(settings.models):
        device = Device(spec, config, processor_queue=queue)
        device.open()
    return device


async def _serve(settings: GatewaySettings, devices: Sequence[Device], security: Security | None) -> int:
    service = GatewayService(
        devices, concurrency=settings.concurrency, queue=settings.queue, limit_bytes=settings.limit_bytes
    )
    async with open_fronts(service, settings.host, settings.grpc_port, settings.http_port, security) as fronts:
        return await serve_until_signal(service, fronts, "gateway", settings.grace_s)
