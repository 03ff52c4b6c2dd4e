"""Trained policies on real nodes: several devices, three edge servers of unlike speed, links that follow traces.

    python experiments/real-nodes/run.py [--policies FILE.onnx ...] [--rounds 6] [--first-round 6]

Servers are processes on loopback, devices are objects of this one; all processors are slowed by sleeping, and each
device has its own links. Every scheme answers the same requests (Poisson, the same moments for all) on the same replay
of the links: the trained policies (without `--policies` the one that comes with the package); the planner, which takes
for each request as it comes the least latency by the own estimates of the device, as sequential greedy does; and every
device alone. In each round all take their turn, another one first, and what is compared are differences within a
round. `--first-round N` adds rounds from N on to the record. Writes results/real-nodes.json and .png.
"""

import argparse
import json
import math
import time
from collections.abc import Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console
from rich.table import Table

from coinfer.demo.cluster import edges
from coinfer.demo.schemes import device_only
from coinfer.evaluate.statistics import Estimate, paired_difference
from coinfer.graph.open_model import open_model
from coinfer.policies.onnx import load_policy
from coinfer.profile.measure import this_machine
from coinfer.resources import POLICIES, TRACES
from coinfer.runtime.clock import WallClock
from coinfer.runtime.device.device import Device
from coinfer.runtime.device.result import Result
from coinfer.runtime.emulation.links import Link
from coinfer.runtime.images import load_images
from coinfer.runtime.profiling import profile_for
from coinfer.traces import Trace, load_traces
from coinfer.types import Policy
from coinfer.units import BITS_PER_BYTE

LEARNED = POLICIES / "learned.onnx"
RESULTS = Path(__file__).resolve().parent / "results"
NAMES = {"learned": "learned policy"}
CONCURRENT = 64
BURST_BITS = 3200 * BITS_PER_BYTE
"""What an idle link saves up."""
REST_S = 1.5
PLANNER = "planner (sequential greedy)"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--policies", type=Path, nargs="*", default=[LEARNED], help="trained ones (.onnx)")
    parser.add_argument("--model", default="mobilenetv2")
    parser.add_argument("--device-slowdowns", type=_factors, default=(40.0, 34.0, 28.0, 24.0, 20.0, 16.0))
    parser.add_argument("--edge-slowdowns", type=_factors, default=(12.0, 6.0, 4.0))
    parser.add_argument("--link-scale", type=float, default=1.0)
    parser.add_argument("--rate", type=float, default=1.5, help="requests per second of each device")
    parser.add_argument("--deadline-ms", type=float, default=250.0)
    parser.add_argument("--round-s", type=float, default=15.0)
    parser.add_argument("--rounds", type=int, default=6)
    parser.add_argument("--first-round", type=int, default=0)
    parser.add_argument("--output", type=Path, default=RESULTS)
    parsed = parser.parse_args()
    with ExitStack() as stack:
        devices, links, traces = site(stack, parsed)
        each = [policies_of(device, parsed.policies) for device in devices]
        schemes = {name: [policies[name] for policies in each] for name in each[0]}
        found = before(parsed) if parsed.first_round else {name: [] for name in schemes}
        for number in range(parsed.first_round, parsed.first_round + parsed.rounds):
            for name in rotated(list(schemes), number):
                found[name].append(round_of(devices, schemes[name], links, traces, parsed, number))
                Console().print(
                    number, name, {key: round(value, 4) for key, value in summary(found[name][-1:]).items()}
                )
            save(found, parsed)
    plot(found, parsed.deadline_ms / 1e3, parsed.output / "real-nodes.png")
    show({name: summary(rounds) for name, rounds in found.items()})
    for name, told in differences(found).items():
        Console().print(name, told)


def save(found: "Found", parsed: argparse.Namespace) -> None:
    written = {
        "settings": json.loads(json.dumps(vars(parsed), default=lambda path: Path(path).stem)),
        "machine": this_machine().model_dump(),
        "schemes": {name: summary(rounds) for name, rounds in found.items()},
        "differences": differences(found),
        "rounds": found,
    }
    parsed.output.mkdir(parents=True, exist_ok=True)
    (parsed.output / "real-nodes.json").write_text(json.dumps(written) + "\n", encoding="utf-8")


Found = dict[str, list[dict[str, Any]]]


def before(parsed: argparse.Namespace) -> Found:
    """Rounds of the record."""
    return json.loads((parsed.output / "real-nodes.json").read_text(encoding="utf-8"))["rounds"]


def rotated(names: list[str], number: int) -> list[str]:
    first = number % len(names)
    return names[first:] + names[:first]


def differences(found: Found) -> dict[str, dict[str, list[float]]]:
    """Of every scheme to the planner by round: mean, and the 95 % interval of the mean (Student)."""
    told: dict[str, dict[str, list[float]]] = {}
    for name in found:
        if name != PLANNER:
            parts = {}
            for key in ("mean_s", "p95_s", "in_time"):
                own, other = (np.array([summary([one])[key] for one in found[scheme]]) for scheme in (name, PLANNER))
                parts[key] = ends(paired_difference(own, other))
            told[f"{name} less {PLANNER}"] = parts
    return told


def ends(estimate: Estimate) -> list[float]:
    """Mean, lower and upper end."""
    mean, half = estimate
    return [mean, mean - half, mean + half]


def _factors(text: str) -> tuple[float, ...]:
    return tuple(float(part) for part in text.split(","))


Links = list[dict[str, Link]]


def link_traces(count: int, scale: float) -> dict[str, Trace]:
    """One trace for each link by name: the shipped ones, or the first at different times if there are fewer."""
    traces = {name: replace(trace, rate_bps=trace.rate_bps * scale) for name, trace in load_traces(TRACES).items()}
    if len(traces) >= count:
        return dict(list(traces.items())[:count])
    name, trace = next(iter(traces.items()))
    offsets_s = [trace.period_s * i / count for i in range(count)]
    return {f"{name} +{offset_s:.0f} s": trace.shifted(offset_s) for offset_s in offsets_s}


def site(stack: ExitStack, parsed: argparse.Namespace) -> tuple[list[Device], Links, list[dict[str, Trace]]]:
    """Servers, and devices that know how fast they are."""
    graph = open_model(parsed.model)
    table = profile_for(graph)
    running = stack.enter_context(edges(parsed.model, parsed.edge_slowdowns))
    count = len(parsed.device_slowdowns)
    all_traces = link_traces(len(running), parsed.link_scale)
    traces = [
        {
            edge.address: trace.shifted(trace.period_s * i / count)
            for edge, trace in zip(running, all_traces.values(), strict=True)
        }
        for i in range(count)
    ]
    links: Links = [{} for _ in range(count)]
    replay(links, traces, parsed.link_scale)
    devices = []
    for slowdown, ways in zip(parsed.device_slowdowns, links, strict=True):
        settings = {"profile": table, "slowdown": slowdown, "links": ways}
        device = Device(graph, servers=list(ways), deadline_s=parsed.deadline_ms / 1e3, **settings)
        stack.callback(device.close)
        device.open()
        devices.append(device)
    return devices, links, traces


def replay(links: Links, traces: Sequence[Mapping[str, Trace]], scale: float) -> None:
    """All links from the beginning of their traces."""
    for ways, own in zip(links, traces, strict=True):
        ways |= {node: Link(trace, WallClock(), burst_bits=BURST_BITS * scale) for node, trace in own.items()}


def policies_of(device: Device, files: Sequence[Path]) -> dict[str, Policy]:
    """By name. A trained one must take any options, or be made for these."""
    trained: dict[str, Policy] = {
        NAMES.get(file.stem, file.stem): load_policy(file).adapt(device.options.triples, len(device.servers))
        for file in files
    }
    return {**trained, PLANNER: device.planner.objective_policy, "device only": device_only(device.options)}


def round_of(
    devices: Sequence[Device],
    policies: Sequence[Policy],
    links: Links,
    traces: Sequence[Mapping[str, Trace]],
    parsed: argparse.Namespace,
    number: int,
) -> dict[str, Any]:
    """One scheme for `--round-s` seconds; moments, pictures and the part of the traces depend on the round's number
    only."""
    pictures = [picture for _, picture in load_images()]
    begin(devices, pictures, links, traces, parsed, number)
    asked = moments(len(devices), parsed.rate, parsed.round_s, number)
    names = {address: f"edge {i + 1}" for i, address in enumerate(devices[0].servers)}
    futures: list[Future[Result]] = []
    with ThreadPoolExecutor(CONCURRENT) as pool:
        began_s = time.monotonic()
        for i, (at_s, which) in enumerate(asked):
            time.sleep(max(began_s + at_s - time.monotonic(), 0.0))
            picture, policy = pictures[i % len(pictures)], policies[which]
            futures.append(pool.submit(devices[which].infer, picture, policy=policy))
        results = [future.result() for future in futures]
    return {
        "latency_s": [round(result.outcome.latency_s, 5) for result in results],
        "in_time": [bool(result.outcome.in_time) for result in results],
        "by": [names.get(result.executed_on, "device") for result in results],
        "fallbacks": sum(bool(result.fallback) for result in results),
        "error": [round(abs(result.predicted_s / result.outcome.latency_s - 1), 4) for result in results],
    }


def begin(
    devices: Sequence[Device],
    pictures: Sequence[np.ndarray],
    links: Links,
    traces: Sequence[Mapping[str, Trace]],
    parsed: argparse.Namespace,
    number: int,
) -> None:
    """Have every device find out how fast it is now, rest, and begin the replay of the round's part of the traces."""
    with ThreadPoolExecutor(len(devices)) as pool:
        list(pool.map(lambda device: settle(device, pictures), devices))
    traces = [{node: trace.shifted(number * parsed.round_s) for node, trace in own.items()} for own in traces]
    replay(links, traces, parsed.link_scale)
    time.sleep(REST_S)
    replay(links, traces, parsed.link_scale)


def moments(devices: int, rate: float, round_s: float, number: int) -> list[tuple[float, int]]:
    """Return when which device is asked, the same for all schemes of a round."""
    rng = np.random.default_rng(number)
    return sorted(
        (float(at_s), which)
        for which in range(devices)
        for at_s in np.cumsum(rng.exponential(1 / rate, int(2 * rate * round_s)))
        if at_s < round_s
    )


def settle(device: Device, pictures: Sequence[np.ndarray]) -> None:
    for picture in pictures:
        device.infer(picture, policy=device_only(device.options))


def summary(rounds: Sequence[Mapping[str, Any]]) -> dict[str, float]:
    latency_s = np.concatenate([one["latency_s"] for one in rounds])
    means_s = [float(np.mean(one["latency_s"])) for one in rounds]
    spread_s = float(np.std(means_s, ddof=1) / math.sqrt(len(means_s))) if len(means_s) > 1 else 0.0
    return {
        "requests": float(len(latency_s)),
        "mean_s": float(latency_s.mean()),
        "standard_error_s": spread_s,
        "p95_s": float(np.quantile(latency_s, 0.95)),
        "in_time": float(np.mean(np.concatenate([one["in_time"] for one in rounds]))),
        "on_device": float(np.mean([node == "device" for one in rounds for node in one["by"]])),
        "fallbacks": float(sum(one["fallbacks"] for one in rounds)),
        "prediction_error": float(np.median(np.concatenate([one["error"] for one in rounds]))),
    }


def show(schemes: Mapping[str, Mapping[str, float]]) -> None:
    table = Table()
    for heading in ("scheme", "requests", "mean ms", "±", "p95 ms", "in time", "on the device", "fallbacks"):
        table.add_column(heading, justify="left" if heading == "scheme" else "right")
    for name, one in schemes.items():
        times = (f"{one[key] * 1e3:.1f}" for key in ("mean_s", "standard_error_s", "p95_s"))
        shares = (f"{one[key]:.1%}" for key in ("in_time", "on_device"))
        table.add_row(name, f"{one['requests']:.0f}", *times, *shares, f"{one['fallbacks']:.0f}")
    Console().print(table)


def plot(found: Mapping[str, Sequence[Mapping[str, Any]]], deadline_s: float, path: Path) -> None:
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot as plt

    figure, axes = plt.subplots(figsize=(7, 4), layout="constrained")
    for name, rounds in found.items():
        latency_ms = np.sort(np.concatenate([one["latency_s"] for one in rounds])) * 1e3
        axes.semilogx(latency_ms, np.arange(1, len(latency_ms) + 1) / len(latency_ms), label=name)
    axes.axvline(deadline_s * 1e3, color="black", ls="--", lw=1, label="deadline")
    axes.set(xlabel="latency, ms", ylabel="share of requests answered", ylim=(0, 1), xlim=(50, 1500))
    ticks = (50, 100, 200, 500, 1000)
    axes.set_xticks(ticks, [str(tick) for tick in ticks])
    axes.minorticks_off()
    axes.set_title("Six devices, three edge servers, real processes")
    axes.legend()
    figure.savefig(path, dpi=120)
    plt.close(figure)


if __name__ == "__main__":
    main()
