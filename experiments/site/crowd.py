"""The devices of the experiments: what they ask for, when, over which links, and what came of it."""

import random
import time
from collections.abc import Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import replace
from typing import Any

import numpy as np

from coinfer.evaluate.statistics import interval, paired_difference
from coinfer.graph.ir import ModelGraph
from coinfer.resources import TRACES
from coinfer.runtime.clock import WallClock
from coinfer.runtime.device.config import DeviceConfig
from coinfer.runtime.device.device import Device
from coinfer.runtime.emulation.links import Link
from coinfer.runtime.executor import Executor
from coinfer.runtime.images import load_images
from coinfer.runtime.protocol.messages import InferRequest, WireTensor
from coinfer.runtime.tracing import trace_context
from coinfer.runtime.transport.grpc_transport import GrpcTransport
from coinfer.traces import Trace, load_traces
from coinfer.units import BITS_PER_BYTE

IN_FLIGHT = 256
BURST = 0.25
"""Pace of requests between bursts; within them it is as much above 1 as this is below it."""
BURST_BITS = 3200 * BITS_PER_BYTE
JPEG_QUALITY = 90
SMALL_PIXELS = 64
"""Networks of smaller pictures get them unchanged."""


class Crowd:
    """Devices that ask for networks in turn, each over links of its own to every server.

    Args:
        graphs: device i asks for network i modulo their number.
        count: number of devices.
        servers: `host:port` of all edge servers.
        slowdown: of the devices.
        link_scale: of the rates of the shipped traces.
    """

    def __init__(
        self, graphs: Sequence[ModelGraph], count: int, servers: Sequence[str], slowdown: float, link_scale: float
    ):
        self.graphs = [graphs[i % len(graphs)] for i in range(count)]
        self.service_s = {graph.name: [service_s(graph, server) for server in servers] for graph in graphs}
        """How long each server takes for a network."""
        self._servers, self._slowdown, self._scale = servers, slowdown, link_scale
        self._executors = {graph.name: Executor(graph, slowdown=slowdown) for graph in graphs}
        """Devices of the same network share one: its pieces are in memory once."""
        kinds = [replace(one, rate_bps=one.rate_bps * link_scale) for one in load_traces(TRACES).values()]
        self._traces = [
            {server: _shifted(kinds[(i + n) % len(kinds)], (i * len(servers) + n) / (count * len(servers)))
             for n, server in enumerate(servers)}
            for i in range(count)
        ]  # fmt: skip
        self.asked = [graph.name for graph in graphs]
        """Networks that are asked for at present."""
        self.links: list[dict[str, Link]] = [{} for _ in range(count)]
        self.replay(0.0)
        self._pictures = [picture for _, picture in load_images()]

    def replay(self, from_s: float) -> None:
        """Begin all links' traces at one moment of them."""
        for own, traces in zip(self.links, self._traces, strict=True):
            for server, trace in traces.items():
                burst_bits = BURST_BITS * self._scale
                own[server] = Link(trace.shifted(from_s % trace.period_s), WallClock(), burst_bits=burst_bits)

    def open(self, stack: ExitStack, name: str, **settings: Any) -> list[Device]:
        """Open all devices with these settings; members of a site are called `name-number`."""
        devices: list[Device] = []
        for i, graph in enumerate(self.graphs):
            own = {"name": f"{name}-{i + 1}"} if "controller" in settings else {"servers": self._servers}
            jpeg = JPEG_QUALITY if graph.image and graph.image.height > SMALL_PIXELS else None
            config = DeviceConfig(slowdown=self._slowdown, jpeg_quality=jpeg, hedge=False, max_in_flight=IN_FLIGHT,
                                  **own, **settings)  # fmt: skip
            devices.append(Device(graph, config, links=self.links[i], executor=self._executors[graph.name]))
            stack.callback(devices[-1].close)
        with ThreadPoolExecutor(len(devices)) as pool:
            list(pool.map(Device.open, devices))
        return devices

    def capacity_per_s(self) -> float:
        """Return how many requests a second all servers together can compute."""
        each_s = np.mean([self.service_s[self.graphs[which].name] for which in self._asking()], axis=0)
        return float(np.sum(1 / each_s))

    def moments(self, rate_per_s: float, seconds: float, seed: int, burst_s: float = 0.0) -> list[tuple[float, int]]:
        """Return when which device is asked: Poisson processes of equal rates, the same for the same seed.

        Args:
            rate_per_s: of all together, on average.
            seconds: of the round.
            seed: of all that is drawn.
            burst_s: rates go to and fro between a quarter and seven quarters, after so long on average; 0 for never.
        """
        rng = np.random.default_rng(seed)
        times_s = np.cumsum(rng.exponential(1 / rate_per_s, int(3 * rate_per_s * seconds) + 20))
        if burst_s:
            times_s = _with_bursts(times_s, burst_s, rng)
        asking = self._asking()
        return [(float(at_s), int(rng.choice(asking))) for at_s in times_s[times_s < seconds]]

    def only(self, models: Sequence[str]) -> None:
        """Let only the devices of some networks ask from now on."""
        self.asked = list(models)

    def _asking(self) -> list[int]:
        return [which for which, graph in enumerate(self.graphs) if graph.name in self.asked]

    def ask(
        self, devices: Sequence[Device], moments: Sequence[tuple[float, int]], slack: float
    ) -> list[dict[str, Any]]:
        """Send the requests of a round, and return what came of each once all are answered.

        Args:
            devices: of one scheme.
            moments: from `moments`.
            slack: a request's deadline is so many times what its network takes the slowest server.
        """
        futures: list[Future[dict[str, Any]]] = []
        began_s = time.monotonic()
        with ThreadPoolExecutor(IN_FLIGHT) as pool:
            for number, (at_s, which) in enumerate(moments):
                time.sleep(max(began_s + at_s - time.monotonic(), 0.0))
                futures.append(pool.submit(self.ask_one, devices[which], which, number, at_s, slack))
            return [future.result() for future in futures]

    def ask_one(self, device: Device, which: int, number: int, at_s: float, slack: float) -> dict[str, Any]:
        """Send one request, traced, and return what came of it."""
        trace = f"{random.getrandbits(128) or 1:032x}"
        deadline_s = slack * max(self.service_s[self.graphs[which].name])
        with trace_context(f"00-{trace}-{1:016x}-01"):
            result = device.infer(self._pictures[number % len(self._pictures)], deadline_s=deadline_s)
        outcome = result.outcome
        return {
            "trace": trace,
            "at_s": round(at_s, 3),
            "device": which,
            "latency_s": round(float(outcome.latency_s), 4),
            "in_time": bool(outcome.in_time),
            "server_s": round(float(outcome.server_s), 4),
            "by": result.executed_on,
            "failed": bool(result.fallback),
        }


def _with_bursts(times_s: np.ndarray, burst_s: float, rng: np.random.Generator) -> np.ndarray:
    """Return the moments of requests that come faster in bursts, and slower between them.

    Args:
        times_s: of requests that come evenly.
        burst_s: mean length of bursts, and of what is between them.
        rng: draws the lengths.
    """
    paces = np.where(np.arange(2 * len(times_s) + 2) % 2 == 0, *rng.permutation([BURST, 2 - BURST]))
    ends_s = np.cumsum(rng.exponential(burst_s, len(paces)))
    lengths_s = np.diff(ends_s, prepend=0.0)
    passed = np.concatenate([[0.0], np.cumsum(lengths_s * paces)])
    return np.interp(times_s, passed, np.concatenate([[0.0], ends_s]))


def _shifted(trace: Trace, part: float) -> Trace:
    return trace.shifted(trace.period_s * part)


def service_s(graph: ModelGraph, server: str) -> float:
    """Return how long a server takes for all of a network, as it measures it itself."""
    inputs = tuple(WireTensor(name, "UINT8", (0,), b"", codec=True) for name in graph.inputs)
    request = InferRequest(graph.name, inputs, tuple(graph.outputs), warm=True)
    transport = GrpcTransport()
    try:
        return transport.send(server, request, 60.0).result().server_s
    finally:
        transport.close()


MEASURES = ("mean_s", "p95_s", "in_time")


def measures(rows: Sequence[Mapping[str, Any]]) -> dict[str, float]:
    """Return what a round came to."""
    latency_s = np.array([row["latency_s"] for row in rows])
    return {
        "requests": len(rows),
        "mean_s": round(float(latency_s.mean()), 4),
        "p95_s": round(float(np.quantile(latency_s, 0.95)), 4),
        "in_time": round(float(np.mean([row["in_time"] for row in rows])), 4),
        "on_device": round(float(np.mean([row["by"] == "device" for row in rows])), 4),
        "failed": sum(row["failed"] for row in rows),
    }


def compared(rounds: Mapping[str, Sequence[Mapping[str, float]]], reference: str) -> dict[str, Any]:
    """Return means over rounds with 95 % intervals, and differences to a scheme, as pairs of a round.

    Args:
        rounds: measures of each scheme, round by round.
        reference: the scheme with which the others are compared.
    """
    found: dict[str, Any] = {}
    for scheme, own in rounds.items():
        values = {key: np.array([one[key] for one in own]) for key in MEASURES}
        other = {key: np.array([one[key] for one in rounds[reference]]) for key in MEASURES}
        found[scheme] = {
            "requests": int(sum(one["requests"] for one in own)),
            "on_device": round(float(np.mean([one["on_device"] for one in own])), 4),
            **{key: rounded(interval(values[key])) for key in MEASURES},
            f"mean relative to {reference}": rounded(paired_difference(values["mean_s"] / other["mean_s"], 1.0)),
        }
    return found


def rounded(estimate: Sequence[float]) -> list[float | None]:
    """Return mean and half of the interval, None where there is none."""
    return [None if np.isnan(one) else round(float(one), 4) for one in estimate]


def rotated(names: Sequence[str], number: int) -> list[str]:
    """Return names in another order each round."""
    first = number % len(names)
    return [*names[first:], *names[:first]]
