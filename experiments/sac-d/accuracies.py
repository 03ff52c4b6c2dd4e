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
from coinfer.scenario.spec import OffloadScenario
from coinfer.scenario.traces import find_file


def accuracies(scenario: str, folder: Path) -> dict[str, Any]:
    """Accuracy of every exit, cut and number of bits."""
    opened, compiled = load(scenario), open_world(scenario)
    options = compiled.options[0][0]
    rows = [
        (e + 1, "".join(cut), bits, value)
        for (e, cut, bits), value in zip(options.sidecar_triples, options.accuracy, strict=True)
    ]
    assert isinstance(opened.spec, OffloadScenario)
    measured = opened.spec.models[0].accuracy_table
    exits = sorted({exit_ for exit_, *_ in rows})
    figure, columns = plt.subplots(1, len(exits), figsize=(10.5, 3.8), sharey=True, layout="constrained", squeeze=False)
    samples = _samples(measured, opened.source.folder) if measured else 0
    for axes, exit_ in zip(columns[0], exits, strict=True):
        mine = [row[1:] for row in rows if row[0] == exit_]
        cuts = list(dict.fromkeys(cut for cut, *_ in mine if cut))
        for bits in sorted({bits for cut, bits, _ in mine if cut}):
            points = [(cuts.index(cut), value) for cut, width, value in mine if width == bits and cut]
            place, share = np.array(points).T
            error = _half_interval(share, samples) if samples else None
            axes.errorbar(place, share * 100, yerr=error, fmt="o-", ms=4, capsize=2, label=f"{bits} bits")
        whole = next(value for cut, _, value in mine if not cut)
        axes.axhline(whole * 100, color="black", lw=0.8, ls=":", label="on the device")
        axes.set(title=f"exit {exit_}", xlabel="cut")
        axes.set_xticks(range(len(cuts)), cuts, rotation=45, ha="right", fontsize=8)
    columns[0][0].set(ylabel="accuracy, %" + ("" if measured else " (stand-in)"))
    columns[0][-1].legend(fontsize=8)
    finish(figure, columns[0], folder / "accuracy.png")
    listed = [[*row[:3], float(f"{row[3]:.6g}")] for row in rows]
    return {"measured": bool(measured), "samples": samples, "exit_cut_bits_accuracy": listed}


def _samples(table: str, folder: Path | None) -> int:
    path = find_file(table, folder)
    assert path is not None
    return AccuracyTable.load(path).samples


def _half_interval(share: np.ndarray, samples: int) -> np.ndarray:
    ends = np.array([wilson(round(one * samples), samples) for one in share]).T
    return np.abs(ends - share) * 100


if __name__ == "__main__":
    drawing.main(accuracies)
