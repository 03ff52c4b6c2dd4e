"""Figure 3 (a): latency on held-out worlds against the episodes played, the updater's included, at arrival rate 2.0.

    python experiments/cdo-dsac/convergence.py

The paper draws the average return, which is minus the summed latency. All schemes are judged in the same two worlds, a
whole episode each. Expected: the learners fall to their
last value; Greedy and Random, which do not learn, are level. Writes results/convergence.png.
"""

import numpy as np
from figures import NAMES, PAPERS, RATE, Results, finish, plain_log, plt

from coinfer.units import MILLI

LEARNERS = (
    "cdo-dsac", "cdo-dsac-seen", "cdo-dsac-flat", "cdo-dsac-ranked", "ddpg", "ddpg-flat", "ddpg-running", "online-rl",
    "online-rl-running",
)  # fmt: skip
LEVEL = ("greedy", "random", "untrained", "sequential-greedy")
"""`untrained`: the best of a seed's random networks with the inputs of CDO-DSAC."""


def main() -> None:
    results = Results()
    chart, axes = plt.subplots(figsize=(9, 5.5), layout="constrained")
    for scheme in LEARNERS:
        if not results.has(scheme, RATE):
            continue
        name, colour, marker = NAMES[scheme]
        episodes, values = results.curve(scheme, RATE, "latency_s")
        mean, spread = values.mean(1) / MILLI, values.std(1, ddof=1) / MILLI
        axes.plot(episodes, mean, color=colour, marker=marker, ms=3, lw=1.2, label=name)
        if scheme in PAPERS:
            axes.fill_between(episodes, np.maximum(mean - spread, 1), mean + spread, color=colour, alpha=0.15, lw=0)
    for scheme in LEVEL:
        name, colour, _ = NAMES[scheme]
        level = float(results.curve(scheme, RATE, "latency_s")[1].mean()) / MILLI
        axes.axhline(level, color=colour, ls="--", lw=1, label=f"{name} (level)")
    plain_log(axes)
    axes.set(ylim=(100, 5000), xlabel="episodes of 100 slots, all worlds of a seed", ylabel="mean latency, ms")
    axes.set_title("mean of ten seeds; standard deviation of the paper's schemes")
    axes.legend(fontsize=8, ncols=2, loc="upper right")
    finish(chart, "convergence")


if __name__ == "__main__":
    main()
