"""What the parts of CDO-DSAC's algorithm give at arrival rate 2.0: agents, their shared memory, broadcast, omega.

    python experiments/cdo-dsac/parts.py

Ten seeds, the same chance, the same number of slots, in which what the updater plays counts. Differences to CDO-DSAC
are seed by seed; a * marks those whose interval holds 0. Expected: every part gains. Writes results/parts.png and
prints the table of the README.
"""

from figures import NAMES, OMEGA, PARTS, RATE, Results, finish, plt, table

from coinfer.evaluate.statistics import Estimate, interval
from coinfer.units import MILLI

OURS = "cdo-dsac"
SCHEMES = (OURS, *PARTS, *(scheme for scheme in OMEGA if scheme != OURS), "untrained", "sequential-greedy")


def difference(results: Results, scheme: str, measure: str, rate: float = RATE) -> Estimate:
    """Over seeds; of the latency in percent of CDO-DSAC's, of what was in time in points."""
    mine, theirs = (results.values(name, rate, measure) for name in (scheme, OURS))
    return interval(100 * ((mine - theirs) / theirs.mean() if measure == "latency_s" else mine - theirs))


def told(estimate: Estimate) -> str:
    return f"{estimate.mean:+.1f} ±{estimate.half:.1f}{'' if estimate.clear_of_zero() else '*'}"


def row(results: Results, scheme: str) -> list[str]:
    slots = results.played(scheme)
    seconds = results.estimate(scheme, RATE, "latency_s")
    played = [f"{slots[name]:,}" for name in ("learning", "updater")] if slots else ["", ""]
    figures = [f"{seconds.mean / MILLI:.1f} ±{seconds.half / MILLI:.1f}"]
    compared = ["", ""] if scheme == OURS else [told(difference(results, scheme, m)) for m in ("latency_s", "in_time")]
    name = f"{NAMES[OURS][0]}: five agents, sharing, omega {OMEGA[OURS]}" if scheme == OURS else NAMES[scheme][0]
    return [name, *played, *figures, *compared]


def main() -> None:
    results = Results()
    schemes = [scheme for scheme in SCHEMES if results.has(scheme)]
    chart, axes = plt.subplots(figsize=(8, 4.8), layout="constrained")
    for place, scheme in enumerate(schemes):
        values = results.values(scheme, RATE, "latency_s") / MILLI
        found = interval(values)
        axes.plot(values, [place] * len(values), ".", color="0.6", ms=4)
        axes.errorbar(found.mean, place, xerr=found.half, color=NAMES[scheme][1], marker="o", ms=5, capsize=3)
    axes.axvline(results.estimate(OURS, RATE, "latency_s").mean / MILLI, color="C3", lw=0.8, ls=":")
    axes.set_yticks(range(len(schemes)), [NAMES[scheme][0] for scheme in schemes])
    axes.set(xlabel="mean latency, ms: ten seeds, mean and 95 % interval", title=f"rate {RATE:g}, equal budgets")
    axes.invert_yaxis()
    finish(chart, "parts")
    heads = ["slots to learn", "of the updater", "mean latency, ms", "to CDO-DSAC, %", "in time, points"]
    print("\n" + table([f"rate {RATE:g}", *heads], [row(results, scheme) for scheme in schemes]))
    rates = [rate for rate in results.rates if results.has("untrained", rate)]
    cells = [told(difference(results, "untrained", "latency_s", rate)) for rate in rates]
    kept = [f"{results.kept_untrained(OURS, rate)}" for rate in rates]
    rows = [["untrained to CDO-DSAC, %", *cells], ["of ten networks kept untrained", *kept]]
    print("\n" + table(["arrival rate", *(f"{rate:g}" for rate in rates)], rows))


if __name__ == "__main__":
    main()
