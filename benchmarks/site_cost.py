"""Measure what a site costs its nodes and its controller, and how old and how quick its knowledge and decisions are.

    python benchmarks/site_cost.py [--quick]

- A decision of 50 tasks on 10 servers, by the shipped actor and by sequential greedy, on one thread.
- An edge server that dispatches 100 requests a second that come over gRPC, in turns without a controller, beside a
  stream of bare gRPC that carries as much, and in a site with four other servers: the difference in processor time is
  the cost of its communication manager. A proxy counts the bytes of its stream; the ages of what it knows of the other
  servers are noted all the time.
- A controller with 50 edge servers that decide 20 requests a second each, and report their load, with the page open.

Processor times are those of the process, so other work on the machine counts little. Writes
benchmarks/results/site_cost.json.
"""

import contextlib
import json
import re
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import psutil
from harness import figure, parser, rounds, save
from site_parts import OTHERS, BareServer, CountingProxy, FakeNode, Loop, observation_of

from coinfer.policies.onnx import load_policy
from coinfer.site.agent.dispatch import checked, sequential_greedy

COMMAND = str(Path(sys.executable).with_name("coinfer"))
NODES, NODE_RATE = 50, 20.0


def decision_figures(count: int) -> dict:
    """Return the milliseconds of a joint decision."""
    joint, actor = observation_of(50, 10), load_policy("learned")
    calls: dict[str, Callable[[], object]] = {
        "actor": lambda: checked(actor(joint), joint),
        "sequential greedy": lambda: sequential_greedy(joint),
    }
    calls["observation of it"] = lambda: observation_of(50, 10)
    took: dict[str, list[float]] = {name: [] for name in calls}
    for _ in rounds(count, "decisions"):
        for name, call in calls.items():
            began_s = time.perf_counter()
            call()
            took[name].append(1e3 * (time.perf_counter() - began_s))
    bars = {"actor": 1.0, "sequential greedy": 1.0}
    return {f"50 tasks on 10 servers: {name}, ms": figure(took[name], bars.get(name)) for name in calls}


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
    with tempfile.TemporaryDirectory() as name, controller_process(Path(name)) as (_, address, _page):
        loop = Loop()
        others = [FakeNode(address, f"other-{i}", Path(name), 1.0, loop) for i in range(OTHERS)]
        proxy, parts = CountingProxy(address), Path(__file__).with_name("site_parts.py")
        words = ["edge", proxy.address, BareServer().address, name, str(seconds), str(count)]
        done = subprocess.run([sys.executable, str(parts), *words], stdout=subprocess.PIPE, check=True)
        for other in others:
            other.close()
    found = {kind: np.array(values) for kind, values in json.loads(done.stdout).items()}
    cost, bare = (np.maximum(found[kind] - found["alone"], 0) for kind in ("member", "bare"))
    return {
        "edge server at 100 requests/s, no site: share of a core": figure(found["alone"]),
        "agent at 100 requests/s: share of a core": figure(cost, 0.01),
        "bare gRPC stream of as many bytes: share of a core": figure(bare),
        "agent at 100 requests/s: kB/s": figure([proxy.bytes / found["member_s"].sum() / 1e3], 20.0),
        "age of the view under load, 95 %, ms": figure([1e3 * float(np.quantile(found["ages"], 0.95))], 100.0),
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
        loop = Loop()
        fakes = [FakeNode(address, f"edge-{i}", Path(name), NODE_RATE, loop) for i in range(nodes)]
        for fake in fakes:
            fake.stream.joined.wait(60)
        with reading_page(page):
            time.sleep(2.0)
            for _ in rounds(count, "a controller"):
                before, began_s = sum(process.cpu_times()[:2]), time.monotonic()
                time.sleep(seconds)
                cores.append((sum(process.cpu_times()[:2]) - before) / (time.monotonic() - began_s))
        for fake in fakes:
            fake.close()
    label = f"controller, {nodes} servers, {nodes * NODE_RATE:g} decisions/s, page open: share of a core"
    return {label: figure(cores, 0.1)}


def main() -> None:
    made = parser(__doc__, "site_cost")
    settings = made.parse_args()
    quick = settings.quick
    figures = decision_figures(5 if quick else 300)
    figures |= node_figures(1 if quick else 8, 1.0 if quick else 3.0)
    figures |= controller_figures(1 if quick else 3, 1.0 if quick else 8.0, 3 if quick else NODES)
    save(settings, figures)


if __name__ == "__main__":
    main()
