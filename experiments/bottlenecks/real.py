"""Latency with and without a bottleneck on real processes, against the rate of the link.

    python experiments/bottlenecks/real.py --model FILE.onnx --data cifar10/ [--points 1]

A device and an edge server as processes on loopback, both slowed, with shaped links of constant rate between them.
All schemes answer the same pictures in turns. The planner takes the least predicted latency of the options that lose at
most so many points of accuracy; without the bottleneck, its codes are masked out. Pictures travel as bytes or as JPEG,
whichever a scheme says. Writes results/real-NAME.json and .png.
"""

import argparse
import json
import os
from collections import Counter
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console
from rich.table import Table

from coinfer.demo.cluster import edges
from coinfer.graph.open_model import open_model
from coinfer.profile.dataset import load_dataset
from coinfer.profile.measure import this_machine
from coinfer.runtime.clock import WallClock
from coinfer.runtime.device.device import Device
from coinfer.runtime.device.objective import Objective
from coinfer.runtime.device.planning.accuracy_table import accuracy_for
from coinfer.runtime.device.planning.objective_policy import policy_for
from coinfer.runtime.device.result import Result
from coinfer.runtime.emulation.links import Link
from coinfer.runtime.profiling import profile_for
from coinfer.traces import Trace
from coinfer.types import DEVICE, OffloadDecision, OffloadObservation, Policy
from coinfer.units import BITS_PER_BYTE

RESULTS = Path(__file__).resolve().parent / "results"
RATES_BYTE_PER_S = (7.5e3, 1e4, 1.5e4, 2e4, 3e4, 5e4, 7.5e4, 1e5, 1.5e5, 2e5, 5e5, 1e6, 2e6, 5e6)
WITH, WITHOUT = "planner with bottleneck", "planner without"
SETTLING = 6
RESAMPLES = 2000


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", type=Path, required=True)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--points", type=float, default=1.0, help="accuracy that may be lost")
    parser.add_argument("--accuracy", type=Path, default=None, help="table; the one shipped with the network without")
    parser.add_argument("--device-slowdown", type=float, default=100.0)
    parser.add_argument("--edge-slowdown", type=float, default=2.0)
    parser.add_argument("--requests", type=int, default=30, help="of each scheme at each rate")
    parser.add_argument("--output", type=Path, default=RESULTS)
    parsed = parser.parse_args()
    data = load_dataset(parsed.data, "test")
    # Pictures of all classes: data sets come in order of class, and some classes are larger as JPEG than others.
    some = data.images[np.random.default_rng(0).permutation(len(data.images))[: max(parsed.requests, SETTLING)]]
    rows: list[dict[str, Any]] = []
    ratios: list[dict[str, Any]] = []
    with ExitStack() as stack:
        (edge,) = stack.enter_context(edges(str(parsed.model), [parsed.edge_slowdown], ("--http-port", "-1")))
        # Each device has a link of its own, so that none waits for another's probes.
        links: dict[str, dict[str, Link]] = {"bytes": {}, "JPEG 75": {}}
        devices = {
            name: stack.enter_context(device_for(parsed, edge.address, links[name], quality))
            for name, quality in (("bytes", None), ("JPEG 75", 75))
        }
        for rate in RATES_BYTE_PER_S:
            for own in links.values():
                own[edge.address] = constant_link(rate)
            found = at_rate(devices, rate, some, parsed.requests)
            rows += [row(name, rate, results) for name, results in found.items()]
            show(rows[-len(found) :])
            ratios += [ratio(found, quality, rate) for quality in ("bytes", "JPEG 75")]
            print("; ".join(told(one) for one in ratios[-2:]))
    write(rows, ratios, parsed)


def constant_link(rate_byte_per_s: float) -> Link:
    return Link(Trace.constant(BITS_PER_BYTE * rate_byte_per_s), WallClock(), burst_bits=0.0)


def device_for(parsed: argparse.Namespace, address: str, links: dict[str, Link], quality: int | None) -> Device:
    graph = open_model(parsed.model)
    accuracy = accuracy_for(graph, parsed.accuracy, Objective())
    assert accuracy is not None, "the network has no accuracy table"
    links[address] = constant_link(RATES_BYTE_PER_S[0])
    return Device(
        graph,
        servers=[address],
        profile=profile_for(graph),
        links=links,
        slowdown=parsed.device_slowdown,
        hedge=False,
        jpeg_quality=quality,
        accuracy=parsed.accuracy,
        objective=Objective(min_accuracy=accuracy.accuracy(len(accuracy.exits) - 1) - parsed.points / 100),
    )


def schemes(devices: dict[str, Device]) -> dict[str, tuple[Device, Policy]]:
    """Policies by name, each with the device that it decides for."""
    found: dict[str, tuple[Device, Policy]] = {}
    for name, device in devices.items():
        options = device.options
        last = int(options.exit.max())
        codes = np.array([device.graph.part(cut) is not device.graph for cut in options.cuts])
        rule = policy_for(device.planner.objective)
        sends = np.array([cut == device.graph.inputs for cut in options.cuts]) & (options.exit == last)
        here = options.is_local & (options.exit == last)
        if "device only" not in found:
            found["device only"] = device, fixed(int(np.flatnonzero(here)[0]), DEVICE)
        found[f"server only, {name}"] = device, fixed(int(np.flatnonzero(sends)[0]), 0)
        found[f"{WITHOUT}, {name}"] = device, masked(rule, ~codes)
        found[f"{WITH}, {name}"] = device, rule
    return found


def fixed(option: int, server: int) -> Policy:
    return lambda _: OffloadDecision(np.array([option]), np.array([server]))


def masked(rule: Policy, mask: np.ndarray) -> Callable[[OffloadObservation], OffloadDecision]:
    """The rule on some of the options."""
    return lambda seen: rule(seen._replace(option_mask=seen.option_mask & mask))


def at_rate(devices: dict[str, Device], rate: float, images: np.ndarray, requests: int) -> dict[str, list[Result]]:
    """All schemes in turns on the same pictures."""
    each = schemes(devices)
    for name, (device, policy) in each.items():
        if name.startswith("server only"):
            for k in range(SETTLING):
                device.infer(images[k], policy=policy)
    found: dict[str, list[Result]] = {name: [] for name in each}
    for k in range(requests):
        for name, (device, policy) in each.items():
            found[name].append(device.infer(images[k], policy=policy))
    return found


def ratio(found: dict[str, list[Result]], quality: str, rate: float) -> dict[str, Any]:
    """How many times as long the best of the others takes as the planner with codes, of means and of medians; the
    interval is over pictures, drawn alike for both."""
    latency_s = {name: np.array([result.outcome.latency_s for result in results]) for name, results in found.items()}
    own_s = latency_s[f"{WITH}, {quality}"]
    others = ("device only", f"server only, {quality}", f"{WITHOUT}, {quality}")
    best = min(others, key=lambda name: float(latency_s[name].mean()))
    drawn = np.random.default_rng(0).integers(0, len(own_s), (RESAMPLES, len(own_s)))
    of_means = latency_s[best][drawn].mean(axis=1) / own_s[drawn].mean(axis=1)
    medians_s = [float(np.median(latency_s[name])) for name in others]
    return {
        "rate_byte_per_s": rate,
        "pictures_as": quality,
        "best_other": best,
        "ratio_of_means": float(latency_s[best].mean() / own_s.mean()),
        "interval": np.quantile(of_means, [0.025, 0.975]).tolist(),
        "ratio_of_medians": min(medians_s) / float(np.median(own_s)),
    }


def told(one: dict[str, Any]) -> str:
    low, high = one["interval"]
    means, medians = one["ratio_of_means"], one["ratio_of_medians"]
    return f"{one['pictures_as']}: {means:.2f} times ({low:.2f} to {high:.2f}), medians {medians:.2f}"


def row(name: str, rate: float, results: list[Result]) -> dict[str, Any]:
    latency_s = np.array([result.outcome.latency_s for result in results])
    random = np.random.default_rng(0)
    means = random.choice(latency_s, (RESAMPLES, len(latency_s))).mean(axis=1)
    choices = Counter("+".join(result.route.hops[0].cut) for result in results)
    return {
        "scheme": name,
        "rate_byte_per_s": rate,
        "mean_s": float(latency_s.mean()),
        "interval_s": np.quantile(means, [0.025, 0.975]).tolist(),
        "median_s": float(np.median(latency_s)),
        "expected_accuracy": float(np.mean([result.outcome.accuracy for result in results])),
        "sent_bytes": float(np.mean([result.sent_bits for result in results])) / BITS_PER_BYTE,
        "choices": dict(choices.most_common()),
        "fallbacks": sum(bool(result.fallback) for result in results),
    }


def show(rows: list[dict[str, Any]]) -> None:
    table = Table()
    for heading in ("MB/s", "scheme", "mean ms", "95 %", "median ms", "accuracy", "bytes sent", "choices"):
        table.add_column(heading)
    for one in rows:
        low, high = (f"{1e3 * end:.1f}" for end in one["interval_s"])
        table.add_row(
            f"{one['rate_byte_per_s'] / 1e6:g}",
            one["scheme"],
            f"{1e3 * one['mean_s']:.1f}",
            f"{low} to {high}",
            f"{1e3 * one['median_s']:.1f}",
            f"{one['expected_accuracy']:.4f}",
            f"{one['sent_bytes']:.0f}",
            ", ".join(f"{cut} {count}" for cut, count in one["choices"].items()),
        )
    Console(width=170).print(table)


def write(rows: list[dict[str, Any]], ratios: list[dict[str, Any]], parsed: argparse.Namespace) -> None:
    settings = json.loads(json.dumps(vars(parsed), default=lambda path: Path(path).stem))
    found: dict[str, Any] = {"settings": settings, "machine": this_machine().model_dump(), "load": os.getloadavg()}
    found |= {"rows": rows, "ratios": ratios}
    parsed.output.mkdir(parents=True, exist_ok=True)
    name = f"real-{parsed.model.stem}"
    (parsed.output / f"{name}.json").write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")
    plot(rows, parsed.output / f"{name}.png")


def plot(rows: list[dict[str, Any]], path: Path) -> None:
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot as plt

    figure, axes = plt.subplots(figsize=(8, 5), layout="constrained")
    for i, name in enumerate(dict.fromkeys(one["scheme"] for one in rows)):
        mine = [one for one in rows if one["scheme"] == name]
        rates = [one["rate_byte_per_s"] / 1e6 for one in mine]
        axes.loglog(rates, [1e3 * one["mean_s"] for one in mine], marker="os^vDX*"[i % 7], ms=4, label=name)
    axes.set_xlabel("link, MB/s")
    axes.set_ylabel("mean latency, ms")
    axes.legend()
    axes.grid(alpha=0.3)
    figure.savefig(path, dpi=130)


if __name__ == "__main__":
    main()
