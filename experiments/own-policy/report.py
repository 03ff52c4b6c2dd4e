"""Tables and plots of what evaluate.py found.

    python experiments/own-policy/report.py [--folder FOLDER]

Prints the tables of the README, and writes FOLDER/report.json (every comparison with its interval) and FOLDER/*.png.
Differences are seed by seed over 10 seeds, with 95 % intervals (Student's t); a * marks one whose interval holds 0.
Where several trainings are compared (`trainings`), or several weights to begin with, the interval is that over them and
that over the seeds of the evaluation together: the root of the sum of their squares. Trainings are compared with what
they began with; fewer than three allow no interval, so then the shipped one stands alone, beside all four beginnings.
"""

import argparse
import json
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import matplotlib
import numpy as np
from rich.console import Console

from coinfer.evaluate.statistics import Estimate, interval, paired_difference
from evaluate import AGES, BEGINNINGS, ON_THE_SPOT, SERVERS, TRAININGS, WORLDS

matplotlib.use("Agg")
from matplotlib import pyplot as plt

HERE = Path(__file__).resolve().parent
CONSOLE = Console(highlight=False, width=160)
OURS = ("five", "wide", "learned")
"""Trained on 5 servers, on 5 in shorter slots, too, and what is shipped."""
RIVALS = ("sequential-greedy", "two-choices", "insertion-memory")
ENOUGH = 3
"""Trainings for an interval over them."""
COLOURS = {
    "two-choices": "#999999",
    "sequential-greedy": "#1f77b4",
    "sequential-greedy-memory": "#7fb6dd",
    "insertion": "#2ca02c",
    "insertion-memory": "#98d594",
    "learned-forgetful": "#ffb27f",
    "learned": "#d62728",
}


class Found:
    """Measures by world and policy."""

    def __init__(self, path: Path):
        self.rows = [json.loads(line) for line in path.read_text().splitlines()]

    def values(self, measure: str, **wanted: Any) -> np.ndarray | None:
        """[S], one a seed."""
        for row in self.rows:
            if all(row[key] == value for key, value in wanted.items()):
                return np.array(row["measures"][measure])
        return None


class Compared(NamedTuple):
    """Of ours with another."""

    world: str
    other: str
    latency: Estimate
    """Difference as a part of the other's mean."""
    success: Estimate
    """Difference of the shares."""

    def text(self) -> list[str]:
        return [percent(self.latency), percent(self.success, " pp")]


def percent(estimate: Estimate, unit: str = " %") -> str:
    star = "" if estimate.clear_of_zero() else "*"
    return f"{100 * estimate.mean:+.2f} ± {100 * estimate.half:.2f}{unit}{star}"


def compared(found: Found, ours: str, other: str, world: str, **at: Any) -> Compared | None:
    mine, theirs = (found.values("mean_s", policy=policy, **at) for policy in (ours, other))
    if mine is None or theirs is None:
        return None
    seconds = paired_difference(mine, theirs)
    latency = Estimate(seconds.mean / theirs.mean(), seconds.half / theirs.mean())
    success = (found.values("in_time", policy=policy, **at) for policy in (ours, other))
    return Compared(world, other, latency, paired_difference(*success))  # type: ignore[arg-type]


def named(scenario: str, rate: float) -> str:
    return f"{scenario} {rate}" if rate else scenario


def table(headings: Sequence[str], rows: Iterable[Sequence[str]]) -> None:
    CONSOLE.print("| " + " | ".join(headings) + " |\n|" + "---|" * len(headings), soft_wrap=True)
    for row in rows:
        CONSOLE.print("| " + " | ".join(row) + " |", soft_wrap=True)
    CONSOLE.print()


def main_group(found: Found, group: str = "main", rivals: Sequence[str] = RIVALS) -> list[Compared]:
    """Against what a user would pick."""
    rows, kept = [], []
    for scenario, rate in WORLDS:
        for age in AGES:
            at = {"group": group, "scenario": scenario, "rate": rate, "age": age}
            mine = found.values("mean_s", policy="learned", **at)
            if mine is None:
                continue
            in_time = found.values("in_time", policy="learned", **at)
            assert in_time is not None
            all_of = [
                compared(found, "learned", other, f"{named(scenario, rate)}, age {age}", **at) for other in rivals
            ]
            ours = [f"{1e3 * mine.mean():.1f} ms", f"{100 * in_time.mean():.2f} %"]
            rows.append(
                [named(scenario, rate), str(age), *ours, *(text for one in all_of if one for text in one.text())]
            )
            kept += [one for one in all_of if one]
    heads = [head for other in rivals for head in (f"latency to {other}", "success")]
    table(["world", "age", "latency", "in time", *heads], rows)
    return kept


def slot_group(found: Found) -> list[Compared]:
    """Against the best of each slot, with fresh knowledge."""
    rows, kept = [], []
    worlds = [("slot", *world, ("seen-descent", "slot-descent")) for world in WORLDS]
    worlds += [("few", "cdo-dsac", rate, ("slot-descent", "slot-optimum")) for rate in (1.2, 2.0)]
    for group, scenario, rate, others in worlds:
        for ours in ("learned", "untrained-0", "insertion", "sequential-greedy"):
            where = f"{named(scenario, rate)}{', few tasks' if group == 'few' else ''}"
            row = [where, ours]
            for other in ("seen-descent", "slot-descent", "slot-optimum"):
                one = compared(found, ours, other, where, group=group, scenario=scenario, rate=rate)
                row.append(percent(one.latency) if one and other in others else "-")
                if one and ours == "learned":
                    kept.append(one)
            rows.append(row)
    table(["world", "policy", "latency to seen-descent", "to slot-descent", "to slot-optimum"], rows)
    return kept


def servers_group(found: Found) -> list[Compared]:
    """Never seen numbers of servers."""
    rows, kept = [], []
    for servers in SERVERS:
        at = {"group": "servers", "servers": servers}
        row = [str(servers)]
        for policy in ("sequential-greedy", "insertion", "untrained-0", *OURS):
            values = found.values("mean_s", policy=policy, **at)
            row.append("-" if values is None else f"{1e3 * values.mean():.2f} ms")
        for ours in OURS:
            spot = ON_THE_SPOT.get(servers)
            one = compared(found, ours, spot, f"{ours}, {servers} servers", **at) if spot and spot != ours else None
            row += one.text() if one else ["-", "-"]
            kept += [one] if one else []
        rows.append(row)
    heads = [head for ours in OURS for head in (f"latency, {ours} to on the spot", "success")]
    table(["servers", "sequential greedy", "insertion", "untrained", *OURS, *heads], rows)
    return kept


def trainings(found: Found) -> list[dict[str, Any]]:
    """What training gives, with fresh knowledge: four trainings and what each began with, beside the strongest policy
    without training; latency as a part of sequential greedy's."""
    rows, kept = [], []
    for scenario, rate in WORLDS:
        at = {"group": "main", "scenario": scenario, "rate": rate, "age": 0}
        greedy = found.values("mean_s", policy="sequential-greedy", **at)
        assert greedy is not None
        every = {}
        for name, policies in (("insertion", ("insertion-memory",)), ("before", BEGINNINGS), ("after", TRAININGS)):
            values = [found.values("mean_s", policy=policy, **at) for policy in policies]
            every[name] = np.array([one for one in values if one is not None])
        singles = [100 * (one.mean() / greedy.mean() - 1) for one in every["after"]]
        beginnings = every["before"]
        if len(every["after"]) < ENOUGH:
            every["after"] = every["after"][:1]
        else:
            beginnings = every["before"][: len(every["after"])]
        compared_to = {
            "insertion": (every["insertion"], greedy),
            "before": (every["before"], greedy),
            "after": (every["after"], greedy),
            "after_to_before": (every["after"], beginnings),
            "after_to_insertion": (every["after"], every["insertion"]),
            "before_to_insertion": (every["before"], every["insertion"]),
        }
        estimates = {name: crossed(mine, theirs) for name, (mine, theirs) in compared_to.items()}
        rows.append(
            [named(scenario, rate), *map(percent, estimates.values()), ", ".join(f"{one:.1f}" for one in singles)]
        )
        kept.append({"world": named(scenario, rate), **{name: one._asdict() for name, one in estimates.items()}})
    heads = ["insertion", "before training", "after", "after to before", "after to insertion", "before to insertion"]
    table(["world", *heads, "each training"], rows)
    return kept


def crossed(mine: np.ndarray, theirs: np.ndarray) -> Estimate:
    """Difference of [T, S] to [T, S] or [S], as a part of the latter's mean, with an interval that holds for other
    trainings (T) and other chance (S)."""
    part = (mine - theirs) / theirs.mean()
    over_seeds = interval(part.mean(0))
    over_trainings = interval(part.mean(1)).half if len(part) > 1 else 0.0
    return Estimate(over_seeds.mean, float(np.hypot(over_seeds.half, over_trainings)))


def draw_main(found: Found, path: Path) -> None:
    """Latency and success over the age of what is known."""
    figure, axes = plt.subplots(2, len(WORLDS), figsize=(3.1 * len(WORLDS), 5.6), sharex=True)
    for column, (scenario, rate) in enumerate(WORLDS):
        for row, (measure, scale) in enumerate((("mean_s", 1e3), ("in_time", 100.0))):
            axis = axes[row, column]
            for policy, colour in COLOURS.items():
                points = [
                    (age, interval(scale * values))
                    for age in AGES
                    for values in [
                        found.values(measure, group="main", scenario=scenario, rate=rate, age=age, policy=policy)
                    ]
                    if values is not None
                ]
                if points:
                    axis.plot(
                        [at for at, _ in points], [one.mean for _, one in points], "o-", color=colour, label=policy
                    )
            axis.grid(alpha=0.3)
            axis.set_xticks(AGES)
        axes[0, column].set_title(named(scenario, rate))
        axes[1, column].set_xlabel("age of the observation, slots")
    axes[0, 0].set_ylabel("mean latency, ms")
    axes[1, 0].set_ylabel("answered in time, %")
    figure.legend(
        *axes[0, 0].get_legend_handles_labels(), loc="lower center", ncol=len(COLOURS), frameon=False, fontsize=9
    )
    figure.tight_layout(rect=(0, 0.05, 1, 1))
    figure.savefig(path, dpi=110)


def draw_servers(found: Found, path: Path) -> None:
    """Latency over the number of servers, as a part of sequential greedy's."""
    figure, axis = plt.subplots(figsize=(6, 3.8))
    greedy = {n: found.values("mean_s", group="servers", servers=n, policy="sequential-greedy") for n in SERVERS}
    spots = {n: found.values("mean_s", group="servers", servers=n, policy=name) for n, name in ON_THE_SPOT.items()}
    lines = {
        "insertion": "#2ca02c",
        "untrained-0": "#999999",
        "five": "#ffb27f",
        "wide": "#ff7f0e",
        "learned": "#d62728",
    }
    for policy, colour in lines.items():
        values = {n: found.values("mean_s", group="servers", servers=n, policy=policy) for n in SERVERS}
        both = [(n, mine, greedy[n]) for n, mine in values.items() if mine is not None and greedy[n] is not None]
        axis.plot([n for n, *_ in both], [a.mean() / b.mean() for _, a, b in both], "o-", color=colour, label=policy)
    both = [(n, mine, greedy[n]) for n, mine in spots.items() if mine is not None and greedy[n] is not None]
    points = [mine.mean() / other.mean() for _, mine, other in both]
    axis.plot([n for n, *_ in both], points, "kx", ms=9, mew=2, label="trained on the spot")
    axis.axhline(1, color="#1f77b4", lw=1, label="sequential greedy")
    axis.set_xlabel("servers (`five` and `wide` saw 5 in training)")
    axis.set_ylabel("mean latency / sequential greedy's")
    axis.set_xticks(SERVERS)
    axis.grid(alpha=0.3)
    axis.legend(fontsize=8)
    figure.tight_layout()
    figure.savefig(path, dpi=110)


def draw_training(folder: Path, path: Path) -> None:
    """What training saw, generation by generation."""
    figure, axes = plt.subplots(1, 2, figsize=(9, 3.4))
    for name in ("all", "five", "wide", "two", "ten", "twenty"):
        if not (folder / f"{name}.json").exists():
            continue
        history = json.loads((folder / f"{name}.json").read_text())["history"]
        width = max(1, len(history) // 12)
        for axis, key, scale in ((axes[0], "latency", 1.0), (axes[1], "late", 100.0)):
            smooth = np.convolve([scale * one[key] for one in history], np.ones(width) / width, "valid")
            axis.plot(np.arange(len(smooth)) + width, smooth, label=name)
    axes[0].set_ylabel("latency / sequential greedy's")
    axes[1].set_ylabel("late tasks, less greedy's, pp")
    for axis in axes:
        axis.set_xlabel("generation (running mean)")
        axis.grid(alpha=0.3)
    axes[0].legend(fontsize=8)
    figure.tight_layout()
    figure.savefig(path, dpi=110)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--folder", type=Path, default=HERE / "results")
    folder = parser.parse_args().folder
    found = Found(folder / "evaluated.jsonl")
    groups = {
        "main": main_group(found),
        "more": main_group(found, "more", RIVALS[:2]),
        "slot": slot_group(found),
        "servers": servers_group(found),
    }
    record = {
        name: [
            {"world": one.world, "other": one.other, "latency": one.latency._asdict(), "success": one.success._asdict()}
            for one in group
        ]
        for name, group in groups.items()
    }
    record["trainings"] = trainings(found)
    (folder / "report.json").write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")
    draw_main(found, folder / "main.png")
    draw_servers(found, folder / "servers.png")
    draw_training(folder, folder / "training.png")


if __name__ == "__main__":
    main()
