"""A slow device and a faster edge server as processes on loopback, behind a link of any constant rate.

Both processors are emulated: each computes on one thread of this machine and then sleeps until the slower processor
would have been done (the device: coding too; see `coinfer.runtime.emulation.slowdown`). The link is a token
bucket without burst that carries requests and replies.
"""

import argparse
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from coinfer.demo.cluster import edges
from coinfer.demo.pictures import Pictures, load_pictures
from coinfer.graph.ir import ModelGraph
from coinfer.graph.open_model import open_model
from coinfer.options.compile import compile_options
from coinfer.options.table import Options
from coinfer.profile.table import ProfileTable
from coinfer.runtime.clock import WallClock
from coinfer.runtime.device.device import Device
from coinfer.runtime.device.objective import Objective
from coinfer.runtime.device.planning.accuracy_table import accuracy_for
from coinfer.runtime.device.planning.message_size import with_messages
from coinfer.runtime.device.planning.observation import feasible_latency_s
from coinfer.runtime.device.result import Result
from coinfer.runtime.emulation.links import Link
from coinfer.runtime.profiling import profile_for
from coinfer.traces import Trace
from coinfer.types import DEVICE, OffloadDecision, Policy

RESULTS = Path(__file__).resolve().parent / "results" / "real"
BITS = (32, 16, 12, 8, 4)
BYTE_PER_S = 8.0
"""Bits per second."""
SETTLED = 0.1
"""The believed rate errs by at most this share."""
SETTLING_RUNS = 25


@dataclass
class Site:
    graph: ModelGraph
    table: ProfileTable
    device: Device
    links: dict[str, Link]
    pictures: Pictures
    trained: Policy | None
    """That of the file, where one was given."""
    asked: int = 0
    rate_bps: float = 1e7

    def set_rate(self, rate_bps: float) -> None:
        """From now on the link has this rate; the device does not know yet."""
        self.rate_bps = rate_bps
        for address in self.links:
            self.links[address] = Link(Trace.constant(rate_bps), WallClock(), burst_bits=0.0)

    def settle(self, option: int) -> None:
        """Sends this option until the device believes about the right rate."""
        for _ in range(SETTLING_RUNS):
            if abs(self.device.links_bps()[0] / self.rate_bps - 1) < SETTLED:
                return
            self.ask(forced(option, 0))

    def ask(self, policy: Policy, deadline_s: float = float("inf")) -> tuple[Result, bool]:
        """The next picture, and whether the answer is its class."""
        number = self.asked % len(self.pictures.images)
        self.asked += 1
        result = self.device.infer(self.pictures.images[number], deadline_s=deadline_s, policy=policy)
        assert not result.fallback, result.fallback
        labels = self.pictures.labels
        return result, labels is not None and int(np.argmax(result.output)) == int(labels[number])

    def predicted_s(self, option: int) -> float:
        """Of an option at the true rate, with the speeds of the processors as the device has learned them."""
        seen = self.device.observe()
        seen = seen._replace(uplink_bps=np.full_like(seen.uplink_bps, self.rate_bps))
        return float(feasible_latency_s(seen)[0, option].min())


def forced(option: int, server: int) -> Policy:
    return lambda _: OffloadDecision(np.array([option]), np.array([server]))


def alone(options: Options, exit_: int) -> Policy:
    """An exit whole on the device."""
    stays = np.flatnonzero((options.upload_bits == 0) & (options.exit == exit_))
    return forced(int(stays[0]), DEVICE)


@contextmanager
def site(arguments: argparse.Namespace, all_options: bool) -> Iterator[Site]:
    """Starts the edge server and the device. With a trained policy, its options are those of the planner too.

    Args:
        all_options: every exit, cut and number of bits may be asked for, not only those that the planner may choose.
    """
    graph = open_model(arguments.model)
    table = profile_for(graph)
    with edges(arguments.model, [arguments.edge_slowdown], ("--http-port", "-1")) as (edge,):
        links: dict[str, Link] = {edge.address: Link(Trace.constant(Site.rate_bps), WallClock(), burst_bits=0.0)}
        settings = {
            "servers": [edge.address],
            "profile": table,
            "bits": BITS,
            "links": links,
            "slowdown": arguments.device_slowdown,
            "hedge": False,
        }
        accuracy = accuracy_for(graph, arguments.accuracy, Objective())
        options = None
        if all_options:
            options = with_messages(compile_options(graph, table, BITS, accuracy), graph)
        policy = getattr(arguments, "policy", None)
        with Device(graph, accuracy=accuracy, options=options, policy=policy, **settings) as device:
            trained = device.planner.policy if policy else None
            yield Site(graph, table, device, links, load_pictures(graph, arguments.data), trained)


def arguments(description: str | None) -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="alexnet-exits")
    parser.add_argument("--data", required=True, help="folder of CIFAR-10 files or of class sub-folders")
    parser.add_argument("--accuracy", type=Path, default=None, help="table; the one shipped with the network without")
    parser.add_argument("--device-slowdown", type=float, default=200.0)
    parser.add_argument("--edge-slowdown", type=float, default=5.0)
    parser.add_argument("--output", type=Path, default=RESULTS)
    return parser
