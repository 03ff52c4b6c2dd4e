"""Figures 5 and 7: latency and success against the servers' capacity, at arrival rate 2.0, for each network.

    python experiments/cdo-dsac/capacity.py

Every scheme was trained and judged at capacity 30, and the weights that were kept there are measured at all of them;
untrained ones were chosen there too. Expected: CDO-DSAC lowest in latency, above 85 %
in time at all capacities; nobody gains beyond 30. Writes results/capacity.png and prints the tables of the README.
"""

from figures import BESIDE, NAMES, PAPERS, RATE, UNTRAINED, Results, finish, line, plain_log, plt, table

from coinfer.units import MILLI

SCHEMES = (*PAPERS, *UNTRAINED, *BESIDE)


def main() -> None:
    results = Results()
    schemes = [scheme for scheme in SCHEMES if results.has(scheme, RATE)]
    capacities = sorted(int(key) for key in results.parts["cdo-dsac", RATE]["measured"])
    names = ["all", *(str(n) for n in range(len(results.networks)))]
    chart, axes = plt.subplots(2, len(names), figsize=(15, 7), sharex=True, layout="constrained")
    for column, network in enumerate(names):
        for scheme in schemes:
            for row, (measure, unit) in enumerate((("latency_s", MILLI), ("in_time", 0.01))):
                found = [results.estimate(scheme, RATE, measure, network, capacity=n) for n in capacities]
                line(axes[row, column], capacities, found, scheme, unit)
        axes[0, column].set(title="all tasks" if network == "all" else results.networks[int(network)])
        plain_log(axes[0, column])
        axes[1, column].set(xlabel="capacity, tasks in a server", ylim=(0, 102))
        axes[1, column].axhline(85, color="0.6", ls=":", lw=1)
    axes[0, 0].set(ylabel="mean latency, ms")
    axes[1, 0].set(ylabel="answered in time, %")
    chart.legend(*axes[0, 0].get_legend_handles_labels(), loc="outside lower center", ncols=7, fontsize=8)
    chart.suptitle("arrival rate 2.0; weights trained and chosen at capacity 30")
    finish(chart, "capacity")
    for title, measure, unit in (("Mean latency, ms", "latency_s", MILLI), ("In time, %", "in_time", 0.01)):
        rows = []
        for scheme in schemes:
            cells = [results.estimate(scheme, RATE, measure, capacity=n) for n in capacities]
            rows.append([NAMES[scheme][0], *(f"{c.mean / unit:.1f} ±{c.half / unit:.1f}" for c in cells)])
        print(f"\n{title}\n\n" + table(["capacity", *map(str, capacities)], rows))


if __name__ == "__main__":
    main()
