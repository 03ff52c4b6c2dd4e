"""Load balance: Jain's index of the servers' work over an episode, against the arrival rate (V.C and V.D, in words).

    python experiments/cdo-dsac/balance.py

Expected: CDO-DSAC close to 1 where there is load; over an episode even herding is balanced, as it goes to another
server every slot. Writes results/balance.png.
"""

from figures import BESIDE, PAPERS, Results, finish, line, plt


def main() -> None:
    results = Results()
    chart, axes = plt.subplots(figsize=(6.5, 4.5), layout="constrained")
    for scheme in (*PAPERS, *BESIDE):
        rates = results.rates_of(scheme)
        line(axes, rates, [results.estimate(scheme, rate, "balance") for rate in rates], scheme, 1.0)
    axes.set(xlabel="arrival rate", ylabel="Jain's index of the servers' work")
    axes.legend(fontsize=8)
    finish(chart, "balance")


if __name__ == "__main__":
    main()
