"""Settings of the paper's three learners: as many candidates and slots for each, at the point with 2 servers.

    python experiments/mtl-a3c/tune.py [--seeds 4] [--steps 4800] [--schemes "multi-task A3C" A3C "distributed DQN"]

With 2 servers a joint head has 729 placements, so that A3C can be tuned, too, and with three quarters of the servers'
time taken a bad policy shows. Learners of other seeds than in the figures, judged on other episodes. Candidates that
results/tuning.json holds already are not trained again; each scheme's best is its preset `quick`.
"""

import json
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from schemes import JUDGED_SLOTS, SCHEMES, arguments, changes_of, judged
from sweeps import compiled_at

from coinfer.envs.batched_env import reward_of
from coinfer.rl import registry
from coinfer.rl.algorithms.a3c import A3cSettings
from coinfer.rl.algorithms.dqn import DqnSettings
from coinfer.rl.core.training import TrainSettings

POINT = {"servers": 2}
FIRST_SEED = 1000
A3C_BASE = A3cSettings(workers=4, learning_rate=1e-3, horizon=5, gamma=0.0)
DQN_BASE = DqnSettings(gamma=0.0, learning_rate=1e-3, epsilon=(1.0, 0.01))
BASES: dict[str, dict[str, Any]] = {
    "multi-task A3C": {"learner": A3C_BASE, "imposed": 1.0, "others": 0.0},
    "A3C": {"learner": A3C_BASE, "worlds": 1, "imposed": 1.0, "others": 0.0},
    "distributed DQN": {"learner": DQN_BASE, "batch": 8},
}
"""What the candidates change; all else is as in the presets."""
SHARED = {"imposed": 0.0, "others": 0.3}
ACTOR_CRITIC: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "base": ({}, {}),
    "learning rate 3e-4": ({}, {"learning_rate": 3e-4}),
    "learning rate 3e-3": ({}, {"learning_rate": 3e-3}),
    "entropy 0": ({}, {"entropy": 0.0}),
    "entropy 0.05": ({}, {"entropy": 0.05}),
    "Adam, 3e-4": ({}, {"optimiser": "adam", "learning_rate": 3e-4}),
    "Adam, 1e-3": ({}, {"optimiser": "adam", "learning_rate": 1e-3}),
    "own delay and the slot's mean": (SHARED, {}),
    "learning rate 3e-4, entropy 0.05": ({}, {"learning_rate": 3e-4, "entropy": 0.05}),
    "Adam, 3e-4, entropy 0.05": ({}, {"optimiser": "adam", "learning_rate": 3e-4, "entropy": 0.05}),
    "learning rate 3e-4, horizon 20": ({}, {"learning_rate": 3e-4, "horizon": 20}),
    "learning rate 3e-4, 8 workers": ({"worlds": 1}, {"learning_rate": 3e-4, "workers": 8}),
    "own delay and the slot's mean, learning rate 3e-4": (SHARED, {"learning_rate": 3e-4}),
    "own delay and the slot's mean, learning rate 3e-4, horizon 20": (SHARED, {"learning_rate": 3e-4, "horizon": 20}),
}
DQN: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "base": ({}, {}),
    "learning rate 3e-4": ({}, {"learning_rate": 3e-4}),
    "learning rate 3e-3": ({}, {"learning_rate": 3e-3}),
    "batches of 32": ({"batch": 32}, {}),
    "4 times the updates": ({"worlds": 2}, {}),
    "targets follow faster, epsilon to 0.1": ({}, {"tau": 0.05, "epsilon": (1.0, 0.1)}),
    "epsilon from 0.3": ({}, {"epsilon": (0.3, 0.01)}),
    "pays for what others wait": ({"imposed": 1.0, "others": 0.0}, {}),
    "batches of 32, learning rate 3e-4": ({"batch": 32}, {"learning_rate": 3e-4}),
    "batches of 32, 4 times the updates": ({"batch": 32, "worlds": 2}, {}),
    "batches of 32, targets follow faster, epsilon to 0.1": ({"batch": 32}, {"tau": 0.05, "epsilon": (1.0, 0.1)}),
    "batches of 32, pays for what others wait": ({"batch": 32, "imposed": 1.0, "others": 0.0}, {}),
    "batches of 128, targets follow faster, epsilon to 0.1": ({"batch": 128}, {"tau": 0.05, "epsilon": (1.0, 0.1)}),
    "batches of 32, learning rate 3e-4, targets follow faster, epsilon to 0.1": (
        {"batch": 32},
        {"learning_rate": 3e-4, "tau": 0.05, "epsilon": (1.0, 0.1)},
    ),
}
"""Candidates: settings of the training and of the learner that differ from the preset."""


def delays(name: str, top: dict[str, Any], low: dict[str, Any], seeds: int, steps: int) -> list[float]:
    """Return the mean delay of every learner of a candidate, in seconds."""
    scheme, preset = SCHEMES[name]
    base = replace(preset, **BASES[name])
    chosen = replace(base, learner=replace(base.learner, **low), **top)
    settings = TrainSettings("mtl-a3c", changes_of(POINT), seeds=seeds, seed=FIRST_SEED, steps=steps)
    policies = registry.trainer(scheme)(settings, blocks_settings=chosen).policies
    compiled = compiled_at(**POINT, slots=JUDGED_SLOTS)
    return judged(name, compiled.world, policies, reward_of(compiled.reward), first=FIRST_SEED)["mean_s"]  # pyright: ignore[reportArgumentType]


def main() -> None:
    torch.set_num_threads(1)
    wanted = arguments(__doc__ or "", seeds=4, steps=4800)
    path = wanted.output / "tuning.json"
    for name in wanted.schemes:
        if name not in BASES:
            raise SystemExit(f"--schemes {name!r}: expected some of {', '.join(BASES)}")
        for candidate, (top, low) in (DQN if "DQN" in name else ACTOR_CRITIC).items():
            if candidate in (json.loads(path.read_text()) if path.exists() else {}).get(
                f"{name}, {wanted.steps} slots", {}
            ):
                continue
            found = delays(name, top, low, wanted.seeds, wanted.steps)
            print(f"{name:20s} {candidate:40s} {np.mean(found) * 1e3:.0f} ms", flush=True)
            record = json.loads(path.read_text()) if path.exists() else {}
            record.setdefault(f"{name}, {wanted.steps} slots", {})[candidate] = found
            path.write_text(json.dumps(record, indent=1) + "\n")


if __name__ == "__main__":
    main()
