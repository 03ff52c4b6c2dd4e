"""What exits cost and bring: accuracy of every exit on both kinds of CIFAR-10 copies, against the plain network.

    python experiments/exits/report.py --data FOLDER --exits EXITS.onnx --plain PLAIN.onnx --name jpeg [OTHER.onnx ...]

FOLDER holds the packed copies `cifar10_*.npz`. The networks are those of `coinfer exits train`, with and without exits;
beside EXITS.onnx lies its table of `coinfer exits measure`, EXITS.accuracy.json. Writes results/NAME.json and
results/NAME.png and prints the tables of the README. OTHERS are trained otherwise; their accuracies are listed too.
"""

import argparse
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np

from coinfer.graph.ir import ModelGraph
from coinfer.graph.open_model import open_model
from coinfer.profile.accuracy import Z_95, AccuracyTable, wilson
from coinfer.profile.dataset import ImageDataset, load_dataset
from coinfer.runtime.executor import Executor
from coinfer.runtime.images import normalise

matplotlib.use("Agg")
from matplotlib import pyplot as plt

HERE = Path(__file__).resolve().parent
BATCH = 250


def right_answers(graph: ModelGraph, data: ImageDataset) -> np.ndarray:
    """Bool [N, E]: which exits answer rightly."""
    executor, image, found = Executor(graph), graph.image, []
    assert image is not None
    for i in range(0, len(data.labels), BATCH):
        x = np.concatenate([normalise(one, image) for one in data.images[i : i + BATCH]])
        values, _ = executor.run({graph.inputs[0]: x})
        answers = np.stack([values[name].argmax(axis=1) for name in graph.outputs], axis=1)
        found.append(answers == data.labels[i : i + BATCH, None])
    return np.concatenate(found)


def paired(one: np.ndarray, other: np.ndarray) -> list[float]:
    """Mean difference of two networks on the same pictures, and its 95 % interval."""
    difference = one.astype(float) - other
    half = Z_95 * difference.std(ddof=1) / np.sqrt(len(difference))
    return [float(difference.mean()), float(difference.mean() - half), float(difference.mean() + half)]


def others(paths: Sequence[Path], tests: Sequence[ImageDataset]) -> list[dict[str, Any]]:
    """Accuracies of networks that were trained with other settings."""
    found = []
    for path in paths:
        graph = open_model(path)
        settings = json.loads((path.parent / "training.json").read_text())["settings"]
        chosen = {key: settings[key] for key in ("seed", "weights", "learning_rate", "epochs", "batch")}
        correct = {test.kind: right_answers(graph, test).sum(axis=0).tolist() for test in tests}
        found.append({"network": graph.name, "settings": chosen, "correct": correct})
        print(f"{graph.name}, {chosen}: {correct}")
    return found


def judged(exits: ModelGraph, plain: ModelGraph, data: ImageDataset) -> dict[str, Any]:
    right, alone = right_answers(exits, data), right_answers(plain, data)
    counts = right.sum(axis=0).tolist()
    return {
        "pictures": f"{data.kind}, {len(data.labels)} test pictures",
        "correct": counts,
        "intervals": [wilson(count, len(data.labels)) for count in counts],
        "plain_correct": int(alone.sum()),
        "plain_interval": wilson(int(alone.sum()), len(data.labels)),
        "last_exit_less_plain": paired(right[:, -1], alone[:, 0]),
    }


def losses(table: AccuracyTable) -> list[dict[str, Any]]:
    """Accuracy lost by quantising at each cut, in points."""
    found = []
    for row in table.rows:
        if row.cut[0] != "input":
            lost = 100 * (table.exits[row.exit] - row.correct) / table.samples
            found.append({"exit": row.exit + 1, "cut": row.cut[0], "bits": row.bits, "points_lost": round(lost, 3)})
    return found


def plot(table: AccuracyTable, path: Path) -> None:
    """A panel for each exit: what quantising changes at each cut, in points, a line for each number of bits."""
    figure, panels = plt.subplots(1, len(table.exits), figsize=(13, 4.2), sharey=True, layout="constrained")
    for exit_, axes in enumerate(panels):
        exact = table.accuracy(exit_)
        cuts = list(dict.fromkeys(row.cut for row in table.rows if row.exit == exit_ and row.cut != ("input",)))
        for bits, marker in zip((4, 8, 12, 16), "os^v", strict=True):
            points = [100 * (table.accuracy(exit_, cut, bits) - exact) for cut in cuts]
            axes.plot(range(len(cuts)), points, marker=marker, ms=5, lw=1, label=f"{bits} bit")
        axes.axhline(0, color="black", lw=0.8)
        axes.set_xticks(range(len(cuts)), [", ".join(cut) for cut in cuts], rotation=60, ha="right", fontsize=8)
        axes.set(title=f"exit {exit_ + 1}: {said(exact, table.interval(exit_))} %", xlabel="cut after")
        axes.grid(alpha=0.3)
    panels[0].set_ylabel("points of accuracy against 32 bits")
    panels[-1].legend(fontsize=8, loc="lower right")
    figure.suptitle(f"{table.model}: {table.dataset}", fontsize=10)
    figure.savefig(path, dpi=110)
    plt.close(figure)


def said(share: float, interval: Sequence[float]) -> str:
    return f"{100 * share:.2f} ({100 * interval[0]:.2f} to {100 * interval[1]:.2f})"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    for name in ("--data", "--exits", "--plain"):
        parser.add_argument(name, type=Path, required=True)
    parser.add_argument("--name", required=True)
    parser.add_argument("others", type=Path, nargs="*")
    options = parser.parse_args()
    exits, plain = open_model(options.exits), open_model(options.plain)
    table = AccuracyTable.load(options.exits.with_suffix(".accuracy.json"))
    table.check(exits)
    found: dict[str, Any] = {"tests": []}
    places = (options.data, options.data / "cifar10_lossless_subset.npz")
    pictures = [load_dataset(where, "test") for where in places]
    for data in pictures:
        test = judged(exits, plain, data)
        found["tests"].append(test)
        count = int(test["pictures"].split(", ")[-1].split()[0])
        print(test["pictures"])
        for i, (correct, interval) in enumerate(zip(test["correct"], test["intervals"], strict=True), 1):
            print(f"  exit {i}: {said(correct / count, interval)}")
        print(f"  without exits: {said(test['plain_correct'] / count, test['plain_interval'])}")
        difference, low, high = (100 * value for value in test["last_exit_less_plain"])
        print(f"  last exit less plain: {difference:+.2f} points ({low:+.2f} to {high:+.2f}, paired)")
    found["points_lost"] = losses(table)
    for bits in (4, 8, 12, 16):
        mine = [loss["points_lost"] for loss in found["points_lost"] if loss["bits"] == bits]
        print(f"{bits} bits: {min(mine):.2f} points lost at the best cut, {max(mine):.2f} at the worst")
    found["others"] = others(options.others, pictures)
    found["training"] = {
        key: json.loads((path.parent / "training.json").read_text())["settings"]
        for key, path in (("exits", options.exits), ("plain", options.plain))
        if (path.parent / "training.json").exists()
    }
    results = HERE / "results"
    results.mkdir(exist_ok=True)
    (results / f"{options.name}.json").write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")
    plot(table, results / f"{options.name}.png")


if __name__ == "__main__":
    main()
