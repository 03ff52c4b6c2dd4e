"""Figures 4 and 6: latency and success against the arrival rate, for each network.

    python experiments/cdo-dsac/arrival_rate.py

Expected: CDO-DSAC lowest in latency and highest in success at every rate; all alike where hardly anything waits (0.4).
Writes results/arrival_rate.png and prints the tables of the README.
"""

from figures import BESIDE, NAMES, PAPERS, UNTRAINED, Results, finish, line, plain_log, plt, table

from coinfer.units import MILLI

SCHEMES = (*PAPERS, *UNTRAINED, *BESIDE)


def main() -> None:
    results = Results()
    schemes = [scheme for scheme in SCHEMES if results.rates_of(scheme)]
    names = ["all", *(str(n) for n in range(len(results.networks)))]
    chart, axes = plt.subplots(2, len(names), figsize=(15, 7), sharex=True, layout="constrained")
    for column, network in enumerate(names):
        for scheme in schemes:
            for row, (measure, unit) in enumerate((("latency_s", MILLI), ("in_time", 0.01))):
                rates = results.rates_of(scheme)
                found = [results.estimate(scheme, rate, measure, network) for rate in rates]
                line(axes[row, column], rates, found, scheme, unit)
        axes[0, column].set(title="all tasks" if network == "all" else results.networks[int(network)])
        plain_log(axes[0, column])
        axes[1, column].set(xlabel="arrival rate", ylim=(0, 102))
    axes[0, 0].set(ylabel="mean latency, ms")
    axes[1, 0].set(ylabel="answered in time, %")
    chart.legend(*axes[0, 0].get_legend_handles_labels(), loc="outside lower center", ncols=7, fontsize=8)
    finish(chart, "arrival_rate")
    for title, measure, unit, digits in (
        ("Mean latency, ms", "latency_s", MILLI, 1),
        ("In time, %", "in_time", 0.01, 1),
    ):
        rows = []
        for scheme in schemes:
            cells = [
                results.estimate(scheme, rate, measure) if results.has(scheme, rate) else None for rate in results.rates
            ]
            text = [f"{c.mean / unit:.{digits}f} ±{c.half / unit:.{digits}f}" if c else "" for c in cells]
            rows.append([NAMES[scheme][0], *text])
        print(f"\n{title}\n\n" + table(["arrival rate", *(f"{rate:g}" for rate in results.rates)], rows))


if __name__ == "__main__":
    main()
