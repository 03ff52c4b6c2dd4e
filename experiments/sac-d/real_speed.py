"""How much faster than the device alone, against bandwidth, and what accuracy is paid for it: real processes.

    python experiments/sac-d/real_speed.py --data DIR [--policy runs/.../policy.onnx]

At each rate the same number of requests is answered by the device alone (last exit), by the planner under several
objectives, and by a trained policy where one is given. Writes results/real/speed.json and .png.
"""

import json
import statistics
from pathlib import Path
from typing import Any

import numpy as np
from real_site import BYTE_PER_S, Site, alone, arguments, site
from rich.console import Console
from rich.progress import track
from rich.table import Table

from coinfer.profile.measure import this_machine
from coinfer.runtime.device.objective import Objective
from coinfer.runtime.device.planning.objective_policy import policy_for
from coinfer.types import Policy

RATES_BYTE_PER_S = (0.005e6, 0.01e6, 0.02e6, 0.035e6, 0.05e6, 0.07e6, 0.1e6, 0.15e6, 0.2e6, 0.5e6, 1e6, 2e6, 5e6, 10e6)
TRAINED_TO_BYTE_PER_S = 0.5e6
"""The trained policy of the README saw no higher rates, and is not asked there."""
ALONE, TRAINED = "device alone", "trained policy"
WARM_UP = 10


def main() -> None:
    parser = arguments(__doc__)
    parser.add_argument("--requests", type=int, default=40, help="for each scheme and rate")
    parser.add_argument("--policy", type=Path, default=None, help="a trained one (.onnx)")
    parsed = parser.parse_args()
    with site(parsed, all_options=False) as place:
        for _ in range(WARM_UP):
            place.ask(alone(place.device.options, place.device.options.exit.max()))
        schemes = objectives(place)
        rows = []
        for rate in track(RATES_BYTE_PER_S, "measuring", transient=True):
            place.set_rate(rate * BYTE_PER_S)
            place.settle(next(i for i, cut in enumerate(place.device.options.cuts) if cut == place.graph.inputs))
            known = {name: one for name, one in schemes.items() if name != TRAINED or rate <= TRAINED_TO_BYTE_PER_S}
            rows += measured(place, known, rate, parsed.requests)
        assert place.device.planner.accuracy is not None
        exits = [place.device.planner.accuracy.accuracy(i) for i in range(len(place.device.planner.exits))]
        dataset = place.device.planner.accuracy.dataset
    found = {
        "model": parsed.model,
        "device_slowdown": parsed.device_slowdown,
        "edge_slowdown": parsed.edge_slowdown,
        "accuracy of the exits": exits,
        "dataset": dataset,
        "pictures": place.pictures.kind,
        "machine": this_machine().model_dump(),
        "rows": rows,
    }
    parsed.output.mkdir(parents=True, exist_ok=True)
    (parsed.output / "speed.json").write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")
    plot(found, parsed.output / "speed.png")
    show(rows)


def objectives(place: Site) -> dict[str, tuple[Policy, float]]:
    """Policies by name, each with the deadline of its requests."""
    options, accuracy = place.device.options, place.device.planner.accuracy
    assert accuracy is not None, "the network has no accuracy table; see `coinfer exits measure`"
    best = accuracy.accuracy(len(accuracy.exits) - 1)
    own_s = place.predicted_s(int(np.flatnonzero(options.upload_bits == 0)[-1]))
    schemes = {
        ALONE: (alone(options, int(options.exit.max())), float("inf")),
        "fastest": (policy_for(Objective()), float("inf")),
        "fastest within 1 point": (policy_for(Objective(min_accuracy=best - 0.01)), float("inf")),
        "most accurate in 1/2 of the time": (policy_for(Objective("accuracy")), own_s / 2),
        "most accurate in 1/4 of the time": (policy_for(Objective("accuracy")), own_s / 4),
    }
    if place.trained:
        schemes[TRAINED] = (place.trained, float("inf"))
    return schemes


def measured(place: Site, schemes: dict[str, tuple[Policy, float]], rate: float, requests: int) -> list[dict[str, Any]]:
    """All schemes at one rate, in turns."""
    results: dict[str, list[Any]] = {name: [] for name in schemes}
    for _ in range(requests):
        for name, (policy, deadline_s) in schemes.items():
            results[name].append(place.ask(policy, deadline_s))
    alone_s = statistics.median(result.outcome.latency_s for result, _ in results[ALONE])
    return [row(name, rate, found, alone_s, schemes[name][1]) for name, found in results.items()]


def row(name: str, rate: float, found: list[Any], alone_s: float, deadline_s: float) -> dict[str, Any]:
    latency_s = [result.outcome.latency_s for result, _ in found]
    choices = [_choice(result) for result, _ in found]
    return {
        "scheme": name,
        "rate_byte_per_s": rate,
        "median_s": statistics.median(latency_s),
        "mean_s": statistics.fmean(latency_s),
        "speed_up": alone_s / statistics.median(latency_s),
        "in_time": float(np.mean([seconds <= deadline_s for seconds in latency_s])),
        "deadline_s": None if deadline_s == float("inf") else deadline_s,
        "expected_accuracy": statistics.fmean(result.outcome.accuracy for result, _ in found),
        "right": sum(is_right for _, is_right in found),
        "requests": len(found),
        "choice": max(set(choices), key=choices.count),
    }


def _choice(result: Any) -> str:
    head = result.route.hops[0]
    sends = len(result.route.hops) > 1
    return f"exit {result.exit + 1}, " + (f"{'+'.join(head.cut)}, {head.bits} bits" if sends else "all on the device")


def show(rows: list[dict[str, Any]]) -> None:
    table = Table()
    for heading in ("MB/s", "scheme", "median ms", "speed-up", "expected", "right", "choice"):
        table.add_column(heading)
    for found in rows:
        table.add_row(
            f"{found['rate_byte_per_s'] / 1e6:g}",
            found["scheme"],
            f"{found['median_s'] * 1e3:.1f}",
            f"{found['speed_up']:.2f}",
            f"{found['expected_accuracy']:.1%}",
            f"{found['right']}/{found['requests']}",
            found["choice"],
        )
    Console().print(table)


def plot(found: dict[str, Any], path: Path) -> None:
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot as plt

    figure, (speeds, accuracies) = plt.subplots(2, 1, figsize=(8, 7), layout="constrained", sharex=True)
    for i, name in enumerate(dict.fromkeys(row["scheme"] for row in found["rows"])):
        rows = [row for row in found["rows"] if row["scheme"] == name]
        rates = [row["rate_byte_per_s"] / 1e6 for row in rows]
        style = {"color": "black", "ls": "--"} if name == ALONE else {"color": f"C{i}", "marker": "os^vDX"[i % 6]}
        speeds.semilogx(rates, [row["speed_up"] for row in rows], label=name, ms=4, **style)
        shares = [100 * row["expected_accuracy"] for row in rows]
        accuracies.semilogx(rates, shares, label=name, ms=4, **style)
    for i, share in enumerate(found["accuracy of the exits"]):
        accuracies.axhline(100 * share, color="grey", lw=0.6)
        accuracies.text(RATES_BYTE_PER_S[0] / 1e6, 100 * share, f"exit {i + 1}", fontsize=8, va="bottom")
    speeds.set(
        ylabel="times faster than the device alone",
        ylim=(0, None),
        title=f"{found['model']}: device slowed {found['device_slowdown']:g} times, edge {found['edge_slowdown']:g}",
    )
    speeds.legend(fontsize=8)
    accuracies.set(xlabel="bandwidth, MB/s", ylabel=f"accuracy, %\n({found['dataset']})")
    figure.savefig(path, dpi=120)
    plt.close(figure)


if __name__ == "__main__":
    main()
