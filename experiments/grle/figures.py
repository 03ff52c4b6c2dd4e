"""Draw the figures of this folder and print its tables, from results/judged.json and curves.json.

python experiments/grle/figures.py
"""

import json
from collections.abc import Sequence
from typing import Any

import matplotlib
import numpy as np
from cases import FOLDER, HARD, MAIN, SCHEMES, WORLDS, World

from coinfer.evaluate.statistics import interval, paired_difference

matplotlib.use("Agg")
from matplotlib import pyplot as plt

RESULTS = FOLDER / "results"
COLOURS = {"grle": "tab:blue", "drooe": "tab:orange", "grl": "tab:green", "droo": "tab:red"}
RULES = {"coordinate descent": "black", "sequential-accurate": "tab:purple", "sequential-greedy": "tab:brown"}
SWEEPS = {
    "number of devices, S2, deadlines x 0.6": [World(devices=devices, deadlines=0.6) for devices in (6, 10, 14)],
    "factor on deadlines, S2, 14 devices": [World(deadlines=factor) for factor in (0.5, 0.6, 1.0, 2.0)],
    "scenario, 14 devices, deadlines x 0.6": [
        World(s, deadlines=0.6) for s in ("grle", "grle-s2", "grle-s3", "grle-s4")
    ],
}
MEASURES = {"timely_accuracy": "timely accuracy", "in_time": "success", "throughput": "tasks in time per second"}
Rows = dict[str, dict[str, list[float]]]


def label(world: World, sweep: str) -> str:
    """Return a world's place on the axis of a sweep."""
    if sweep.startswith("number"):
        return str(world.devices)
    return f"{world.deadlines:g}" if sweep.startswith("factor") else f"S{world.scenario[-1]}".replace("Se", "S1")


def draw_sweeps(judged: dict[str, Rows]) -> None:
    """Draw every measure over devices, deadlines and scenarios."""
    figure, grid = plt.subplots(3, 3, figsize=(11, 9), layout="constrained", sharey="row")
    for number, (sweep, worlds) in enumerate(SWEEPS.items()):
        known = [world for world in worlds if "grle" in judged.get(world.name, {})]
        for axes, (measure, title) in zip(grid[:, number], MEASURES.items(), strict=True):
            for name, colour in {**COLOURS, **RULES}.items():
                shown = [world for world in known if name in judged[world.name]]
                found = [interval(np.array(judged[world.name][name][measure])) for world in shown]
                places = [label(world, sweep) for world in shown]
                style = {"color": colour, "marker": "o", "ms": 4, "ls": "--" if name in RULES else "-"}
                axes.errorbar(places, [f.mean for f in found], yerr=[f.half for f in found], label=name, **style)
            axes.set(ylabel="" if number else title, xlabel=sweep)
            axes.grid(axis="y", alpha=0.3)
    figure.legend(*grid[0, 0].get_legend_handles_labels(), loc="outside upper center", ncols=7)
    figure.savefig(RESULTS / "sweeps.png", dpi=100)
    plt.close(figure)


def draw_convergence(curves: dict[str, Any]) -> None:
    """Draw timely accuracy on held-out worlds over the slots that a learner has played."""
    worlds = [world for world in (MAIN, HARD) if f"grle {world.name}" in curves]
    figure, row = plt.subplots(1, len(worlds), figsize=(4.5 * len(worlds), 3.4), layout="constrained", squeeze=False)
    for axes, world in zip(row[0], worlds, strict=True):
        for scheme in SCHEMES:
            curve = curves.get(f"{scheme} {world.name}")
            if curve:
                values = np.array(curve["timely_accuracy"])
                axes.plot(curve["slots"], values.mean(1), color=COLOURS[scheme], label=scheme)
                axes.fill_between(curve["slots"], values.min(1), values.max(1), color=COLOURS[scheme], alpha=0.15, lw=0)
        axes.set(xlabel="slots played by a learner", ylabel="timely accuracy, held-out", title=world.name)
        axes.grid(axis="y", alpha=0.3)
    figure.legend(*row[0][0].get_legend_handles_labels(), loc="outside upper center", ncols=4)
    figure.savefig(RESULTS / "convergence.png", dpi=100)
    plt.close(figure)


def show(found: Sequence[float], scale: float = 1.0) -> str:
    """Return mean and half of the interval."""
    mean, half = interval(np.array(found) * scale)
    return f"{mean:.1f} ± {half:.1f}"


def difference(own: np.ndarray, other: np.ndarray) -> str:
    """Return a difference of timely accuracies in points, paired by seed."""
    mean, half = paired_difference(100 * own, 100 * other)
    return f"{mean:+.1f} ± {half:.1f}"


def print_orders(judged: dict[str, Rows]) -> None:
    """Print how much timely accuracy each scheme has above the next one, in points, paired by seed."""
    print("\n| | GRLE less DROOE | DROOE less GRL | GRL less DROO | GRLE over DROOE | GRLE over GRL |")
    print("|---|---:|---:|---:|---:|---:|")
    for kind in ("", ", tuned rate", ", 48 candidates", ", tuned rate, 48 candidates"):
        for world in WORLDS:
            rows = judged.get(world.name, {})
            if all(scheme + kind in rows for scheme in SCHEMES):
                value = {scheme: np.array(rows[scheme + kind]["timely_accuracy"]) for scheme in SCHEMES}
                pairs = [("grle", "drooe"), ("drooe", "grl"), ("grl", "droo")]
                cells = [difference(value[one], value[other]) for one, other in pairs]
                cells += [f"{value['grle'].mean() / value[other].mean():.2f}" for other in ("drooe", "grl")]
                print(f"| {world.name}{kind} | {' | '.join(cells)} |")


def print_tables(judged: dict[str, Rows]) -> None:
    """Print a table for each world, and the ratios and paired differences to GRLE."""
    for world in [*WORLDS, *(World(devices=devices, deadlines=0.6) for devices in (8, 12, 4))]:
        rows = judged.get(world.name)
        if not rows:
            continue
        print(f"\n{world.name}\n| | timely accuracy, % | success, % | in time/s | GRLE less this, points |")
        print("|---|---:|---:|---:|---:|")
        own = np.array(rows["grle"]["timely_accuracy"]) if "grle" in rows else None
        for name, row in rows.items():
            value = np.array(row["timely_accuracy"])
            less = "" if own is None or name == "grle" else difference(own, value)
            print(f"| {name} | {show(value, 100)} | {show(row['in_time'], 100)} | {show(row['throughput'])} | {less} |")
        if own is not None:
            ratios = {name: own.mean() / np.mean(rows[name]["timely_accuracy"]) for name in SCHEMES if name in rows}
            print("ratios:", {name: round(ratio, 3) for name, ratio in ratios.items()})


def main() -> None:
    """Draw and print what there is."""
    judged = json.loads((RESULTS / "judged.json").read_text())
    judged.pop("accuracies", None)
    draw_sweeps(judged)
    draw_convergence(json.loads((RESULTS / "curves.json").read_text()))
    print_tables(judged)
    print_orders(judged)


if __name__ == "__main__":
    main()
