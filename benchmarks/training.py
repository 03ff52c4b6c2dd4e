"""Measure how fast our learners train, and stable-baselines3's and TorchRL's in the same world, with networks of one
size.

    python benchmarks/training.py --seed 0     # and 1, 2: each adds its runs to the record

SAC-d's world, two inputs, 94 choices (72 in the record), four hidden layers of 64, discount 0, one thread; processor
time, as other work may run on the machine. `as it comes` is a learner with the settings of its authors:
stable-baselines3's DQN steps one world and makes an update of 32 for 4 steps, its PPO takes 8 worlds, TorchRL's
discrete SAC (example for CartPole) one world and an update of 256 for each step. `our worlds` is the same learner with
what ours has: 128 of our worlds at a time, one update of 128 per round, our learning rate. These learners know no
masks: the world refuses what is not allowed, and the device computes everything. `without masks` is our SAC in that
way.

`steps per second` are decisions simulated and learned from. During training each policy is judged 40 times at 250
bandwidths (that time does not count). Its regret is its reward below the optimum's, relative to the range between the
best and the worst choice. A learner is done at the first judgement from which on its regret stays within 0.5 % (always
taking the fastest choice is just above that). Writes benchmarks/results/training.json.
"""

import json
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import harness
import numpy as np
import stable_baselines3 as sb3
import torch
from gymnasium import spaces
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.vec_env import VecEnv
from torchrl_sac import TorchRlSac, TorchRlSettings

from coinfer.envs.batched_env import reward_of
from coinfer.physics import random
from coinfer.policies.candidates import candidates_of
from coinfer.policies.learned.features import rate_features
from coinfer.policies.learned.net_policy import NetPolicy
from coinfer.policies.learned.nets import Mlp
from coinfer.rl.algorithms import dqn, sac_d
from coinfer.rl.algorithms.dqn import Dqn
from coinfer.rl.algorithms.sac import Sac
from coinfer.rl.core.envs.options import OptionEnv
from coinfer.rl.core.loop import Loop
from coinfer.rl.core.option_training import reward_for
from coinfer.scenario.compile import open_world
from coinfer.scenario.world import OffloadWorld
from coinfer.types import OffloadObservation, Policy

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "experiments" / "sac-d"))
import bandwidths

SCENARIO, HIDDEN, RATE, BATCH, WORLDS = "sacd", (64, 64, 64, 64), 2e-3, 128, 128
TIMES, REGRET, JUDGEMENTS = 10.0, 0.005, 40
OURS = "our SAC"
RIVALS = ("stable-baselines3 DQN", "TorchRL discrete SAC")
"""The learners of others that learn off-policy."""


class Watch:
    """Judges a policy during training; the clock stands still meanwhile."""

    def __init__(self, steps: int):
        self.edge = bandwidths.open_edge(SCENARIO)
        self.best, self.worst = (
            bandwidths.judge(self.edge, bandwidths.references(self.edge)[name]).reward
            for name in (bandwidths.OPTIMUM, bandwidths.WORST)
        )
        self.update_every = self.next = max(1, steps // JUDGEMENTS)
        self.away_s, self.curve = 0.0, list[tuple[int, float, float]]()
        self.began_s = time.process_time()

    def look(self, steps: int, policy: Callable[[], Policy]) -> None:
        """Judge the policy if it is time; call this after every step or round."""
        if steps < self.next:
            return
        stopped_s = time.process_time()
        reward = bandwidths.judge(self.edge, policy()).reward
        regret = float((self.best - reward).mean() / (self.best - self.worst).mean())
        self.curve.append((steps, stopped_s - self.began_s - self.away_s, regret))
        self.next += self.update_every
        self.away_s += time.process_time() - stopped_s

    def figures(self) -> dict[str, Any]:
        steps, took_s, regret = map(np.array, zip(*self.curve, strict=True))
        good = np.flatnonzero(regret > REGRET)
        first = 0 if not len(good) else good[-1] + 1
        return {
            "steps": int(steps[-1]),
            "took_s": float(took_s[-1]),
            "steps_per_s": float(steps[-1] / took_s[-1]),
            "regret": float(regret[-1]),
            "done_s": float(took_s[first]) if first < len(took_s) else None,
            "done_steps": int(steps[first]) if first < len(steps) else None,
            "curve": [(int(a), round(float(b), 3), round(float(c), 6)) for a, b, c in self.curve],
        }


class Plain(VecEnv):
    """Our environment for one learner, as stable-baselines3 takes vectorised environments."""

    def __init__(self, env: OptionEnv, seed: int):
        self.env = env
        self.state, self.observation = env.reset(seeds_of(seed))
        inputs = self.observation.features.shape[-1]
        super().__init__(env.worlds, spaces.Box(-5, 5, (inputs,), np.float32), spaces.Discrete(env.choices))

    def reset(self) -> Any:
        return self.observation.features[0].numpy()

    def step_async(self, actions: np.ndarray) -> None:
        self.action = torch.as_tensor(actions).reshape(1, -1, 1)

    def step_wait(self) -> Any:
        result = self.env.step(self.state, self.action)
        self.state, self.observation = result.state, result.observation
        over = result.truncated[0].numpy()
        infos: list[dict[str, Any]] = [{} for _ in over]
        for i in np.flatnonzero(over):
            infos[i] = {
                "TimeLimit.truncated": True,
                "terminal_observation": result.final_observation.features[0, i].numpy(),
            }
        return self.observation.features[0].numpy(), result.reward[0].numpy(), over, infos

    def close(self) -> None: ...

    def env_is_wrapped(self, wrapper_class: Any, indices: Any = None) -> list[bool]:
        return [False] * self.num_envs

    def get_attr(self, attr_name: str, indices: Any = None) -> list[Any]:
        return [getattr(self.env, attr_name, None)] * self.num_envs

    def set_attr(self, attr_name: str, value: Any, indices: Any = None) -> None: ...

    def env_method(self, method_name: str, *method_args: Any, indices: Any = None, **method_kwargs: Any) -> list[Any]:
        return []


def seeds_of(seed: int, count: int = 1) -> torch.Tensor:
    return random.key(torch.zeros(count, dtype=torch.int64), seed + torch.arange(count))


def make_env(worlds: int, unmasked: bool = True) -> OptionEnv:
    compiled = open_world(SCENARIO)
    world = compiled.world
    assert isinstance(world, OffloadWorld)
    reward = reward_for(reward_of(compiled.reward), sac_d.PRESETS["quick"])
    return OptionEnv(world, reward, worlds, rate_features, unmasked=unmasked)


def liking(numbers: Callable[[torch.Tensor], torch.Tensor]) -> Policy:
    """Return the policy that takes the allowed choice with the greatest number."""

    @torch.no_grad()
    def policy(seen: OffloadObservation) -> Any:
        found = candidates_of(seen)
        return found.decision(torch.where(found.mask, numbers(rate_features(seen))[:, None], -torch.inf).argmax(-1))

    return policy


def ours(rounds: int, seed: int, with_dqn: bool = False, unmasked: bool = False, learners: int = 1) -> dict[str, Any]:
    sac_preset = sac_d.with_rounds(sac_d.PRESETS["quick"], rounds)
    dqn_preset = dqn.with_rounds(dqn.PRESETS["quick"], rounds)
    played = make_env(WORLDS, unmasked)
    net = Mlp(2, HIDDEN, 1, played.choices)
    seeds = seeds_of(seed, learners)
    if with_dqn:
        learner = Dqn(dqn_preset.learner, net, seeds)
    else:
        learner = Sac(sac_preset.learner, replace(net, last_gain=0.1), net, seeds)
    settings = replace(sac_preset.loop, rounds=rounds + 1, batch=BATCH, assess_every=0)
    watch = Watch(rounds * WORLDS * learners)
    loop = Loop(settings, played, learner)

    def policy() -> Policy:
        flat = learner.flat if isinstance(learner, Dqn) else learner.actor_flat
        return NetPolicy(net, flat[0], rate_features)

    for number in range(1, rounds + 1):
        loop.play()
        watch.look(number * WORLDS * learners, policy)
    return watch.figures()


class Look(BaseCallback):
    def __init__(self, watch: Watch):
        super().__init__()
        self.watch = watch

    def _on_step(self) -> bool:
        self.watch.look(self.num_timesteps, lambda: liking(self._numbers))
        return True

    def _numbers(self, features: torch.Tensor) -> torch.Tensor:
        if isinstance(self.model, sb3.DQN):
            return self.model.q_net(features)
        return self.model.policy.get_distribution(features).distribution.logits  # pyright: ignore


def their_dqn(steps: int, seed: int, tuned: bool = False) -> dict[str, Any]:
    made = sb3.DQN(
        "MlpPolicy",
        Plain(make_env(WORLDS if tuned else 1), seed),
        policy_kwargs={"net_arch": list(HIDDEN)},
        gamma=0.0,
        seed=seed,
        device="cpu",
        **({"learning_rate": RATE, "train_freq": 1, "batch_size": BATCH, "exploration_fraction": 0.7} if tuned else {}),
    )
    watch = Watch(steps)
    made.learn(steps, Look(watch))
    return watch.figures()


def their_ppo(steps: int, seed: int, tuned: bool = False) -> dict[str, Any]:
    made = sb3.PPO(
        "MlpPolicy",
        Plain(make_env(WORLDS if tuned else 8), seed),
        policy_kwargs={"net_arch": list(HIDDEN)},
        gamma=0.0,
        gae_lambda=0.0,
        seed=seed,
        device="cpu",
        **({"n_steps": 32, "batch_size": 512, "learning_rate": RATE} if tuned else {}),
    )
    watch = Watch(steps)
    made.learn(steps, Look(watch))
    return watch.figures()


def their_sac(steps: int, seed: int, tuned: bool = False) -> dict[str, Any]:
    played = make_env(WORLDS if tuned else 1)
    settings = TorchRlSettings(gamma=0.0)
    settings = replace(settings, batch=BATCH, rate=RATE) if tuned else settings
    made = TorchRlSac(2, played.choices, HIDDEN, settings, seed)
    watch = Watch(steps)
    state, observation = played.reset(seeds_of(seed))
    for number in range(1, steps // played.worlds + 1):
        action = made.act(observation.features[0]) if number > 50 else torch.randint(played.choices, (played.worlds,))
        result = played.step(state, action.reshape(1, -1, 1))
        made.remember(
            observation.features[0],
            action,
            result.reward[0],
            result.terminated[0],
            result.final_observation.features[0],
        )
        state, observation = result.state, result.observation
        if number > 50:
            made.update()
        watch.look(number * played.worlds, lambda: liking(made.logits))
    return watch.figures()


RUNS: dict[str, Callable[..., dict[str, Any]]] = {
    OURS: partial(ours, 1500),
    "our SAC, without masks": partial(ours, 1500, unmasked=True),
    "our DQN": partial(ours, 1500, with_dqn=True),
    "our SAC, ten learners at once": partial(ours, 1500, learners=10),
    RIVALS[0]: partial(their_dqn, 40_000),
    RIVALS[1]: partial(their_sac, 4_000),
    "stable-baselines3 PPO": partial(their_ppo, 40_000),
    f"{RIVALS[0]}, our worlds": partial(their_dqn, 1500 * WORLDS, tuned=True),
    f"{RIVALS[1]}, our worlds": partial(their_sac, 1500 * WORLDS, tuned=True),
    "stable-baselines3 PPO, our worlds": partial(their_ppo, 1500 * WORLDS, tuned=True),
}


def figures(runs: dict[str, list[dict[str, Any]]]) -> dict[str, harness.Figure]:
    """Return the figures over the seeds; ratios are those of a seed."""
    found = dict[str, harness.Figure]()
    for name, rows in runs.items():
        found[f"{name}: steps per second"] = harness.figure([row["steps_per_s"] for row in rows])
        found[f"{name}: regret at the end"] = harness.figure([row["regret"] for row in rows])
        done_s = [row["done_s"] for row in rows if row["done_s"] is not None]
        if len(done_s) == len(rows):
            found[f"{name}: seconds to a regret of {REGRET:g}"] = harness.figure(done_s)
    for kind, bar in (("", {"at_least": TIMES}), (", our worlds", {"at_least": TIMES})):
        fastest = np.max([[row["steps_per_s"] for row in runs[name + kind]] for name in RIVALS], 0)
        times = np.array([row["steps_per_s"] for row in runs[OURS]]) / fastest
        found[f"{OURS} over the fastest off-policy one{kind or ', as it comes'}: ratio"] = harness.figure(times, **bar)
    return found


def main() -> None:
    parser = harness.parser(__doc__, "training")
    parser.add_argument("--seed", type=int, default=0, help="seed of the learners")
    parser.add_argument("--only", nargs="*", default=list(RUNS), help="learners to train; then nothing is written")
    settings = parser.parse_args()
    torch.set_num_threads(1)
    runs: dict[str, list[dict[str, Any]]] = {name: [] for name in settings.only}
    if settings.output.exists() and settings.seed and len(runs) == len(RUNS):
        runs = json.loads(settings.output.read_text())["runs"]
    for name in settings.only:
        harness.CONSOLE.print(name)
        run = RUNS[name]
        if settings.quick:
            count = 60 if run.func is ours else 60 * WORLDS if run.keywords else 400
            run = partial(run.func, count, **run.keywords)
        row = {"seed": settings.seed, **run(seed=settings.seed)}
        runs[name].append(row)
        harness.CONSOLE.print({key: value for key, value in row.items() if key != "curve"})
    if len(runs) == len(RUNS):
        harness.save(settings, figures(runs), runs=runs)


if __name__ == "__main__":
    main()
