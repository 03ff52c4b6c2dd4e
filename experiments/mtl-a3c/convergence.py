"""Figure 6: the reward over the training, at the paper's default setting.

    python experiments/mtl-a3c/convergence.py [--seeds 10] [--steps 4800]

The paper's rewards at convergence are -18,300 (multi-task A3C), -18,490 (A3C) and -18,560 (distributed DQN), 1.0 and
1.4 % apart, and multi-task A3C converges in a fifth of DQN's episodes. Convergence is here the first of ten assessments
from which on the reward stays within 1 % of the last. Learners whose rewards charge what others wait have no curve
here, since it would not compare. Writes results/figure6.json.
"""

import json

import numpy as np
from schemes import BASELINES, OURS, SCHEMES, arguments, at_point, gains


def slots_to_converge(slots: list[int], rewards: np.ndarray) -> int:
    """Return the slots until the mean reward [T] stays within 1 % of its last value."""
    far = np.abs(rewards / rewards[-1] - 1) > 0.01
    return slots[int(np.flatnonzero(far).max()) + 1 if far.any() else 0]


if __name__ == "__main__":
    wanted, curves = arguments("figure6"), {}
    rows = at_point({}, wanted)
    learners = [name for name in SCHEMES if name in rows and not SCHEMES[name][1].imposed]
    for name in learners:
        slots, rewards = rows[name]["slots"], np.array(rows[name]["rewards"])
        curves[name] = {"slots": slots, "rewards": rewards.mean(1).tolist()}
        curves[name]["converged"] = slots_to_converge(slots, rewards.mean(1))
        print(f"{name:32s} last {rewards[-1].mean():.2f} a slot, converged after {curves[name]['converged']:,} slots")
    beside = {
        f"{ours} above {other}": gains(rows, ours, other, "reward")
        for ours in OURS if ours in rows for other in (*SCHEMES, *BASELINES) if other in rows and ours != other
    }  # fmt: skip
    settings = {"seeds": wanted.seeds, "steps": wanted.steps}
    record = {"settings": settings, "curves": curves, "beside": beside, "paper": {"A3C": 1.0, "distributed DQN": 1.4}}
    (wanted.output / "figure6.json").write_text(json.dumps(record, indent=1) + "\n")
