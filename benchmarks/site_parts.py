"""Parts of a site for its benchmark: edge servers that only tell of themselves, one that works, a proxy that counts."""

import asyncio
import contextlib
import json
import subprocess
import sys
import threading
import time
from collections.abc import Coroutine
from pathlib import Path
from typing import Any

import grpc
import numpy as np
from grpc import aio

from coinfer.runtime.edge.served_model import ServedModel, serve_echo
from coinfer.runtime.edge.service import EdgeService
from coinfer.runtime.edge.serving import open_fronts
from coinfer.runtime.protocol.messages import InferRequest, from_array
from coinfer.runtime.transport.grpc_transport import GrpcTransport
from coinfer.site.agent.dispatch import Candidate, Task, observe
from coinfer.site.agent.edge_agent import AgentSettings, EdgeAgent
from coinfer.site.agent.observed import observed
from coinfer.site.agent.spool import Spool
from coinfer.site.agent.stream import Controller, ControllerStream
from coinfer.site.messages import Decision, Hello, Policies, PolicyFile, Report, ServedName, View

RATE = 100.0
"""Requests a second of the edge server that works."""
WORK_S = 0.004
"""What a request takes there, so that its load changes all the time."""
REPORTS_PER_S, REPORT_BYTES, VIEW_BYTES = 12.0, 200, 300
"""Of a stream of bare gRPC that carries as much as a node's does."""
OTHERS = 4


def observation_of(tasks: int, servers: int):
    """Return a joint observation with different servers."""
    rng = np.random.default_rng(0)
    made = [
        Candidate(
            str(i), {"m": ("f",)}, {"w": float(rng.uniform(0.01, 0.1))}, float(rng.uniform(0, 0.3)), 16, 0.05, 1e8
        )
        for i in range(servers)
    ]
    return observe([Task("m", "", "w", 150_000, float(rng.uniform(0.1, 1))) for _ in range(tasks)], made)


class Loop:
    """An event loop on a thread."""

    def __init__(self):
        self.loop = asyncio.new_event_loop()
        threading.Thread(target=self.loop.run_forever, daemon=True).start()

    def run(self, coroutine: Coroutine[Any, Any, Any]) -> Any:
        return asyncio.run_coroutine_threadsafe(coroutine, self.loop).result()


class FakeNode:
    """An edge server that only tells of itself: its load changes all the time, and it decides now and then."""

    def __init__(self, controller: str, name: str, folder: Path, rate: float, loop: Loop):
        self._name, self._rate, self._rng = name, rate, np.random.default_rng(abs(hash(name)) % 2**32)
        self._spool = Spool(folder / name, 1)
        self._joint, self._loop = observation_of(1, OTHERS + 1), loop
        self._told_s, self._count = time.monotonic(), 0
        self.stream = ControllerStream(self, Controller(controller, None), self._spool)
        loop.loop.call_soon_threadsafe(self.stream.start)

    def close(self) -> None:
        self._loop.run(self.stream.close(0.0))

    def hello(self) -> Hello:
        served = (ServedName(name="echo"),)
        return Hello(name=self._name, role="edge", epoch=1, address="192.0.2.1:8001", models=served)

    def report(self) -> Report:
        due = int((time.monotonic() - self._told_s) * self._rate)
        for _ in range(due - self._count):
            self._spool.add(self._decision)
        self._count = max(self._count, due)
        return Report(backlog_s=round(float(self._rng.uniform(0, 0.2)), 4), queued=2, received=due, success=due)

    def on_view(self, view: View) -> None: ...

    def on_policy(self, message: PolicyFile | Policies) -> None: ...

    def _decision(self) -> Decision:
        latency_s = float(self._rng.uniform(0.02, 0.2))
        return Decision(
            seq=0, at_s=time.time(), model="m", policy="greedy", server=1, executed_on="192.0.2.1:8001",
            latency_s=latency_s, queue_s=latency_s / 3, server_s=latency_s / 2, observation=observed(self._joint),
        )  # fmt: skip


class CountingProxy:
    """Passes connections on, and counts their bytes in both directions."""

    def __init__(self, target: str):
        self.bytes = 0
        self._host, _, self._port = target.rpartition(":")
        server = Loop().run(asyncio.start_server(self._accept, "127.0.0.1", 0))
        self.address = f"127.0.0.1:{server.sockets[0].getsockname()[1]}"

    async def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(OSError):
            onward = await asyncio.open_connection(self._host, int(self._port))
            await asyncio.gather(self._pass(reader, onward[1]), self._pass(onward[0], writer))

    async def _pass(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(OSError):
            while data := await reader.read(65536):
                self.bytes += len(data)
                writer.write(data)
                await writer.drain()
            writer.close()


class BareServer(grpc.GenericRpcHandler):
    """Hears what comes over a stream, and says as much as a controller does."""

    def __init__(self):
        self._loop = Loop()
        self.address = self._loop.run(self._start())

    async def _start(self) -> str:
        server = self._server = aio.server()
        server.add_generic_rpc_handlers((self,))
        port = server.add_insecure_port("127.0.0.1:0")
        await server.start()
        return f"127.0.0.1:{port}"

    def service(self, handler_call_details: grpc.HandlerCallDetails) -> Any:
        return grpc.stream_stream_rpc_method_handler(self._join)

    async def _join(self, messages: Any, context: Any) -> Any:
        async def read() -> None:
            async for _ in messages:
                pass

        reader = asyncio.ensure_future(read())
        while not reader.done():
            yield bytes(VIEW_BYTES)
            await asyncio.sleep(1 / REPORTS_PER_S)


@contextlib.asynccontextmanager
async def bare_stream(address: str):
    """Hold a stream that carries as much as a node's, and nothing else."""

    async def write() -> None:
        while True:
            await call.write(bytes(REPORT_BYTES))
            await asyncio.sleep(1 / REPORTS_PER_S)

    async def read() -> None:
        async for _ in call:
            pass

    async with aio.insecure_channel(address) as channel:
        call = channel.stream_stream("/bare/Join")()
        tasks = [asyncio.ensure_future(part()) for part in (write, read)]
        yield
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


class _Work:
    """Answers after a while, as an echo would at once."""

    def __init__(self, echo: Any):
        self._echo = echo

    def __getattr__(self, name: str) -> Any:
        return getattr(self._echo, name)

    def run(self, inputs: Any, outputs: Any = (), abort: Any = None) -> Any:
        time.sleep(WORK_S)
        return self._echo.run(inputs, outputs, abort)[0], WORK_S


def serve_work() -> ServedModel:
    echo = serve_echo()
    return echo._replace(runs=_Work(echo.runs))


def ask(address: str) -> None:
    """Ask an edge server at a steady rate until the process is ended."""
    transport, began_s = GrpcTransport(), time.monotonic()
    request = InferRequest("echo", (from_array("x", np.ones(1000, np.float32)),), ("y",), deadline_s=5.0, dispatch=True)
    number = 0
    while True:
        number += 1
        transport.send(address, request, 5.0)
        time.sleep(max(began_s + number / RATE - time.monotonic(), 0.0))


async def run_edge(controller: str, bare: str, folder: Path, seconds: float, count: int) -> dict[str, list[float]]:
    """Serve requests in turns outside the site, beside a bare stream, and in the site; return cores taken, and ages."""
    service = EdgeService([serve_work()], transport=GrpcTransport())
    found: dict[str, list[float]] = {"alone": [], "bare": [], "member": [], "ages": [], "member_s": []}
    async with open_fronts(service, "127.0.0.1", 0, None) as fronts:
        service.address = fronts.address
        with asking(fronts.address):
            while not any(one.received > RATE / 2 for one in service.metrics.models.values()):
                await asyncio.sleep(0.1)
            for number in range(count):
                for kind in ("alone", "bare", "member"):
                    agent = EdgeAgent(
                        AgentSettings("measured", folder / f"{kind}-{number}", controller if kind == "member" else "")
                    )
                    agent.start(service)
                    began_s = time.monotonic()
                    async with bare_stream(bare) if kind == "bare" else contextlib.nullcontext():
                        await asyncio.sleep(1.5)
                        found[kind].append(await _cores(agent, seconds, found["ages"]))
                    await agent.close()
                    found["member_s"] += [time.monotonic() - began_s] if kind == "member" else []
    return found


@contextlib.contextmanager
def asking(address: str):
    """A process that asks an edge server."""
    process = subprocess.Popen([sys.executable, __file__, "ask", address])
    try:
        yield
    finally:
        process.kill()
        process.wait()


async def _cores(agent: EdgeAgent, seconds: float, ages: list[float]) -> float:
    """Return the share of a core that this process takes, and note how old its knowledge is meanwhile."""
    began_s, used_s = time.monotonic(), time.process_time()
    while (now_s := time.monotonic()) < began_s + seconds:
        ages += [round(now_s - one.at_s, 4) for name, one in agent.servers.items() if name != "measured"]
        await asyncio.sleep(0.05)
    return (time.process_time() - used_s) / (now_s - began_s)


def main() -> None:
    if sys.argv[1] == "ask":
        ask(sys.argv[2])
        return
    controller, bare, folder, seconds, count = sys.argv[2:]
    print(json.dumps(asyncio.run(run_edge(controller, bare, Path(folder), float(seconds), int(count)))))


if __name__ == "__main__":
    main()
