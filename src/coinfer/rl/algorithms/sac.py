"""Discrete soft actor-critic (Haarnoja et al. 2018; Christodoulou, arXiv 1910.07207) for K tasks of C choices each,
many learners at once.

How to use it: `sac = Sac(settings, actor_net, critic_net, seeds)` makes L learners, one for each seed [L] (agents are
learners too: L = seeds * agents). `sac.act(observation, call)` draws choices [L, W, K]; `sac.update(batch)` learns from
a `Transition` [L, n, ..] that `Replay.sample` returned, and returns metrics [L] (losses, entropy, temperature, mean
value). `tensors` and `restore` save and restore the whole state; `copy(source, target)` copies the state of learners to
others. The nets are forms (`policies.learned.nets.Net`) that map features [L, B, ..] to [L, B, K, C]; the features may
have any shape that the form reads.

The policy is factorised: a masked categorical for every task. The critics have a value for each choice of each task.
- Reward [L, n] of the whole slot: the value of a decision is the sum of its tasks' values (Sunehag et al. 2018). Only
  the sum is learned, and values of tasks may shift against each other; so the target takes the twin with the lower sum,
  expected under the policy, instead of the lower entry of each choice.
- Reward [L, n, K] of each task: every task's value is learned by itself, from its own reward and an even share of the
  whole future's value; the target takes the lower entry of the twins, as in the paper.
With K = 1 both are the same, up to which minimum. Places without a task do not contribute.

Departures from Christodoulou: masks; the target entropy is a share of what the mask allows and may fall over the
updates; gradient norms are limited for each learner. A time limit is not an end: `continues` is 1 there.
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
    descend,
    gather_actions,
    interpolate,
    linear_decay,
    sample_categorical,
    soft_update,
    strip_prefix,
    uniform,
)
from coinfer.rl.core.records import Observation, Transition

_ACTOR, _CRITIC, _ACTS = range(3)


@dataclass(frozen=True)
class SacSettings:
    """Settings of the learner."""

    gamma: float = 0.99
    """Discount of the next step's value."""
    tau: float = 0.005
    """Weight of the critics in an update of the target critics."""
    actor_learning_rate: float = 3e-4
    critic_learning_rate: float = 3e-4
    temperature_learning_rate: float = 3e-4
    initial_temperature: float = 1.0
    target_entropy: tuple[float, float] = (0.98, 0.98)
    """Target entropy at first and at last, as shares of the greatest possible."""
    target_entropy_updates: int = 1
    """Updates over which the target entropy changes from the first to the last."""
    max_grad_norm: float | None = 10.0
    """Limit to the norm of each learner's gradient; None for no limit."""
    learning_rate_decay: tuple[int, int] | None = None
    """Updates between which the three learning rates fall to 0; None if they stay."""
    actor_every: int = 1
    """Updates of the critics for each update of actor and temperature."""


class MaskedCategorical:
    """Log-probabilities and probabilities [L, B, K, C] of choices; both are 0 for a choice that is not allowed.

    Args:
        logits: [L, B, K, C] outputs of the actor.
        observation: gives the mask.
    """

    def __init__(self, logits: Tensor, observation: Observation):
        masked = torch.where(observation.mask, logits, MASKED)
        self.log_probs = masked.mT.log_softmax(-2).mT * observation.mask  # Ten times as fast as along few choices
        self.probs = self.log_probs.exp() * observation.mask

    def mean(self, values: Tensor) -> Tensor:
        """Return the expectation [L, B, K] of values.

        Args:
            values: [L, B, K, C] value of each choice.
        """
        return (self.probs * values).sum(-1)

    @property
    def entropy(self) -> Tensor:
        """Return the entropy [L, B, K] in nats."""
        return -self.mean(self.log_probs)


class Sac:
    """L soft actor-critics, trained side by side.

    Args:
        settings: settings of every learner.
        actor: form of the actors' networks.
        critic: form of the critics' networks.
        seeds: [L] int64 seeds of first weights and drawn choices.
    """

    def __init__(self, settings: SacSettings, actor: Net, critic: Net, seeds: Tensor):
        self.settings, self.actor, self.critic, self.keys = settings, actor, critic, seeds
        self.updates = 0
        twins = torch.stack([random.key(random.key(seeds, _CRITIC), twin) for twin in range(2)])
        self.actor_flat = actor.initial(random.key(seeds, _ACTOR)).requires_grad_()
        self.critic_flat = critic.initial(twins.flatten()).requires_grad_()
        """[2 L, P], the first twins of all learners first."""
        self.target_flat = self.critic_flat.detach().clone()
        start = torch.full((len(seeds), 1), settings.initial_temperature, device=seeds.device)
        self.log_temperature = start.log().requires_grad_()
        self._optimisers = {
            "actor": Adam(self.actor_flat, settings.actor_learning_rate, settings.max_grad_norm),
            "critic": Adam(self.critic_flat, settings.critic_learning_rate, settings.max_grad_norm),
            "temperature": Adam(self.log_temperature, settings.temperature_learning_rate),
        }

    @property
    def temperature(self) -> Tensor:
        """Return the temperatures [L]."""
        return self.log_temperature.detach().exp()[:, 0]

    @torch.no_grad()
    def act(self, observation: Observation, call: int, explore: bool = True) -> Tensor:
        """Return choices [L, W, K] int64: drawn from the policies, or the most probable ones.

        Args:
            observation: [L, W, ..] the worlds to decide in.
            call: number of this draw; the same call draws the same numbers.
            explore: whether to draw; if false, take the most probable choices.
        """
        policy = MaskedCategorical(self.actor(self.actor_flat, observation.features), observation)
        if not explore:
            return torch.where(observation.mask, policy.probs, -1.0).argmax(-1)
        drawn = uniform(random.key(self.keys, _ACTS), call, policy.probs.shape[1:-1])
        return sample_categorical(policy.probs, drawn)

    def update(self, batch: Transition) -> dict[str, Tensor]:
        """Update critics, actors, temperatures and target critics once.

        Args:
            batch: [L, n, ..] steps; rewards [L, n] or [L, n, K], see the module.

        Returns:
            Metrics [L] by name; those of the actors only in updates that change them.
        """
        metrics = self._learn_values(batch)
        if self.updates % self.settings.actor_every == 0:
            metrics |= self._learn_policy(batch.observation, batch.reward.dim() == 3)
        soft_update(self.target_flat, self.critic_flat, self.settings.tau)
        self.updates += 1
        return metrics

    def target_entropy(self) -> float:
        """Return the current target entropy, as a share of the greatest possible."""
        settings = self.settings
        return interpolate(settings.target_entropy, self.updates, settings.target_entropy_updates)

    def values(self, flat: Tensor, features: Tensor) -> Tensor:
        """Return the values [2, L, B, K, C] of both twins.

        Args:
            flat: [2 L, P] parameters, those of all first twins first.
            features: [L, B, ..] inputs of the networks.
        """
        return self.critic(flat, features.repeat(2, *[1] * (features.dim() - 1))).unflatten(0, (2, -1))

    def _learn_values(self, batch: Transition) -> dict[str, Tensor]:
        by_task = batch.reward.dim() == 3
        target = self._target_values(batch, by_task)
        values = gather_actions(
            self.values(self.critic_flat, batch.features), batch.action.expand(2, *batch.action.shape)
        )
        values = values * batch.task_mask
        value = values if by_task else values.sum(-1)
        loss = (value - target).square()
        loss = loss.sum(-1) if by_task else loss
        descend(self._optimisers["critic"], loss.mean(-1), self._decay())
        return {"critic_loss": loss.detach().mean((0, 2)), "value": value.detach().mean(0).flatten(1).mean(1)}

    @torch.no_grad()
    def _target_values(self, batch: Transition, by_task: bool) -> Tensor:
        """Return target values [L, n], or [L, n, K] by task."""
        observation = batch.next_observation
        policy = MaskedCategorical(self.actor(self.actor_flat, observation.features), observation)
        values = self._lower_twin(self.values(self.target_flat, observation.features), policy, observation, by_task)
        soft = policy.mean(values) + self.temperature[:, None, None] * policy.entropy
        future = self.settings.gamma * batch.continues * (soft * observation.task_mask).sum(-1)
        if not by_task:
            return batch.reward + future
        share = batch.task_mask / batch.task_mask.sum(-1, keepdim=True).clamp(min=1)
        return (batch.reward + future[..., None] * share) * batch.task_mask

    def _lower_twin(self, twins: Tensor, policy: MaskedCategorical, observation: Observation, by_task: bool) -> Tensor:
        """Return the values [L, B, K, C] of the twins [2, ..] that the target takes."""
        if by_task or twins.shape[-2] == 1:
            return twins.amin(0)
        total = torch.stack([(policy.mean(twin) * observation.task_mask).sum(-1) for twin in twins])
        return torch.where((total[0] <= total[1])[..., None, None], twins[0], twins[1])

    def _learn_policy(self, observation: Observation, by_task: bool) -> dict[str, Tensor]:
        policy = MaskedCategorical(self.actor(self.actor_flat, observation.features), observation)
        with torch.no_grad():
            twins = self.values(self.critic_flat, observation.features)
            values = self._lower_twin(twins, policy, observation, by_task)
            max_entropy = observation.mask.sum(-1).log() * observation.task_mask
        entropy = policy.entropy * observation.task_mask
        loss = -(policy.mean(values) * observation.task_mask + self.temperature[:, None, None] * entropy).sum(-1)
        descend(self._optimisers["actor"], loss.mean(-1), self._decay())
        tasks = observation.task_mask.sum((1, 2)).clamp(min=1)
        mean, target = entropy.detach().sum((1, 2)) / tasks, self.target_entropy() * max_entropy.sum((1, 2)) / tasks
        descend(self._optimisers["temperature"], self.log_temperature[:, 0] * (mean - target), self._decay())
        return {"actor_loss": loss.detach().mean(-1), "entropy": mean, "temperature": self.temperature}

    def all_finite(self) -> Tensor:
        """Return whether all parameters of each learner are finite, [L]."""
        parts = (part.detach().unflatten(0, (-1, len(self.keys))) for part in self._parts().values())
        return torch.cat([part.isfinite().all(-1) for part in parts]).all(0)

    def _decay(self) -> float:
        """Return the current factor of the learning rates."""
        return linear_decay(self.updates, self.settings.learning_rate_decay)

    def _parts(self) -> dict[str, Tensor]:
        return {
            "actor": self.actor_flat,
            "critic": self.critic_flat,
            "target": self.target_flat,
            "log_temperature": self.log_temperature,
        }

    @torch.no_grad()
    def copy(self, source: Tensor, target: Tensor) -> None:
        """Copy weights, optimiser moments and temperatures of learners to others.

        Args:
            source: [n] int64 learners to copy from.
            target: [n] int64 learners to overwrite.
        """
        count = len(self.keys)
        for parts in (self._parts(), *(optimiser.tensors() for optimiser in self._optimisers.values())):
            for part in parts.values():
                if part.dim():
                    for twin in range(part.shape[0] // count):
                        part[target + twin * count] = part[source + twin * count]

    def tensors(self) -> dict[str, Tensor]:
        """Return the learner's state for checkpoints, by name."""
        parts = {name: part.detach() for name, part in self._parts().items()} | {"updates": torch.tensor(self.updates)}
        for name, optimiser in self._optimisers.items():
            parts |= add_prefix(f"adam.{name}", optimiser.tensors())
        return parts

    @torch.no_grad()
    def restore(self, tensors: dict[str, Tensor]) -> None:
        """Set the learner's state to a saved one.

        Args:
            tensors: what `tensors` returned, of a learner with the same settings; copied.
        """
        for name, part in self._parts().items():
            part.copy_(tensors[name])
        self.updates = int(tensors["updates"])
        for name, optimiser in self._optimisers.items():
            optimiser.restore(strip_prefix(f"adam.{name}", tensors))
