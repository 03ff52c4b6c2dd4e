"""The paper's percentages beside ours, with intervals over ten seeds that met the same chance.

    python experiments/cdo-dsac/beside_the_paper.py

Writes results/beside_the_paper.json and prints the table of the README. "Lower" is 1 - ours / theirs of the latencies;
"above" is read twice, as ours / theirs - 1 of the success and as percentage points, as the paper does not say which.
The further columns are against the same baseline with the servers by number, which is how the papers have them, and
with the inputs that our CDO-DSAC has.
"""

import json

from exploration_cost import cost
from figures import BASE, EVERY, NAMES, RATE, RESULTS, Results, reward_of, table

from coinfer.evaluate.statistics import Estimate, interval
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
OURS = "cdo-dsac"


def claim(results: Results, measure: str, other: str, capacity: int) -> dict[str, dict[str, float]]:
    """How far ours is better than another scheme, `percent` and for shares also `points`."""
    mine, theirs = (results.values(scheme, RATE, measure, capacity=capacity) for scheme in (OURS, other))
    share = 100 * (1 - mine / theirs if measure == "latency_s" else mine / theirs - 1)
    found = {"percent": interval(share)._asdict()}
    if measure == "in_time":
        found["points"] = interval(100 * (mine - theirs))._asdict()
    return found


def cells(found: dict[str, dict[str, float]]) -> str:
    percent, points = found["percent"], found.get("points")
    text = f"{percent['mean']:.1f} % ±{percent['half']:.1f}"
    return text + (f" ({points['mean']:.1f} ±{points['half']:.1f} points)" if points else "")


def converged(results: Results) -> list[list[str]]:
    """Rows on convergence: episodes, and how many fewer than the others."""
    mine = cost(results, OURS, RATE)
    rows = [["episodes until converged", "39,600", _told(interval(mine), ""), "", ""]]
    for other, paper in (("ddpg", "21.1 %"), ("online-rl", "37.5 %")):
        ours = [
            _told(interval(100 * (1 - mine / cost(results, name, RATE))), " %") if results.has(name, RATE) else ""
            for name in (other, f"{other}-flat", f"{other}-running")
        ]
        rows.append([f"converges faster than {NAMES[other][0]}", paper, *ours])
    return rows


def _told(found: Estimate, unit: str) -> str:
    return f"{found.mean:.1f}{unit} ±{found.half:.1f}"


def main() -> None:
    results = Results()
    record, rows = [], []
    for measure, other, capacity, paper in CLAIMS:
        found = claim(results, measure, other, capacity)
        record.append({"measure": measure, "other": other, "capacity": capacity, "paper": paper, **found})
        variants = [f"{other}-flat", f"{other}-running"]
        beside = [cells(claim(results, measure, v, capacity)) if results.has(v, RATE) else "" for v in variants]
        what = "latency below" if measure == "latency_s" else "success above"
        where = "rate 2.0" if capacity == BASE else f"capacity {capacity}"
        rows.append([f"{what} {NAMES[other][0]}, {where}", f"{paper} %", cells(found), *beside])
    least = min(
        (results.estimate(OURS, RATE, "in_time", capacity=int(key)) for key in results.parts[OURS, RATE]["measured"]),
        key=lambda one: one.mean,
    )
    rows.append(
        ["success at the worst capacity", "over 85 %", f"{100 * least.mean:.1f} % ±{100 * least.half:.1f}", "", ""]
    )
    rows += converged(results)
    (RESULTS / "beside_the_paper.json").write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")
    print(table(["", "paper", "ours", "baseline's servers by number", "baseline with our inputs"], rows))
    print(f"\n{everybody(results)}")


def everybody(results: Results) -> str:
    """All schemes at one rate: what they learn from, the slots of a seed, and what comes out."""
    rows = []
    for scheme in [name for name in EVERY if results.has(name, RATE)]:
        mean, good = (results.estimate(scheme, RATE, name) for name in ("latency_s", "in_time"))
        slots = results.played(scheme)
        told = [f"{slots[name]:,}" for name in ("learning", "updater", "choosing")] if slots else ["", "", ""]
        first = f"{results.kept_untrained(scheme)} of {len(results.parts[scheme, RATE]['kept'])}"
        figures = [f"{mean.mean / MILLI:.1f} ±{mean.half / MILLI:.1f}", f"{100 * good.mean:.1f} ±{100 * good.half:.1f}"]
        learns = bool(slots and slots["learning"])
        rows.append([NAMES[scheme][0], reward_of(scheme), *told, first if learns else "", *figures])
    heads = ["learns from", "slots to learn", "of the updater", "to choose", "kept untrained", "mean latency, ms"]
    return table([f"rate {RATE:g}, capacity {BASE}", *heads, "in time, %"], rows)


if __name__ == "__main__":
    main()
