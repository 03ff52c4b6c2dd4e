"""Train GRLE, DROOE, GRL and DROO in every world, and the ablations: ten learners each, side by side.

    nice -n 10 python experiments/grle/train.py

Weights go to runs/grle, curves to results/curves.json. What is there already is not trained again, so the command may
be stopped and repeated.
"""

import argparse
import json
import time
from collections.abc import Mapping

import numpy as np
import torch
from cases import FOLDER, SCHEMES, SEEDS, VARIANTS, WEIGHTS, WORLDS, World, settings_of, weights_file

from coinfer.physics import random
from coinfer.rl.algorithms.grle import make_loop

CURVES = FOLDER / "results" / "curves.json"


def train(name: str, scheme: str, world: World, changes: Mapping[str, object]) -> None:
    """Train ten learners, and keep their weights and curves.

    Args:
        name: of the scheme or variant.
        scheme: one of `SCHEMES`.
        world: where to train.
        changes: of the settings.
    """
    path = weights_file(name, world)
    if path.exists():
        return
    settings = settings_of(scheme, dict(changes))
    seeds = random.key(torch.zeros(SEEDS, dtype=torch.int64), torch.arange(SEEDS))
    loop = make_loop(settings, world.compiled(), seeds)
    untrained, began_s = loop.learner.flat.detach().clone(), time.process_time()
    while loop.round < settings.loop.rounds:
        loop.play()
    np.savez(path, trained=loop.learner.flat.detach().numpy(), untrained=untrained.numpy())
    curves = json.loads(CURVES.read_text()) if CURVES.exists() else {}
    curves[f"{name} {world.name}"] = {
        "cpu_s": round(time.process_time() - began_s, 1),
        "slots": [point.round * settings.worlds for point in loop.assessed],
        "timely_accuracy": [point.figures["timely_accuracy"] for point in loop.assessed],
    }
    CURVES.write_text(json.dumps(curves, indent=1) + "\n")
    print(name, world.name, curves[f"{name} {world.name}"]["cpu_s"], "s", flush=True)


def main() -> None:
    """Train everything that is not there yet."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", nargs="+", help="only these, each as SCHEME@WORLD, such as grle@grle-s2-14-0.6")
    torch.set_num_threads(1)
    WEIGHTS.mkdir(parents=True, exist_ok=True)
    runs = [(scheme, scheme, world, {}) for world in WORLDS for scheme in SCHEMES]
    runs += [(name, scheme, world, changes) for name, (scheme, changes, where) in VARIANTS.items() for world in where]
    wanted = parser.parse_args().only
    for run in runs:
        if not wanted or f"{run[0]}@{run[2].name}" in wanted:
            train(*run)


if __name__ == "__main__":
    main()
