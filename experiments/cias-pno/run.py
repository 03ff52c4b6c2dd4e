"""CIAS-PnO: what cutting, choosing servers, and choosing both together are each worth.

    python experiments/cias-pno/run.py

In cias-pno.yaml, ten seeds, at arrival rates 1.2, 2.0 and 2.4: CDLP's cuts with DSACO's agents (`cias-pno`), the
agents choosing among all surviving cuts too (`cias-pno-joint`), the agents without any cut, and the same cuts with
DDPG, Greedy and Random servers. `untrained`: the best of random networks, judged as the trained ones. What is stopped
goes on, and what results.json has is not trained again unless `--only` names it; `--draw` trains nothing. Also how long
CDLP takes for all tasks of a slot, against their number. Expected: cuts and agents both gain, CDLP's time grows
linearly or slower. Writes results/results.json, results/latency.png and results/decision.png.
"""

import argparse
import json
import sys
import time
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
import torch
from rich.console import Console

from coinfer.envs import offload
from coinfer.evaluate.statistics import interval
from coinfer.policies.heuristics import offload as heuristics
from coinfer.policies.learned.placement.placements import fixed_cut
from coinfer.profile.measure import this_machine
from coinfer.scenario.compile import fingerprint, open_world
from coinfer.units import MILLI

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parent / "cdo-dsac"))

from schemes import (  # noqa: E402
    CANDIDATES,
    JUDGE_SLOTS,
    Budget,
    Scheme,
    actor_of,
    cdo,
    measure,
    named,
    random_server,
    untrained,
)
from schemes import SCHEMES as CDO_DSAC  # noqa: E402

matplotlib.use("Agg")
from matplotlib import pyplot as plt  # noqa: E402
from matplotlib.ticker import LogLocator, NullFormatter, ScalarFormatter  # noqa: E402

SCENARIO = HERE / "cias-pno.yaml"
RATES, SEEDS, EPISODES = (1.2, 2.0, 2.4), 10, 8
ENDS = {"cuts": "ends"}
SCHEMES: dict[str, tuple[Scheme, dict[str, Any]]] = {
    "cias-pno": (cdo(), {}),
    "cias-pno-joint": (cdo(cuts="joint"), {}),
    "agents, no cuts": (cdo(), ENDS),
    "untrained": (untrained(actor_of()), {}),
    "untrained, joint": (untrained(actor_of(cuts="joint")), {}),
    "untrained, no cuts": (untrained(actor_of()), ENDS),
    "CDLP, DDPG": (CDO_DSAC["ddpg"], {}),
    "DDPG, no cuts": (CDO_DSAC["ddpg"], ENDS),
    "CDLP, Greedy": (named(heuristics.greedy), {}),
    "CDLP, Random": (named(random_server), {}),
    "Greedy, no cuts": (named(heuristics.greedy), ENDS),
    "sequential greedy": (named(heuristics.sequential_greedy), {}),
    "device only": (named(heuristics.device_only), {}),
}
NETWORKS = ("AlexNet", "MobileNetV2", "ResNet-50", "VGG16")
CONSOLE = Console(highlight=False)


def world_of(rate: float, more: dict[str, Any]) -> Any:
    return open_world(SCENARIO, {"arrivals.mean": rate, "arrivals.variance": 0.175 * rate**2, **more}).world


def trained(name: str, rate: float, budget: Budget) -> dict[str, Any]:
    scheme, more = SCHEMES[name]
    world = world_of(rate, more)
    found = scheme(world, budget)
    return {
        "scheme": name,
        "rate": rate,
        "played": found.played,
        "kept": found.kept,
        "curve": found.curve,
        "measured": measure(world, found.policy(), budget.seeds, EPISODES, budget.device),
    }


def decision_s(tasks: int, repeats: int = 30) -> list[float]:
    """Seconds that CDLP takes for so many tasks at once, one thread."""
    world = open_world(SCENARIO, {"tasks_per_slot": max(64, tasks)}).world
    tables = offload.load(world)
    seen = offload.observe(tables, offload.reset(tables, torch.zeros(1, dtype=torch.int64)))
    by_task = {name for name in seen._fields if not name.startswith("server_") and name != "observation_age_s"}
    cut = seen._replace(**{name: getattr(seen, name)[:, :tasks] for name in by_task})
    took = []
    for _ in range(repeats):
        began_s = time.perf_counter()
        fixed_cut(cut)
        took.append(time.perf_counter() - began_s)
    return took


def _job(point: dict[str, Any]) -> str:
    """As `--only` names it."""
    return f"{point['scheme']}@{point['rate']:g}"


def rates_of(points: list[dict[str, Any]]) -> list[float]:
    return sorted({point["rate"] for point in points})


def draw(points: list[dict[str, Any]], decisions: dict[int, list[float]], folder: Path) -> None:
    chart, axes = plt.subplots(1, 2, figsize=(12, 4.5), layout="constrained")
    rows = [name for name in SCHEMES if any(point["scheme"] == name for point in points)]
    for row, (name, unit, label) in enumerate(
        (("latency_s", MILLI, "mean latency, ms"), ("in_time", 0.01, "answered in time, %"))
    ):
        for number, rate in enumerate(rates_of(points)):
            here = [point for point in points if point["rate"] == rate]
            found = [interval(np.array(point["measured"]["all"][name])) for point in here]
            at = [rows.index(point["scheme"]) + 0.25 * number for point in here]
            mean, half = ([getattr(one, part) / unit for one in found] for part in ("mean", "half"))
            axes[row].errorbar(mean, at, xerr=half, fmt="o", capsize=2, label=f"rate {rate:g}")
        axes[row].set(xlabel=label, yticks=np.arange(len(rows)))
        axes[row].set_yticklabels(rows if row == 0 else [])
        axes[row].invert_yaxis()
        axes[row].grid(alpha=0.3)
    axes[0].set(xscale="log")
    axes[0].xaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    axes[0].xaxis.set_major_formatter(ScalarFormatter())
    axes[0].xaxis.set_minor_formatter(NullFormatter())
    axes[0].legend(fontsize=8)
    chart.savefig(folder / "latency.png", dpi=110)
    plt.close(chart)
    chart, axis = plt.subplots(figsize=(5.5, 4), layout="constrained")
    medians = [1000 * float(np.median(took)) for took in decisions.values()]
    axis.plot(list(decisions), medians, "o-")
    axis.set(xlabel="tasks in a slot", ylabel="CDLP for all of them, ms (median)", ylim=(0, None), xscale="log")
    chart.savefig(folder / "decision.png", dpi=110)
    plt.close(chart)


def tables(points: list[dict[str, Any]]) -> str:
    lines = []
    for rate in rates_of(points):
        here = [point for point in points if point["rate"] == rate]
        by_name = {point["scheme"]: point for point in here}
        reference = "cias-pno" if "cias-pno" in by_name else "sequential greedy"
        mine = np.array(by_name[reference]["measured"]["all"]["latency_s"])
        lines += [f"\nArrival rate {rate:g}\n", f"| scheme | ms | in time, % | {reference} is lower by, % | "]
        lines[-1] += " | ".join(f"{name}, ms" for name in NETWORKS) + " |"
        lines.append("|---|" + "---:|" * (3 + len(NETWORKS)))
        for point in here:
            theirs = np.array(point["measured"]["all"]["latency_s"])
            cells = [interval(theirs / MILLI), interval(np.array(point["measured"]["all"]["in_time"]) * 100)]
            cells.append(interval(100 * (1 - mine / theirs)))
            text = [f"{cell.mean:.1f} ±{cell.half:.1f}" for cell in cells]
            text += [f"{np.mean(point['measured'][str(n)]['latency_s']) / MILLI:.0f}" for n in range(len(NETWORKS))]
            lines.append(f"| {point['scheme']} | " + " | ".join(text) + " |")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--out", type=Path, default=HERE / "results")
    parser.add_argument("--slots", type=int, default=6000, help="that a seed plays to learn, the updater's included")
    parser.add_argument("--rates", type=float, nargs="*", default=RATES)
    parser.add_argument("--only", nargs="*", default=[], help="SCHEME@RATE: these only, and no figures")
    parser.add_argument("--draw", action="store_true", help="train nothing more, draw what there is")
    parser.add_argument("--quick", action="store_true", help="two seeds, few slots: shows that it runs")
    settings = parser.parse_args()
    torch.set_num_threads(1)
    slots, seeds = (400, 2) if settings.quick else (settings.slots, SEEDS)
    budget = Budget(slots, seeds, JUDGE_SLOTS, float("inf"), settings.device)
    settings.out.mkdir(parents=True, exist_ok=True)
    partial = settings.out / "points.partial.jsonl"
    points = [json.loads(line) for line in partial.read_text().splitlines()] if partial.exists() else []
    known = {(point["scheme"], point["rate"]) for point in points}
    if (settings.out / "results.json").exists():
        before = json.loads((settings.out / "results.json").read_text())["points"]
        for point in before:
            if (point["scheme"], point["rate"]) not in known and _job(point) not in settings.only:
                points.append(point)
    known = {(point["scheme"], point["rate"]) for point in points}
    with partial.open("a", encoding="utf-8") as file:
        for rate in [] if settings.draw else sorted(settings.rates, reverse=True):
            for name in SCHEMES:
                if (name, rate) in known or (settings.only and f"{name}@{rate:g}" not in settings.only):
                    continue
                began_s = time.monotonic()
                points.append(trained(name, rate, budget))
                file.write(json.dumps(points[-1]) + "\n")
                file.flush()
                CONSOLE.print(f"{name}, rate {rate:g}: {time.monotonic() - began_s:.0f} s")
    if settings.only:
        return
    order = list(SCHEMES)
    points.sort(key=lambda point: (point["rate"], order.index(point["scheme"])))
    decisions = {tasks: decision_s(tasks) for tasks in (1, 4, 16, 64, 256, 1024)}
    record = {
        "command": "python experiments/cias-pno/run.py --rates " + " ".join(f"{rate:g}" for rate in settings.rates),
        "machine": this_machine().model_dump(),
        "seeds": seeds,
        "candidates": CANDIDATES,
        "fingerprint": fingerprint(world_of(2.0, {})),
        "points": points,
        "cdlp_median_s": {tasks: float(np.median(took)) for tasks, took in decisions.items()},
    }
    (settings.out / "results.json").write_text(json.dumps(record) + "\n", encoding="utf-8")
    partial.unlink(missing_ok=True)
    draw(points, decisions, settings.out)
    print(tables(points))
    print("CDLP, median: " + ", ".join(f"{n} tasks {1000 * t:.2f} ms" for n, t in record["cdlp_median_s"].items()))


if __name__ == "__main__":
    main()
