"""Learning by imitation of the best of several candidates (DROO, IEEE TMC 2020, algorithm 1), many learners at once.

The network's outputs become a few candidates (`policies.learned.imitation.quantisers`), a model of the environment
scores them, and the best one is decided and remembered with what was observed; the network is trained to give it
(cross-entropy). No value of the future is learned: the score must hold all that a decision is worth. `Imitation` is a
learner for `rl.core.loop.Loop`, which is given `share=label` to remember no more than that, or `improved_label`.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple, Protocol

import torch
from torch import Tensor
from torch.nn import functional

from coinfer.physics import random
from coinfer.policies.learned.nets import Net
from coinfer.rl.core.batched_optim import MASKED, Adam, add_prefix, descend, linear_decay, strip_prefix
from coinfer.rl.core.records import Label, Observation, Transition, label

_NET, _QUANTISER = range(2)


class Candidates(Protocol):
    """A quantiser with the random numbers that it may need."""

    def __call__(self, outputs: Tensor, mask: Tensor, count: int, keys: Tensor, call: int) -> Tensor:
        """Return at most `count` candidates [L, W, S, K], the network's own decision first.

        Args:
            outputs: [L, W, K, C] of the network.
            mask: [L, W, K, C] true for allowed choices, as in `Observation`.
            count: S, at least 1.
            keys: [L] int64, of the learners' random numbers.
            call: number of the draw.
        """
        ...


Score = Callable[[Observation, Tensor], Tensor]
"""From an observation [L, W, ..] and candidates [L, W, S, K] to scores [L, W, S], greater is better."""


class Head(NamedTuple):
    """What the outputs of a network mean."""

    candidates: Candidates
    loss: Callable[[Tensor, Label], Tensor]
    """From outputs [L, n, K, C] and what to imitate [L, n, ..] to losses [L]."""


def binary_loss(outputs: Tensor, batch: Label) -> Tensor:
    """Return the mean cross-entropy [L] of binary decisions, whose networks have one output each (C = 1).

    Args:
        outputs: [L, n, K, 1] before the sigmoid.
        batch: [L, n, ..] what to imitate; actions 0 or 1.
    """
    target = batch.action.to(outputs.dtype)
    loss = functional.binary_cross_entropy_with_logits(outputs[..., 0], target, reduction="none")
    return _mean(loss, batch.task_mask)


def choice_loss(outputs: Tensor, batch: Label) -> Tensor:
    """Return the mean cross-entropy [L] of choices of one of C.

    Args:
        outputs: [L, n, K, C] logits.
        batch: [L, n, ..] what to imitate.
    """
    logits = outputs.masked_fill(~batch.mask, MASKED)
    loss = -logits.log_softmax(-1).gather(-1, batch.action[..., None])[..., 0]
    return _mean(loss, batch.task_mask)


def _mean(loss: Tensor, task_mask: Tensor) -> Tensor:
    return (loss * task_mask).sum((1, 2)) / task_mask.sum((1, 2)).clamp(min=1)


@dataclass(frozen=True)
class ImitationSettings:
    """Settings of the learner."""

    candidates: int = 10
    """S, the largest number of candidates of a decision."""
    learning_rate: float = 1e-2
    max_grad_norm: float | None = None
    """Limit to the norm of each learner's gradient; None for no limit."""
    learning_rate_decay: tuple[int, int] | None = None
    """Updates between which the learning rate falls to 0; None if it stays."""
    adapt_every: int = 0
    """Decisions after which the number of candidates becomes one more than the greatest number of a best candidate in
    them (DROO, section IV.C; 32 there); 0 for a number that stays. Counted when a round ends."""
    sweeps: int = 0
    """Passes of coordinate descent that improve each decision before it is remembered (`Imitation.improved_label`)."""


class Imitation:
    """L learners that imitate the best candidate, trained side by side.

    Args:
        settings: settings of every learner.
        net: form of the networks.
        inputs: from the observation's features to the inputs of the networks.
        head: quantiser and loss.
        score: what a candidate is worth.
        seeds: [L] int64 seeds of first weights and random numbers.
    """

    def __init__(
        self,
        settings: ImitationSettings,
        net: Net,
        inputs: Callable[[Tensor], Tensor],
        head: Head,
        score: Score,
        seeds: Tensor,
    ):
        self.settings, self.net, self.inputs, self.head, self.score = settings, net, inputs, head, score
        self.keys, self.updates = seeds, 0
        self._noise_keys = random.key(seeds, _QUANTISER)
        self.flat = net.initial(random.key(seeds, _NET)).requires_grad_()
        self.count = torch.full_like(seeds, settings.candidates)
        """[L] current number of candidates."""
        self._greatest = torch.zeros_like(seeds)
        self._decided = 0
        self._adam = Adam(self.flat, settings.learning_rate, settings.max_grad_norm)

    @torch.no_grad()
    def act(self, observation: Observation, call: int, explore: bool = True) -> Tensor:
        """Return the best candidates [L, W, K] int64.

        Args:
            observation: [L, W, ..] the worlds to decide in.
            call: number of this draw; the same call draws the same numbers.
            explore: whether these decisions count for the adaptive number of candidates.
        """
        outputs = self.net(self.flat, self.inputs(observation.features))
        most = int(self.count.max()) if self.settings.adapt_every else self.settings.candidates
        candidates = self.head.candidates(outputs, observation.mask, most, self._noise_keys, call)
        scores = self.score(observation, candidates)
        if self.settings.adapt_every:
            number = torch.arange(scores.shape[-1], device=scores.device)
            scores = scores.masked_fill(number >= self.count[:, None, None], -torch.inf)
        best = scores.argmax(-1)
        if explore and self.settings.adapt_every:
            self._adapt(best)
        index = best[..., None, None].expand(*best.shape, 1, candidates.shape[-1])
        return candidates.gather(-2, index)[..., 0, :].long()

    @torch.no_grad()
    def improved_label(self, step: Transition) -> Label:
        """Return what to remember of a step: what was decided, after `sweeps` passes of coordinate descent.

        The decision that was carried out is the learner's own, so that it learns in the states that it leads to (as in
        DAgger, Ross et al., AISTATS 2011).

        Args:
            step: [L, W, ..] of all worlds.
        """
        found = label(step)
        observation, action = step.observation, found.action.clone()
        choices = torch.arange(observation.mask.shape[-1], device=action.device)
        for task in [*range(action.shape[-1])] * self.settings.sweeps:
            variants = action[..., None, :].repeat(1, 1, len(choices), 1)
            variants[..., task] = choices
            scores = self.score(observation, variants).masked_fill(~observation.mask[..., task, :], -torch.inf)
            action[..., task] = scores.argmax(-1)
        return found._replace(action=action)

    def _adapt(self, best: Tensor) -> None:
        """Count decisions [L, W] whose best candidates have these numbers, and adapt the number of candidates."""
        self._greatest = torch.maximum(self._greatest, best.flatten(1).amax(1))
        self._decided += best.shape[1]
        if self._decided >= self.settings.adapt_every:
            self.count = (self._greatest + 2).clamp(max=self.settings.candidates)
            self._greatest, self._decided = torch.zeros_like(self._greatest), 0

    def update(self, batch: Label) -> dict[str, Tensor]:
        """Make one step of gradient descent.

        Args:
            batch: [L, n, ..] what to imitate.

        Returns:
            Metrics [L] by name.
        """
        loss = self.head.loss(self.net(self.flat, self.inputs(batch.features)), batch)
        descend(self._adam, loss, linear_decay(self.updates, self.settings.learning_rate_decay))
        self.updates += 1
        return {"loss": loss.detach(), "candidates": self.count}

    def tensors(self) -> dict[str, Tensor]:
        """Return the learner's state for checkpoints, by name."""
        counted = {"updates": torch.tensor(self.updates), "decided": torch.tensor(self._decided)}
        parts = {"net": self.flat.detach(), "count": self.count, "greatest": self._greatest, **counted}
        return parts | add_prefix("adam", self._adam.tensors())

    @torch.no_grad()
    def restore(self, tensors: dict[str, Tensor]) -> None:
        """Set the learner's state to a saved one.

        Args:
            tensors: what `tensors` returned, of a learner with the same settings; copied.
        """
        self.flat.copy_(tensors["net"])
        self.count, self._greatest = (tensors[name].to(self.keys.device).clone() for name in ("count", "greatest"))
        self.updates, self._decided = int(tensors["updates"]), int(tensors["decided"])
        self._adam.restore(strip_prefix("adam", tensors))
