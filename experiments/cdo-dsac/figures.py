"""What the figures' scripts share: the results by scheme and rate, intervals, and how the schemes are drawn."""

import json
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np

from coinfer.evaluate.statistics import Estimate, interval

matplotlib.use("Agg")
from matplotlib import pyplot as plt
from matplotlib.ticker import LogLocator, NullFormatter, ScalarFormatter

HERE = Path(__file__).resolve().parent
RESULTS = HERE / "results"
NAMES = {
    "cdo-dsac": ("CDO-DSAC", "C3", "o"),
    "ddpg": ("DDPG", "C0", "s"),
    "online-rl": ("Online RL", "C2", "^"),
    "greedy": ("Greedy", "C1", "D"),
    "random": ("Random", "C7", "v"),
    "two-choices": ("two choices", "C4", "x"),
    "sequential-greedy": ("sequential greedy", "black", "+"),
    "cdo-dsac-seen": ("CDO-DSAC, queues as seen", "C5", "o"),
    "cdo-dsac-flat": ("CDO-DSAC, the paper's network", "C8", "o"),
    "cdo-dsac-ranked": ("CDO-DSAC, the same, servers by load", "tan", "o"),
    "ddpg-flat": ("DDPG, servers by number", "lightblue", "s"),
    "ddpg-running": ("DDPG, inputs of CDO-DSAC", "C9", "s"),
    "online-rl-running": ("Online RL, counting its own", "C6", "^"),
}
"""Scheme to its name, colour and marker."""
PAPERS = ("cdo-dsac", "ddpg", "online-rl", "greedy", "random")
BESIDE = ("ddpg-flat", "ddpg-running", "online-rl-running", "two-choices", "sequential-greedy")
BASE = 30
"""Capacity of the preset."""


class Results:
    """Of `run.py`."""

    def __init__(self, folder: Path = RESULTS):
        self.record = json.loads((folder / "results.json").read_text(encoding="utf-8"))
        self.parts = {(part["scheme"], part["rate"]): part for part in self.record["parts"]}

    @property
    def rates(self) -> list[float]:
        return sorted({rate for _, rate in self.parts})

    @property
    def networks(self) -> list[str]:
        return self.record["networks"]

    def has(self, scheme: str, rate: float = 2.0) -> bool:
        return (scheme, rate) in self.parts

    def rates_of(self, scheme: str) -> list[float]:
        """Those that the scheme was trained at."""
        return [rate for rate in self.rates if self.has(scheme, rate)]

    def values(self, scheme: str, rate: float, measure: str, network: str = "all", capacity: int = BASE) -> np.ndarray:
        """[S], one a seed."""
        return np.array(self.parts[scheme, rate]["measured"][str(capacity)][network][measure], dtype=float)

    def estimate(self, *which: Any, **more: Any) -> Estimate:
        return interval(self.values(*which, **more))

    def curve(self, scheme: str, rate: float, measure: str) -> tuple[np.ndarray, np.ndarray]:
        """Episodes of each seed so far [P], and values [P, S] on held-out worlds; the mean of a seed's agents."""
        curve = self.parts[scheme, rate]["curve"]
        slots = np.array([point["round"] for point in curve]) * self.record["worlds"]
        return slots / self.record["slots"], np.array([point[measure] for point in curve])


def line(axes: Any, at: Any, estimates: list[Estimate], scheme: str, unit: float) -> None:
    name, colour, marker = NAMES[scheme]
    mean, half = (np.array([getattr(one, part) for one in estimates]) / unit for part in ("mean", "half"))
    style: dict[str, Any] = {"lw": 1.8, "zorder": 5} if scheme == PAPERS[0] else {"lw": 1.2}
    axes.errorbar(at, mean, yerr=half, color=colour, marker=marker, ms=4, capsize=2, label=name, **style)


def plain_log(axes: Any) -> None:
    """A logarithmic axis of y with plain numbers."""
    axes.set_yscale("log")
    axes.set_ylim(bottom=20)
    axes.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    axes.yaxis.set_major_formatter(ScalarFormatter())
    axes.yaxis.set_minor_formatter(NullFormatter())


def finish(chart: Any, name: str) -> None:
    RESULTS.mkdir(exist_ok=True)
    chart.savefig(RESULTS / f"{name}.png", dpi=110)
    plt.close(chart)
    print(RESULTS / f"{name}.png")


def table(head: list[str], rows: list[list[str]]) -> str:
    """Markdown."""
    lines = ["| " + " | ".join(head) + " |", "|---|" + "---:|" * (len(head) - 1)]
    return "\n".join(lines + ["| " + " | ".join(row) + " |" for row in rows])
