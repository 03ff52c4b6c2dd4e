"""What the figures of this folder share."""

import argparse
import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import bandwidths
import matplotlib
import numpy as np

matplotlib.use("Agg")
from matplotlib import pyplot as plt

Draw = Callable[[str, Path], dict[str, Any] | None]
"""Draws a scenario's figure into a folder; returns its numbers where they are nowhere else."""
SHOWN = {
    bandwidths.OPTIMUM: ("black", "-"),
    "sac-d": ("tab:blue", "-"),
    "dqn": ("tab:orange", "-"),
    bandwidths.DEVICE: ("tab:green", "--"),
    bandwidths.WHOLE: ("tab:red", "--"),
}


def band(axes: Any, x: np.ndarray, runs: np.ndarray, name: str, colour: str, line: str) -> None:
    """Mean and extremes of runs [S, G]."""
    axes.plot(x, runs.mean(0), line, color=colour, lw=1.3, label=name)
    if len(runs) > 1:
        axes.fill_between(x, runs.min(0), runs.max(0), color=colour, alpha=0.2, lw=0)


def finish(figure: Any, axes: Sequence[Any], path: Path) -> None:
    for one in axes:
        one.grid(axis="y", alpha=0.3)
    figure.savefig(path, dpi=110)
    plt.close(figure)


def main(*draws: Draw) -> None:
    """Draws these figures, and keeps the numbers of those that return any in figures.json."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--scenario", default="sacd")
    scenario = parser.parse_args().scenario
    folder = bandwidths.results(scenario)
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / "figures.json"
    told = json.loads(path.read_text()) if path.exists() else {}
    told |= {draw.__name__: found for draw in draws if (found := draw(scenario, folder))}
    path.write_text(json.dumps(told) + "\n")


__all__ = ["SHOWN", "band", "finish", "main", "plt"]
