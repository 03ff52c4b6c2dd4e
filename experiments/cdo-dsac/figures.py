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
    "untrained": ("untrained, inputs of CDO-DSAC", "C3", "1"),
    "ddpg": ("DDPG", "C0", "s"),
    "untrained-ddpg": ("untrained, network of DDPG", "C0", "2"),
    "online-rl": ("Online RL", "C2", "^"),
    "untrained-table": ("untrained, table of Online RL", "C2", "3"),
    "greedy": ("Greedy", "C1", "D"),
    "random": ("Random", "C7", "v"),
    "two-choices": ("two choices", "C4", "x"),
    "sequential-greedy": ("sequential greedy", "black", "+"),
    "cdo-dsac-one": ("one agent", "C1", "o"),
    "cdo-dsac-one-batch": ("one agent, batches of 80", "C1", "s"),
    "cdo-dsac-apart": ("five agents, no sharing", "C0", "o"),
    "cdo-dsac-silent": ("five agents, no broadcast", "C2", "o"),
    "cdo-dsac-alone": ("five agents, neither", "C4", "o"),
    "cdo-dsac-omega-10": ("omega 10", "C5", "o"),
    "cdo-dsac-omega-25": ("omega 25", "C6", "o"),
    "cdo-dsac-omega-100": ("omega 100", "C8", "o"),
    "cdo-dsac-omega-200": ("omega 200", "C9", "o"),
    "cdo-dsac-seen": ("CDO-DSAC, queues as seen", "C5", "o"),
    "untrained-seen": ("untrained, queues as seen", "C5", "1"),
    "cdo-dsac-ranked": ("CDO-DSAC, the paper's network, servers by load", "tan", "o"),
    "untrained-ranked": ("untrained, the paper's network, servers by load", "tan", "1"),
    "cdo-dsac-flat": ("CDO-DSAC, the paper's network", "C8", "o"),
    "untrained-flat": ("untrained, the paper's network", "C8", "1"),
    "ddpg-flat": ("DDPG, servers by number", "lightblue", "s"),
    "ddpg-running": ("DDPG, inputs of CDO-DSAC", "C9", "s"),
    "online-rl-running": ("Online RL, counting its own", "C6", "^"),
    "untrained-table-running": ("untrained, table counting its own", "C6", "3"),
}
"""Scheme to its name, colour and marker."""
PAPERS = ("cdo-dsac", "ddpg", "online-rl", "greedy", "random")
UNTRAINED = ("untrained", "untrained-ddpg", "untrained-table")
"""Of the three that learn, at every rate."""
BESIDE = ("ddpg-flat", "ddpg-running", "online-rl-running", "two-choices", "sequential-greedy")
EVERY = tuple(scheme for scheme in NAMES if not scheme.startswith(("cdo-dsac-one", "cdo-dsac-omega")))
PARTS = ("cdo-dsac-one", "cdo-dsac-one-batch", "cdo-dsac-apart", "cdo-dsac-silent", "cdo-dsac-alone")
"""CDO-DSAC without parts of its algorithm."""
OMEGA = {
    "cdo-dsac-omega-10": 10,
    "cdo-dsac-omega-25": 25,
    "cdo-dsac": 50,
    "cdo-dsac-omega-100": 100,
    "cdo-dsac-omega-200": 200,
}
"""Updates from one broadcast to the next."""
RATE = 2.0
"""Where everybody is compared."""
BASE = 30
"""Capacity of the preset."""


def reward_of(scheme: str) -> str:
    """Whose latency a scheme learns from."""
    if scheme.startswith("ddpg"):
        return "the slot's sum"
    return "each task's own" if scheme.startswith(("cdo-dsac", "online-rl")) else ""


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

    def played(self, scheme: str, rate: float = RATE) -> dict[str, int]:
        """Slots of a seed by their purpose; empty where nothing is learned or chosen."""
        return self.parts[scheme, rate]["played"]

    def kept_untrained(self, scheme: str, rate: float = RATE) -> int:
        """Seeds whose kept network is that of before any learning."""
        return self.parts[scheme, rate]["kept"].count(0)

    def rates_of(self, scheme: str) -> list[float]:
        """Those that the scheme was trained at."""
        return [rate for rate in self.rates if self.has(scheme, rate)]

    def values(self, scheme: str, rate: float, measure: str, network: str = "all", capacity: int = BASE) -> np.ndarray:
        """[S], one a seed."""
        return np.array(self.parts[scheme, rate]["measured"][str(capacity)][network][measure], dtype=float)

    def estimate(self, *which: Any, **more: Any) -> Estimate:
        return interval(self.values(*which, **more))

    def curve(self, scheme: str, rate: float, measure: str) -> tuple[np.ndarray, np.ndarray]:
        """Episodes of each seed so far [P], the updater's included, and values [P, S] on held-out worlds."""
        curve = self.parts[scheme, rate]["curve"]
        slots = np.array([point["slots"] for point in curve])
        return slots / self.record["slots"], np.array([point[measure] for point in curve])


def line(axes: Any, at: Any, estimates: list[Estimate], scheme: str, unit: float) -> None:
    name, colour, marker = NAMES[scheme]
    mean, half = (np.array([getattr(one, part) for one in estimates]) / unit for part in ("mean", "half"))
    style: dict[str, Any] = {"lw": 1.8, "zorder": 5} if scheme == PAPERS[0] else {"lw": 1.2}
    style["ls"] = ":" if scheme.startswith("untrained") else "-"
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
