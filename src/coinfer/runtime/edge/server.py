"""The edge node as a process: it starts, serves, drains and ends."""

import asyncio
import logging
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from coinfer.addresses import parse_address, parse_host
from coinfer.runtime.edge import defaults
from coinfer.runtime.edge.agent import Agent
from coinfer.runtime.edge.loading import ModelLoader, ModelSettings
from coinfer.runtime.edge.repository import Repository
from coinfer.runtime.edge.served_model import ServedModel, serve_echo
from coinfer.runtime.edge.service import EdgeService
from coinfer.runtime.edge.serving import open_fronts, serve_until_signal
from coinfer.runtime.executor import RequestError, check_slowdown
from coinfer.runtime.malloc import keep_freed_memory
from coinfer.runtime.protocol.messages import DEFAULT_LIMIT_BYTES
from coinfer.runtime.providers import CPU, check_provider
from coinfer.runtime.transport.grpc_transport import PLAIN, GrpcTransport
from coinfer.runtime.zeroconf_discovery import Announcement, check_extra
from coinfer.units import MIB


@dataclass(frozen=True)
class EdgeSettings:
    """Settings of an edge node; `checked_settings` refuses those that cannot work."""

    models: tuple[str, ...]
    """ONNX files or names of zoo networks."""
    host: str = defaults.HOST
    """A name or an IP address to listen on; `::` and `0.0.0.0` are all addresses of this machine."""
    grpc_port: int = defaults.GRPC_PORT
    """0 takes any free port."""
    http_port: int | None = defaults.HTTP_PORT
    """0 takes any free port; None serves no REST."""
    limits: Mapping[str, int | str] = field(default_factory=dict[str, int | str])
    """Other limits of what files may take, as `open_model` takes them."""
    shapes: Mapping[str, str] = field(default_factory=dict[str, str])
    """Sizes of axes that files leave free, as `open_model` takes them; `MODEL:NAME` is for one model alone."""
    threads: int = 1
    """Threads within an operation."""
    workers: int = 1
    """Requests computed at a time."""
    queue: int = defaults.QUEUE
    """Requests that may wait."""
    slowdown: float = 1.0
    """Emulate a node that is this many times slower than this machine."""
    provider: str = CPU
    """What computes, by its short name (`runtime.providers`)."""
    echo: bool = False
    """Also serve a model that answers a tensor with itself."""
    batch: int = defaults.BATCH
    """Requests for one piece that may run as one batch; 1 runs each alone."""
    memory_mib: int | None = None
    """Memory for weights and opened pieces of all models, which are loaded and evicted as requests come; None keeps
    all models."""
    repository: Path | None = None
    """Folder of ONNX files that clients may have loaded and unloaded; None lets them load and unload nothing."""
    limit_bytes: int = DEFAULT_LIMIT_BYTES
    """Largest message in either direction."""
    peers: tuple[str, ...] | None = ()
    """The only nodes to which routes may lead; None allows any, so that a client chooses which nodes this one calls."""
    announce: bool = False
    """Announce the server in the local network, for devices that look for `zeroconf`."""
    grace_s: float = defaults.GRACE_S
    """How long requests may take to finish after SIGTERM."""


def run_edge(settings: EdgeSettings, agent: Agent | None = None) -> int:
    """Serve until SIGTERM or SIGINT, then finish the admitted requests; a second signal ends the process at once.

    Args:
        settings: `checked_settings` checks them.
        agent: makes this server a member of a site.

    Returns:
        The exit status: 0, or 1 if a second signal cut requests off.

    Raises:
        UserError: if models or settings cannot be served.
        PortError: if a port is taken.
    """
    settings = checked_settings(settings)
    keep_freed_memory()
    logging.basicConfig(level=logging.INFO, stream=sys.stderr, format="%(asctime)s %(levelname)s %(name)s %(message)s")
    loader = model_loader(settings)
    served = loader.load_all() + ((serve_echo(),) if settings.echo else ())
    return asyncio.run(_serve(settings, served, loader, agent))


def model_loader(settings: EdgeSettings) -> ModelLoader:
    """Return what opens the models of a server.

    Args:
        settings: names the models, and how to run them.
    """
    memory_bytes = None if settings.memory_mib is None else settings.memory_mib * MIB
    wanted = settings.models, settings.shapes, settings.limits
    computing = settings.threads, settings.slowdown, settings.provider, settings.batch
    return ModelLoader(ModelSettings(*wanted, *computing, memory_bytes))


async def _serve(
    settings: EdgeSettings, served: Sequence[ServedModel], loader: ModelLoader, agent: Agent | None
) -> int:
    security = agent.security if agent else None
    service = EdgeService(
        served,
        workers=settings.workers,
        queue=settings.queue,
        transport=GrpcTransport(settings.limit_bytes, connector=security.connector if security else PLAIN),
        peers=settings.peers,
        limit_bytes=settings.limit_bytes,
        batch_limit=settings.batch,
        memory=loader.memory,
    )
    service.repository = Repository(service.models, loader.load, settings.models, settings.repository)
    async with open_fronts(service, settings.host, settings.grpc_port, settings.http_port, security) as fronts:
        service.address = fronts.address
        announcement = await asyncio.to_thread(Announcement, fronts.address) if settings.announce else None
        try:
            if agent is not None:
                agent.start(service)
            return await serve_until_signal(service, fronts, "edge", settings.grace_s)
        finally:
            if announcement is not None:
                await asyncio.to_thread(announcement.close)
            if agent is not None:
                await agent.close()


def checked_settings(settings: EdgeSettings) -> EdgeSettings:
    """Return the settings with all addresses in one form.

    Args:
        settings: as the user gave them.

    Raises:
        UserError: for the first setting that cannot work; the message names it, its value and what is allowed.
    """
    ports = {"grpc port": settings.grpc_port, "http port": settings.http_port or 0}
    for name, port in ports.items():
        if not 0 <= port <= 65535:
            raise RequestError(f"{name} {port} is not between 0 and 65535")
    counts = {
        "workers": (settings.workers, 1),
        "threads": (settings.threads, 1),
        "queue": (settings.queue, 0),
        "batch": (settings.batch, 1),
        "grace_s": (settings.grace_s, 0),
    }
    for name, (value, minimum) in counts.items():
        if value < minimum:
            raise RequestError(f"{name} {value} is less than {minimum}")
    check_slowdown(settings.slowdown)
    check_provider(settings.provider)
    if settings.announce:
        check_extra()
    if settings.memory_mib is not None and settings.memory_mib < 1:
        raise RequestError(f"memory_mib {settings.memory_mib} is less than 1")
    if settings.repository is not None and not settings.repository.is_dir():
        raise RequestError(f"repository {settings.repository} is no folder; give one with ONNX files")
    if not settings.models and not settings.echo and settings.repository is None:
        raise RequestError("no model to serve; name an ONNX file or a zoo network")
    peers = None if settings.peers is None else tuple(str(parse_address(peer, "peer")) for peer in settings.peers)
    return replace(settings, host=parse_host(settings.host), peers=peers)
