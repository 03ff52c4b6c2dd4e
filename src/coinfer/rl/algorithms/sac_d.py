"""SAC-d (Niu et al., WCNC 2022) and its baseline DQN: one request at a time chooses exit, cut and bits together.

A flat categorical over all options, actor and critics of five fully connected layers, twin critics with soft targets,
automatic temperature (equations 7 to 11), the reward with the bandwidth-dependent weight (12, 13, `envs.rewards`), and
the limit on the device's energy (14) as a mask, or as a penalty.

Where the paper says nothing, or its text lost the symbols, our choices:
- What the agent sees is the rate of the link, on two scales (`features.rate_features`), not latency, energy and
  accuracy of the decision before (5), which say nothing about the next one.
- Widths, memory, batch, and so on as in `PRESETS`. The paper's 0.99 and 0.001 are read as discount and rate.
- Requests do not meet, so a decision changes nothing that comes after, and any discount has the same optimum. The
  preset `quick` takes 0: the value of a far future that no choice changes only adds noise to differences of a hundredth
  between choices. `paper` takes 0.99.
- The wanted entropy falls from 0.98 of the greatest to a small share, so that the policy decides in the end; DQN's
  epsilon falls over the same updates. The rates of both fall to 0 over the last half.
- Rewards below `reward_floor` count as that: they are mistakes by seconds, and their size would drown the rest.

It also runs in any other scenario of environment `offload` with one task at a time that knows one network.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from torch import Tensor

from coinfer.envs.batched_env import reward_of
from coinfer.envs.exogenous import Draws
from coinfer.envs.rewards import Reward
from coinfer.errors import TrainingError
from coinfer.policies.learned.features import rate_features
from coinfer.policies.learned.net_policy import NetPolicy
from coinfer.policies.learned.nets import Mlp
from coinfer.rl.algorithms.dqn import Dqn, DqnSettings
from coinfer.rl.algorithms.sac import Sac, SacSettings
from coinfer.rl.core.loop import Loop, LoopSettings
from coinfer.rl.core.option_env import OptionEnv
from coinfer.rl.core.training import Progress, TrainingResult, TrainSettings, run_training, settings_record
from coinfer.scenario.compile import Compiled, fingerprint, open_world
from coinfer.scenario.load import parse_changes
from coinfer.scenario.world import OffloadWorld
from coinfer.types import Outcome


@dataclass(frozen=True)
class Preset:
    loop: LoopSettings
    sac: SacSettings
    dqn: DqnSettings
    worlds: int = 16
    """W, of each learner; a step of a learner is one slot of one of them."""
    hidden: tuple[int, ...] = (64, 64, 64, 64)
    """Five layers with the last."""
    reward_floor: float = -2.0
    energy_penalty: float | None = None
    """Instead of the mask: subtracted where a decision would break the energy limit (the device then does it all)."""


_PLAIN = Preset(LoopSettings(1, batch=128, assess_rounds=50), SacSettings(initial_temperature=0.2), DqnSettings())


def with_rounds(preset: Preset, rounds: int) -> Preset:
    """The same with so many rounds: exploration falls over the first 70 % of them, the rates over the last 50 %."""
    explores, fall = max(1, rounds * 7 // 10), (rounds // 2, rounds)
    return replace(
        preset,
        loop=replace(preset.loop, rounds=rounds, assess_every=max(1, rounds // 15)),
        sac=replace(preset.sac, target_entropy=(0.98, 0.05), target_entropy_updates=explores, learning_rate_decay=fall),
        dqn=replace(preset.dqn, epsilon_updates=explores, learning_rate_decay=fall),
    )


def _with(preset: Preset, gamma: float, learning_rate: float, hidden: tuple[int, ...]) -> Preset:
    sac = replace(
        preset.sac,
        gamma=gamma,
        actor_learning_rate=learning_rate,
        critic_learning_rate=learning_rate,
        temperature_learning_rate=learning_rate,
    )
    return replace(preset, sac=sac, dqn=replace(preset.dqn, gamma=gamma, learning_rate=learning_rate), hidden=hidden)


PRESETS = {
    "quick": _with(with_rounds(_PLAIN, 1500), 0.0, 2e-3, (64, 64, 64, 64)),
    "paper": _with(with_rounds(_PLAIN, 10_000), 0.99, 1e-3, (128, 128, 128, 128)),
}
"""What a training takes where nobody says otherwise; `steps` are rounds times worlds."""


def train(
    settings: TrainSettings,
    *,
    progress: Progress = lambda _: None,
    folder: Path | None = None,
    resume: bool = False,
    preset: Preset | None = None,
) -> TrainingResult:
    """SAC-d for every seed, side by side.

    Args:
        preset: instead of the one that the settings name.

    Raises:
        UserError: where scenario, preset or folder are not as they must be; one line.
    """
    made = preset or _named(settings)

    def learner(net: Mlp, seeds: Tensor) -> Sac:
        return Sac(made.sac, replace(net, last_gain=0.1), net, seeds)

    return _train("sac-d", learner, lambda found: found.actor_flat, made, settings, progress, folder, resume)


def train_dqn(
    settings: TrainSettings,
    *,
    progress: Progress = lambda _: None,
    folder: Path | None = None,
    resume: bool = False,
    preset: Preset | None = None,
) -> TrainingResult:
    """The same with double DQN."""
    made = preset or _named(settings)

    def learner(net: Mlp, seeds: Tensor) -> Dqn:
        return Dqn(made.dqn, net, seeds)

    return _train("dqn", learner, lambda found: found.flat, made, settings, progress, folder, resume)


def _train(
    scheme: str,
    make: Callable[[Mlp, Tensor], Any],
    weights: Callable[[Any], Tensor],
    preset: Preset,
    settings: TrainSettings,
    progress: Progress,
    folder: Path | None,
    resume: bool,
) -> TrainingResult:
    compiled = open_world(settings.scenario, parse_changes(settings.changes))
    world = checked(compiled)
    if settings.steps is not None:
        preset = with_rounds(preset, max(1, settings.steps // preset.worlds))
    reward = reward_for(world, reward_of(compiled.reward), preset)
    env = OptionEnv(world, reward, preset.worlds, rate_features, settings.device, preset.energy_penalty is not None)
    net = Mlp(2 * world.edge.servers, preset.hidden, 1, env.choices)
    loop = Loop(preset.loop, env, make(net, settings.learner_seeds()))
    record = settings_record(settings, scheme, fingerprint(world), preset=preset)
    digest = run_training(loop, record, progress=progress, folder=folder, resume=resume)
    modules = tuple(NetPolicy(net, row, rate_features) for row in weights(loop.learner).detach().cpu())
    return TrainingResult(scheme, modules, modules, tuple(loop.points), tuple(loop.assessed), record, digest)


def checked(compiled: Compiled) -> OffloadWorld:
    """The world, where this scheme can learn in it.

    Raises:
        TrainingError: where it is of another kind.
    """
    world = compiled.world
    if not isinstance(world, OffloadWorld):
        raise TrainingError(f"scenario {world.name}: this scheme learns in environment offload only")
    counts = {
        "tasks_per_slot": world.edge.tasks,
        "networks": world.edge.models,
        "classes of devices": world.edge.classes,
    }
    for name, count in counts.items():
        if count != 1:
            raise TrainingError(f"scenario {world.name}: this scheme decides one kind of request, got {count} {name}")
    return world


def reward_for(world: OffloadWorld, reward: Reward, preset: Preset) -> Reward:
    """The scenario's reward with the preset's floor and penalty."""

    def paid(outcome: Outcome, draws: Draws) -> Tensor:
        value = reward(outcome, draws)
        if preset.energy_penalty is not None:
            value = value - preset.energy_penalty * (~outcome.admitted & draws.task_mask).sum(-1)
        return value.clamp(min=preset.reward_floor)

    return paid


def _named(settings: TrainSettings) -> Preset:
    if settings.preset not in PRESETS:
        raise TrainingError(f"no preset {settings.preset!r}; there are {', '.join(PRESETS)}")
    return PRESETS[settings.preset]
