"""Reward on held-out worlds while learning; from what train.py left.

python experiments/sac-d/learning.py [--scenario sacd]
"""

import json
from pathlib import Path

import drawing
import numpy as np
from drawing import SHOWN, band, finish, plt


def learning(scenario: str, folder: Path) -> None:
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


if __name__ == "__main__":
    drawing.main(learning)
