"""Count the steps that discrete SAC, ours and TorchRL's, needs to solve Gymnasium's CartPole-v1.

    python benchmarks/cartpole.py [--learners 3] [--steps 28000]
    python benchmarks/cartpole.py --only alike [--learners 3]     # adds TorchRL's with our worlds and settings
    python benchmarks/cartpole.py --only example [--learners 2]   # adds TorchRL's with those of its own example

CartPole counts as solved if the mean return of 100 episodes is at least 475 (of 500). The greedy policy is judged every
4,000 steps. Known off-policy learners with settings of their own need some 20,000 to 50,000 steps, which is the budget
here.

- `ours`: 8 worlds per learner, 4 updates of 128 for 8 steps, networks of 128-128, a target entropy of 0.4 to 0.2 of the
  greatest. (With one update for 8 steps nothing is solved in 48,000 steps: values then rise too slowly for the learner
  to see the edge of the track.)
- `alike`: TorchRL's with the same worlds, updates, networks and rates, and a target entropy of 0.2.
- `example`: TorchRL's with the settings of its example (one world, one update of 256 per step, 256-256, rate 3e-4,
  25,000 steps).

The physics is ours, and a test compares it with Gymnasium's. Writes benchmarks/results/cartpole.json.
"""

import json
from collections.abc import Callable
from typing import Any

import harness
import numpy as np
import torch
from torch import Tensor
from torchrl_sac import TorchRlSac, TorchRlSettings

from coinfer.physics import random
from coinfer.policies.learned.nets import Mlp
from coinfer.rl.algorithms.sac import Sac, SacSettings
from coinfer.rl.core.envs.cartpole import CartPole
from coinfer.rl.core.loop import Loop, LoopSettings
from coinfer.rl.core.records import Observation

SOLVED, BUDGET = 475.0, 50_000
WORLDS, HIDDEN, RATE, BATCH, WARMUP, UPDATES, FOLLOW = 8, (128, 128), 1e-3, 128, 100, 4, 0.02
JUDGE_EVERY, EPISODES, EXAMPLE_STEPS = 4_000, 100, 25_000
"""Steps between two judgements; steps of TorchRL's example."""
Curve = list[tuple[int, list[float]]]
"""Steps of one learner, and the mean return of each."""


def seeds_of(count: int, first: int = 0) -> Tensor:
    return random.key(torch.zeros(count, dtype=torch.int64), first + torch.arange(count))


def judged(best: Callable[[Observation], Tensor], keys: Tensor) -> list[float]:
    """Return the mean return [L] of the greedy policies over `EPISODES` episodes each."""
    env = CartPole(EPISODES)
    state, observation = env.reset(keys)
    returns, alive = (
        torch.zeros(observation.task_mask.shape[:2]),
        torch.ones(observation.task_mask.shape[:2], dtype=torch.bool),
    )
    while alive.any():
        result = env.step(state, best(observation))
        returns += result.reward * alive
        alive &= ~(result.terminated | result.truncated)
        state, observation = result.state, result.observation
    return [round(float(value), 1) for value in returns.mean(1)]


def ours(count: int, steps: int) -> Curve:
    rounds = steps // WORLDS
    settings = SacSettings(
        gamma=0.99,
        tau=FOLLOW,
        actor_learning_rate=RATE,
        critic_learning_rate=RATE,
        temperature_learning_rate=RATE,
        initial_temperature=0.2,
        target_entropy=(0.4, 0.2),
        target_entropy_updates=rounds * UPDATES // 2,
    )
    net = Mlp(4, HIDDEN, 1, 2)
    learner = Sac(settings, net, net, seeds_of(count))
    loop = Loop(
        LoopSettings(rounds, WARMUP, 50_000, BATCH, updates=UPDATES, assess_rounds=1), CartPole(WORLDS), learner
    )
    curve: Curve = []
    for _ in harness.rounds(rounds, "ours"):
        loop.play()
        if loop.round * WORLDS % JUDGE_EVERY == 0:
            found = judged(lambda observation: learner.act(observation, 0, explore=False), learner.keys + loop.round)
            curve.append((loop.round * WORLDS, found))
    return curve


def theirs(
    count: int, steps: int, worlds: int, updates: int, hidden: tuple[int, ...], settings: TorchRlSettings
) -> Curve:
    """Train TorchRL's learners one after another; a round is a step of every world, then the updates."""
    columns = []
    for seed in range(count):
        made, env, key = TorchRlSac(4, 2, hidden, settings, seed), CartPole(worlds), seeds_of(1, 1000 + seed)
        state, observation = env.reset(key)
        column: Curve = []
        for number in harness.rounds(steps // worlds, f"TorchRL {seed}"):
            warm = number * worlds >= WARMUP * WORLDS
            action = made.act(observation.features[0]) if warm else torch.randint(2, (worlds,))
            result = env.step(state, action.reshape(1, -1, 1))
            made.remember(
                observation.features[0],
                action,
                result.reward[0],
                result.terminated[0],
                result.final_observation.features[0],
            )
            state, observation = result.state, result.observation
            for _ in range(updates * warm):
                made.update()
            if (number + 1) * worlds % JUDGE_EVERY == 0:
                found = judged(
                    lambda observation, made=made: made.best(observation.features[0])[None, :, None], key + number
                )
                column.append(((number + 1) * worlds, found))
        columns.append(column)
    return [(rows[0][0], [row[1][0] for row in rows]) for rows in zip(*columns, strict=True)]


ALIKE = TorchRlSettings(gamma=0.99, batch=BATCH, learning_rate=RATE, entropy=0.2, tau=FOLLOW, capacity=50_000)
PARTS: dict[str, Callable[[int, int], Curve]] = {
    "ours": ours,
    "alike": lambda count, steps: theirs(count, steps, WORLDS, UPDATES, HIDDEN, ALIKE),
    "example": lambda count, steps: theirs(count, min(steps, EXAMPLE_STEPS), 1, 1, (256, 256), TorchRlSettings()),
}
NAMES = {"ours": "ours", "alike": "TorchRL, our settings", "example": "TorchRL, its example"}


def figures(curves: dict[str, Curve]) -> dict[str, harness.Figure]:
    found = dict[str, harness.Figure]()
    for part, curve in curves.items():
        returns = np.array([row for _, row in curve]).T
        first = [next((s for (s, _), r in zip(curve, row, strict=True) if r >= SOLVED), np.inf) for row in returns]
        bars = ({"at_most": BUDGET}, {"at_least": SOLVED}) if part == "ours" else ({}, {})
        solved = [steps for steps in first if np.isfinite(steps)]
        label = f"{NAMES[part]}: steps until solved, {len(solved)} of {len(first)} learners"
        found[label] = harness.figure(solved if len(solved) > len(first) / 2 else [10 * BUDGET], **bars[0])
        found[f"{NAMES[part]}: mean return at the end"] = harness.figure(returns[:, -1], **bars[1])
    return found


def main() -> None:
    parser = harness.parser(__doc__, "cartpole")
    parser.add_argument("--only", choices=list(PARTS), default="ours", help="which learners to train")
    parser.add_argument("--learners", type=int, default=3, help="number of learners (seeds)")
    parser.add_argument("--steps", type=int, default=28_000, help="steps of each learner")
    settings = parser.parse_args()
    count, steps = (2, 8_000) if settings.quick else (settings.learners, settings.steps)
    torch.set_num_threads(1)
    played = PARTS[settings.only](count, steps)
    record: dict[str, Any] = json.loads(settings.output.read_text()) if settings.output.exists() else {}
    curves = {**record.get("curves", {}), settings.only: played}
    harness.save(settings, figures({part: curves[part] for part in PARTS if part in curves}), curves=curves)


if __name__ == "__main__":
    main()
