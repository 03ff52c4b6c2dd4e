"""Networks in several pieces on a device and three real edge servers: predicted against measured latency, and routes
over several servers beside the best route to one.

    python experiments/mtl-a3c/real_nodes.py                                   # VGG16 and ResNet-50, 10 minutes
    python experiments/mtl-a3c/real_nodes.py --models alexnet-cifar --seconds 5 --link-scale 0.02

The servers are `coinfer edge` processes on loopback; all processors are slowed by sleeping, so that the whole network
takes each as long as `--whole-s` says. What a server receives passes through its interface of a given rate, whoever
sends it, and from the device first over the device's own link to it. In `far server behind a near one` and `slow
interface of the far server` the device reaches only the slowest server well, and routes over several servers should
win; in `all near` one hop should. `multiway` plans the former and `chain` the latter, from the profile of the network
on this machine, one warm run on each node and one ping; random routes over one to three servers are predicted and
measured, too. All routes answer the same picture in turns. Then the device's own planner decides about `--planned`
requests for each kind of links, from what it has measured itself and what servers tell of their links to each other.

Writes results/real-nodes.json and .png.
"""

import argparse
import json
import textwrap
import time
from collections import Counter
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from rich.console import Console
from rich.table import Table
from shaped import Shaped

from coinfer.demo.cluster import edges
from coinfer.graph.open_model import open_model
from coinfer.partition.chain import chain
from coinfer.partition.multiway import multiway
from coinfer.partition.problem import Partition, Problem
from coinfer.profile.measure import this_machine
from coinfer.runtime.clock import WallClock
from coinfer.runtime.device.device import Device
from coinfer.runtime.emulation.links import Link
from coinfer.runtime.images import load_images
from coinfer.runtime.profiling import profile_for
from coinfer.runtime.protocol.messages import InferRequest, WireTensor
from coinfer.runtime.transport.grpc_transport import GrpcTransport
from coinfer.traces import Trace
from coinfer.types import Hop, Route
from coinfer.units import FLOAT32_BITS, MEGA

RESULTS = Path(__file__).resolve().parent / "results"
BITS, DEADLINE_S, RESAMPLES, PINGS = 16, 29.0, 2000, 7
MEMORY_MIB = 5120
"""Of each server, so that it keeps all its pieces of VGG16, most of which hold a layer of 400 MiB."""
SETTLE_S = 8.0
"""From a change of the links to the first request that the planner decides about; meanwhile links are probed."""
LARGEST_TRANSFER_S = 0.35
"""Of a random route: a server that answers no ping for half a second is taken for lost."""
SEVERAL, ONE, RANDOM = "several hops", "one hop", "random"


class Links(NamedTuple):
    """Rates in Mbit/s."""

    up: tuple[float, float, float]
    """From the device to each server."""
    into: tuple[float, float, float]
    """Of each server's interface."""


LINKS = {
    "far server behind a near one": Links((8.0, 0.6, 0.4), (100.0, 100.0, 100.0)),
    "slow interface of the far server": Links((8.0, 0.6, 0.4), (100.0, 100.0, 8.0)),
    "all near": Links((8.0, 8.0, 8.0), (100.0, 100.0, 100.0)),
}


class Case(NamedTuple):
    """A route that is measured in turns with the others."""

    links: str
    kind: str
    route: Route
    predicted_s: float


class Site:
    """A device and its servers, with what is known of them before any route is measured.

    Args:
        name: of the network.
        parsed: settings of the run.
        stack: closes everything.
    """

    def __init__(self, name: str, parsed: argparse.Namespace, stack: ExitStack):
        self.graph, self.scale = open_model(name), parsed.link_scale
        self.table = profile_for(self.graph)
        device, *servers = (max(1.0, wanted_s / self.table.whole_s) for wanted_s in parsed.whole_s)
        options = ("--http-port", "-1", "--peers", "any", "--memory-mib", str(MEMORY_MIB))
        running = stack.enter_context(edges(name, servers, options))
        self.interfaces = [stack.enter_context(Shaped(edge.address)) for edge in running]
        self.addresses = [interface.address for interface in self.interfaces]
        self.links = {address: Link(Trace.constant(1e9), WallClock()) for address in self.addresses}
        self.device = stack.enter_context(
            Device(
                self.graph,
                servers=self.addresses,
                profile=self.table,
                links=self.links,
                slowdown=device,
                bits=(BITS,),
                hedge=False,
            )
        )
        self.transport = GrpcTransport()
        stack.callback(self.transport.close)
        self.picture = load_images()[0][1]
        self.slowdown, self.wait_s = device, np.array([0.0, *map(self._ping_s, self.addresses)])
        whole_s = self.table.segment_s(self.graph, self.graph.inputs, self.graph.outputs)
        _, alone = (self.device.infer_by_route(self.picture, self.route(("device",), ())) for _ in range(2))
        self.answer = alone.output
        took_s = [alone.outcome.latency_s, *map(self._whole_s, self.addresses)]
        self.speed = np.array(took_s) / whole_s
        """[1 + N] time of each node over the profile's."""

    def set_links(self, name: str) -> Links:
        links = Links(*(tuple(MEGA * self.scale * rate for rate in rates) for rates in LINKS[name]))
        for address, interface, up, into in zip(self.addresses, self.interfaces, *links, strict=True):
            self.links[address] = Link(Trace.constant(up), WallClock(), burst_bits=0.0)
            interface.set_rate(into)
        return links

    def route(self, nodes: Sequence[str], cuts: Sequence[tuple[str, ...]]) -> Route:
        ends = [*cuts, self.graph.outputs]
        bits = [BITS] * len(cuts) + [FLOAT32_BITS]
        return Route(tuple(map(Hop, nodes, ends, bits)), len(self.device.planner.exits) - 1, DEADLINE_S)

    def planned(self, found: Partition) -> Route:
        names = ["device", *(self.addresses[node - 1] for node in found.nodes[1:])]
        return self.route(names, [cut.tensors for cut in found.cuts])

    def problem(self, links: Links) -> Problem:
        up, into = (np.array(rates) for rates in links)
        rate_bps = np.tile(np.concatenate([[np.inf], into]), (4, 1))
        rate_bps[0, 1:] = rate_bps[1:, 0] = 1 / (1 / up + 1 / into)
        bits = {name: self.sent_bits((name,), measured=name in self.graph.inputs) for name in self.graph.tensors}
        return Problem(self.graph, np.outer(self.speed, self.table.op_s), bits, rate_bps, self.wait_s)

    def sent_bits(self, names: Sequence[str], measured: bool = True) -> float:
        """Return the size of tensors: as the device encodes them for a slow link, or as a server sends them on."""
        found = self.table.size_bits(self.graph, names, BITS) if measured else None
        return sum(self.graph.tensors[name].elements * float(BITS) for name in names) if found is None else found

    def predicted_s(self, route: Route, links: Links) -> float:
        """Return the time of computing, coding, sending and answering along a route; nothing waits."""
        total_s, inputs = 0.0, self.graph.inputs
        for i, hop in enumerate(route.hops):
            node = 0 if i == 0 else self.addresses.index(hop.node) + 1
            if node:
                bits = self.sent_bits(inputs, measured=i == 1)
                air_s, coder = (bits / links.up[node - 1], self.slowdown) if i == 1 else (0.0, 1.0)
                total_s += air_s + bits / links.into[node - 1] + self.wait_s[node]
                total_s += coder * self.table.encoding_s(self.graph, inputs, BITS)
                total_s += self.table.decoding_s(self.graph, inputs, BITS)
            total_s += self.speed[node] * self.table.segment_s(self.graph, inputs, hop.cut)
            inputs = hop.cut
        return float(total_s)

    def _ping_s(self, address: str) -> float:
        return float(np.median([self.transport.ping(address, 5.0).result().round_trip_s for _ in range(PINGS)]))

    def _whole_s(self, address: str) -> float:
        """Return what the whole network takes a server, from a warm run."""
        given = tuple(WireTensor(name, "UINT8", (0,), b"", codec=True) for name in self.graph.inputs)
        request = InferRequest(self.graph.name, given, self.graph.outputs, warm=True)
        return self.transport.send(address, request, DEADLINE_S).result().server_s


def cases_of(site: Site, count: int, rng: np.random.Generator) -> list[Case]:
    """Return the planned routes for all links, and random ones."""
    cases = []
    for name in LINKS:
        links = site.set_links(name)
        problem = site.problem(links)
        for kind, solve in ((SEVERAL, multiway), (ONE, chain)):
            route = site.planned(solve(problem))
            cases.append(Case(name, kind, route, site.predicted_s(route, links)))
    links = site.set_links("all near")
    while len(cases) < 2 * len(LINKS) + count:
        route = random_route(site, 1 + len(cases) % len(site.addresses), rng)
        slowest = min(links.into)
        if all(site.sent_bits(hop.cut, measured=False) / slowest < LARGEST_TRANSFER_S for hop in route.hops):
            cases.append(Case("all near", RANDOM, route, site.predicted_s(route, links)))
    return cases


def random_route(site: Site, count: int, rng: np.random.Generator) -> Route:
    servers = rng.permutation(len(site.addresses))[:count]
    useful = site.graph.useful_cuts()[:-1]
    numbers = np.sort(rng.choice(len(useful), len(servers), replace=False))
    return site.route(["device", *(site.addresses[server] for server in servers)], [useful[i].tensors for i in numbers])


def measured(site: Site, cases: Sequence[Case], seconds: float, rng: np.random.Generator) -> list[dict[str, Any]]:
    """Measure all routes in turns until the time is over, once at least, after one round that opens all pieces."""
    rows: list[dict[str, Any]] = []
    each, until_s = -1, np.inf
    while each < 1 or time.monotonic() < until_s:
        for number in rng.permutation(len(cases)):
            case = cases[number]
            site.set_links(case.links)
            got = site.device.infer_by_route(site.picture, case.route)
            row = {"case": int(number), "round": each, "latency_s": float(got.outcome.latency_s)}
            difference = float(np.abs(got.output - site.answer).max() / np.abs(site.answer).max())
            rows.append({**row, "fallback": got.fallback, "difference": difference})
        until_s = time.monotonic() + seconds if each < 0 else until_s
        each += 1
    return [row for row in rows if row["round"] >= 0]


def planned(site: Site, count: int) -> list[dict[str, Any]]:
    """Answer requests as the device's planner decides, for all links one after the other."""
    rows = []
    for name in LINKS:
        site.set_links(name)
        until_s = time.monotonic() + SETTLE_S
        while time.monotonic() < until_s:
            site.device.plan(DEADLINE_S)  # as if requests came, so that links are measured
            time.sleep(0.1)
        for _ in range(count):
            got = site.device.infer(site.picture, deadline_s=DEADLINE_S)
            row = {"links": name, "route": told(site, got.route), "hops": len(got.route.hops) - 1}
            rows.append({**row, "predicted_s": got.predicted_s, "latency_s": float(got.outcome.latency_s)})
            rows[-1]["fallback"] = got.fallback
    return rows


def summary_of_planned(rows: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Return what the planner chose for each kind of links, its latency, and how far it was from the prediction."""
    found = {}
    for name in LINKS:
        own = [row for row in rows if row["links"] == name]
        good = [row for row in own if not row["fallback"]]
        error = [abs(row["predicted_s"] / row["latency_s"] - 1) for row in good]
        found[name] = {
            "routes": dict(Counter(row["route"] for row in own)),
            "fallbacks": len(own) - len(good),
            "predicted_s": float(np.median([row["predicted_s"] for row in own])),
            "median_s": float(np.median([row["latency_s"] for row in own])),
            "error_median": float(np.median(error)) if error else None,
        }
    return found


def told(site: Site, route: Route) -> str:
    """Return a route for people: nodes with where each of them ends."""
    names = {"device": "device", **{address: f"{n + 1}" for n, address in enumerate(site.addresses)}}
    cuts = [cut.tensors for cut in site.graph.useful_cuts()]
    steps = [f"{names[hop.node]} to block {cuts.index(hop.cut)}" for hop in route.hops[:-1]]
    return ", ".join([*steps, names[route.hops[-1].node]]).replace("device to block 0, ", "")


def summary_of(site: Site, cases: Sequence[Case], rows: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Return errors of the predictions, and what several hops save, paired by rounds."""
    good = [row for row in rows if not row["fallback"]]
    error = [abs(cases[row["case"]].predicted_s / row["latency_s"] - 1) for row in good]
    by_case = [{row["round"]: row["latency_s"] for row in good if row["case"] == i} for i in range(len(cases))]
    ratios = {}
    for name in LINKS:
        several, one = (
            next(took for case, took in zip(cases, by_case, strict=True) if (case.links, case.kind) == (name, kind))
            for kind in (SEVERAL, ONE)
        )
        pairs = [several[each] / one[each] for each in several.keys() & one.keys()]
        if pairs:
            means = np.random.default_rng(0).choice(pairs, (RESAMPLES, len(pairs))).mean(1)
            ratios[name] = {"mean": float(np.mean(pairs)), "interval": np.quantile(means, [0.025, 0.975]).tolist()}
    return {
        "requests": len(rows),
        "fallbacks": len(rows) - len(good),
        "prediction_error": {"median": float(np.median(error)), "p90": float(np.quantile(error, 0.9))},
        "largest_difference": max(row["difference"] for row in rows),
        "several_over_one": ratios,
        "cases": [
            {
                "links": case.links,
                "kind": case.kind,
                "route": told(site, case.route),
                "hops": len(case.route.hops) - 1,
                "predicted_s": case.predicted_s,
                "median_s": float(np.median([*took.values()])) if took else None,
                "requests": len(took),
            }
            for case, took in zip(cases, by_case, strict=True)
        ],
    }


def show(name: str, found: dict[str, Any]) -> None:
    table = Table(title=name)
    for heading in ("links", "kind", "route", "predicted ms", "measured ms", "requests"):
        table.add_column(heading)
    for one in found["cases"]:
        took = "-" if one["median_s"] is None else f"{1e3 * one['median_s']:.0f}"
        table.add_row(
            one["links"], one["kind"], one["route"], f"{1e3 * one['predicted_s']:.0f}", took, str(one["requests"])
        )
    console = Console(width=150)
    console.print(table)
    console.print({key: value for key, value in found.items() if key != "cases"})


def plot(records: dict[str, Any], path: Path) -> None:
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot as plt

    figure, (left, right) = plt.subplots(1, 2, figsize=(10, 4.5), layout="constrained")
    for i, (name, found) in enumerate(records.items()):
        cases = [one for one in found["cases"] if one["median_s"] is not None]
        xs, ys = ([one[key] for one in cases] for key in ("predicted_s", "median_s"))
        left.loglog(xs, ys, "os^v"[i % 4], ms=5, label=name)
        for links, ratio in found["several_over_one"].items():
            mean, (low, high) = ratio["mean"], ratio["interval"]
            place = list(LINKS).index(links) + 0.15 * i
            right.errorbar(place, mean, [[mean - low], [high - mean]], fmt="os^v"[i % 4], color=f"C{i}")
    right.set_xticks(range(len(LINKS)), [textwrap.fill(text, 16) for text in LINKS])
    ends = left.get_xlim()
    left.plot(ends, ends, color="grey", lw=0.8)
    left.set_xlabel("predicted latency, s")
    left.set_ylabel("measured latency, s (median)")
    left.legend()
    right.axhline(1.0, color="grey", lw=0.8)
    right.set_ylabel("several hops over one hop, latency")
    figure.savefig(path, dpi=130)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", nargs="+", default=["vgg16", "resnet50"])
    parser.add_argument(
        "--whole-s", type=float, nargs=4, default=[4.0, 2.0, 1.0, 0.4], help="of device and servers, for the network"
    )
    parser.add_argument("--link-scale", type=float, default=1.0, help="factor on all rates of links")
    parser.add_argument("--random", type=int, default=8, help="random routes")
    parser.add_argument("--planned", type=int, default=20, help="requests by the planner for each kind of links")
    parser.add_argument("--seconds", type=float, default=120.0, help="of measuring, for each network")
    parser.add_argument("--output", type=Path, default=RESULTS, help="folder of record and plot")
    parsed = parser.parse_args()
    records = {}
    for name in parsed.models:
        rng = np.random.default_rng(0)
        with ExitStack() as stack:
            site = Site(name, parsed, stack)
            cases = cases_of(site, parsed.random, rng)
            rows = measured(site, cases, parsed.seconds, rng)
            own = planned(site, parsed.planned)
            summary = {**summary_of(site, cases, rows), "planner": summary_of_planned(own)}
        records[name] = {**summary, "rows": rows, "planner_rows": own}
        show(name, summary)
    settings = json.loads(json.dumps(vars(parsed), default=str))
    settings.pop("output")
    parsed.output.mkdir(parents=True, exist_ok=True)
    record = {"settings": settings, "machine": this_machine().model_dump(), "networks": records}
    (parsed.output / "real-nodes.json").write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")
    plot(records, parsed.output / "real-nodes.png")


if __name__ == "__main__":
    main()
