"""Measured latency of real runs against the tables' prediction, for 200 random (exit, cut, bits, rate).

    python experiments/sac-d/real_prediction.py --data DIR

Options are drawn evenly from all of them, rates evenly in their logarithm from 0.02 to 10 MB/s. Each is run once to
settle and then three times, the median of which is compared with
- learned: profile times the speeds that the device has learned of both processors by then, true rate;
- nominal: profile times the slow-down factors, true rate; nothing learned but the round trip.
Writes results/real/NAME.json and .png.
"""

import json
import statistics
import sys
from typing import Any

import numpy as np
from real_site import BYTE_PER_S, Site, alone, arguments, forced, site
from rich.progress import track

from coinfer.profile.measure import this_machine
from coinfer.types import DEVICE

RATES_BYTE_PER_S = (0.02e6, 10e6)
RUNS = 3
WARM_UP = 10


def main() -> None:
    parser = arguments(__doc__)
    parser.add_argument("--count", type=int, default=200)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--name", default="prediction", help="of the files written")
    parsed = parser.parse_args()
    rng = np.random.default_rng(parsed.seed)
    with site(parsed, all_options=True) as place:
        count = len(place.device.options.bits)
        for _ in range(WARM_UP):
            place.ask(alone(place.device.options, place.device.options.exit.max()))
        drawn = [(int(rng.integers(count)), float(rate)) for rate in _rates(rng, parsed.count)]
        rows = [measured(place, parsed, *one) for one in track(drawn, "measuring", transient=True)]
    found = {
        "model": parsed.model,
        "device_slowdown": parsed.device_slowdown,
        "edge_slowdown": parsed.edge_slowdown,
        "machine": this_machine().model_dump(),
        "errors": {name: errors(rows, name) for name in ("learned_s", "nominal_s")},
        "rows": rows,
    }
    parsed.output.mkdir(parents=True, exist_ok=True)
    (parsed.output / f"{parsed.name}.json").write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")
    plot(found, parsed.output / f"{parsed.name}.png")
    json.dump(found["errors"], sys.stdout, indent=1)
    print()


def _rates(rng: np.random.Generator, count: int) -> np.ndarray:
    low, high = RATES_BYTE_PER_S
    return np.exp(rng.uniform(np.log(low), np.log(high), count)) * BYTE_PER_S


def measured(place: Site, parsed: Any, option: int, rate_bps: float) -> dict[str, Any]:
    """One option at one rate."""
    options, device = place.device.options, place.device
    server = DEVICE if options.upload_bits[option] == 0 else 0
    place.set_rate(rate_bps)
    place.ask(forced(option, server))
    expected_s, results = [], []
    for _ in range(RUNS):
        expected_s.append(place.predicted_s(option))
        results.append(place.ask(forced(option, server))[0])
    exit_, cut, bits = options.triples[option]
    sends = server != DEVICE
    device_s, server_s = float(options.device_s[option]), float(options.server_s[option, 0])
    upload_s = float(options.upload_bits[option]) / rate_bps
    round_trip_s = device.observe().option_server_s[0, len(options.bits) - 1, 0]  # nothing but the round trip is left
    nominal_s = device_s * parsed.device_slowdown + sends * (
        upload_s + server_s * parsed.edge_slowdown + float(round_trip_s)
    )
    return {
        "exit": exit_ + 1,
        "cut": list(cut),
        "bits": bits,
        "rate_byte_per_s": round(rate_bps / BYTE_PER_S, 1),
        "measured_s": statistics.median(result.outcome.latency_s for result in results),
        "learned_s": statistics.median(expected_s),
        "nominal_s": nominal_s,
        "parts_s": {
            "device": [
                statistics.median(result.outcome.device_s for result in results),
                device_s * device_scale(place),
            ],
            "link": [statistics.median(r.outcome.upload_s + r.outcome.download_s for r in results), sends * upload_s],
            "server": [
                statistics.median(result.outcome.server_s for result in results),
                server_s * parsed.edge_slowdown,
            ],
        },
    }


def device_scale(place: Site) -> float:
    """How many times slower than the profile the device finds itself."""
    seen = place.device.observe().option_device_s[0]
    return float(seen[-1] / place.device.options.device_s[-1])


def errors(rows: list[dict[str, Any]], name: str) -> dict[str, float]:
    relative = np.array([row[name] / row["measured_s"] - 1 for row in rows])
    return {
        "median": float(np.median(np.abs(relative))),
        "p90": float(np.quantile(np.abs(relative), 0.9)),
        "bias": float(np.median(relative)),
        "count": len(rows),
    }


def plot(found: dict[str, Any], path: Any) -> None:
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot as plt

    figure, axes = plt.subplots(1, 2, figsize=(9, 4.2), layout="constrained", sharex=True, sharey=True)
    for one, (name, title) in zip(
        axes, (("learned_s", "speeds learned by the device"), ("nominal_s", "profile and factors only")), strict=True
    ):
        for exit_ in (1, 2, 3):
            rows = [row for row in found["rows"] if row["exit"] == exit_]
            x, y = ([row[key] * 1e3 for row in rows] for key in (name, "measured_s"))
            one.loglog(x, y, ".", label=f"exit {exit_}", color=f"C{exit_ - 1}")
        ends = np.array(
            [min(row["measured_s"] for row in found["rows"]), max(row["measured_s"] for row in found["rows"])]
        )
        one.loglog(ends * 1e3, ends * 1e3, color="black", lw=1)
        one.fill_between(ends * 1e3, ends * 900, ends * 1100, color="black", alpha=0.12, label="10 %")
        error = found["errors"][name]
        one.set(title=f"{title}:\nmedian error {error['median']:.1%}", xlabel="predicted latency, ms")
    axes[0].set(ylabel="measured latency, ms")
    axes[0].legend(fontsize=8)
    figure.suptitle(
        f"{found['model']}: device slowed {found['device_slowdown']:g} times, edge {found['edge_slowdown']:g}"
    )
    figure.savefig(path, dpi=120)
    plt.close(figure)


if __name__ == "__main__":
    main()
