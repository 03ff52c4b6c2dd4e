"""The authors' demonstrations: weights swapped, devices switched off and on, and the adaptive number of candidates.

    python experiments/droo/demonstrations.py [--seeds 10]

The learning rate stays constant here, as the network has to follow. Rates are normalised by threshold search. Writes
results/demonstrations.json and .png.
"""

import argparse

import common
import matplotlib
import numpy as np
import torch

matplotlib.use("Agg")
from matplotlib import pyplot as plt

SCENARIOS = {"droo-weights": [6000, 8000], "droo-on-off": [6000, 6500, 7000, 7500, 8000, 8500, 9000, 9500]}
"""Frames at which something changes."""


def main(seeds: int) -> None:
    figure, rows = plt.subplots(3, 1, figsize=(8, 8), layout="constrained", sharex=True)
    record: dict[str, dict[str, object]] = {}
    for axes, (scenario, changes) in zip(rows, SCENARIOS.items(), strict=False):
        world = common.world_of(10, scenario)
        for name, settings in (
            ("DROO, constant learning rate", common.settings_of(decays=False)),
            ("paper's settings", common.settings_of("paper")),
            ("untrained network", common.settings_of(trains=False)),
        ):
            played = common.play(settings, world, seeds)
            normalised = played.rate_bps / common.rule("threshold-search", world, played)
            parts = {"1,000 before": slice(changes[0] - 1000, changes[0]), "last 1,000": slice(-1000, None)}
            parts |= {f"200 from {change:,}": slice(change, change + 200) for change in changes}
            record[f"{scenario}: {name}"] = common.row(normalised, parts)
            print(scenario, name, record[f"{scenario}: {name}"], flush=True)
            values = common.smooth(normalised.mean(0).numpy(), 50)
            axes.plot((np.arange(len(values)) + 0.5) * 50, values, label=name)
            if name.startswith("paper"):
                rows[-1].plot(np.arange(len(played.candidates)) * 10, played.candidates, label=scenario)
        for change in changes:
            axes.axvline(change, color="0.8", zorder=0)
        axes.set(title=scenario, ylabel="normalised rate", ylim=(0.9, 1.002))
        axes.legend(fontsize=7)
    rows[-1].set(xlabel="frame", ylabel="candidates", title="adaptive number of candidates, paper's settings")
    rows[-1].legend(fontsize=7)
    figure.savefig(common.RESULTS / "demonstrations.png", dpi=110)
    common.save("demonstrations", {"seeds": seeds}, record)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=common.SEEDS)
    torch.set_num_threads(1)
    main(parser.parse_args().seeds)
