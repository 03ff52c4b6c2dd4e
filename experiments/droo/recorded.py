"""The authors' own frames: the solver against their stored rates, and DROO on their file in its order.

    python experiments/droo/recorded.py data_10.mat [--weights 1 1.5]

The file is from the authors' repository (github.com/revenol/DROO, folder data). Writes results/NAME.json.
"""

import argparse
from pathlib import Path

import common
import torch

from coinfer.envs import wireless_power
from coinfer.physics.frame_rates import grouped_rates_bps
from coinfer.scenario.frame_data import ARRAYS


def main(path: Path, weights: list[float]) -> None:
    from scipy.io import loadmat

    gain, modes, rate_bps = (torch.as_tensor(loadmat(path)[key].astype(float)) for key in ARRAYS)
    devices = gain.shape[1]
    world = common.world_of(devices, data=str(path.resolve()), weights=weights)
    tables = wireless_power.load(world)
    weight = tables.weight.expand(gain.shape)
    ours = grouped_rates_bps(world, tables.weights, gain, weight, modes[:, None] > 0)[:, 0]
    off = (ours / rate_bps[:, 0] - 1).abs().max().item()
    training, _ = world.split()
    played = common.play(common.settings_of(frames=10_000), training)
    best = common.rule("threshold-search", training, played)
    parts = {"first 1,000": slice(0, 1000), "last 2,000": slice(-2000, None), "all": slice(None)}
    every = common.Played(gain[None], weight[None], rate_bps.T, played.candidates, 0.0)
    searched = common.rule("threshold-search", world, every)[0] / rate_bps[:, 0]
    record = {
        "DROO over threshold search": common.row(played.rate_bps / best, parts),
        "solver: greatest relative difference to the stored rates": off,
        "threshold search over the stored best rates": {"least": searched.min().item(), "mean": searched.mean().item()},
    }
    print(record)
    common.save(path.stem, {"frames": len(gain), "devices": devices, "weights": weights}, record)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("path", type=Path)
    parser.add_argument("--weights", type=float, nargs="+", default=[1.0, 1.5])
    args = parser.parse_args()
    torch.set_num_threads(1)
    main(args.path, args.weights)
