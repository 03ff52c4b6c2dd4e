"""Measure how fast our PPO and A3C train beside stable-baselines3's PPO and A2C, in the same worlds with networks and
settings of one size.

    python benchmarks/on_policy.py --seed 0     # and 1, 2: each adds its runs to the record; 2 to 4 minutes each

Worlds: `sacd`, where one decision chooses among the options, and `mtl-a3c`, where every task of a slot chooses a place
for each of 6 blocks. A step is a decision of a task; to stable-baselines3 every task is an environment of its own, with
several discrete actions. Each learner has one thread, 8 worlds (`sacd`: 128), rollouts of one length, actor and critic
apart, the same rates and weights, Adam (A3C and A2C: RMSProp), and neither knows masks: the world refuses what is not
allowed. A3C is ours with one worker, as A2C is.

During training each greedy policy is judged on the same other worlds (that time does not count). `return` is the mean
reward of a decision, over the last three judgements. The time to equal return is that of the first judgement at which a
learner is as good as the less good of a pair in the end. Times are those of the processor, as other work may run on the
machine. Writes benchmarks/results/on_policy.json.
"""

import json
import time
from collections.abc import Callable
from typing import Any, NamedTuple

import harness
import numpy as np
import stable_baselines3 as sb3
import torch
from gymnasium import spaces
from stable_baselines3.common.callbacks import BaseCallback
from training import Plain, seeds_of

from coinfer.envs.batched_env import reward_of
from coinfer.policies.learned.actor_critic import ActorCriticNet
from coinfer.policies.learned.blocks.features import BlocksHeads, queue_state
from coinfer.policies.learned.features import rate_features
from coinfer.rl.algorithms import a3c, ppo
from coinfer.rl.core.envs.blocks import BlocksEnv
from coinfer.rl.core.envs.options import OptionEnv
from coinfer.rl.core.loop import Loop, LoopSettings
from coinfer.rl.core.on_policy import ActorCritic, play
from coinfer.rl.core.records import Observation
from coinfer.scenario.compile import open_world
from coinfer.scenario.world import BlocksWorld, OffloadWorld

JUDGEMENTS, LAST, JUDGED_SLOTS, JUDGES_SEED = 12, 3, 8, 1000
HIDDEN = (64, 64)
EPSILON = 1e-5
"""Of RMSProp, outside of the root as in A2C; ours stands under it."""
PAIRS = {"PPO": "stable-baselines3's PPO", "A3C": "stable-baselines3's A2C"}


class Task(NamedTuple):
    """A world and the settings of all learners in it."""

    make: Callable[[], Any]
    heads: int
    """Discrete actions of one decision."""
    steps: int
    rate: float
    horizon: int
    entropy: float


def options_env() -> OptionEnv:
    compiled = open_world("sacd")
    assert isinstance(compiled.world, OffloadWorld)
    return OptionEnv(compiled.world, reward_of(compiled.reward), 128, rate_features, unmasked=True)


def places_env() -> BlocksEnv:
    world = open_world("mtl-a3c").world
    assert isinstance(world, BlocksWorld)
    return BlocksEnv(world, 8, queue_state, BlocksHeads(world.blocks, world.edge.servers))


TASKS = {
    "sacd": Task(options_env, 1, 192_000, 2e-3, 32, 1e-3),
    "mtl-a3c": Task(places_env, 6, 288_000, 1e-3, 10, 1e-3),
}


class Form(NamedTuple):
    """Sizes of what a learner sees and chooses."""

    inputs: int
    units: int
    """Decisions of a world in a step."""
    choices: int
    by_unit: bool


def form_of(seen: Observation, heads: int) -> Form:
    by_unit = seen.features.dim() == 4
    units = seen.features.shape[2] if by_unit else seen.mask.shape[2] // heads
    return Form(seen.features.shape[-1], units, seen.mask.shape[-1], by_unit)


class Judge:
    """Judges greedy policies during a training; the clock stands still meanwhile.

    Args:
        task: in whose world.
        steps: of the training.
    """

    def __init__(self, task: Task, steps: int):
        self.env = task.make()
        self.every = self.next = max(1, steps // JUDGEMENTS)
        self.away_s, self.curve = 0.0, list[tuple[int, float, float]]()
        self.began_s = time.process_time()

    def look(self, steps: int, best: Callable[[Observation], torch.Tensor]) -> None:
        """Judge the policy if it is time; call this after every step or rollout."""
        if steps < self.next:
            return
        stopped_s = time.process_time()
        self.curve.append((steps, stopped_s - self.began_s - self.away_s, self._return_of(best)))
        self.next += self.every
        self.away_s += time.process_time() - stopped_s

    def _return_of(self, best: Callable[[Observation], torch.Tensor]) -> float:
        state, seen = self.env.reset(seeds_of(JUDGES_SEED))
        rewards = []
        for _ in range(JUDGED_SLOTS):
            result = self.env.step(state, best(seen))
            rewards.append(float(result.reward.mean()))
            state, seen = result.state, result.observation
        return float(np.mean(rewards))

    def figures(self) -> dict[str, Any]:
        steps, took_s, _ = self.curve[-1]
        found = {"steps": steps, "took_s": took_s, "steps_per_s": steps / took_s, "curve": self.curve}
        return {**found, "return": float(np.mean([value for *_, value in self.curve[-LAST:]]))}


class Decisions(Plain):
    """Our environment for one learner of stable-baselines3, each decision of a world as an environment."""

    def __init__(self, env: Any, heads: int, seed: int):
        self.env = env
        self.state, self.observation = env.reset(seeds_of(seed))
        self.form, self.heads = form_of(self.observation, heads), heads
        box = spaces.Box(-np.inf, np.inf, (self.form.inputs,), np.float32)
        actions = spaces.MultiDiscrete([self.form.choices] * heads)
        super(Plain, self).__init__(env.worlds * self.form.units, box, actions)

    def reset(self) -> Any:
        return self._rows(self.observation)

    def step_async(self, actions: np.ndarray) -> None:
        self.action = torch.as_tensor(actions).reshape(1, self.env.worlds, -1)

    def step_wait(self) -> Any:
        result = self.env.step(self.state, self.action)
        self.state, self.observation = result.state, result.observation
        over = result.truncated[0].repeat_interleave(self.form.units).numpy()
        infos: list[dict[str, Any]] = [{} for _ in over]
        if over.any():
            last = self._rows(result.final_observation)
            for i in np.flatnonzero(over):
                infos[i] = {"TimeLimit.truncated": True, "terminal_observation": last[i]}
        return self._rows(self.observation), result.reward[0].reshape(-1).numpy(), over, infos

    def _rows(self, seen: Observation) -> np.ndarray:
        return seen.features[0].reshape(-1, self.form.inputs).float().numpy()


def ours(name: str, task: Task, steps: int, seed: int) -> dict[str, Any]:
    """Train ours."""
    env = task.make()
    form = form_of(env.reset(seeds_of(seed))[1], task.heads)
    shape = (form.inputs, task.heads, form.choices, form.units, form.by_unit)
    net = ActorCriticNet(*shape, trunk=HIDDEN, trunks="apart", first="he")
    if name == "PPO":
        settings = ppo.PpoSettings(task.rate, 0.0, task.horizon, entropy=task.entropy)
        learner: ActorCritic = ppo.make_learner(settings, net, seeds_of(seed))
    else:
        alike = {"workers": 1, "entropy": task.entropy, "value_weight": 0.5, "epsilon": EPSILON**2}
        settings = a3c.A3cSettings(task.rate, 0.0, task.horizon, **alike)
        learner = a3c.make_learner(settings, net, seeds_of(seed))
    a_round = env.worlds * form.units
    rounds = -(-steps // (a_round * task.horizon)) * task.horizon
    judge = Judge(task, steps)
    # The loop would assess in its last round, which it never plays.
    loop = Loop(LoopSettings(rounds + 1, 0, 1, log_every=rounds + 1), env, learner)
    while loop.round < rounds:
        play(loop, task.horizon, settings.gamma, settings.lam)
        judge.look(loop.round * a_round, lambda seen: learner.act(seen, 0, explore=False))
    return judge.figures()


class Look(BaseCallback):
    """Judges a policy of stable-baselines3 between its rollouts."""

    def __init__(self, judge: Judge, env: Decisions):
        super().__init__()
        self.judge, self.env = judge, env

    def _on_step(self) -> bool:
        return True

    def _on_rollout_start(self) -> None:
        self.judge.look(self.num_timesteps, self._best)

    def _on_training_end(self) -> None:
        self.judge.look(self.num_timesteps, self._best)

    def _best(self, seen: Observation) -> torch.Tensor:
        actions, _ = self.model.predict(self.env._rows(seen), deterministic=True)
        return torch.as_tensor(actions).reshape(1, self.env.env.worlds, -1)


def theirs(name: str, task: Task, steps: int, seed: int) -> dict[str, Any]:
    """Train stable-baselines3's."""
    env = Decisions(task.make(), task.heads, seed)
    arch = {"net_arch": {"pi": list(HIDDEN), "vf": list(HIDDEN)}, "activation_fn": torch.nn.ReLU}
    common: dict[str, Any] = {"n_steps": task.horizon, "learning_rate": task.rate, "gamma": 0.0}
    common |= {"ent_coef": task.entropy, "policy_kwargs": arch, "seed": seed, "device": "cpu"}
    if name == "PPO":
        batch = task.horizon * env.num_envs // 4
        model: Any = sb3.PPO("MlpPolicy", env, batch_size=batch, n_epochs=4, gae_lambda=0.95, **common)
    else:
        model = sb3.A2C("MlpPolicy", env, normalize_advantage=True, **common)
    judge = Judge(task, steps)
    model.learn(steps, Look(judge, env))
    return judge.figures()


def sooner_s(runs: tuple[dict[str, Any], dict[str, Any]]) -> tuple[float, float]:
    """Return when each of a pair is as good as the less good one in the end, in seconds."""
    wanted = min(run["return"] for run in runs)
    reached = [next((took_s for _, took_s, value in run["curve"] if value >= wanted), run["took_s"]) for run in runs]
    return reached[0], reached[1]


def figures(runs: dict[str, list[dict[str, Any]]]) -> dict[str, harness.Figure]:
    """Return the figures over the seeds; ratios are those of a seed."""
    found = dict[str, harness.Figure]()
    for label, rows in runs.items():
        found[f"{label}: steps per second"] = harness.figure([row["steps_per_s"] for row in rows])
        found[f"{label}: return at the end"] = harness.figure([row["return"] for row in rows])
    for world in TASKS:
        for name, other in PAIRS.items():
            pairs = list(zip(runs[f"{world}, our {name}"], runs[f"{world}, {other}"], strict=True))
            faster = [one["steps_per_s"] / two["steps_per_s"] for one, two in pairs]
            sooner = [two / one for one, two in map(sooner_s, pairs)]
            found[f"{world}: our {name}'s steps per second over {other}"] = harness.figure(faster, at_least=1)
            found[f"{world}: {other}'s time to equal return over our {name}'s"] = harness.figure(sooner, at_least=1)
    return found


def main() -> None:
    parser = harness.parser(__doc__, "on_policy")
    parser.add_argument("--seed", type=int, default=0, help="seed of the learners; 0 begins a new record")
    settings = parser.parse_args()
    torch.set_num_threads(1)
    runs: dict[str, list[dict[str, Any]]] = {}
    if settings.output.exists() and settings.seed:
        runs = json.loads(settings.output.read_text())["runs"]
    for world, task in TASKS.items():
        steps = task.steps // 32 if settings.quick else task.steps
        for name, other in PAIRS.items():
            for label, run in ((f"{world}, our {name}", ours), (f"{world}, {other}", theirs)):
                row = {"seed": settings.seed, **run(name, task, steps, settings.seed)}
                runs.setdefault(label, []).append(row)
                harness.CONSOLE.print(label, {key: value for key, value in row.items() if key != "curve"})
    harness.save(settings, figures(runs), runs=runs, torch=torch.__version__, stable_baselines3=sb3.__version__)


if __name__ == "__main__":
    main()
