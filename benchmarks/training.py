"""How fast our learners train, beside stable-baselines3 in the same world, with the same inputs and network sizes.

    python benchmarks/training.py [--updates 1500]

SAC-d's world, two inputs, 72 choices, four hidden layers of 64, discount 0, one thread; processor time, as other work
may run on the machine. Each learner makes as many updates; how many steps come to an update is a setting:

- ours: SAC and DQN, 128 and 16 worlds, batch 128, one update a round;
- stable-baselines3's DQN as it comes (one world, an update of 32 for 4 steps) and its PPO as it comes (8 worlds);
- its DQN fed by our worlds, 128 at a time, with our batch and one update a round: what is the worlds', not ours.

`steps` are decisions simulated and learned from; `reward` is the mean over 250 bandwidths of the final policy, that of
the optimum being `best`. stable-baselines3 knows no masks: what may not be done the world refuses, and the device does
it all.
Writes benchmarks/results/training.json.
"""

import sys
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import harness
import numpy as np
import stable_baselines3 as sb3
import torch
from gymnasium import spaces
from stable_baselines3.common.vec_env import VecEnv

from coinfer.envs.worlds import reward_of
from coinfer.learners import sac_d
from coinfer.learners.games import OffloadGame
from coinfer.learners.training import TrainSettings
from coinfer.policies.choices import choices
from coinfer.policies.features import rate_features
from coinfer.scenario.compile import open_world
from coinfer.types import OffloadObservation

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "experiments" / "sac-d"))
import bandwidths

SCENARIO, HIDDEN, RATE, TIMES = "sacd", (64, 64, 64, 64), 2e-3, 10.0
BATCH = 128


class Plain(VecEnv):
    """Our game for one learner, with what stable-baselines3 asks of vectorised environments."""

    def __init__(self, game: OffloadGame):
        self.game = game
        self.state, self.view = game.start(torch.zeros(1, dtype=torch.int64))
        inputs = self.view.features.shape[-1]
        super().__init__(game.worlds, spaces.Box(-5, 5, (inputs,), np.float32), spaces.Discrete(game.choices))

    def reset(self) -> Any:
        return self.view.features[0].numpy()

    def step_async(self, actions: np.ndarray) -> None:
        self.action = torch.as_tensor(actions).reshape(1, -1, 1)

    def step_wait(self) -> Any:
        turn = self.game.step(self.state, self.action)
        self.state, self.view = turn.state, turn.view
        over = turn.truncated[0].numpy()
        infos: list[dict[str, Any]] = [{} for _ in over]
        for i in np.flatnonzero(over):
            infos[i] = {"TimeLimit.truncated": True, "terminal_observation": turn.last_view.features[0, i].numpy()}
        return self.view.features[0].numpy(), turn.reward[0].numpy(), over, infos

    def close(self) -> None: ...

    def env_is_wrapped(self, wrapper_class: Any, indices: Any = None) -> list[bool]:
        return [False] * self.num_envs

    def get_attr(self, attr_name: str, indices: Any = None) -> list[Any]:
        return [getattr(self.game, attr_name, None)] * self.num_envs

    def set_attr(self, attr_name: str, value: Any, indices: Any = None) -> None: ...

    def env_method(self, method_name: str, *method_args: Any, indices: Any = None, **method_kwargs: Any) -> list[Any]:
        return []


def game(worlds: int, unmasked: bool) -> OffloadGame:
    compiled = open_world(SCENARIO)
    preset = sac_d.PRESETS["quick"]
    world = sac_d.checked(compiled)
    reward = sac_d.reward_for(world, reward_of(compiled.reward), preset)
    return OffloadGame(world, reward, worlds, rate_features, unmasked=unmasked)


def ours(train: Callable[..., Any], worlds: int, updates: int) -> tuple[int, Any]:
    """Steps and final policy."""
    preset = sac_d.with_rounds(replace(sac_d.PRESETS["quick"], worlds=worlds, hidden=HIDDEN), updates)
    preset = replace(preset, loop=replace(preset.loop, batch=BATCH, assess_every=0, assess_rounds=1))
    return updates * worlds, train(TrainSettings(SCENARIO), preset=preset).policies[0]


def theirs(made: Any, steps: int) -> tuple[int, Any]:
    """The same of a model of stable-baselines3: of what may be done, what it likes best."""
    made.learn(steps)

    def policy(seen: OffloadObservation) -> Any:
        found = choices(seen)
        features = rate_features(seen)
        with torch.no_grad():
            if hasattr(made, "q_net"):
                liked = made.q_net(features)
            else:
                liked = made.policy.get_distribution(features).distribution.logits
        return found.decision(torch.where(found.mask, liked[:, None], -torch.inf).argmax(-1))

    return made.num_timesteps, policy


def dqn(worlds: int, updates: int, tuned: bool) -> tuple[int, Any]:
    every = 1 if tuned else 4
    steps = updates * every * worlds
    made = sb3.DQN(
        "MlpPolicy",
        Plain(game(worlds, unmasked=True)),
        policy_kwargs={"net_arch": list(HIDDEN)},
        gamma=0.0,
        learning_rate=RATE,
        train_freq=every,
        gradient_steps=1,
        batch_size=BATCH if tuned else 32,
        learning_starts=100,
        buffer_size=100_000,
        exploration_fraction=0.7,
        seed=0,
        device="cpu",
    )
    return theirs(made, steps)


def ppo(steps: int) -> tuple[int, Any]:
    made = sb3.PPO(
        "MlpPolicy",
        Plain(game(8, unmasked=True)),
        policy_kwargs={"net_arch": list(HIDDEN)},
        n_steps=256,
        gamma=0.0,
        gae_lambda=0.0,
        seed=0,
        device="cpu",
    )
    return theirs(made, steps)


def main() -> None:
    parser = harness.parser(__doc__, "training")
    parser.add_argument("--updates", type=int, default=1500)
    settings = parser.parse_args()
    updates = 60 if settings.quick else settings.updates
    torch.set_num_threads(1)
    runs: dict[str, Callable[[], tuple[int, Any]]] = {
        "our SAC, 128 worlds": lambda: ours(sac_d.train, 128, updates),
        "our DQN, 128 worlds": lambda: ours(sac_d.train_dqn, 128, updates),
        "our SAC, 16 worlds": lambda: ours(sac_d.train, 16, updates),
        "stable-baselines3 DQN": lambda: dqn(1, updates, tuned=False),
        "stable-baselines3 DQN, our 128 worlds": lambda: dqn(128, updates, tuned=True),
        "stable-baselines3 PPO": lambda: ppo(4 * updates),
    }
    edge = bandwidths.open_edge(SCENARIO)
    best = bandwidths.judge(edge, bandwidths.references(edge)[bandwidths.OPTIMUM]).reward.mean()
    rows = {}
    for name, train in runs.items():
        harness.CONSOLE.print(name)
        began_s = time.process_time()
        steps, policy = train()
        took_s = time.process_time() - began_s
        reward = float(bandwidths.judge(edge, policy).reward.mean())
        rows[name] = {"steps": steps, "took_s": took_s, "steps_per_s": steps / took_s, "reward": reward}
        harness.CONSOLE.print(rows[name])
    speed = {name: row["steps_per_s"] for name, row in rows.items()}
    figures = {f"{name}: steps per second": harness.figure([value]) for name, value in speed.items()}
    ratio = speed["our SAC, 128 worlds"] / speed["stable-baselines3 DQN"]
    figures["our SAC to stable-baselines3's DQN, ratio"] = harness.figure([ratio], at_least=TIMES)
    harness.save(settings, figures, rows=rows, best=float(best))


if __name__ == "__main__":
    main()
