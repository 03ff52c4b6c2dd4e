"""Training in `OptionEnv` with the scenario's reward: the part that SAC-d and DQN share."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Generic, TypeVar

from torch import Tensor, nn
from typing_extensions import Unpack

from coinfer.envs.batched_env import reward_of
from coinfer.envs.exogenous import Draws
from coinfer.envs.rewards import Reward
from coinfer.errors import TrainingError
from coinfer.policies.learned.features import rate_features
from coinfer.policies.learned.net_policy import NetPolicy
from coinfer.policies.learned.nets import Mlp
from coinfer.rl.core.envs.options import OptionEnv
from coinfer.rl.core.loop import AnyLearner, Loop, LoopSettings
from coinfer.rl.core.training import RunOptions, TrainingResult, TrainSettings, settings_record, train_loop
from coinfer.scenario.world import OffloadWorld
from coinfer.types import Outcome

LearnerSettings = TypeVar("LearnerSettings")


@dataclass(frozen=True)
class OptionSettings(Generic[LearnerSettings]):
    """Settings of a training in `OptionEnv`."""

    loop: LoopSettings
    learner: LearnerSettings
    """The learner's own settings: `SacSettings` or `DqnSettings`."""
    worlds: int = 16
    """W, worlds of each learner; a step of a learner is one slot of one of them."""
    hidden: tuple[int, ...] = (64, 64, 64, 64)
    """Widths of the hidden layers; with the last layer there are five."""
    reward_floor: float = -2.0
    """Lower rewards count as this value."""
    energy_penalty: float | None = None
    """Subtracted from the reward if a decision would break the energy limit (the device then computes everything);
    None for a mask that forbids such decisions."""


def with_loop_rounds(settings: OptionSettings[LearnerSettings], rounds: int) -> OptionSettings[LearnerSettings]:
    """Return settings whose loop plays a number of rounds, with some 15 assessments.

    The warm-up takes at most a thirtieth of the rounds (but at least one), so that a short training learns too.

    Args:
        settings: the settings to change; the learner's settings stay as they are.
        rounds: at least 1.
    """
    warmup = min(settings.loop.warmup, max(1, rounds // 30))
    loop = replace(settings.loop, rounds=rounds, warmup=warmup, assess_every=max(1, rounds // 15))
    return replace(settings, loop=loop)


def choose_settings(
    settings: TrainSettings,
    option_settings: OptionSettings[LearnerSettings] | None,
    presets: Mapping[str, OptionSettings[LearnerSettings]],
    with_rounds: Callable[[OptionSettings[LearnerSettings], int], OptionSettings[LearnerSettings]],
) -> OptionSettings[LearnerSettings]:
    """Return the given settings or else the preset; schedules span a training of `settings.steps` if that is set.

    Args:
        settings: preset and length of the training.
        option_settings: settings to use instead of the preset.
        presets: the scheme's settings by name.
        with_rounds: returns the scheme's settings with their schedules spanning a number of rounds.

    Raises:
        UserError: if there is no such preset.
    """
    chosen = option_settings or settings.find_preset(presets)
    return chosen if settings.steps is None else with_rounds(chosen, max(1, settings.steps // chosen.worlds))


def train_on_options(
    scheme: str,
    settings: TrainSettings,
    option_settings: OptionSettings[LearnerSettings],
    make_learner: Callable[[Mlp, Tensor], AnyLearner],
    weights: Callable[[AnyLearner], Tensor],
    **options: Unpack[RunOptions],
) -> TrainingResult:
    """Train learners in the scenario's worlds, with its reward.

    Args:
        scheme: name that the result carries.
        settings: scenario, seeds and device; `steps` and `preset` are only recorded.
        option_settings: settings of loop, learner and reward.
        make_learner: makes the learner from the form of its networks and the seeds [L].
        weights: returns the parameters [L, P] of a learner's networks that decide.
        options: as in `RunOptions`.

    Returns:
        The trained policies, one for each seed, with their curves.

    Raises:
        UserError: if the scenario, a change or the folder is not valid.
    """
    compiled, world = settings.open()
    check_world(world)
    reward = reward_for(reward_of(compiled.reward), option_settings)
    unmasked = option_settings.energy_penalty is not None
    env = OptionEnv(world, reward, option_settings.worlds, rate_features, settings.device, unmasked=unmasked)
    net = Mlp(2 * world.edge.servers, option_settings.hidden, 1, env.choices)
    loop = Loop(option_settings.loop, env, make_learner(net, settings.learner_seeds()))

    def make_policies(learner: AnyLearner) -> tuple[nn.Module, ...]:
        return tuple(NetPolicy(net, row, rate_features) for row in weights(learner).detach().cpu())

    record = settings_record(settings, scheme, world, option_settings)
    return train_loop(scheme, loop, make_policies, record, options_by_index=True, **options)


def check_world(world: OffloadWorld) -> None:
    """Check that these schemes can learn in a world.

    Args:
        world: the compiled scenario.

    Raises:
        TrainingError: if it has several tasks a slot, networks or classes of devices.
    """
    counts = {
        "tasks_per_slot": world.edge.tasks,
        "networks": world.edge.models,
        "classes of devices": world.edge.classes,
    }
    for name, count in counts.items():
        if count != 1:
            raise TrainingError(f"scenario {world.name}: this scheme decides one kind of request, got {count} {name}")


def reward_for(reward: Reward, option_settings: OptionSettings[LearnerSettings]) -> Reward:
    """Return the scenario's reward with the settings' floor and penalty.

    Args:
        reward: the scenario's reward [B] of slots.
        option_settings: settings with `reward_floor` and `energy_penalty`.
    """

    def bounded(outcome: Outcome[Tensor], draws: Draws) -> Tensor:
        value = reward(outcome, draws)
        if option_settings.energy_penalty is not None:
            value = value - option_settings.energy_penalty * (~outcome.admitted & draws.task_mask).sum(-1)
        return value.clamp(min=option_settings.reward_floor)

    return bounded
