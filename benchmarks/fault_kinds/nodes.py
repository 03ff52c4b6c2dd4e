"""Edge servers and gateways as processes that may be killed, frozen, cut off and started again on their ports."""

import asyncio
import contextlib
import re
import signal
import subprocess
import sys
import tempfile
import threading
import time
import urllib.request
from collections.abc import Iterator, Sequence
from pathlib import Path

import grpc
import psutil
from grpc_health.v1 import health_pb2, health_pb2_grpc
from prometheus_client.parser import text_string_to_metric_families

READY = re.compile(r"^coinfer \w+ ready grpc=(\S+)(?: http=(\S+))?", re.MULTILINE)
START_S = 120.0


class Node:
    """A `coinfer edge` or `coinfer gateway`.

    Args:
        command: the words after `coinfer`, without ports.
    """

    def __init__(self, *command: str):
        self._command = [sys.executable, "-m", "coinfer", *command]
        self._log = tempfile.NamedTemporaryFile(prefix="coinfer-faults-", suffix=".log")  # noqa: SIM115
        self.grpc = self.http = ""
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def process(self) -> subprocess.Popen[bytes]:
        """Return the running process."""
        assert self._process is not None
        return self._process

    def launch(self) -> None:
        """Start it; `wait_ready` returns once it serves."""
        self._log.truncate(0)
        self._log.seek(0)
        ports = [address.rpartition(":")[2] or "0" for address in (self.grpc, self.http)]
        command = [*self._command, "--grpc-port", ports[0], "--http-port", ports[1]]
        self._process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=self._log, stderr=self._log)

    def wait_ready(self) -> float:
        """Wait until it serves; return the moment, on the monotonic clock."""
        until_s = time.monotonic() + START_S
        while time.monotonic() < until_s and self.process.poll() is None:
            if found := READY.search(self.log()):
                self.grpc, self.http = found[1], found[2] or ""
                return time.monotonic()
            time.sleep(0.02)
        raise SystemExit(f"{' '.join(self._command)} did not start; it said: {self.log()[-500:]}")

    def log(self) -> str:
        """Return what it has written since its start."""
        return Path(self._log.name).read_text(encoding="utf-8", errors="replace")

    def kill(self) -> None:
        """Send SIGKILL."""
        self.process.kill()
        self.process.wait()

    def terminate(self) -> None:
        """Send SIGTERM: it finishes what it has admitted, and ends."""
        self.process.terminate()

    def wait_ended(self, timeout_s: float) -> int:
        """Wait until it has ended by itself; return its exit status, -9 if it had to be killed."""
        with contextlib.suppress(subprocess.TimeoutExpired):
            return self.process.wait(timeout_s)
        self.kill()
        return -signal.SIGKILL

    def freeze(self) -> None:
        """Send SIGSTOP: connections stay open, nothing answers."""
        self.process.send_signal(signal.SIGSTOP)

    def thaw(self) -> None:
        """Send SIGCONT."""
        self.process.send_signal(signal.SIGCONT)

    def rss_bytes(self) -> int:
        """Return the memory that it holds."""
        return psutil.Process(self.process.pid).memory_info().rss

    def metric(self, name: str, **labels: str) -> float:
        """Return the sum of a metric's samples that have these labels."""
        with urllib.request.urlopen(f"http://{self.http}/metrics", timeout=START_S) as reply:
            families = text_string_to_metric_families(reply.read().decode())
        samples = [sample for family in families for sample in family.samples if sample.name == name]
        return sum(sample.value for sample in samples if labels.items() <= sample.labels.items())

    def problems(self) -> int:
        """Return how many tracebacks and errors it has logged since its start."""
        return len(re.findall(r"Traceback| ERROR ", self.log()))

    def stop(self) -> None:
        """End it, whatever its state."""
        if self._process is not None and self._process.poll() is None:
            self.thaw()
            self.kill()
        self._log.close()


class HealthWatch:
    """Watches the health of a gRPC server until its connection ends.

    Args:
        address: `host:port`; it serves now.
    """

    def __init__(self, address: str):
        self._channel, self._said = grpc.insecure_channel(address), list[str]()
        serves = threading.Event()

        def watch() -> None:
            with contextlib.suppress(grpc.RpcError):
                request = health_pb2.HealthCheckRequest()
                for reply in health_pb2_grpc.HealthStub(self._channel).Watch(request, timeout=START_S):
                    self._said.append(health_pb2.HealthCheckResponse.ServingStatus.Name(reply.status))
                    serves.set()

        self._thread = threading.Thread(target=watch, daemon=True)
        self._thread.start()
        serves.wait(START_S)

    def last(self) -> str:
        """Wait until the server has ended the watch, and return what it said last."""
        self._thread.join()
        self._channel.close()
        return self._said[-1] if self._said else ""


@contextlib.contextmanager
def nodes(commands: Sequence[Sequence[str]]) -> Iterator[list[Node]]:
    """Start a node for each command, all at once, and end them afterwards."""
    with contextlib.ExitStack() as stack:
        started = [Node(*command) for command in commands]
        for node in started:
            stack.callback(node.stop)
            node.launch()
        for node in started:
            node.wait_ready()
        yield started


class Relays:
    """A TCP relay in front of each of several addresses, which can be cut: then nothing passes and nothing ends.

    Args:
        targets: `host:port` of each.
        sources: from which own address each relay connects; any without.
    """

    def __init__(self, targets: Sequence[str], sources: Sequence[str] = ()):
        self._loop = asyncio.new_event_loop()
        self._open: list[asyncio.Event] = []
        self._servers: list[asyncio.Server] = []
        self.addresses: list[str] = []
        """Where clients connect, in the order of the targets."""
        self._thread = threading.Thread(target=self._loop.run_forever, daemon=True)
        self._thread.start()
        for target, source in zip(targets, sources or [""] * len(targets), strict=True):
            asyncio.run_coroutine_threadsafe(self._listen(target, source), self._loop).result()

    def cut(self, index: int) -> None:
        """Let nothing pass any more."""
        self._loop.call_soon_threadsafe(self._open[index].clear)

    def heal(self, index: int) -> None:
        """Let everything pass again, what was held up first."""
        self._loop.call_soon_threadsafe(self._open[index].set)

    def close(self) -> None:
        """End all connections."""
        asyncio.run_coroutine_threadsafe(self._end(), self._loop).result()
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()

    async def _end(self) -> None:
        for server in self._servers:
            server.close()
        tasks = asyncio.all_tasks() - {asyncio.current_task()}
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    async def _listen(self, target: str, source: str) -> None:
        host, _, port = target.rpartition(":")
        local = (source, 0) if source else None
        is_open = asyncio.Event()
        is_open.set()

        async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            with contextlib.suppress(OSError, asyncio.CancelledError):
                await is_open.wait()
                there_reader, there_writer = await asyncio.open_connection(host, int(port), local_addr=local)
                there, back = _pump(reader, there_writer, is_open), _pump(there_reader, writer, is_open)
                await asyncio.gather(there, back)
            writer.close()

        server = await asyncio.start_server(serve, "127.0.0.1", 0)
        self._servers.append(server)
        self._open.append(is_open)
        self.addresses.append(f"127.0.0.1:{server.sockets[0].getsockname()[1]}")


async def _pump(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, is_open: asyncio.Event) -> None:
    with contextlib.suppress(OSError):
        while data := await reader.read(1 << 16):
            await is_open.wait()
            writer.write(data)
            await writer.drain()
    with contextlib.suppress(OSError):
        await is_open.wait()
        writer.close()
