"""Distributed DQN, a baseline of multi-task A3C (IEEE TMC 2024; after the multiclass DQN of Lin et al., IEEE TII 2019).

The paper names it and nothing else. Here it is the double DQN of `dqn` with the network of multi-task A3C: a head for
each block gives the value of its N + 1 places, and every head learns the delay of its task by itself. Several worlds
fill one memory, and epsilon falls over the training, in preset `paper` from 1 to 0.01 (5.1).
"""

from dataclasses import replace
from typing import Any

from torch import Tensor
from typing_extensions import Unpack

from coinfer.policies.learned.actor_critic import ActorCriticForm
from coinfer.rl.algorithms.dqn import Dqn, DqnSettings
from coinfer.rl.core.blocks_training import BlocksSettings, train_on_blocks, with_rounds
from coinfer.rl.core.training import RunOptions, TrainingResult, TrainSettings


class HeadValues:
    """The form of an actor-critic network read as values of choices; its value head is not used.

    Args:
        net: the form.
    """

    def __init__(self, net: ActorCriticForm):
        self.net = net

    @property
    def size(self) -> int:
        """Return P, the number of parameters of one learner."""
        return self.net.size

    def initial(self, seeds: Tensor) -> Tensor:
        """Return initial parameters, [L, P].

        Args:
            seeds: [L] int64.
        """
        return self.net.initial(seeds)

    def __call__(self, flat: Tensor, features: Tensor) -> Tensor:
        """Return the values [L, B, K, C] of all choices, of parameters [L, P] and features [L, B, ..]."""
        return self.net(flat, features).logits


QUICK = DqnSettings(gamma=0.0, learning_rate=3e-4, epsilon=(1.0, 0.1), tau=0.05)
PAPER = DqnSettings(gamma=0.95, learning_rate=1e-2, epsilon=(1.0, 0.01))
_LOOP: dict[str, Any] = {"worlds": 8, "warmup": 10, "capacity": 2000}
PRESETS = {
    "quick": with_rounds(BlocksSettings(QUICK, batch=32, **_LOOP), 600),
    "paper": with_rounds(BlocksSettings(PAPER, batch=8, trunk=(256, 128), head=(64,), state="paper", **_LOOP), 6000),
}
"""Settings by name; `TrainSettings.steps` is rounds times worlds."""


def train(
    settings: TrainSettings,
    *,
    blocks_settings: BlocksSettings[DqnSettings] | None = None,
    **options: Unpack[RunOptions],
) -> TrainingResult:
    """Train distributed DQN for every seed, side by side; epsilon falls over the training.

    Args:
        settings: scenario, seeds, length and preset.
        blocks_settings: settings to use instead of the preset that `settings` names.
        options: as in `RunOptions`.

    Returns:
        One policy for each seed.

    Raises:
        UserError: if scenario, preset or folder is not valid.
    """
    chosen = blocks_settings or settings.find_preset(PRESETS)
    rounds = chosen.rounds if settings.steps is None else max(1, settings.steps // chosen.worlds)
    dqn = replace(chosen.learner, epsilon_updates=max(1, rounds * 7 // 10))
    chosen = replace(chosen, learner=dqn, warmup=min(chosen.warmup, max(1, rounds // 30)))

    def make_learner(net: ActorCriticForm, seeds: Tensor) -> Dqn:
        return Dqn(dqn, HeadValues(net), seeds)

    return train_on_blocks(
        "distributed-dqn", settings, chosen, make_learner, lambda one: one.flat, by_head=True, **options
    )
