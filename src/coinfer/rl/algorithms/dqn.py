"""Double DQN (van Hasselt et al. 2016) for K tasks of C choices, many learners at once: the baseline of SAC-d.

The same inputs, masks, memory and form of network as `sac`. The value of a decision is the sum of its tasks' values;
where each task's own reward is known, as in `sac`, every task's value is learned by itself. The target network follows
softly. Exploration is epsilon-greedy, epsilon falling evenly over the updates. The paper (WCNC 2022) names a DQN of
five fully connected layers and nothing else; everything else is our choice.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from coinfer.physics import random
from coinfer.policies.learned.nets import Net
from coinfer.rl.core.batched_optim import (
    MASKED,
    Adam,
    add_prefix,
    gather_actions,
    linear_decay,
    sample_categorical,
    soft_update,
    strip_prefix,
    uniform,
)
from coinfer.rl.core.records import Observation, Transition

_NET, _WHETHER, _WHICH = range(3)


@dataclass(frozen=True)
class DqnSettings:
    gamma: float = 0.99
    tau: float = 0.005
    learning_rate: float = 3e-4
    epsilon: tuple[float, float] = (1.0, 0.05)
    """Share of random choices, at first and at last."""
    epsilon_updates: int = 10_000
    max_grad_norm: float | None = 10.0
    learning_rate_decay: tuple[int, int] | None = None
    """Updates between which the rate falls to 0."""


class Dqn:
    def __init__(self, settings: DqnSettings, net: Net, seeds: Tensor):
        self.settings, self.net, self.keys, self.updates = settings, net, seeds, 0
        self.flat = net.initial(random.key(seeds, _NET)).requires_grad_()
        self.target_flat = self.flat.detach().clone()
        self._adam = Adam(self.flat, settings.learning_rate, settings.max_grad_norm)

    @property
    def epsilon(self) -> float:
        first, last = self.settings.epsilon
        return first + (last - first) * min(1.0, self.updates / self.settings.epsilon_updates)

    @torch.no_grad()
    def act(self, observation: Observation, call: int, explore: bool = True) -> Tensor:
        """Choices [L, W, K]: the best by value, or now and then any."""
        best = self._best(self.flat, observation)
        if not explore:
            return best
        any_ = sample_categorical(
            observation.mask.float(), uniform(random.key(self.keys, _WHICH), call, observation.mask.shape[1:-1])
        )
        random_ = uniform(random.key(self.keys, _WHETHER), call, observation.mask.shape[1:-1]) < self.epsilon
        return torch.where(random_, any_, best)

    def update(self, batch: Transition) -> dict[str, Tensor]:
        by_task = batch.reward.dim() == 3
        with torch.no_grad():
            observation = batch.next_observation
            ahead = (
                gather_actions(self.net(self.target_flat, observation.features), self._best(self.flat, observation))
                * observation.task_mask
            )
            future = self.settings.gamma * batch.continues * ahead.sum(-1)
            if by_task:
                share = batch.task_mask / batch.task_mask.sum(-1, keepdim=True).clamp(min=1)
                target = (batch.reward + future[..., None] * share) * batch.task_mask
            else:
                target = batch.reward + future
        values = gather_actions(self.net(self.flat, batch.features), batch.action) * batch.task_mask
        found = values if by_task else values.sum(-1)
        loss = (found - target).square().flatten(2).sum(-1) if by_task else (found - target).square()
        self._adam.step(loss.mean(-1), linear_decay(self.updates, self.settings.learning_rate_decay))
        soft_update(self.target_flat, self.flat, self.settings.tau)
        self.updates += 1
        return {"critic_loss": loss.detach().mean(-1), "value": found.detach().flatten(1).mean(1)}

    def _best(self, flat: Tensor, observation: Observation) -> Tensor:
        return torch.where(observation.mask, self.net(flat, observation.features), MASKED).argmax(-1)

    @torch.no_grad()
    def copy(self, source: Tensor, to: Tensor) -> None:
        """Learners `to` [n] take over the state of learners `source` [n]."""
        for part in (self.flat, self.target_flat, *self._adam.tensors().values()):
            if part.dim():
                part[to] = part[source]

    def tensors(self) -> dict[str, Tensor]:
        kept = {"net": self.flat.detach(), "target": self.target_flat, "updates": torch.tensor(self.updates)}
        return kept | add_prefix("adam", self._adam.tensors())

    @torch.no_grad()
    def restore(self, tensors: dict[str, Tensor]) -> None:
        self.flat.copy_(tensors["net"])
        self.target_flat.copy_(tensors["target"])
        self.updates = int(tensors["updates"])
        self._adam.restore(strip_prefix("adam", tensors))
