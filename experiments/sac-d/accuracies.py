"""Accuracy of each exit, cut and number of bits.

python experiments/sac-d/accuracies.py [--scenario sacd]
"""

from pathlib import Path
from typing import Any

import drawing
import numpy as np
from drawing import finish, plt

from coinfer.profile.accuracy import AccuracyTable, wilson
from coinfer.scenario.compile import open_world
from coinfer.scenario.load import load
from coinfer.scenario.traces import find_file


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
    path = find_file(opened.spec.models[0].accuracy_table, opened.folder)
    assert path is not None
    return AccuracyTable.load(path).samples


def _half_interval(share: np.ndarray, samples: int) -> np.ndarray:
    ends = np.array([wilson(round(one * samples), samples) for one in share]).T
    return np.abs(ends - share) * 100


if __name__ == "__main__":
    drawing.main(accuracies)
