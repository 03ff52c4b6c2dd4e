"""The results of a comparison as tables, records and a plot."""

import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from rich.table import Column, Table
from rich.text import Text, TextType

from coinfer.evaluate.simulate import Run
from coinfer.evaluate.statistics import Estimate, interval, paired_difference
from coinfer.files import write_atomic, write_figure
from coinfer.records import as_json
from coinfer.scenario.world import BlocksWorld, OffloadWorld, World
from coinfer.units import MEGA, MILLI

if TYPE_CHECKING:
    from matplotlib.axes import Axes

REWARD = ("reward", 1.0)
COLUMNS = {
    "mean_s": ("mean ms", MILLI),
    "p95_s": ("p95 ms", MILLI),
    "p99_s": ("p99 ms", MILLI),
    "local_s": ("local ms", MILLI),
    "edge_s": ("edge ms", MILLI),
    "in_time": ("in time %", 0.01),
    "throughput": ("in time/s", 1.0),
    "accuracy": ("accuracy %", 0.01),
    "timely_accuracy": ("timely accuracy %", 0.01),
    "energy_j": ("energy mJ", MILLI),
    "dropped": ("drops %", 0.01),
    "balance": ("Jain index", 1.0),
    "rate_bps": ("rate Mbit/s", MEGA),
    "queue_bits": ("queue kbit", 1e3),
    "longest_bits": ("longest kbit", 1e3),
    "queue_growth": ("queue growth %", 0.01),
    "normalised": ("of recorded best %", 0.01),
    "sends": ("send %", 0.01),
}
"""Heading and unit of each measure; a table has columns for the measures that its runs have."""
OF_EXITS = ("throughput", "timely_accuracy")
"""Measures of worlds whose tasks may leave a network early."""
OF_BLOCKS = ("local_s", "edge_s")
"""Measures of worlds that place every block."""


def columns_of(world: World) -> dict[str, tuple[str, float]]:
    """Return the columns of `COLUMNS` that say something in a world.

    Args:
        world: a compiled scenario.
    """
    accuracies = world.option_accuracy[world.option_mask] if isinstance(world, OffloadWorld) else np.zeros(1)
    unsaid = () if isinstance(world, BlocksWorld) else OF_BLOCKS
    unsaid += () if np.ptp(accuracies) > 0 else OF_EXITS
    return {name: column for name, column in COLUMNS.items() if name not in unsaid}


def comparison_table(title: str, runs: Sequence[Run], columns: Mapping[str, tuple[str, float]] = COLUMNS) -> Table:
    """Return a table with one row per policy: mean and half of the 95 % confidence interval over the seeds.

    Args:
        title: above the table.
        runs: at least one.
        columns: heading and unit of each measure; measures that the first run lacks are left out.
    """
    columns = {name: column for name, column in columns.items() if name in runs[0].measures}
    table = _table(title, [heading for heading, _ in columns.values()] + ["decisions/s"])
    for run in runs:
        cells = [format_estimate(interval(run.measures[name]), unit) for name, (_, unit) in columns.items()]
        table.add_row(run.policy, *cells, f"{run.decisions_per_s:,.0f}" if run.decisions_per_s else "-")
    return table


def difference_table(runs: Sequence[Run], reference: Run, columns: Mapping[str, tuple[str, float]] = COLUMNS) -> Table:
    """Return a table of the differences of the main measures to one run, paired by seed.

    Args:
        runs: rows of the table; the reference itself is left out.
        reference: the run to compare with. Differences that may be chance are dim.
        columns: heading and unit of each measure; of the main ones those that it and the reference have are compared.
    """
    main = ("mean_s", "in_time", "timely_accuracy", "rate_bps")
    compared = {name: columns[name] for name in main if name in columns and name in reference.measures}
    first, (heading, _) = next(iter(compared.items()))
    headings = [heading for heading, _ in compared.values()]
    table = _table(f"difference to {reference.policy}, seed by seed", [f"{heading}, relative %", *headings])
    for run in runs:
        if run is reference:
            continue
        parts = [(interval((run.measures[first] / reference.measures[first] - 1) * 100), 1.0)]
        for name, (_, unit) in compared.items():
            parts.append((paired_difference(run.measures[name], reference.measures[name]), unit))
        table.add_row(
            run.policy, *(_dim_if_chance(format_estimate(part, unit, sign="+"), part) for part, unit in parts)
        )
    return table


def split_to_width(table: Table, width: int) -> list[Table]:
    """Return the table, or on a narrow terminal several tables with some of its columns each.

    Args:
        table: its first column is repeated in every part.
        width: of the terminal, in characters.
    """
    names, *columns = table.columns
    groups: list[list[Column]] = [[]]
    left = room = width - _width(names)
    for column in columns:
        left -= _width(column)
        if left < 0 and groups[-1]:
            groups.append([])
            left = room - _width(column)
        groups[-1].append(column)
    return [_part(table.title if group is groups[0] else None, [names, *group]) for group in groups]


def _width(column: Column) -> int:
    """Return the width of a column with the space to the next one."""
    return 1 + max(Text.from_markup(str(cell)).cell_len for cell in (column.header, *column.cells))


def _part(title: TextType | None, columns: Sequence[Column]) -> Table:
    part = _table(title, [str(column.header) for column in columns[1:]])
    for cells in zip(*(column.cells for column in columns), strict=True):
        part.add_row(*cells)
    return part


def _table(title: TextType | None, headings: Sequence[str]) -> Table:
    table = Table(title=title, title_justify="left", box=None, pad_edge=False, padding=(0, 1, 0, 0))
    table.add_column("policy", no_wrap=True)
    for heading in headings:
        table.add_column(heading, justify="right", no_wrap=True)
    return table


def format_estimate(estimate: Estimate, unit: float = 1.0, sign: str = "") -> str:
    """Return text such as `12.3 ±0.4`, with as many digits as the interval allows, at most five; `-` for NaN.

    Args:
        estimate: in SI units.
        unit: of the text, such as 1e-3 for milliseconds.
        sign: `+` also marks positive numbers, as in Python's format.
    """
    mean, half = estimate.mean / unit, estimate.half / unit
    if math.isnan(mean):
        return "-"
    scale = half if half > 0 else abs(mean) / 100
    before = 1 + max(0, math.floor(math.log10(abs(mean)))) if mean else 1
    digits = min(3, max(0, 1 - math.floor(math.log10(scale))), max(0, 5 - before)) if scale > 0 else 0
    text = f"{mean:{sign}.{digits}f}"
    return text if math.isnan(half) else f"{text} ±{half:.{digits}f}"


def save(folder: Path, settings: Mapping[str, object], runs: Sequence[Run]) -> None:
    """Write `records.jsonl`, one line per policy and seed, and `summary.json` with settings and intervals.

    Args:
        folder: made if it does not exist; files of the same names are replaced.
        settings: go into the summary; values that JSON lacks become text.
        runs: at least one; all with the same number of seeds.

    Raises:
        OSError: if a file cannot be written.
    """
    folder.mkdir(parents=True, exist_ok=True)
    lines = [
        json.dumps(as_json({"policy": run.policy, "seed": seed, **_seed(run, seed)}))
        for run in runs
        for seed in range(len(next(iter(run.measures.values()))))
    ]
    write_atomic(folder / "records.jsonl", "\n".join(lines) + "\n")
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
    write_atomic(folder / "summary.json", json.dumps(summary, indent=2, default=str) + "\n")


def _seed(run: Run, seed: int) -> dict[str, float | None]:
    """Return the measures of one seed, None for those that it lacks."""
    return {name: float(row[seed]) if np.isfinite(row[seed]) else None for name, row in run.measures.items()}


def plot(path: Path, title: str, runs: Sequence[Run]) -> None:
    """Draw the main measures of every policy with intervals: latency and success, or the rate.

    Args:
        path: of the picture; its ending names the format.
        title: above the picture.
        runs: at least one.

    Raises:
        ModuleNotFoundError: if matplotlib is not installed.
    """
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot as plt
    from matplotlib.ticker import LogFormatter

    timed = "mean_s" in runs[0].measures
    figure, (left, right) = plt.subplots(
        1, 2, figsize=(11, 1.2 + 0.42 * len(runs)), width_ratios=(1.7, 1), sharey=True, layout="constrained"
    )
    place = np.arange(len(runs))[::-1]
    if timed:
        for name, marker, label, below in (
            ("mean_s", "o", "mean", -0.17),
            ("p95_s", "s", "95th percentile", 0.0),
            ("p99_s", "^", "99th percentile", 0.17),
        ):
            _points(left, place - below, runs, name, unit=MILLI, marker=marker, label=label)
        left.set(xscale="log", xlabel="latency, ms, with 95 % intervals over seeds")
        left.xaxis.set_major_formatter(LogFormatter())
        left.xaxis.set_minor_formatter(LogFormatter(minor_thresholds=(1.5, 0.7)))
        figure.legend(*left.get_legend_handles_labels(), loc="outside upper right", ncols=3, fontsize=8)
    else:
        _points(left, place, runs, "rate_bps", unit=MEGA, marker="o", label="")
        left.set(xlabel="weighted sum of rates, Mbit/s, with 95 % intervals over seeds")
    _points(right, place, runs, "in_time" if timed else "sends", unit=0.01, marker="o", label="")
    right.set(xlabel="answered before the deadline, %" if timed else "devices that send, %", xlim=(-2, 102))
    figure.suptitle(title, x=0.01, ha="left", fontsize=11)
    left.set_yticks(place, [run.policy for run in runs])
    left.set_ylim(-0.5, len(runs) - 0.5)
    for axes in (left, right):
        axes.grid(axis="x", alpha=0.3)
    write_figure(path, figure)
    plt.close(figure)


def _points(
    axes: "Axes", place: np.ndarray, runs: Sequence[Run], name: str, *, unit: float, marker: str, label: str
) -> None:
    """Draw one measure of every run at its place on the vertical axis, with its interval."""
    estimates = [interval(run.measures[name]) for run in runs]
    mean, half = (np.array([getattr(one, part) for one in estimates]) / unit for part in ("mean", "half"))
    axes.errorbar(mean, place, xerr=np.nan_to_num(half), fmt=marker, ms=5, capsize=2, label=label)


def _dim_if_chance(text: str, estimate: Estimate) -> str:
    """Return the text, dim if the interval contains 0."""
    return text if estimate.clear_of_zero() else f"[dim]{text}[/dim]"
