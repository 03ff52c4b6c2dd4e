"""Discrete SAC on Gymnasium's CartPole-v1: how many steps until it is solved.

    python benchmarks/cartpole.py [--learners 5] [--steps 48000]

CartPole counts as solved where the mean return of 100 episodes is at least 475 (of 500). Five learners, 8 worlds each,
one update for 8 steps; the greedy policy is judged every 4,000 steps on 100 episodes. Known off-policy learners with
settings of their own need some 20,000 to 50,000 steps, which is the budget here. Writes
benchmarks/results/cartpole.json.
"""

import harness
import numpy as np
import torch

from coinfer.learners.cartpole import CartPole
from coinfer.learners.loop import Loop, LoopSettings
from coinfer.learners.sac import Sac, SacSettings
from coinfer.physics import random
from coinfer.policies.nets import Mlp

SOLVED, BUDGET = 475.0, 50_000
WORLDS, JUDGE_EVERY, EPISODES = 8, 500, 100
"""Rounds between two judgements."""


def learners(count: int, rounds: int) -> Sac:
    settings = SacSettings(
        discount=0.99,
        follow=0.01,
        actor_rate=1e-3,
        critic_rate=1e-3,
        temperature_rate=1e-3,
        first_temperature=0.2,
        entropy=(0.6, 0.05),
        entropy_updates=rounds // 2,
        rates_fall=(rounds // 2, rounds),
    )
    net = Mlp(4, (128, 128), 1, 2)
    seeds = random.key(torch.zeros(count, dtype=torch.int64), torch.arange(count))
    return Sac(settings, net, net, seeds)


def judged(learner: Sac, seed: int) -> np.ndarray:
    """[L] mean return of the greedy policy over as many episodes each."""
    game = CartPole(EPISODES)
    state, view = game.start(learner.keys + seed)
    returns, alive = torch.zeros(view.there.shape[:2]), torch.ones(view.there.shape[:2], dtype=torch.bool)
    while alive.any():
        turn = game.step(state, learner.act(view, 0, explore=False))
        returns += turn.reward * alive
        alive &= ~(turn.terminated | turn.truncated)
        state, view = turn.state, turn.view
    return returns.mean(1).numpy()


def main() -> None:
    parser = harness.parser(__doc__, "cartpole")
    parser.add_argument("--learners", type=int, default=5)
    parser.add_argument("--steps", type=int, default=48_000)
    settings = parser.parse_args()
    count, rounds = (2, 1000) if settings.quick else (settings.learners, settings.steps // WORLDS)
    torch.set_num_threads(1)
    learner = learners(count, rounds)
    loop = Loop(LoopSettings(rounds, 100, 50_000, 128, assess_rounds=1), CartPole(WORLDS), learner)
    curves, steps = [], []
    for _ in harness.rounds(rounds, "CartPole"):
        loop.play()
        if loop.round % JUDGE_EVERY == 0:
            steps.append(loop.round * WORLDS)
            curves.append(judged(learner, loop.round))
    returns = np.stack(curves, 1)
    first = [next((s for s, r in zip(steps, row, strict=True) if r >= SOLVED), BUDGET * 10) for row in returns]
    figures = {
        "steps until solved": harness.figure(first, at_most=BUDGET),
        "mean return of 100 episodes at the end": harness.figure(returns[:, -1], at_least=SOLVED),
    }
    harness.save(settings, figures, steps=steps, returns=np.round(returns, 1).tolist())


if __name__ == "__main__":
    main()
