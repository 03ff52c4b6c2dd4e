"""Measure what a site costs its nodes and its controller, and how old and how quick its knowledge and decisions are.

    python benchmarks/site_cost.py [--quick]

- A decision of 50 tasks on 10 servers, by the shipped actor and by sequential greedy, on one thread.
- An edge server that dispatches 100 requests a second, with four other servers in its site, in turns with and without a
  controller: the difference in processor time is the cost of its communication manager. A proxy counts the bytes of its
  stream. The ages of what it knows of the other servers are noted with every request.
- A controller with 50 edge servers that decide 20 requests a second each, and report their load, with the page open.

Processor times are those of the process, so other work on the machine counts little. Writes
benchmarks/results/site_cost.json.
"""

import argparse
import asyncio
import contextlib
import json
import re
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import psutil
from harness import figure, parser, rounds, save

from coinfer.policies.onnx import load_policy
from coinfer.runtime.edge.served_model import serve_echo
from coinfer.runtime.edge.service import EdgeService
from coinfer.runtime.protocol.messages import InferReply, InferRequest, from_array
from coinfer.runtime.transport.grpc_transport import GrpcTransport
from coinfer.site.agent.dispatch import Candidate, Task, checked, observe, sequential_greedy
from coinfer.site.agent.edge_agent import AgentSettings, EdgeAgent
from coinfer.site.agent.observed import observed
from coinfer.site.agent.spool import Spool
from coinfer.site.agent.stream import Controller, ControllerStream
from coinfer.site.messages import Decision, Hello, Report, ServedName, View

COMMAND = str(Path(sys.executable).with_name("coinfer"))
RATE = 100.0
"""Requests a second of the measured edge server."""
NODES, NODE_RATE = 50, 20.0
OTHERS = 4


def observation_of(tasks: int, servers: int):
    """Return a joint observation with different servers."""
    rng = np.random.default_rng(0)
    made = [
        Candidate(str(i), {"m": "f"}, {"w": float(rng.uniform(0.01, 0.1))}, float(rng.uniform(0, 0.3)), 16, 0.05, 1e8)
        for i in range(servers)
    ]
    return observe([Task("m", "", "w", 150_000, float(rng.uniform(0.1, 1))) for _ in range(tasks)], made)


def decision_figures(count: int) -> dict:
    """Return the milliseconds of a joint decision."""
    joint, actor = observation_of(50, 10), load_policy("learned")
    calls = {"actor": lambda: checked(actor(joint), joint), "sequential greedy": lambda: sequential_greedy(joint)}
    calls["observation of it"] = lambda: observation_of(50, 10)
    took: dict[str, list[float]] = {name: [] for name in calls}
    for _ in rounds(count, "decisions"):
        for name, call in calls.items():
            began_s = time.perf_counter()
            call()
            took[name].append(1e3 * (time.perf_counter() - began_s))
    bars = {"actor": 1.0, "sequential greedy": 1.0}
    return {f"50 tasks on 10 servers: {name}, ms": figure(took[name], bars.get(name)) for name in calls}


class FakeNode:
    """An edge server that only tells of itself: its load changes all the time, and it decides now and then."""

    def __init__(self, controller: str, name: str, folder: Path, rate: float):
        self._name, self._rate, self._rng = name, rate, np.random.default_rng(abs(hash(name)) % 2**32)
        self._spool = Spool(folder / name, 1)
        self._joint = observation_of(1, OTHERS + 1)
        self._told_s, self._count = time.monotonic(), 0
        self.stream = ControllerStream(self, Controller(controller, None), self._spool)
        self.stream.start()

    def hello(self) -> Hello:
        return Hello(name=self._name, role="edge", epoch=1, address="192.0.2.1:8001", models=[ServedName(name="echo")])

    def report(self) -> Report:
        due = int((time.monotonic() - self._told_s) * self._rate)
        for _ in range(due - self._count):
            self._spool.add(self._decision)
        self._count = max(self._count, due)
        return Report(
            backlog_s=round(float(self._rng.uniform(0, 0.2)), 4), queued=2, room=14, received=due, success=due
        )

    def on_view(self, view: View) -> None: ...

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
        self._loop = asyncio.new_event_loop()
        threading.Thread(target=self._loop.run_forever, daemon=True).start()
        server = asyncio.run_coroutine_threadsafe(asyncio.start_server(self._accept, "127.0.0.1", 0), self._loop)
        self.address = f"127.0.0.1:{server.result().sockets[0].getsockname()[1]}"

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


async def run_node(controller: str, folder: Path, seconds: float) -> dict[str, object]:
    """Dispatch requests at a steady rate, and return processor time and ages. In a process of its own."""
    service = EdgeService([serve_echo()], address="127.0.0.1:1", transport=GrpcTransport())
    agent = EdgeAgent(AgentSettings("measured", folder, controller))
    agent.start(service)
    request = InferRequest("echo", (from_array("x", np.ones(1000, np.float32)),), ("y",), deadline_s=1.0, dispatch=True)

    async def encode(reply: InferReply) -> InferReply:
        return reply

    await service.infer(request, encode)
    await asyncio.sleep(2.0 if controller else 0.5)
    loop, ages = asyncio.get_running_loop(), []
    asked: list[asyncio.Future[InferReply]] = []
    began_s, used_s = loop.time(), time.process_time()
    for number in range(int(RATE * seconds)):
        await asyncio.sleep(max(began_s + number / RATE - loop.time(), 0.0))
        now_s = time.monotonic()
        ages += [now_s - server.at_s for name, server in agent.servers.items() if name != "measured"]
        asked.append(asyncio.ensure_future(service.infer(request, encode)))
    used_s, took_s = time.process_time() - used_s, loop.time() - began_s
    await asyncio.gather(*asked, return_exceptions=True)
    agent.close()
    service.close()
    return {"cores": used_s / took_s, "seconds": took_s, "ages": [round(age, 4) for age in ages]}


def node(controller: str, folder: Path, seconds: float) -> dict:
    command = [sys.executable, __file__, "--node", controller or "none", str(folder), str(seconds)]
    return json.loads(subprocess.run(command, stdout=subprocess.PIPE, check=True).stdout)


@contextlib.contextmanager
def controller_process(folder: Path) -> Iterator[tuple[psutil.Process, str, str]]:
    """A controller, its address and its page."""
    command = [COMMAND, "controller", "--port", "0", "--page-port", "0", "--store", str(folder / "store")]
    started = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
    assert started.stdout is not None
    found = re.search(r"grpc=(\S+) page=(\S+)", started.stdout.readline())
    assert found, "the controller did not start"
    try:
        yield psutil.Process(started.pid), found[1], found[2]
    finally:
        started.terminate()
        started.wait()


def node_figures(count: int, seconds: float) -> dict:
    """Return the cost of an edge server's agent, and the ages of what it knows."""
    cores: list[float] = []
    rates: list[float] = []
    ages: list[float] = []
    with tempfile.TemporaryDirectory() as name, controller_process(Path(name)) as (_, address, _page):
        folder = Path(name)
        others = [FakeNode(address, f"other-{i}", folder, 1.0) for i in range(OTHERS)]
        for number in rounds(count, "an edge server's agent"):
            alone = node("", folder / f"alone-{number}", seconds)
            proxy = CountingProxy(address)
            member = node(proxy.address, folder / f"member-{number}", seconds)
            cores.append(member["cores"] - alone["cores"])
            rates.append(proxy.bytes / (member["seconds"] + 2.0) / 1e3)
            ages.append(1e3 * float(np.quantile(member["ages"], 0.95)))
        for other in others:
            other.stream.close(0.0)
    return {
        "agent at 100 requests/s: share of a core": figure(np.maximum(cores, 0), 0.01),
        "agent at 100 requests/s: kB/s": figure(rates, 20.0),
        "age of the view under load, 95 %, ms": figure(ages, 100.0),
    }


@contextlib.contextmanager
def reading_page(url: str) -> Iterator[None]:
    """Read the stream of states, as an open page does."""
    host, _, port = url.split("/")[2].rpartition(":")
    with socket.create_connection((host, int(port))) as connection:
        connection.sendall(b"GET /events HTTP/1.1\r\nHost: page\r\n\r\n")
        threading.Thread(target=lambda: [None for _ in iter(lambda: connection.recv(65536), b"")], daemon=True).start()
        yield
        connection.shutdown(socket.SHUT_RDWR)


def controller_figures(count: int, seconds: float, nodes: int) -> dict:
    """Return the share of a core that a controller takes."""
    cores: list[float] = []
    with tempfile.TemporaryDirectory() as name, controller_process(Path(name)) as (process, address, page):
        fakes = [FakeNode(address, f"edge-{i}", Path(name), NODE_RATE) for i in range(nodes)]
        for fake in fakes:
            fake.stream.joined.wait(60)
        with reading_page(page):
            time.sleep(2.0)
            for _ in rounds(count, "a controller"):
                before, began_s = sum(process.cpu_times()[:2]), time.monotonic()
                time.sleep(seconds)
                cores.append((sum(process.cpu_times()[:2]) - before) / (time.monotonic() - began_s))
        for fake in fakes:
            fake.stream.close(0.0)
    label = f"controller, {nodes} servers, {nodes * NODE_RATE:g} decisions/s, page open: share of a core"
    return {label: figure(cores, 0.1)}


def main() -> None:
    made = parser(__doc__, "site_cost")
    made.add_argument("--node", nargs=3, help=argparse.SUPPRESS)
    settings = made.parse_args()
    if settings.node:
        controller, folder, seconds = settings.node
        found = asyncio.run(run_node("" if controller == "none" else controller, Path(folder), float(seconds)))
        print(json.dumps(found))
        return
    quick = settings.quick
    figures = decision_figures(5 if quick else 300)
    figures |= node_figures(1 if quick else 3, 1.0 if quick else 8.0)
    figures |= controller_figures(1 if quick else 3, 1.0 if quick else 8.0, 3 if quick else NODES)
    save(settings, figures)


if __name__ == "__main__":
    main()
