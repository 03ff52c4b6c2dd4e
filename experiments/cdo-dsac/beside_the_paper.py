"""The paper's percentages beside ours, with intervals over ten seeds that met the same chance.

    python experiments/cdo-dsac/beside_the_paper.py

Writes results/beside_the_paper.json and prints the table of the README. "Lower" is 1 - ours / theirs of the latencies;
"above" is read twice, as percentage points and as ours / theirs - 1 of the success, as the paper does not say which.
"""

import json
from typing import Any

from figures import BASE, NAMES, RESULTS, Results, table

from coinfer.evaluate.statistics import interval
from coinfer.units import MILLI

CLAIMS: tuple[tuple[str, str, int, float], ...] = (
    ("latency_s", "ddpg", BASE, 18.3),
    ("latency_s", "random", BASE, 36.2),
    ("latency_s", "ddpg", 40, 19.9),
    ("latency_s", "random", 40, 38.5),
    ("in_time", "ddpg", BASE, 18.9),
    ("in_time", "online-rl", BASE, 22.4),
    ("in_time", "ddpg", 25, 19.8),
    ("in_time", "random", 25, 33.4),
)
OURS, RATE = "cdo-dsac", 2.0


def claim(results: Results, measure: str, other: str, capacity: int, paper: float) -> dict[str, Any]:
    mine, theirs = (results.values(scheme, RATE, measure, capacity=capacity) for scheme in (OURS, other))
    share = 100 * (1 - mine / theirs if measure == "latency_s" else mine / theirs - 1)
    found: dict[str, Any] = {"measure": measure, "other": other, "capacity": capacity, "paper": paper}
    found["percent"] = interval(share)._asdict()
    if measure == "in_time":
        found["points"] = interval(100 * (mine - theirs))._asdict()
    return found


def main() -> None:
    results = Results()
    found = [claim(results, *one) for one in CLAIMS]
    others = [s for s in ("cdo-dsac-seen", "ddpg-running", "online-rl-running") if results.has(s, RATE)]
    (RESULTS / "beside_the_paper.json").write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")
    rows = []
    for one in found:
        what = "latency below" if one["measure"] == "latency_s" else "success above"
        where = "rate 2.0" if one["capacity"] == BASE else f"capacity {one['capacity']}"
        cells = [f"{one['percent']['mean']:.1f} % ±{one['percent']['half']:.1f}"]
        points = one.get("points")
        cells.append(f"{points['mean']:.1f} ±{points['half']:.1f}" if points else "")
        rows.append([f"{what} {NAMES[one['other']][0]}, {where}", f"{one['paper']} %", *cells])
    print(table(["", "paper", "ours", "ours, points"], rows))
    for scheme in ("cdo-dsac", *others, "sequential-greedy"):
        mean, good = (results.estimate(scheme, RATE, name) for name in ("latency_s", "in_time"))
        told = f"{mean.mean / MILLI:.1f} ±{mean.half / MILLI:.1f} ms, {good.mean / 0.01:.1f} ±{good.half / 0.01:.1f} %"
        print(f"{NAMES[scheme][0]}: {told}")


if __name__ == "__main__":
    main()
