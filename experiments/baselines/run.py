"""How good the baselines are, how good anybody could be, and where the room between them is.

    python experiments/baselines/run.py [--scenario campus] [--jobs 16] [--quick]

Latency and deadline success against the arrival rate, the capacity of the servers and the age of what is known about
them, on `cdo-dsac` and `campus`: 10 seeds, one episode of 50 slots each, the same chance for every policy.
`slot-descent` knows the truth of each slot and decides for all its tasks; `lower bound` knows all slots beforehand, and
no policy is below it. Writes results/SCENARIO.json and results/SCENARIO.png, and prints all figures as tables, those
of the README (the ends of the sweeps) last. What was stopped goes on from results/SCENARIO.partial.jsonl. One thread a
process: about 25 minutes, over --jobs.
"""

import argparse
import json
import multiprocessing
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from pathlib import Path
from typing import Any, NamedTuple

import matplotlib
import numpy as np
import torch
from rich.console import Console
from rich.progress import track

from coinfer.envs.batched_env import reward_of
from coinfer.evaluate import limits, oracles
from coinfer.evaluate.simulate import Run, run_policy
from coinfer.evaluate.statistics import interval
from coinfer.profile.measure import this_machine
from coinfer.records import as_json
from coinfer.scenario.compile import fingerprint, open_world
from coinfer.units import MILLI

matplotlib.use("Agg")
from matplotlib import pyplot as plt

HERE = Path(__file__).resolve().parent
COLORS = {
    "random": "silver", "random-place": "tan", "round-robin": "goldenrod", "device-only": "dimgrey",
    "server-only": "plum", "greedy": "C3", "best-cut": "lightcoral", "two-choices": "C1", "sequential-greedy": "C0",
    "insertion": "C2", "sequential-greedy-memory": "deepskyblue", "insertion-memory": "limegreen", "slot-descent": "C4",
}  # fmt: skip
POLICIES = tuple(COLORS)
SEEDS, SLOTS = 10, 50
CAMPUS_CAPACITY = (8, 8, 12, 12, 16, 16)
CONSOLE = Console(highlight=False)
RATE, STALENESS = "arrival rate", "staleness"
KEPT = ("mean_s", "p95_s", "p99_s", "in_time", "refused", "balance")
EXCESSES = (
    ("greedy", "slot-descent"), ("two-choices", "slot-descent"), ("sequential-greedy", "slot-descent"),
    ("insertion-memory", "slot-descent"), ("greedy", limits.NAME), ("sequential-greedy", limits.NAME),
    ("insertion-memory", limits.NAME), ("slot-descent", limits.NAME),
)  # fmt: skip
Changes = dict[str, Any]
Measures = dict[str, dict[str, list[float | None]]]
"""By policy and name of the measure, one value a seed."""
Point = dict[str, Any]
"""Of a sweep: `sweep`, `value`, and `measures` by policy and name, one value a seed."""


class Sweep(NamedTuple):
    name: str
    label: str
    points: dict[float, Changes]
    base: float
    """The point that is the scenario itself; the lower bound is the same for all where `rate` is not swept."""


def sweeps(scenario: str) -> list[Sweep]:
    if scenario == "cdo-dsac":
        rates = {
            mean: {"arrivals.mean": mean, "arrivals.variance": 0.175 * mean**2} for mean in (0.4, 0.8, 1.2, 1.6, 2.0)
        }
        capacity: dict[float, Changes] = {n: {"servers.0.capacity": n} for n in (5, 10, 20, 30, 45)}
        return [
            Sweep(RATE, "requests per device and second", rates, 2.0),
            Sweep("capacity", "tasks that a server admits", capacity, 30),
            Sweep(STALENESS, "age of what is known, slots of 0.1 s", staleness((0, 1, 2, 5, 10)), 0),
        ]
    roomy = {"tasks_per_slot": 48}
    per_s: dict[float, Changes] = {rate: {**roomy, "arrivals.rate_per_s": rate} for rate in (10, 20, 40, 60, 80)}
    shares: dict[float, Changes] = {
        share: {f"servers.{i}.capacity": round(share * n) for i, n in enumerate(CAMPUS_CAPACITY)}
        for share in (0.125, 0.25, 0.5, 1, 2)
    }
    return [
        Sweep(RATE, "requests per second", per_s, 40),
        Sweep("capacity", "tasks that a server admits, over the preset's", shares, 1),
        Sweep(STALENESS, "age of what is known, slots of 0.25 s", staleness((0, 1, 2, 4, 8)), 2),
    ]


def staleness(slots: Sequence[int]) -> dict[float, Changes]:
    return {n: {"staleness_slots": n} for n in slots}


class Piece(NamedTuple):
    """What one process does at a time: at one point of a sweep, all policies or the bound."""

    scenario: str
    sweep: str
    value: float
    changes: Changes
    what: str

    @property
    def key(self) -> tuple[str, float, str]:
        return self.sweep, self.value, self.what


def pieces(scenario: str) -> Iterator[Piece]:
    """The long ones first. Only the arrivals change the bound, which knows no capacity; it and the oracle are never
    stale."""
    for sweep in sweeps(scenario):
        for value, changes in reversed(sweep.points.items()):
            for what in (limits.NAME, "policies") if sweep.name == RATE else ("policies",):
                yield Piece(scenario, sweep.name, value, changes, what)


def measure(piece: Piece, seeds: int, slots: int) -> Measures:
    torch.set_num_threads(1)
    compiled = open_world(piece.scenario, {**piece.changes, "slots": slots})
    world: Any = compiled.world
    if piece.what == limits.NAME:
        return {limits.NAME: _kept(limits.lower_bound(world, seeds, 1, steps=60))}
    reward = reward_of(compiled.reward)
    names = [name for name in POLICIES if piece.sweep != STALENESS or name not in oracles.ORACLES]
    return {name: _kept(run_policy(world, name, seeds, 1, reward=reward)) for name in names}


def sweep_all(scenario: str, seeds: int, slots: int, partial: Path, jobs: int) -> list[Point]:
    """Every point, the pieces that are in the file already read from there."""
    known = [json.loads(line) for line in partial.read_text().splitlines()] if partial.exists() else []
    found = {(one["sweep"], one["value"], one["what"]): one["measures"] for one in known}
    waiting = [piece for piece in pieces(scenario) if piece.key not in found]
    with partial.open("a", encoding="utf-8") as file:
        for piece, measures in track(_measured(waiting, seeds, slots, jobs), scenario, len(waiting), console=CONSOLE):
            found[piece.key] = measures
            record = {"sweep": piece.sweep, "value": piece.value, "what": piece.what, "measures": measures}
            file.write(json.dumps(record) + "\n")
            file.flush()
    return list(_points(scenario, found))


def _measured(waiting: Sequence[Piece], seeds: int, slots: int, jobs: int) -> Iterator[tuple[Piece, Measures]]:
    """Each piece when it is done; one after the other in this process where there is but one."""
    if jobs == 1:
        yield from ((piece, measure(piece, seeds, slots)) for piece in waiting)
        return
    with ProcessPoolExecutor(jobs, multiprocessing.get_context("spawn")) as pool:
        running = {pool.submit(measure, piece, seeds, slots): piece for piece in waiting}
        yield from ((running[done], done.result()) for done in as_completed(running))


def _points(scenario: str, found: dict[tuple[str, float, str], Any]) -> Iterator[Point]:
    every = sweeps(scenario)
    base = found[RATE, every[0].base, "policies"]
    for sweep in every:
        for value in sweep.points:
            bound = found[RATE, value if sweep.name == RATE else every[0].base, limits.NAME]
            measures = found[sweep.name, value, "policies"]
            measures = {name: measures.get(name, base[name]) for name in POLICIES}
            yield {"sweep": sweep.name, "value": value, "measures": measures | bound}


def _kept(one: Run) -> dict[str, list[float | None]]:
    return {key: [as_json(round(float(value), 6)) for value in one.measures[key]] for key in KEPT}


def values_of(point: Point, name: str, key: str) -> np.ndarray:
    """[S], one a seed."""
    return np.array(point["measures"][name][key], dtype=float)


def figure(scenario: str, points: list[Point], path: Path) -> None:
    """A column a sweep; latency above, success below. Best cut is left out where it decides as Greedy."""
    columns = sweeps(scenario)
    chart, axes = plt.subplots(2, 3, figsize=(13, 6.5), sharey="row", layout="constrained")
    for column, sweep in enumerate(columns):
        here = [point for point in points if point["sweep"] == sweep.name]
        for name, style in _styles(here).items():
            for row, (key, unit) in enumerate((("mean_s", MILLI), ("in_time", 0.01))):
                found = [interval(values_of(point, name, key)) for point in here]
                mean, half = ([getattr(one, part) / unit for one in found] for part in ("mean", "half"))
                at = [point["value"] for point in here]
                axes[row, column].errorbar(at, mean, yerr=half, ms=4, capsize=2, lw=1.2, label=name, **style)
        axes[0, column].set(yscale="log", title=f"{scenario}: {sweep.name}")
        axes[1, column].set(xlabel=sweep.label, ylim=(0, 103))
    least_s = min(values_of(point, limits.NAME, "mean_s").mean() for point in points)
    axes[0, 0].set(ylabel="mean latency, ms", ylim=(0.7 * least_s / MILLI, None))
    axes[1, 0].set(ylabel="in time, %")
    chart.legend(*axes[0, 0].get_legend_handles_labels(), loc="outside right upper", fontsize=9)
    chart.savefig(path, dpi=100)
    plt.close(chart)


def _styles(here: list[Point]) -> dict[str, dict[str, Any]]:
    """Of the lines, by policy."""
    same = all(point["measures"]["best-cut"]["mean_s"] == point["measures"]["greedy"]["mean_s"] for point in here)
    names = [name for name in here[0]["measures"] if not (same and name == "best-cut")]
    styles: dict[str, dict[str, Any]] = {
        name: {"color": COLORS[name], "marker": "o", "ls": ":" if name.endswith("memory") else "-"}
        for name in names
        if name in COLORS
    }
    styles["greedy"]["zorder"] = 3  # best-cut is hardly ever better
    return styles | {limits.NAME: {"color": "black", "ls": "--"}}


def tables(scenario: str, points: list[Point]) -> str:
    """Markdown: latency and success of each policy at each point, and how far Greedy is from what is possible."""
    lines = []
    for sweep in sweeps(scenario):
        here = [point for point in points if point["sweep"] == sweep.name]
        for title, key, unit in (("mean latency in ms", "mean_s", MILLI), ("in time, %", "in_time", 0.01)):
            lines += [f"\n{scenario}, {title}, against {sweep.label}:\n"]
            lines += [
                "| | " + " | ".join(f"{point['value']:g}" for point in here) + " |",
                "|---|" + "---:|" * len(here),
            ]
            for name in here[0]["measures"]:
                cells = [interval(values_of(point, name, key)) for point in here]
                digits = 0 if key == "mean_s" else 1
                lines.append(
                    f"| {name} | "
                    + " | ".join(f"{c.mean / unit:.{digits}f} ±{c.half / unit:.{digits}f}" for c in cells)
                    + " |"
                )
            if key == "mean_s":
                lines += [_excess(here, *pair) for pair in EXCESSES]
    return "\n".join(lines)


ENDS = ("greedy", "two-choices", "sequential-greedy", "insertion-memory", "slot-descent", limits.NAME)
ROOM = ("greedy", "sequential-greedy", "insertion-memory")


def ends(scenario: str, points: list[Point]) -> str:
    """Markdown, for each sweep its ends and the scenario itself: latency and success; the room in a second table."""
    reached = [f"| {scenario} | at | " + " | ".join(ENDS) + " |", "|---|---|" + "---:|" * len(ENDS)]
    headings = [f"{name} : {other}" for other in ("slot-descent", limits.NAME) for name in ROOM]
    room = [f"| {scenario} | at | " + " | ".join(headings) + " |", "|---|---|" + "---:|" * len(headings)]
    for sweep in sweeps(scenario):
        first, *_, last = sweep.points
        for value in sorted({first, sweep.base, last}):
            point = next(one for one in points if (one["sweep"], one["value"]) == (sweep.name, value))
            start = f"| {sweep.name} | {value:g} | "
            reached.append(start + " | ".join(_reached(point, name) for name in ENDS) + " |")
            ratios = [_ratio(point, name, other) for other in ("slot-descent", limits.NAME) for name in ROOM]
            room.append(start + " | ".join(ratios) + " |")
    return "\n".join((*reached, "", *room))


def _reached(point: Point, name: str) -> str:
    mean_ms, in_time = values_of(point, name, "mean_s").mean() / MILLI, values_of(point, name, "in_time").mean()
    return f"{mean_ms:,.0f} ms, {100 * in_time:.0f} %"


def _ratio(point: Point, name: str, other: str) -> str:
    """How many times as long it takes, paired by seed."""
    found = interval(values_of(point, name, "mean_s") / values_of(point, other, "mean_s"))
    return f"{found.mean:.2f} ±{found.half:.2f}"


def _excess(here: list[Point], name: str, other: str) -> str:
    """A row: by how many percent one is slower than another, paired by seed."""
    found = [
        interval(100 * (values_of(point, name, "mean_s") / values_of(point, other, "mean_s") - 1)) for point in here
    ]
    return f"| *{name} over {other}* | " + " | ".join(f"{one.mean:+.0f} % ±{one.half:.0f}" for one in found) + " |"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--scenario", action="append", choices=("cdo-dsac", "campus"), help="both without it")
    parser.add_argument("--jobs", type=int, default=1, help="processes at a time, 1 without it")
    parser.add_argument("--quick", action="store_true", help="2 seeds of 4 slots: shows that it runs, no figures")
    parser.add_argument("--output", type=Path, default=HERE / "results")
    parser.add_argument("--redraw", action="store_true", help="figure and tables from results/SCENARIO.json")
    settings = parser.parse_args()
    settings.output.mkdir(parents=True, exist_ok=True)
    for scenario in settings.scenario or ("cdo-dsac", "campus"):
        points = read(scenario, settings.output) if settings.redraw else simulate(scenario, settings)
        figure(scenario, points, settings.output / f"{scenario}.png")
        print(tables(scenario, points), ends(scenario, points), sep="\n\n", flush=True)


def simulate(scenario: str, settings: argparse.Namespace) -> list[Point]:
    """Every point, written to a record."""
    seeds, slots = (2, 4) if settings.quick else (SEEDS, SLOTS)
    partial = settings.output / f"{scenario}.partial.jsonl"
    points = sweep_all(scenario, seeds, slots, partial, settings.jobs)
    world: Any = open_world(scenario).world
    record = {
        "command": f"python experiments/baselines/run.py --scenario {scenario}",
        "machine": this_machine().model_dump(),
        "seeds": seeds,
        "slots": slots,
        "fingerprint": fingerprint(world),
    }
    write(settings.output / f"{scenario}.json", record, points)
    partial.unlink()
    return points


def write(path: Path, record: dict[str, Any], points: list[Point]) -> None:
    """One line a point."""
    lines = ",\n  ".join(json.dumps(point) for point in points)
    text = json.dumps(record, indent=1).removesuffix("\n}")
    path.write_text(f'{text},\n "points": [\n  {lines}\n ]\n}}\n', encoding="utf-8")


def read(scenario: str, folder: Path) -> list[Point]:
    return json.loads((folder / f"{scenario}.json").read_text(encoding="utf-8"))["points"]


if __name__ == "__main__":
    main()
