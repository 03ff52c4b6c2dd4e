"""The controller as a process: it starts, serves nodes and operators, and ends."""

import asyncio
import gc
import logging
import sys
from dataclasses import dataclass
from pathlib import Path

from grpc import aio

from coinfer.addresses import Address, parse_host
from coinfer.files import cache_folder
from coinfer.runtime.edge.inference_service import PortError
from coinfer.runtime.edge.serving import signal_event
from coinfer.runtime.transport.grpc_transport import server_options
from coinfer.site.certificates.grpc_security import AccessControl, server_credentials
from coinfer.site.certificates.identity import Identity, find_identity
from coinfer.site.certificates.plain import check_plain
from coinfer.site.controller.service import ControllerService
from coinfer.site.messages import CONTROLLER_BYTES, MESSAGE_BYTES, STREAM_OPTIONS
from coinfer.site.store import LIMIT_BYTES, ExperienceStore
from coinfer.site.updater.settings import RolloutSettings, load_settings
from coinfer.site.updater.updater import Updater

GRPC_PORT = 8600
PAGE_PORT = 8443
_LAST_WORDS_S = 0.5
_log = logging.getLogger("coinfer.site")


@dataclass(frozen=True)
class ControllerSettings:
    """Settings of a controller."""

    site: Path | None = None
    """Folder of the site, or of the controller's own certificate; None speaks plain text."""
    host: str = "127.0.0.1"
    """A name or an IP address to listen on."""
    port: int = GRPC_PORT
    """For nodes; 0 takes any free port."""
    page_port: int | None = PAGE_PORT
    """For browsers; 0 takes any free port, None serves no page."""
    insecure: bool = False
    """Allow plain text beyond this machine."""
    store: Path | None = None
    """File of the experience; None keeps it beside the certificate, or in the user's cache."""
    store_bytes: int = LIMIT_BYTES
    """Size of that file beyond which the oldest decisions are deleted."""
    rollout: Path | None = None
    """File with thresholds of policies; None for those that come with coinfer."""


def run_controller(settings: ControllerSettings) -> int:
    """Serve until SIGTERM or SIGINT.

    Args:
        settings: of the controller.

    Returns:
        The exit status.

    Raises:
        UserError: if settings, certificates or store cannot be used.
        PortError: if a port is taken.
    """
    logging.basicConfig(level=logging.INFO, stream=sys.stderr, format="%(asctime)s %(levelname)s %(name)s %(message)s")
    host = parse_host(settings.host)
    identity = None if settings.site is None else find_identity(settings.site, "controller")
    check_plain(identity, host, settings.insecure, f"host {host}")
    home = cache_folder("site") if identity is None else identity.folder / "state"
    thresholds = load_settings(settings.rollout)
    store = ExperienceStore(settings.store or home / "experience.sqlite", settings.store_bytes)
    try:
        service = ControllerService(store, identity)
        service.updater = make_updater(service, thresholds)
        return asyncio.run(_serve(settings, host, identity, service))
    finally:
        store.close()


def make_updater(service: ControllerService, settings: RolloutSettings) -> Updater:
    """Return the updater of a controller, which keeps its versions in `policies/` beside the store.

    Args:
        service: of the controller.
        settings: thresholds.

    Raises:
        UserError: if what it kept cannot be read.
    """
    folder = service.store.path.parent / "policies"
    return Updater(service.store.path, folder, settings, service.edges, service.history.note)


async def _serve(settings: ControllerSettings, host: str, identity: Identity | None, service: ControllerService) -> int:
    server = open_server(service, identity)
    try:
        port = listen(server, host, settings.port, identity)
    except RuntimeError:
        raise PortError(host, settings.port) from None
    where, page = f"grpc={Address(host, port)}", None
    if settings.page_port is not None:
        from coinfer.site.dashboard.server import PageServer

        page = PageServer(service, host, settings.page_port, identity)
        await page.start()
        where += f" page={page.url}"
    await server.start()
    views = asyncio.ensure_future(service.run())
    updater = asyncio.ensure_future(service.updater.run()) if service.updater else None
    gc.collect()
    gc.freeze()  # what is there now stays; else every collection walks through all modules
    stop = signal_event()
    print(f"coinfer controller ready {where}", flush=True)
    waits = [asyncio.ensure_future(stop.wait()), views]
    await asyncio.wait(waits, return_when=asyncio.FIRST_COMPLETED)
    failed = views.done()
    for wait in waits:
        wait.cancel()
    if updater is not None:
        updater.cancel()
    await asyncio.gather(*(task for task in (views, updater) if task), return_exceptions=True)
    if page is not None:
        await page.stop()
    await server.stop(_LAST_WORDS_S)
    return int(failed)


def open_server(service: ControllerService, identity: Identity | None) -> aio.Server:
    """Return a gRPC server of a controller that does not listen yet.

    Args:
        service: answers.
        identity: of the controller; None for plain text.
    """
    interceptors = [] if identity is None else [AccessControl(identity)]
    options = {**dict(server_options(MESSAGE_BYTES)), "grpc.max_send_message_length": CONTROLLER_BYTES}
    server = aio.server(options=[*options.items(), *STREAM_OPTIONS], interceptors=interceptors)
    server.add_generic_rpc_handlers((service,))
    return server


def listen(server: aio.Server, host: str, port: int, identity: Identity | None) -> int:
    """Make the server listen, and return its port.

    Args:
        server: has not started.
        host: name or IP address.
        port: 0 takes any free port.
        identity: of the controller; None for plain text.

    Raises:
        RuntimeError: if it cannot listen there.
    """
    address = str(Address(host, port))
    if identity is None:
        return server.add_insecure_port(address)
    return server.add_secure_port(address, server_credentials(identity))
