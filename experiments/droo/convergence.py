"""Normalised rate over the frames with 10, 20 and 30 devices, and what each part of the learner gives.

    python experiments/droo/convergence.py [--devices 10 20 30] [--seeds 10] [--frames 10000]

Every learner decides each frame once, online, and learns from it. Rates are normalised by the optimum with 10 devices
(all modes tried), else by threshold search. Writes results/convergence-N.json and results/convergence-N.png.
"""

import argparse
from collections.abc import Callable

import common
import matplotlib
import torch
from torch import Tensor

matplotlib.use("Agg")
from matplotlib import pyplot as plt

MAX_ENUMERATED = 10


def learners(frames: int) -> dict[str, Callable[[], object]]:
    """Settings by the names of their rows."""
    make = common.settings_of
    return {
        "DROO": lambda: make(frames=frames),
        "DROO, as many candidates as devices": lambda: make(frames=frames, per_device=1),
        "DROO, no noise": lambda: make(frames=frames, copies=0),
        "DROO, constant learning rate": lambda: make(frames=frames, decays=False),
        "paper's settings": lambda: make("paper", frames),
        "paper's settings, fixed K": lambda: make("paper", frames, adapt_every=0),
        "untrained network, same candidates": lambda: make(frames=frames, trains=False),
    }


def measure(devices: int, seeds: int, frames: int) -> None:
    """Play all rows with one number of devices."""
    world, rates, record = common.world_of(devices), dict[str, Tensor](), dict[str, dict[str, object]]()
    parts = {"first 1,000": slice(0, 1000), "last 2,000": slice(-2000, None), "all": slice(None)}
    for name, make in learners(frames).items():
        played = common.play(make(), world, seeds)
        rates[name] = played.rate_bps
        record[name] = {"cpu_ms_per_frame": played.cpu_s / played.rate_bps.numel() * 1e3}
    count = 2 * devices
    rates[f"best of {count} random modes"] = common.best_of_random(world, played, count)
    for name in ("coordinate-descent", "threshold-search", "all-send", "all-local", "random"):
        rates[name] = common.rule(name, world, played)
    best = common.rule("optimum", world, played) if devices <= MAX_ENUMERATED else rates["threshold-search"]
    for name, rate in rates.items():
        record[name] = record.get(name, {}) | common.row(rate / best, parts)
        print(f"N = {devices}  {name:38s}", record[name], flush=True)
    common.save(f"convergence-{devices}", {"devices": devices, "seeds": seeds, "frames": frames}, record)
    draw(devices, {name: rate / best for name, rate in rates.items()})


def draw(devices: int, normalised: dict[str, Tensor]) -> None:
    """Draw how far each learner is from the best rate, on a logarithmic axis."""
    figure, axes = plt.subplots(figsize=(7, 4), layout="constrained")
    for name, rate in normalised.items():
        gap = 1 - common.smooth(rate.mean(0).numpy())
        if gap.max() > 1e-12:
            plain = name in {"all-send", "all-local", "random"} or name.startswith("best of")
            axes.semilogy((torch.arange(len(gap)) + 0.5) * 100, gap.clip(1e-6), "--" if plain else "-", label=name)
    axes.set(xlabel="frame", ylabel="1 - normalised rate", title=f"{devices} devices, means of 100 frames")
    axes.legend(fontsize=7, loc="center left", bbox_to_anchor=(1, 0.5))
    figure.savefig(common.RESULTS / f"convergence-{devices}.png", dpi=110)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--devices", type=int, nargs="+", default=[10, 20, 30])
    parser.add_argument("--seeds", type=int, default=common.SEEDS)
    parser.add_argument("--frames", type=int, default=common.FRAMES)
    args = parser.parse_args()
    torch.set_num_threads(1)
    for devices in args.devices:
        measure(devices, args.seeds, args.frames)
