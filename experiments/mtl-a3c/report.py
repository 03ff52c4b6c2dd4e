"""Charts of figures 6, 8, 9, 10 and 13, and the tables of the README, from the records of results/.

    python experiments/mtl-a3c/report.py

Writes results/delays.png and results/convergence.png.
"""

import json
from collections.abc import Callable, Mapping
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
from schemes import MAIN, RESULTS, SCHEMES, gains, path_of, with_steps
from sweeps import BLOCKS, LINKS, RATES, SERVERS

from coinfer.evaluate.statistics import interval
from coinfer.units import MILLI

STEPS = 4800
ROWS = ("cut-schedule", *MAIN, "sequential-greedy", "greedy", "lower bound")
"""Rows of the charts."""
SWEEPS: dict[str, tuple[str, Any, Callable[[Any], dict[str, object]]]] = {
    "servers": ("figure 8: servers", SERVERS, lambda n: {"servers": n}),
    "blocks": ("figure 9: blocks", BLOCKS, lambda m: {"blocks": m}),
    "tasks": ("figure 10: tasks a slot", RATES, lambda k: {"tasks": k}),
    "links": ("figure 13: link rate, VGG16", LINKS, lambda link: {"link": link}),
}


def rows_at(point: Mapping[str, object]) -> dict[str, dict[str, Any]]:
    """Return what was measured at a point, learners after `STEPS` slots under their plain names."""
    path = path_of(point, RESULTS)
    return with_steps(json.loads(path.read_text()), STEPS) if path.exists() else {}


def draw_delays() -> None:
    """Draw the mean delay of every row over the sweeps, with 95 % intervals over the seeds."""
    chart, axes = plt.subplots(1, len(SWEEPS), figsize=(16, 5), layout="constrained")
    for axis, (title, values, point_of) in zip(axes, SWEEPS.values(), strict=True):
        for row in ROWS:
            found = [(value, rows_at(point_of(value)).get(row)) for value in values]
            places = [(value, interval(np.array(one["mean_s"]) / MILLI)) for value, one in found if one]
            x, y, half = [v for v, _ in places], [e.mean for _, e in places], [e.half for _, e in places]
            axis.errorbar(x, y, half, label=row, marker=".", ls="--" if row in MAIN else "-", capsize=2)
        axis.set(xlabel=title, yscale="log")
    axes[0].set(ylabel="mean delay, ms")
    chart.legend(*axes[0].get_legend_handles_labels(), loc="outside lower center", ncols=len(ROWS))
    chart.savefig(RESULTS / "delays.png", dpi=90)


def draw_convergence() -> None:
    """Draw the reward of held-out slots over the training."""
    chart, axis = plt.subplots(figsize=(7, 4), layout="constrained")
    rows = rows_at({})
    for row in MAIN:
        if row in rows and not SCHEMES[row][1].imposed:  # those would not compare
            rewards = np.array(rows[row]["rewards"])
            estimates = [interval(one) for one in rewards]
            axis.errorbar(
                rows[row]["slots"], [e.mean for e in estimates], [e.half for e in estimates], label=row, capsize=2
            )
    axis.set(xlabel="slots", ylabel="reward of a slot", yscale="symlog")
    axis.legend()
    chart.savefig(RESULTS / "convergence.png", dpi=90)


def print_points() -> None:
    """Print a table of all points: mean delay of each row."""
    print("| point | " + " | ".join(ROWS) + " |\n|" + "---|" * (len(ROWS) + 1))
    for path in sorted((RESULTS / "points").glob("*.json")):
        rows = with_steps(json.loads(path.read_text()), STEPS)
        cells = [f"{np.mean(rows[row]['mean_s']) / MILLI:.0f}" if row in rows else "" for row in ROWS]
        print(f"| {path.stem} | " + " | ".join(cells) + " |")


def print_percentages() -> None:
    """Print the paper's percentages beside those found."""
    print("\n| point | row | measure | paper % | found % |\n|---|---|---|---:|---:|")
    for figure in ("figure8", "figure9", "figure12"):
        path = RESULTS / f"{figure}.json"
        for line in json.loads(path.read_text())["beside the paper"] if path.exists() else []:
            found = line["found"]
            text = f"{found['percent']:.1f} ± {found['half']:.1f}" if found else "no row"
            pair = f"{line['row']} below {line['below']}"
            print(f"| {line['point']} | {pair} | {line['measure']} | {line['paper']} | {text} |")
    rows = rows_at({})
    for other in ROWS:
        if found := gains(rows, "multi-task A3C", other, "mean_s"):
            print(f"multi-task A3C below {other}: {found['percent']:.1f} ± {found['half']:.1f} %")


if __name__ == "__main__":
    draw_delays()
    draw_convergence()
    print_points()
    print_percentages()
