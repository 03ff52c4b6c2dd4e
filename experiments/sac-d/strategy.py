"""What SAC-d and the optimum choose, against bandwidth; from what train.py left.

python experiments/sac-d/strategy.py [--scenario sacd]
"""

from pathlib import Path

import bandwidths
import drawing
import numpy as np
from drawing import finish, plt

from coinfer.scenario.compile import open_world


def strategy(scenario: str, folder: Path) -> None:
    """Exit, cut and bits that SAC-d and the optimum choose, against bandwidth."""
    mbyte_s, runs = bandwidths.load(scenario)
    compiled = open_world(scenario)
    options = compiled.options[0][0].sidecar_triples
    cuts = list(dict.fromkeys(cut for _, cut, _ in options if cut))
    rows = {
        "exit": lambda exit_, _, __: exit_ + 1,
        "cut": lambda _, cut, __: cuts.index(cut) if cut else len(cuts),
        "bits": lambda _, cut, bits: bits if cut else np.nan,
    }
    figure, columns = plt.subplots(3, 1, figsize=(8, 7), sharex=True, layout="constrained")
    for axes, (name, value) in zip(columns, rows.items(), strict=True):
        for seed, one in enumerate(runs["sac-d"]):
            chosen = [value(*options[int(option)]) for option in one.option]
            axes.plot(
                mbyte_s, chosen, ".", ms=3, color="tab:blue", alpha=0.35, label=None if seed else "SAC-d, 10 seeds"
            )
        best = [value(*options[int(option)]) for option in runs[bandwidths.OPTIMUM][0].option]
        axes.plot(mbyte_s, best, color="black", lw=1.2, drawstyle="steps-mid", label="optimum")
        axes.set(ylabel=name)
    columns[0].set(title=f"{compiled.world.name}: what is chosen at each bandwidth")
    columns[0].set_yticks(sorted({exit_ + 1 for exit_, *_ in options}))
    columns[1].set_yticks(range(len(cuts) + 1), [*map("".join, cuts), "on device"], fontsize=8)
    columns[2].set_yticks(sorted({bits for _, cut, bits in options if cut}))
    columns[2].set(xlabel="bandwidth, MB/s")
    columns[0].legend(fontsize=8, loc="upper left")
    finish(figure, columns, folder / "strategy.png")


if __name__ == "__main__":
    drawing.main(strategy)
