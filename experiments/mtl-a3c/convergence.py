"""Figure 6: the reward over the training, at the paper's default setting.

    python experiments/mtl-a3c/convergence.py [--seeds 10] [--steps 20000]

The paper's rewards at convergence are -18,300 (multi-task A3C), -18,490 (A3C) and -18,560 (distributed DQN), 1.0 and
1.4 % apart, and multi-task A3C converges in a fifth of DQN's episodes. Convergence is here the first assessment from
which on the reward stays within 1 % of the last. Writes results/figure6.json.
"""

import json

import numpy as np
from schemes import BASELINES, RESULTS, SCHEMES, arguments, at_point, gains, trained


def slots_to_converge(rounds: list[int], rewards: np.ndarray, slots_a_round: float) -> float:
    """Slots until the mean reward [T] stays within 1 % of its last value."""
    far = np.abs(rewards / rewards[-1] - 1) > 0.01
    first = int(np.flatnonzero(far).max()) + 1 if far.any() else 0
    return rounds[first] * slots_a_round


if __name__ == "__main__":
    wanted, curves = arguments("figure6"), {}
    for name in wanted.schemes:
        found = trained(name, {}, wanted.seeds, wanted.steps)
        rounds = [point.round for point in found.assessed]
        rewards = np.array([point.figures["reward"] for point in found.assessed])
        slots = slots_to_converge(rounds, rewards.mean(1), wanted.steps / max(rounds))
        curves[name] = {"rounds": rounds, "rewards": rewards.tolist(), "slots": slots}
        print(f"{name:32s} last {rewards[-1].mean():.2f} a slot, converged after {slots:,.0f} slots")
    rows = at_point({}, wanted)
    beside = {
        f"{ours} above {other}": gains(rows, ours, other, "reward")
        for ours in wanted.schemes for other in (*SCHEMES, *BASELINES) if ours != other
    }  # fmt: skip
    RESULTS.mkdir(exist_ok=True)
    record = {"curves": curves, "rows": rows, "beside": beside, "paper": {"A3C": 1.0, "distributed DQN": 1.4}}
    (RESULTS / "figure6.json").write_text(json.dumps(record, indent=1) + "\n")
