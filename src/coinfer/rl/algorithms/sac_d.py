"""SAC-d (Niu et al., WCNC 2022): the agent chooses exit, cut and bits of one request at a time together.

A flat categorical over all options, actor and critics of five fully connected layers, twin critics with soft targets,
automatic temperature (equations 7 to 11), the reward with the bandwidth-dependent weight (12, 13, `envs.rewards`), and
the limit on the device's energy (14) as a mask, or as a penalty. Its baseline is `dqn`.

Our choices where the paper says nothing, or its text lost the symbols:
- The agent observes the rate of the link, on two scales (`features.rate_features`), not latency, energy and accuracy of
  the previous decision (5), which say nothing about the next one.
- Widths, memory and batch are those of `PRESETS`. The paper's 0.99 and 0.001 are read as discount and learning rate.
- Requests do not share resources over time, so a decision does not change later ones, and any discount has the same
  optimum. Preset `quick` takes 0: the value of a far future that no choice changes only adds noise to differences of a
  hundredth between choices. `paper` takes 0.99.
- The target entropy falls from 0.98 of the greatest to a small share, so that the policy is nearly deterministic in the
  end; DQN's epsilon falls over the same updates. The learning rates of both fall over the last half.
- Rewards below `reward_floor` count as the floor: they come from delays of seconds, and their size would hide all other
  differences.

It also trains in any other scenario of environment `offload` with one task at a time, one network and one class of
devices.
"""

from dataclasses import replace

from torch import Tensor
from typing_extensions import Unpack

from coinfer.policies.learned.nets import Mlp
from coinfer.rl.algorithms.sac import Sac, SacSettings
from coinfer.rl.core.loop import LoopSettings
from coinfer.rl.core.option_training import OptionSettings, choose_settings, train_on_options, with_loop_rounds
from coinfer.rl.core.training import RunOptions, TrainingResult, TrainSettings

SacDSettings = OptionSettings[SacSettings]


def with_rounds(settings: SacDSettings, rounds: int) -> SacDSettings:
    """Return settings whose training and schedules span a number of rounds.

    The target entropy falls over the first 70 % of the rounds, the learning rates over the last 50 %.

    Args:
        settings: the settings to change, for instance a preset's.
        rounds: slots that each world plays, at least 1.
    """
    falls = max(1, rounds * 7 // 10)
    sac = replace(settings.learner, target_entropy_updates=falls, learning_rate_decay=(rounds // 2, rounds))
    return with_loop_rounds(replace(settings, learner=sac), rounds)


def _preset(rounds: int, gamma: float, learning_rate: float, hidden: tuple[int, ...]) -> SacDSettings:
    sac = SacSettings(
        gamma=gamma,
        actor_learning_rate=learning_rate,
        critic_learning_rate=learning_rate,
        temperature_learning_rate=learning_rate,
        initial_temperature=0.2,
        target_entropy=(0.98, 0.05),
    )
    return with_rounds(OptionSettings(LoopSettings(1, batch=128, assess_rounds=50), sac, hidden=hidden), rounds)


PRESETS = {
    "quick": _preset(1500, 0.0, 2e-3, (64, 64, 64, 64)),
    "paper": _preset(10_000, 0.99, 1e-3, (128, 128, 128, 128)),
}
"""Settings by name; `TrainSettings.steps` is rounds times worlds."""


def train(
    settings: TrainSettings, *, option_settings: SacDSettings | None = None, **options: Unpack[RunOptions]
) -> TrainingResult:
    """Train SAC-d for every seed, side by side.

    If `settings.steps` is given, target entropy and learning rates fall over that training, as `with_rounds` says.

    Args:
        settings: scenario, seeds, length and preset.
        option_settings: settings to use instead of the preset that `settings` names.
        options: as in `RunOptions`.

    Returns:
        One policy for each seed.

    Raises:
        UserError: if scenario, preset or folder is not valid.
    """
    chosen = choose_settings(settings, option_settings, PRESETS, with_rounds)

    def make_learner(net: Mlp, seeds: Tensor) -> Sac:
        return Sac(chosen.learner, replace(net, last_gain=0.1), net, seeds)

    return train_on_options("sac-d", settings, chosen, make_learner, lambda learner: learner.actor_flat, **options)
