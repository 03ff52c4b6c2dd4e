"""Parts of a site for tests: a controller and edge servers on threads of this process, or a controller as a process."""

import asyncio
import contextlib
import random
import re
import socket
import subprocess
import threading
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

from tests.e2e.sites import COMMAND
from tests.patience import wait_until
from tests.runtime.edge.edge_process import EdgeThread

from coinfer.runtime.edge.repository import Repository
from coinfer.runtime.edge.served_model import ServedModel, serve_echo
from coinfer.runtime.edge.service import EdgeService
from coinfer.runtime.transport.grpc_transport import PLAIN, GrpcTransport
from coinfer.site.agent.edge_agent import AgentSettings, EdgeAgent
from coinfer.site.certificates.identity import Identity
from coinfer.site.controller import process
from coinfer.site.controller.service import ControllerService
from coinfer.site.store import ExperienceStore

WAIT_S = 120.0
NOTHING: Mapping[str, Callable[[], ServedModel]] = {}
READY = re.compile(r"coinfer controller ready grpc=(\S+)(?: page=(\S+))?")


def free_port() -> int:
    """Return a port on which something may listen a moment later: none that the kernel would give to anybody else."""
    while True:
        with socket.socket() as one, contextlib.suppress(OSError):
            one.bind(("127.0.0.1", random.SystemRandom().randrange(20_000, 32_000)))  # tests seed the common one
            return one.getsockname()[1]


class ControllerThread:
    """A controller on a thread of this process."""

    def __init__(self, store: Path, identity: Identity | None = None, port: int = 0):
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, daemon=True)
        self._thread.start()
        self.store = ExperienceStore(store)
        self.run(self._start(identity, port))

    def run(self, coroutine):
        return asyncio.run_coroutine_threadsafe(coroutine, self._loop).result(WAIT_S)

    async def _start(self, identity: Identity | None, port: int) -> None:
        self.service = ControllerService(self.store, identity)
        self._server = process.open_server(self.service, identity)
        self.port = process.listen(self._server, "127.0.0.1", port, identity)
        self.address = f"127.0.0.1:{self.port}"
        await self._server.start()
        self._views = asyncio.ensure_future(self.service.run())

    def there(self) -> frozenset[str]:
        """Names of the nodes that hold their leases."""
        return self.service.present()

    def stop(self) -> None:
        async def end() -> None:
            self._views.cancel()
            await asyncio.gather(self._views, return_exceptions=True)
            await self._server.stop(0.1)

        self.run(end())
        self.store.close()
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(60)
        self._loop.close()


@contextlib.contextmanager
def controller_thread(store: Path, identity: Identity | None = None, port: int = 0) -> Iterator[ControllerThread]:
    running = ControllerThread(store, identity, port)
    try:
        yield running
    finally:
        running.stop()


class MemberEdge:
    """An edge server with an agent, on a thread of this process. What it may load is made by functions, by name."""

    def __init__(
        self,
        settings: AgentSettings,
        models=None,
        loadable: Mapping[str, Callable[[], ServedModel]] = NOTHING,
        **options,
    ):
        self.agent = EdgeAgent(settings)
        security = self.agent.security
        transport = GrpcTransport(connector=security.connector if security else PLAIN)
        served = [serve_echo()] if models is None else models

        def service() -> EdgeService:
            made = EdgeService(served, transport=transport, **options)
            if loadable:
                made.repository = Repository(made.models, lambda name: loadable[name](), tuple(loadable), Path())
            return made

        self._edge = EdgeThread(service, security)
        self.address, self.http, self.service = self._edge.grpc, self._edge.http, self._edge.service
        self._edge.run(self._join())

    async def _join(self) -> None:
        self.agent.start(self.service)

    def load(self, name: str) -> None:
        self._edge.run(self.service.repository.load(name))

    def unload(self, name: str) -> None:
        self._edge.run(self.service.repository.unload(name))

    def stop(self) -> None:
        self._edge.run(self.agent.close())
        self._edge.stop()


@contextlib.contextmanager
def member_edge(settings: AgentSettings, **more) -> Iterator[MemberEdge]:
    running = MemberEdge(settings, **more)
    try:
        yield running
    finally:
        running.stop()


class ControllerProcess:
    """`coinfer controller` in plain text on this machine, which a test may kill and start again on the same port."""

    def __init__(self, folder: Path, *options: str):
        self._options = ["--page-port", "0", "--store", str(folder / "experience.sqlite"), *options]
        self._log = folder / "controller.log"
        self.address = self.page = ""
        self.process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        port = self.address.rpartition(":")[2] or "0"
        with self._log.open("wb") as log:
            command = [COMMAND, "controller", "--port", port, *self._options]
            self.process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=log, stderr=log)
        wait_until(lambda: READY.search(self.log()) or self.process.poll() is not None, WAIT_S, "a controller is ready")
        found = READY.search(self.log())
        assert found, self.log()
        self.address, self.page = found[1], found[2] or ""

    def log(self) -> str:
        return self._log.read_text(encoding="utf-8")

    def terminate(self) -> int:
        """SIGTERM; returns the exit status."""
        assert self.process is not None
        self.process.terminate()
        return self.process.wait(WAIT_S)

    def kill(self) -> None:
        """SIGKILL."""
        assert self.process is not None
        self.process.kill()
        self.process.wait()
