"""Figure 3 (b): episodes until a scheme has converged, against the arrival rate.

    python experiments/cdo-dsac/exploration_cost.py

Converged: 95 % of the way from the latency on held-out worlds before any learning to the last one (the mean of the last
three assessments), for good, give or take 2 %. A scheme that still goes up and down at the end counts with all
its episodes. Expected: CDO-DSAC needs fewer than DDPG and Online RL. Writes results/exploration_cost.png and prints the
table of the README.
"""

import numpy as np
from figures import NAMES, Results, finish, line, plt, table

from coinfer.evaluate.statistics import interval

LEARNERS = ("cdo-dsac", "ddpg", "ddpg-flat", "ddpg-running", "online-rl", "online-rl-running")
SHARE = 0.95


def cost(results: Results, scheme: str, rate: float) -> np.ndarray:
    """[S] episodes."""
    episodes, values = results.curve(scheme, rate, "latency_s")
    last = values[-3:].mean(0)
    reached = values <= last + (1 - SHARE) * np.maximum(values[0] - last, 0) + 0.02 * last
    lasting = np.flip(np.logical_and.accumulate(np.flip(reached, 0), 0), 0)
    return np.where(lasting.any(0), episodes[lasting.argmax(0)], episodes[-1])


def main() -> None:
    results = Results()
    chart, axes = plt.subplots(figsize=(6.5, 4.5), layout="constrained")
    rows = []
    for scheme in LEARNERS:
        found = {rate: interval(cost(results, scheme, rate)) for rate in results.rates_of(scheme)}
        line(axes, list(found), list(found.values()), scheme, 1.0)
        text = {rate: f"{one.mean:.0f} ±{one.half:.0f}" for rate, one in found.items()}
        rows.append([NAMES[scheme][0], *(text.get(rate, "") for rate in results.rates)])
    axes.set(xlabel="arrival rate", ylabel="episodes until converged", ylim=(0, 85))
    axes.legend(fontsize=8, ncols=2, loc="upper center")
    finish(chart, "exploration_cost")
    print("\nEpisodes until converged\n\n" + table(["arrival rate", *(f"{rate:g}" for rate in results.rates)], rows))


if __name__ == "__main__":
    main()
