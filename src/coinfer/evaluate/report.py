"""What came out of a comparison: a table, records and a plot."""

import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from rich.table import Table

from coinfer.evaluate.simulate import Run
from coinfer.evaluate.statistics import Estimate, interval, paired_difference
from coinfer.records import as_json
from coinfer.units import MILLI

COLUMNS = {
    "mean_s": ("mean ms", MILLI),
    "p95_s": ("p95 ms", MILLI),
    "p99_s": ("p99 ms", MILLI),
    "in_time": ("in time %", 0.01),
    "accuracy": ("accuracy %", 0.01),
    "energy_j": ("energy mJ", MILLI),
    "dropped": ("drops %", 0.01),
    "balance": ("balance", 1.0),
}
"""Measure to heading and unit."""


def comparison(title: str, runs: Sequence[Run]) -> Table:
    """One row a policy: mean and half of the 95 % confidence interval over the seeds; the fastest is printed bold."""
    table = Table(title=title, title_justify="left", box=None, pad_edge=False, padding=(0, 1, 0, 0))
    table.add_column("policy", no_wrap=True)
    for heading, _ in COLUMNS.values():
        table.add_column(heading, justify="right", no_wrap=True)
    table.add_column("decisions/s", justify="right", no_wrap=True)
    fastest = min(runs, key=lambda run: interval(run.measures["mean_s"]).mean)
    for run in runs:
        cells = [shown(interval(run.measures[name]), unit) for name, (_, unit) in COLUMNS.items()]
        speed = f"{run.decisions_per_s:,.0f}" if run.decisions_per_s else "-"
        table.add_row(run.policy, *cells, speed, style="bold" if run is fastest else "")
    return table


def differences(runs: Sequence[Run], reference: Run) -> Table:
    """Mean latency and deadline success of every other policy less those of one, paired by seed; what may be chance is
    dim."""
    table = Table(
        title=f"difference to {reference.policy}, seed by seed", title_justify="left", box=None, pad_edge=False
    )
    table.add_column("policy", no_wrap=True)
    for heading in ("mean ms", "mean %", "in time, points"):
        table.add_column(heading, justify="right", no_wrap=True)
    base = reference.measures
    for run in runs:
        if run is reference:
            continue
        slower = paired_difference(run.measures["mean_s"], base["mean_s"])
        relative = interval((run.measures["mean_s"] / base["mean_s"] - 1) * 100)
        success = paired_difference(run.measures["in_time"], base["in_time"])
        table.add_row(
            run.policy,
            *(_clear(shown(part, unit, sign="+"), part) for part, unit in ((slower, MILLI), (relative, 1.0))),
            _clear(shown(success, 0.01, sign="+"), success),
        )
    return table


def shown(estimate: Estimate, unit: float = 1.0, sign: str = "") -> str:
    """`12.3 ±0.4`, with as many digits as the interval leaves; `-` where there is nothing."""
    mean, half = estimate.mean / unit, estimate.half / unit
    if math.isnan(mean):
        return "-"
    scale = half if half > 0 else abs(mean) / 100
    digits = min(3, max(0, 1 - math.floor(math.log10(scale)))) if scale > 0 else 0
    text = f"{mean:{sign}.{digits}f}"
    return text if math.isnan(half) else f"{text} ±{half:.{digits}f}"


def save(folder: Path, settings: Mapping[str, Any], runs: Sequence[Run]) -> None:
    """`records.jsonl`, one line a policy and seed, and `summary.json` with the settings and the intervals."""
    folder.mkdir(parents=True, exist_ok=True)
    lines = [
        json.dumps(as_json({"policy": run.policy, "seed": seed, **_seed(run, seed)}))
        for run in runs
        for seed in range(len(run.measures["mean_s"]))
    ]
    (folder / "records.jsonl").write_text("\n".join(lines) + "\n", encoding="utf-8")
    summary = {
        "settings": dict(settings),
        "policies": [
            {
                "policy": run.policy,
                "tasks": run.tasks,
                "decisions_per_s": round(run.decisions_per_s),
                **{name: as_json(interval(values)) for name, values in run.measures.items()},
            }
            for run in runs
        ],
    }
    (folder / "summary.json").write_text(json.dumps(summary, indent=2, default=str) + "\n", encoding="utf-8")


def _seed(run: Run, seed: int) -> dict[str, float | None]:
    """Its measures, None for what there is not."""
    return {name: float(row[seed]) if np.isfinite(row[seed]) else None for name, row in run.measures.items()}


def plot(path: Path, title: str, runs: Sequence[Run]) -> None:
    """Latency and deadline success of every policy, with intervals."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot as plt

    figure, (latency, success) = plt.subplots(
        1, 2, figsize=(11, 1.2 + 0.42 * len(runs)), width_ratios=(1.7, 1), sharey=True, layout="constrained"
    )
    place = np.arange(len(runs))[::-1]
    for name, marker, label in (("mean_s", "o", "mean"), ("p95_s", "s", "95 %"), ("p99_s", "^", "99 %")):
        _points(latency, place, runs, name, MILLI, marker, label)
    latency.set(xscale="log", xlabel="latency, ms", title=title)
    latency.set_yticks(place, [run.policy for run in runs])
    latency.legend(fontsize=8)
    _points(success, place, runs, "in_time", 0.01, "o", "")
    success.set(xlabel="answered before the deadline, %", xlim=(-2, 102))
    for axes in (latency, success):
        axes.grid(axis="x", alpha=0.3)
    figure.savefig(path, dpi=120)
    plt.close(figure)


def _points(axes: Any, place: np.ndarray, runs: Sequence[Run], name: str, unit: float, marker: str, label: str) -> None:
    found = [interval(run.measures[name]) for run in runs]
    mean, half = (np.array([getattr(one, part) for one in found]) / unit for part in ("mean", "half"))
    axes.errorbar(mean, place, xerr=np.nan_to_num(half), fmt=marker, ms=5, capsize=2, label=label)


def _clear(text: str, estimate: Estimate) -> str:
    """Dim where the interval holds 0."""
    return text if estimate.clear_of_zero() else f"[dim]{text}[/dim]"
