"""The tables of the README, from what train.py left: regrets, and latency and accuracy of SAC-d and DQN side by side.

    python experiments/sac-d/tables.py [--scenario sacd]

The paper says that DQN is a little faster than SAC-d and less accurate. So: means over all bandwidths, over the lower
and over the upper half of them, of ten seeds; DQN less SAC-d with 95 % intervals over the seeds (`*`: holds 0).
"""

import argparse
from itertools import pairwise

import bandwidths
import numpy as np
from bandwidths import DEVICE, OPTIMUM, WHOLE, WORST, Judged

from coinfer.evaluate.statistics import Estimate, interval, paired_difference
from coinfer.units import MILLI

LEARNED = ("sac-d", "dqn")
NAMES = {
    "sac-d": "SAC-d",
    "dqn": "DQN",
    "untrained": "untrained network",
    "greedy": "fastest choice (`greedy`)",
    DEVICE: "on the device, fastest exit",
    WHOLE: "on the device, whole network",
}


def regret_table(runs: dict[str, list[Judged]]) -> str:
    best, least = runs[OPTIMUM][0].reward, runs[WORST][0].reward
    whole_range, range_here = best.max() - least.min(), (best - least).mean()
    lines = [
        f"Rewards range over {whole_range:.1f} in all, over {range_here:.2f} at the mean bandwidth.\n",
        "| | regret (seeds) | of the whole range | of the range at the mean bandwidth |\n|---|---:|---:|---:|",
    ]
    for name, title in NAMES.items():
        if name not in runs:
            continue
        mean = bandwidths.regrets(runs, name).mean(1)
        seeds = f" ({mean.min():.5f} to {mean.max():.5f})" if len(mean) > 1 else ""
        shares = " | ".join(_percent(mean.mean() / span) for span in (whole_range, range_here))
        lines.append(f"| {title} | {mean.mean():.5f}{seeds} | {shares} |")
    return "\n".join(lines)


def _percent(share: float) -> str:
    """With two digits."""
    return f"{float(f'{100 * share:.2g}'):g} %"


def side_by_side(mbyte_s: np.ndarray, runs: dict[str, list[Judged]]) -> str:
    """Means over bandwidths, and the difference of the two."""
    middle = float(np.median(mbyte_s))
    places = {
        "all bandwidths": np.ones(len(mbyte_s), dtype=bool),
        f"below {middle:.2g} MB/s": mbyte_s < middle,
        f"above {middle:.2g} MB/s": mbyte_s >= middle,
    }
    lines = [
        "| | SAC-d, ms | DQN, ms | DQN less SAC-d, ms | SAC-d, % | DQN, % | DQN less SAC-d, points |\n"
        "|---|---:|---:|---:|---:|---:|---:|"
    ]
    for title, chosen in places.items():
        cells: list[str] = []
        for field, unit in (("latency_s", MILLI), ("accuracy", 0.01)):
            means = [np.array([getattr(one, field)[chosen].mean() / unit for one in runs[name]]) for name in LEARNED]
            cells += [_told(interval(values)) for values in means]
            found = paired_difference(means[1], means[0])
            cells.append(_told(found, signed=True) + ("" if found.clear_of_zero() else "*"))
        lines.append(f"| {title} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def _told(found: Estimate, signed: bool = False) -> str:
    return f"{found.mean:{'+' if signed else ''}.2f} ±{found.half:.2f}"


def by_range(mbyte_s: np.ndarray, runs: dict[str, list[Judged]]) -> str:
    """Where the optimum changes its option, what each of them takes and gets there."""
    option = runs[OPTIMUM][0].option
    starts = [0, *(np.flatnonzero(np.diff(option)) + 1), len(option)]
    names = (OPTIMUM, *LEARNED, WHOLE)
    lines = ["| bandwidth, MB/s | " + " | ".join(NAMES.get(name, name) for name in names) + " |"]
    lines.append("|---|" + "---|" * len(names))
    for first, last in pairwise(starts):
        cells = []
        for name in names:
            latency, accuracy = (
                np.mean([getattr(one, field)[first:last].mean() for one in runs[name]])
                for field in ("latency_s", "accuracy")
            )
            cells.append(f"{latency / MILLI:.1f} ms, {100 * accuracy:.2f} %")
        lines.append(f"| {mbyte_s[first]:.3g} to {mbyte_s[last - 1]:.3g} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--scenario", default="sacd")
    mbyte_s, runs = bandwidths.load(parser.parse_args().scenario)
    print("\n\n".join((regret_table(runs), side_by_side(mbyte_s, runs), by_range(mbyte_s, runs))))


if __name__ == "__main__":
    main()
