"""Double DQN (van Hasselt et al. 2016) for K tasks of C choices, many learners at once: the baseline of SAC-d.

It has the same inputs, masks, memory and form of network as `sac_d`. The value of a decision is the sum of its tasks'
values; if each task's own reward is known, every task's value is learned by itself, as in `sac`. The target network is
updated softly. Exploration is epsilon-greedy with an epsilon that falls linearly over the updates. The paper (WCNC
2022) names a DQN of five fully connected layers and nothing else; everything else is our choice.
"""

from dataclasses import dataclass, replace

import torch
from torch import Tensor
from typing_extensions import Unpack

from coinfer.physics import random
from coinfer.policies.learned.nets import Mlp, Net
from coinfer.rl.core.batched_optim import (
    MASKED,
    Adam,
    add_prefix,
    descend,
    gather_actions,
    interpolate,
    linear_decay,
    sample_categorical,
    soft_update,
    strip_prefix,
    uniform,
)
from coinfer.rl.core.loop import LoopSettings
from coinfer.rl.core.option_training import OptionSettings, choose_settings, train_on_options, with_loop_rounds
from coinfer.rl.core.records import Observation, Transition
from coinfer.rl.core.training import RunOptions, TrainingResult, TrainSettings

_NET, _WHETHER, _WHICH = range(3)


@dataclass(frozen=True)
class DqnSettings:
    """Settings of the learner."""

    gamma: float = 0.99
    """Discount of the next step's value."""
    tau: float = 0.005
    """Weight of the network in an update of the target network."""
    learning_rate: float = 3e-4
    epsilon: tuple[float, float] = (1.0, 0.05)
    """Share of random choices at first and at last."""
    epsilon_updates: int = 10_000
    """Updates over which epsilon changes from the first to the last."""
    max_grad_norm: float | None = 10.0
    """Limit to the norm of each learner's gradient; None for no limit."""
    learning_rate_decay: tuple[int, int] | None = None
    """Updates between which the learning rate falls to 0; None if it stays."""


class Dqn:
    """L double DQNs, trained side by side.

    Args:
        settings: settings of every learner.
        net: form of the networks.
        seeds: [L] int64 seeds of first weights and random choices.
    """

    def __init__(self, settings: DqnSettings, net: Net, seeds: Tensor):
        self.settings, self.net, self.keys, self.updates = settings, net, seeds, 0
        self.flat = net.initial(random.key(seeds, _NET)).requires_grad_()
        self.target_flat = self.flat.detach().clone()
        self._adam = Adam(self.flat, settings.learning_rate, settings.max_grad_norm)

    @property
    def epsilon(self) -> float:
        """Return the current share of random choices."""
        return interpolate(self.settings.epsilon, self.updates, self.settings.epsilon_updates)

    @torch.no_grad()
    def act(self, observation: Observation, call: int, explore: bool = True) -> Tensor:
        """Return choices [L, W, K] int64 of greatest value, replaced by random ones with probability epsilon.

        Args:
            observation: [L, W, ..] the worlds to decide in.
            call: number of this draw; the same call draws the same numbers.
            explore: whether to explore; if false, take the best choices.
        """
        best = self._best(self.flat, observation)
        if not explore:
            return best
        shape = observation.mask.shape[1:-1]
        allowed = sample_categorical(observation.mask.float(), uniform(random.key(self.keys, _WHICH), call, shape))
        return torch.where(uniform(random.key(self.keys, _WHETHER), call, shape) < self.epsilon, allowed, best)

    def update(self, batch: Transition) -> dict[str, Tensor]:
        """Update the networks and their targets once.

        Args:
            batch: [L, n, ..] steps; rewards [L, n] of slots or [L, n, K] of tasks.

        Returns:
            Metrics [L] by name.
        """
        by_task = batch.reward.dim() == 3
        target = self._target_values(batch, by_task)
        values = gather_actions(self.net(self.flat, batch.features), batch.action) * batch.task_mask
        value = values if by_task else values.sum(-1)
        loss = (value - target).square().flatten(2).sum(-1) if by_task else (value - target).square()
        descend(self._adam, loss.mean(-1), linear_decay(self.updates, self.settings.learning_rate_decay))
        soft_update(self.target_flat, self.flat, self.settings.tau)
        self.updates += 1
        return {"critic_loss": loss.detach().mean(-1), "value": value.detach().flatten(1).mean(1)}

    @torch.no_grad()
    def _target_values(self, batch: Transition, by_task: bool) -> Tensor:
        """Return target values [L, n], or [L, n, K] by task."""
        observation = batch.next_observation
        values = self.net(self.target_flat, observation.features)
        ahead = gather_actions(values, self._best(self.flat, observation)) * observation.task_mask
        future = self.settings.gamma * batch.continues * ahead.sum(-1)
        if not by_task:
            return batch.reward + future
        share = batch.task_mask / batch.task_mask.sum(-1, keepdim=True).clamp(min=1)
        return (batch.reward + future[..., None] * share) * batch.task_mask

    def _best(self, flat: Tensor, observation: Observation) -> Tensor:
        return torch.where(observation.mask, self.net(flat, observation.features), MASKED).argmax(-1)

    def tensors(self) -> dict[str, Tensor]:
        """Return the learner's state for checkpoints, by name."""
        parts = {"net": self.flat.detach(), "target": self.target_flat, "updates": torch.tensor(self.updates)}
        return parts | add_prefix("adam", self._adam.tensors())

    @torch.no_grad()
    def restore(self, tensors: dict[str, Tensor]) -> None:
        """Set the learner's state to a saved one.

        Args:
            tensors: what `tensors` returned, of a learner with the same settings; copied.
        """
        self.flat.copy_(tensors["net"])
        self.target_flat.copy_(tensors["target"])
        self.updates = int(tensors["updates"])
        self._adam.restore(strip_prefix("adam", tensors))


def with_rounds(settings: OptionSettings[DqnSettings], rounds: int) -> OptionSettings[DqnSettings]:
    """Return settings whose training and schedules span a number of rounds.

    Epsilon falls over the first 70 % of the rounds, the learning rate over the last 50 %.

    Args:
        settings: the settings to change, for instance a preset's.
        rounds: slots that each world plays, at least 1.
    """
    falls = max(1, rounds * 7 // 10)
    dqn = replace(settings.learner, epsilon_updates=falls, learning_rate_decay=(rounds // 2, rounds))
    return with_loop_rounds(replace(settings, learner=dqn), rounds)


def _preset(rounds: int, gamma: float, learning_rate: float, hidden: tuple[int, ...]) -> OptionSettings[DqnSettings]:
    dqn = DqnSettings(gamma=gamma, learning_rate=learning_rate)
    return with_rounds(OptionSettings(LoopSettings(1, batch=128, assess_rounds=50), dqn, hidden=hidden), rounds)


PRESETS = {
    "quick": _preset(1500, 0.0, 2e-3, (64, 64, 64, 64)),
    "paper": _preset(10_000, 0.99, 1e-3, (128, 128, 128, 128)),
}
"""Settings of the same length, discount and widths as those of `sac_d`."""


def train(
    settings: TrainSettings,
    *,
    option_settings: OptionSettings[DqnSettings] | None = None,
    **options: Unpack[RunOptions],
) -> TrainingResult:
    """Train DQN for every seed, side by side.

    If `settings.steps` is given, epsilon and learning rate fall over that training, as `with_rounds` says.

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

    def make_learner(net: Mlp, seeds: Tensor) -> Dqn:
        return Dqn(chosen.learner, net, seeds)

    return train_on_options("dqn", settings, chosen, make_learner, lambda learner: learner.flat, **options)
