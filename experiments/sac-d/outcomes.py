"""Latency, accuracy and regret of SAC-d, DQN, on-device and the exhaustive optimum against bandwidth; from what
train.py left.

    python experiments/sac-d/outcomes.py [--scenario sacd]
"""

from pathlib import Path

import bandwidths
import drawing
import numpy as np
from drawing import SHOWN, band, finish, plt

from coinfer.units import MILLI


def outcomes(scenario: str, folder: Path) -> None:
    """Latency, accuracy and regret against bandwidth: mean and extremes over the seeds."""
    mbyte_s, runs = bandwidths.load(scenario)
    figure, columns = plt.subplots(3, 1, figsize=(8, 8), sharex=True, layout="constrained")
    for name, (colour, line) in SHOWN.items():
        for axes, field, unit in ((columns[0], "latency_s", MILLI), (columns[1], "accuracy", 0.01)):
            band(axes, mbyte_s, np.stack([getattr(one, field) for one in runs[name]]) / unit, name, colour, line)
    for name in ("sac-d", "dqn"):
        band(columns[2], mbyte_s, smooth(bandwidths.regrets(runs, name)), name, *SHOWN[name])
    columns[0].set(ylabel="latency, ms", yscale="log", title=f"{Path(scenario).stem}: what comes of the decisions")
    columns[1].set(ylabel="accuracy, %")
    columns[2].set(ylabel="regret of the reward\n(mean of 10 neighbours)", xlabel="bandwidth, MB/s")
    columns[0].set(ylim=(None, 4 * columns[0].get_ylim()[1]), yticks=(10, 20, 50, 100, 200, 500, 1000))
    columns[0].yaxis.set_major_formatter("{x:g}")
    columns[0].yaxis.set_minor_formatter("")
    columns[0].set(ylim=(0.8 * min(one.latency_s.min() for one in runs["sac-d"]) / MILLI, columns[0].get_ylim()[1]))
    columns[0].legend(fontsize=8, loc="upper left", ncols=3)
    finish(figure, columns, folder / "outcomes.png")


def smooth(values: np.ndarray, width: int = 10) -> np.ndarray:
    """Running means along the last axis."""
    kernel = np.ones(width) / width
    return np.stack([np.convolve(row, kernel, mode="same") for row in values])


if __name__ == "__main__":
    drawing.main(outcomes)
