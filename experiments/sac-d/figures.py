"""Draws the figures of this folder from what train.py left, and from the scenario's tables.

    python experiments/sac-d/figures.py [--scenario sacd]

One function a figure, in the order of the paper: layer latency and energy; data size per cut and bits; accuracy per cut
and bits; strategy against bandwidth; latency and accuracy against bandwidth. Writes results/SCENARIO/*.png, and
results/SCENARIO/figures.json with the numbers of the first three. Takes seconds.
"""

import argparse
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import bandwidths
import matplotlib
import numpy as np

from coinfer.profile.accuracy import wilson
from coinfer.scenario import tables
from coinfer.scenario.compile import open_world
from coinfer.scenario.load import load
from coinfer.scenario.tables import Label
from coinfer.units import BITS_PER_BYTE, MILLI

matplotlib.use("Agg")
from matplotlib import pyplot as plt

KILO = 1e3
SHOWN = {
    bandwidths.OPTIMUM: ("black", "-"),
    "sac-d": ("tab:blue", "-"),
    "dqn": ("tab:orange", "-"),
    bandwidths.DEVICE: ("tab:green", "--"),
    bandwidths.WHOLE: ("tab:red", "--"),
}


def layers(scenario: str, folder: Path) -> dict[str, Any]:
    """Latency on device and server, and energy of the device, of every piece between two cuts of the last exit."""
    opened = load(scenario)
    networks = tables.open_networks(opened)
    device, server = (tables.speeds(opened, kind, networks)[0][0] for kind in ("devices", "servers"))
    cuts = networks[0].exits[-1]
    names = [cut.tensor for cut in cuts[1:]]
    device_s, server_s = (
        np.array([speed.segment_s(len(networks[0].exits) - 1, i, i + 1) for i in range(len(cuts) - 1)])
        for speed in (device, server)
    )
    energy_j = tables.energy_j(opened.spec.devices[0], device_s)
    figure, (left, right) = plt.subplots(2, 1, figsize=(8, 5.5), sharex=True, layout="constrained")
    place = np.arange(len(names))
    left.bar(place - 0.2, device_s / MILLI, 0.4, label="device")
    left.bar(place + 0.2, server_s / MILLI, 0.4, label="server")
    left.set(
        ylabel="latency, ms", yscale="log", title=f"{opened.spec.name}: layers of {networks[0].network}, last exit"
    )
    left.legend()
    right.bar(place, energy_j / MILLI, 0.5, color="tab:green")
    right.set(ylabel="energy of the device, mJ", xlabel="up to this tensor, from the one before")
    right.set_xticks(place, names, rotation=30, ha="right")
    finish(figure, (left, right), folder / "layers.png")
    columns = {"device_s": device_s, "server_s": server_s, "device_j": energy_j}
    return {"tensors": names, **{name: bandwidths.short(values) for name, values in columns.items()}}


def sizes(scenario: str, folder: Path) -> dict[str, Any]:
    """What crosses each cut at 32 bits plain, and encoded with each number of bits."""
    opened = load(scenario)
    table, model = tables.open_networks(opened)[0], opened.spec.models[0]
    cuts = table.exits[-1][:-1]
    plain = np.array([cut.elements * 4 for cut in cuts])
    encoded = {bits: np.full(len(cuts), np.nan) for bits in (8, *model.bits)}
    for i, cut in enumerate(cuts):
        for bits, size in tables.payloads(cut, i == 0, model).items():
            encoded.setdefault(bits, np.full(len(cuts), np.nan))[i] = size / BITS_PER_BYTE
    figure, axes = plt.subplots(figsize=(8, 3.8), layout="constrained")
    place, width = np.arange(len(cuts)), 0.8 / (len(encoded) + 1)
    axes.bar(place - 0.4, plain / KILO, width, label="32 bits, plain", color="0.7")
    for number, bits in enumerate(sorted(encoded), 1):
        axes.bar(place - 0.4 + number * width, encoded[bits] / KILO, width, label=f"{bits} bits, coded")
    axes.set(yscale="log", ylabel="kB (1000 bytes)", title=f"{opened.spec.name}: data that crosses each cut")
    axes.set_xticks(place, [cut.tensor for cut in cuts], rotation=30, ha="right")
    axes.legend(fontsize=8)
    finish(figure, (axes,), folder / "sizes.png")
    kept = {str(bits): [None if np.isnan(one) else float(one) for one in row] for bits, row in sorted(encoded.items())}
    return {"cuts": [cut.tensor for cut in cuts], "plain_bytes": plain.tolist(), "coded_bytes": kept}


def accuracies(scenario: str, folder: Path) -> dict[str, Any]:
    """Accuracy of every exit, cut and number of bits."""
    opened, compiled = load(scenario), open_world(scenario)
    labels, values = compiled.labels[0][0], np.asarray(compiled.world.option_accuracy)[0, 0]
    measured = opened.spec.models[0].accuracy_table
    exits = sorted({label.exit for label in labels})
    figure, columns = plt.subplots(1, len(exits), figsize=(10.5, 3.8), sharey=True, layout="constrained", squeeze=False)
    samples = _samples(opened) if measured else 0
    for axes, exit_ in zip(columns[0], exits, strict=True):
        mine = [(label, value) for label, value in zip(labels, values, strict=True) if label.exit == exit_]
        cuts = list(dict.fromkeys(label.cut for label, _ in mine if label.cut))
        for bits in sorted({label.bits for label, _ in mine if label.cut}):
            points = [(cuts.index(label.cut), value) for label, value in mine if label.bits == bits and label.cut]
            place, share = np.array(points).T
            error = _half_interval(share, samples) if samples else None
            axes.errorbar(place, share * 100, yerr=error, fmt="o-", ms=4, capsize=2, label=f"{bits} bits")
        whole = next(value for label, value in mine if not label.cut)
        axes.axhline(whole * 100, color="black", lw=0.8, ls=":", label="on the device")
        axes.set(title=f"exit {exit_}", xlabel="cut")
        axes.set_xticks(range(len(cuts)), cuts, rotation=45, ha="right", fontsize=8)
    columns[0][0].set(ylabel="accuracy, %" + ("" if measured else " (stand-in)"))
    columns[0][-1].legend(fontsize=8)
    finish(figure, columns[0], folder / "accuracy.png")
    rows = [
        [label.exit, label.cut, label.bits, float(f"{value:.6g}")] for label, value in zip(labels, values, strict=True)
    ]
    return {"measured": bool(measured), "samples": samples, "exit_cut_bits_accuracy": rows}


def _samples(opened: Any) -> int:
    from coinfer.profile.accuracy import AccuracyTable
    from coinfer.scenario.traces import find_file

    path = find_file(opened.spec.models[0].accuracy_table, opened.folder)
    assert path is not None
    return AccuracyTable.load(path).samples


def _half_interval(share: np.ndarray, samples: int) -> np.ndarray:
    ends = np.array([wilson(round(one * samples), samples) for one in share]).T
    return np.abs(ends - share) * 100


def strategy(scenario: str, folder: Path) -> None:
    """Exit, cut and bits that SAC-d and the optimum choose, against bandwidth."""
    mbyte_s, runs = bandwidths.load(scenario)
    compiled = open_world(scenario)
    labels: Sequence[Label] = compiled.labels[0][0]
    cuts = list(dict.fromkeys(label.cut for label in labels if label.cut))
    rows = {
        "exit": lambda label: label.exit,
        "cut": lambda label: cuts.index(label.cut) if label.cut else len(cuts),
        "bits": lambda label: label.bits if label.cut else np.nan,
    }
    figure, columns = plt.subplots(3, 1, figsize=(8, 7), sharex=True, layout="constrained")
    for axes, (name, value) in zip(columns, rows.items(), strict=True):
        for seed, one in enumerate(runs["sac-d"]):
            chosen = [value(labels[int(option)]) for option in one.option]
            axes.plot(
                mbyte_s, chosen, ".", ms=3, color="tab:blue", alpha=0.35, label=None if seed else "SAC-d, 10 seeds"
            )
        best = [value(labels[int(option)]) for option in runs[bandwidths.OPTIMUM][0].option]
        axes.plot(mbyte_s, best, color="black", lw=1.2, drawstyle="steps-mid", label="optimum")
        axes.set(ylabel=name)
    columns[0].set(title=f"{compiled.world.name}: what is chosen at each bandwidth")
    columns[0].set_yticks(sorted({label.exit for label in labels}))
    columns[1].set_yticks(range(len(cuts) + 1), [*cuts, "on device"], fontsize=8)
    columns[2].set_yticks(sorted({label.bits for label in labels if label.cut}))
    columns[2].set(xlabel="bandwidth, MB/s")
    columns[0].legend(fontsize=8, loc="upper left")
    finish(figure, columns, folder / "strategy.png")


def outcomes(scenario: str, folder: Path) -> None:
    """Latency, accuracy and regret against bandwidth: mean and extremes over the seeds."""
    mbyte_s, runs = bandwidths.load(scenario)
    figure, columns = plt.subplots(3, 1, figsize=(8, 8), sharex=True, layout="constrained")
    for name, (colour, line) in SHOWN.items():
        for axes, field, unit in ((columns[0], "latency_s", MILLI), (columns[1], "accuracy", 0.01)):
            band(axes, mbyte_s, np.stack([getattr(one, field) for one in runs[name]]) / unit, name, colour, line)
    for name in ("sac-d", "dqn"):
        band(columns[2], mbyte_s, smooth(bandwidths.regrets(runs, name)), name, *SHOWN[name])
    columns[0].set(ylabel="latency, ms", yscale="log", title=f"{Path(scenario).stem}: what comes of the decisions")
    columns[1].set(ylabel="accuracy, %")
    columns[2].set(ylabel="regret of the reward\n(mean of 10 neighbours)", xlabel="bandwidth, MB/s")
    columns[0].set(ylim=(None, 4 * columns[0].get_ylim()[1]), yticks=(10, 20, 50, 100, 200, 500, 1000))
    columns[0].yaxis.set_major_formatter("{x:g}")
    columns[0].yaxis.set_minor_formatter("")
    columns[0].set(ylim=(0.8 * min(one.latency_s.min() for one in runs["sac-d"]) / MILLI, columns[0].get_ylim()[1]))
    columns[0].legend(fontsize=8, loc="upper left", ncols=3)
    finish(figure, columns, folder / "outcomes.png")


def curves(scenario: str, folder: Path) -> None:
    """Reward on held-out worlds while learning."""
    record = json.loads((folder / "training.json").read_text())
    figure, axes = plt.subplots(figsize=(8, 3.5), layout="constrained")
    for name, one in record["schemes"].items():
        rounds = np.array([number for number, _ in one["assessed"]])
        steps = rounds * one["record"]["preset"]["worlds"]
        band(axes, steps, np.array([values for _, values in one["assessed"]]).T, name, *SHOWN[name])
    axes.set(
        xlabel="decisions of each learner", ylabel="mean reward, held out", title=f"{Path(scenario).stem}: learning"
    )
    axes.legend()
    finish(figure, (axes,), folder / "learning.png")


def band(axes: Any, x: np.ndarray, runs: np.ndarray, name: str, colour: str, line: str) -> None:
    """Mean and extremes of runs [S, G]."""
    axes.plot(x, runs.mean(0), line, color=colour, lw=1.3, label=name)
    if len(runs) > 1:
        axes.fill_between(x, runs.min(0), runs.max(0), color=colour, alpha=0.2, lw=0)


def smooth(values: np.ndarray, width: int = 10) -> np.ndarray:
    """Running means along the last axis."""
    kernel = np.ones(width) / width
    return np.stack([np.convolve(row, kernel, mode="same") for row in values])


def finish(figure: Any, axes: Sequence[Any], path: Path) -> None:
    for one in axes:
        one.grid(axis="y", alpha=0.3)
    figure.savefig(path, dpi=110)
    plt.close(figure)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--scenario", default="sacd")
    scenario = parser.parse_args().scenario
    folder = bandwidths.results(scenario)
    folder.mkdir(parents=True, exist_ok=True)
    told = {make.__name__: make(scenario, folder) for make in (layers, sizes, accuracies)}
    (folder / "figures.json").write_text(json.dumps(told) + "\n")
    if (folder / "judged.json").exists():
        for draw in (strategy, outcomes, curves):
            draw(scenario, folder)


if __name__ == "__main__":
    main()
