"""Figure 7: learning rates, numbers of workers and slots of a gradient, for multi-task A3C.

    python experiments/mtl-a3c/hyperparameters.py [--seeds 10] [--steps 4800]

The paper finds 0.01 better than 0.001 for actor and critic, 8 workers fastest, and a batch of 64 best. Actor and critic
share one optimiser here, so there is one rate; a batch is the slots of a worker's rollout, horizon times worlds. Writes
results/figure7.json.
"""

import json
from dataclasses import replace

import numpy as np
from schemes import arguments, changes_of, with_learner

from coinfer.rl.algorithms import mtl_a3c
from coinfer.rl.core.training import TrainSettings

NAME = "multi-task A3C"
VARIANTS = {
    **{f"learning rate {rate}": with_learner(NAME, learning_rate=rate) for rate in (0.0001, 0.001, 0.002, 0.01)},
    **{f"{workers} workers": with_learner(NAME, workers=workers) for workers in (1, 2, 4, 8)},
    **{f"batch {5 * worlds}": replace(with_learner(NAME), worlds=worlds) for worlds in (1, 2, 6, 13)},
    **{f"entropy {weight}": with_learner(NAME, entropy=weight) for weight in (0.0, 0.01, 0.05, 0.2)},
    "parameters of one trunk for every block, tied": replace(with_learner(NAME, tie=1e-3), trunks="tied"),
    "the same, not tied": replace(with_learner(NAME, tie=0.0), trunks="tied"),
}

if __name__ == "__main__":
    wanted, found = arguments("figure7"), {}
    for name, chosen in list(VARIANTS.items())[: wanted.points]:
        settings = TrainSettings("mtl-a3c", changes_of({}), seeds=wanted.seeds, steps=wanted.steps)
        result = mtl_a3c.train(settings, blocks_settings=chosen)
        found[name] = {str(point.round): point.figures["reward"] for point in result.assessed}
        print(f"{name:46s} {np.mean(result.assessed[-1].figures['reward']):.2f}")
    wanted.output.mkdir(exist_ok=True)
    (wanted.output / "figure7.json").write_text(json.dumps(found, indent=1) + "\n")
