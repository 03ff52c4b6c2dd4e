"""On-policy learning: rollouts with the log-probabilities and values of the policy that played them, k-step returns and
generalised advantages, and actor-critics of many learners at once.

A decision of a slot is made of entries, each with C choices; U units decide for themselves, with as many entries each
(`policies.learned.actor_critic`). A unit's log-probability is the sum over its entries. Rewards are those of slots, or
of units.

Choices are drawn independently, or coherently: with one random number for all entries of a unit, and with numbers of
the units that are spread evenly (`policies.sampling.spread`). Each choice has the probability that its head gives it in
both ways, but heads that agree then move together. Drawn independently, the blocks of a task end up in several places,
and no head can learn to change its own alone. The gradient takes the probabilities as if draws were independent, which
is exact for a unit whose heads agree.

A time limit ends an episode without ending the future: the value of the last observation before the reset
then stands for it.

`play` plays a rollout on a `rl.core.loop.Loop` and learns from it. Checkpoints are made between rollouts, so a resumed
training ends as if it had not been stopped.
"""

from collections.abc import Callable
from typing import Any, NamedTuple, cast

import torch
from torch import Tensor

from coinfer.physics import random
from coinfer.policies.learned.actor_critic import ActorCriticForm, Outputs
from coinfer.policies.sampling import spread
from coinfer.rl.core.batched_optim import (
    MASKED,
    Optimiser,
    add_prefix,
    gather_actions,
    sample_categorical,
    strip_prefix,
    uniform,
)
from coinfer.rl.core.loop import Loop
from coinfer.rl.core.records import Observation, Transition

_NET, _ACTS = range(2)


class Rollout(NamedTuple):
    """Steps of all worlds of L learners, n for each, with what to learn from them."""

    features: Tensor
    mask: Tensor
    """[L, n, E, C]"""
    task_mask: Tensor
    """[L, n, E] true for an entry that decides something."""
    action: Tensor
    """[L, n, E] int64"""
    log_prob: Tensor
    """[L, n, U] of the decision when it was made."""
    value: Tensor
    """[L, n, U] that was expected then."""
    advantage: Tensor
    """[L, n, U]"""
    target: Tensor
    """[L, n, U] k-step return, advantage + value."""

    def unit_mask(self) -> Tensor:
        """Return which units decide something, [L, n, U]."""
        return self.task_mask.unflatten(-1, (self.value.shape[-1], -1)).any(-1)


class Decided(NamedTuple):
    """Choices in all worlds, and what the policies said when they drew them."""

    action: Tensor
    """[L, W, E] int64"""
    log_prob: Tensor
    """[L, W, U]"""
    value: Tensor
    """[L, W, U]"""


class Judged(NamedTuple):
    """What a network says of decisions that were made."""

    log_prob: Tensor
    """[L, n, U]"""
    entropy: Tensor
    """[L, n, U] summed over the unit's entries, in nats."""
    value: Tensor
    """[L, n, U]"""


class ActorCritic:
    """L actor-critics, each with n workers that play worlds of their own with copies of its parameters.

    Args:
        net: form of the networks.
        optimiser: makes the optimiser of parameters [L, P].
        update: makes the updates that a rollout of all L * n workers allows, and returns metrics.
        seeds: [L] int64 seeds of first weights and drawn choices.
        workers: n
        sampled: whether choices are drawn also if the policy does not explore, for policies that must be random.
        coherent: whether they are drawn coherently.
    """

    def __init__(
        self,
        net: ActorCriticForm,
        optimiser: Callable[[Tensor], Optimiser],
        update: Callable[["ActorCritic", Rollout], dict[str, Tensor]],
        seeds: Tensor,
        workers: int = 1,
        *,
        sampled: bool = False,
        coherent: bool = False,
    ):
        self.net, self.update_from, self.workers = net, update, workers
        self.sampled, self.coherent = sampled, coherent
        self.seeds, self.updates = seeds, 0
        self.keys = random.key(seeds[:, None], torch.arange(workers, device=seeds.device)).flatten()
        self.flat = net.initial(random.key(seeds, _NET)).requires_grad_()
        self.optimiser = optimiser(self.flat)
        self.decided: Decided | None = None
        """By the last call of `act` that explored."""

    def copies(self) -> Tensor:
        """Return the workers' copies of the parameters, [L * n, P], without a graph."""
        return self.flat.detach().repeat_interleave(self.workers, 0)

    @torch.no_grad()
    def act(self, observation: Observation, call: int, explore: bool = True) -> Tensor:
        """Return choices [L * n, W, E] int64: drawn from the policies, or the most probable ones.

        Args:
            observation: [L * n, W, ..] the worlds to decide in.
            call: number of this draw; the same call draws the same numbers.
            explore: whether to draw; if false, take the most probable choices unless the policy must be random.
        """
        flat = self.copies()
        if explore:
            self.decided = self.decide(flat, self.keys, observation, call)
            return self.decided.action
        log_probs = _log_probs(self.net(flat, observation.features).logits, observation)
        return self._draw(log_probs, self.keys, call) if self.sampled else log_probs.argmax(-1)

    @torch.no_grad()
    def decide(self, flat: Tensor, keys: Tensor, observation: Observation, call: int) -> Decided:
        """Return what some workers draw with given copies of the parameters.

        Args:
            flat: [m, P] copies of the parameters of m workers.
            keys: [m] int64 of their random numbers.
            observation: [m, W, ..] the worlds to decide in.
            call: number of this draw.
        """
        outputs = self.net(flat, observation.features)
        log_probs = _log_probs(outputs.logits, observation)
        action = self._draw(log_probs, keys, call)
        return Decided(action, _by_unit(gather_actions(log_probs, action), observation, outputs), outputs.value)

    def _draw(self, log_probs: Tensor, keys: Tensor, call: int) -> Tensor:
        """Return choices [m, W, E] with these probabilities."""
        return sample_categorical(log_probs.exp(), self._numbers(random.key(keys, _ACTS), call, log_probs.shape[1:-1]))

    def _numbers(self, keys: Tensor, call: int, shape: torch.Size) -> Tensor:
        """Return the random numbers [m, W, E] of a draw."""
        if not self.coherent:
            return uniform(keys, call, shape)
        units = spread(uniform(keys, call, shape[:1]), shape[1] // self.net.heads)
        return units.repeat_interleave(self.net.heads, -1)

    def update(self, batch: Rollout) -> dict[str, Tensor]:
        """Make the updates that a rollout allows.

        Args:
            batch: [L * n, ..] of all workers.

        Returns:
            Metrics [L] by name.
        """
        return self.update_from(self, batch)

    def tensors(self) -> dict[str, Tensor]:
        """Return the learner's state for checkpoints, by name."""
        parts = {"net": self.flat.detach(), "updates": torch.tensor(self.updates)}
        return parts | add_prefix("optimiser", self.optimiser.tensors())

    @torch.no_grad()
    def restore(self, tensors: dict[str, Tensor]) -> None:
        """Set the learner's state to a saved one.

        Args:
            tensors: what `tensors` returned, of a learner with the same settings; copied.
        """
        self.flat.copy_(tensors["net"])
        self.updates = int(tensors["updates"])
        self.optimiser.restore(strip_prefix("optimiser", tensors))


def judge(net: ActorCriticForm, flat: Tensor, batch: Rollout) -> Judged:
    """Return log-probabilities, entropies and values of decisions.

    Args:
        net: form of the networks.
        flat: [L, P] parameters.
        batch: [L, n, ..] the decisions; only what was observed and decided is read.
    """
    return _judge(net, flat, Observation(batch.features, batch.mask, batch.task_mask), batch.action)


def _judge(net: ActorCriticForm, flat: Tensor, observation: Observation, action: Tensor) -> Judged:
    outputs = net(flat, observation.features)
    log_probs = _log_probs(outputs.logits, observation)
    entropy = -(log_probs.exp() * log_probs).sum(-1)
    parts = (gather_actions(log_probs, action), entropy)
    log_prob, entropy = (_by_unit(part, observation, outputs) for part in parts)
    return Judged(log_prob, entropy, outputs.value)


def _log_probs(logits: Tensor, observation: Observation) -> Tensor:
    """Return the log-probabilities of all choices, [L, n, E, C]; about `MASKED` for those that are not allowed."""
    return torch.where(observation.mask, logits, MASKED).log_softmax(-1)


def _by_unit(part: Tensor, observation: Observation, outputs: Outputs) -> Tensor:
    """Return the sums [L, n, U] over the entries of each unit that decide something."""
    return (part * observation.task_mask).unflatten(-1, (outputs.value.shape[-1], -1)).sum(-1)


def advantages(
    reward: Tensor, value: Tensor, next_value: Tensor, continues: Tensor, ended: Tensor, gamma: float, lam: float
) -> Tensor:
    """Return generalised advantages (Schulman et al., ICLR 2016), [L, T, W, U].

    With `lam` 1 they are those of k-step returns: R = sum of gamma^i r + gamma^k V, minus V (multi-task A3C, equations
    16 and 17), where k goes to the end of the rollout or of the episode.

    Args:
        reward: [L, T, W, U] of T steps.
        value: [L, T, W, U] of the observations before the steps.
        next_value: [L, T, W, U] of those after the steps, before any reset.
        continues: [L, T, W] 0 if the episode terminated, 1 also at a time limit.
        ended: [L, T, W] true if the episode ended in either way.
        gamma: discount.
        lam: 0 for one-step advantages, 1 for k-step ones.
    """
    error = reward + gamma * continues[..., None] * next_value - value
    keeps = gamma * lam * (~ended)[..., None]
    ahead, found = torch.zeros_like(error[:, 0]), []
    for t in reversed(range(error.shape[1])):
        ahead = error[:, t] + keeps[:, t] * ahead
        found.append(ahead)
    return torch.stack(found[::-1], 1)


@torch.no_grad()
def rollout_of(
    net: ActorCriticForm,
    flat: Tensor,
    steps: list[Transition],
    ended: list[Tensor],
    gamma: float,
    lam: float,
    decided: list[Decided] | None = None,
) -> Rollout:
    """Return a rollout from its steps.

    Args:
        net: form of the networks.
        flat: [L, P] parameters of the policies that played it.
        steps: T steps [L, W, ..].
        ended: T flags [L, W], whether a step ended its episode.
        gamma: discount.
        lam: as in `advantages`.
        decided: what the policies said in each step; None to ask them again, as others decided.
    """
    rows = Transition(*(torch.stack(parts, 1) for parts in zip(*steps, strict=True)))
    flatly, over = Transition(*(part.flatten(1, 2) for part in rows)), torch.stack(ended, 1)
    if decided is None:
        judged = _judge(net, flat, flatly.observation, flatly.action)
        said = [part.unflatten(1, over.shape[1:]) for part in (judged.log_prob, judged.value)]
    else:
        said = [torch.stack(parts, 1) for parts in zip(*(one[1:] for one in decided), strict=True)]
    log_prob, value = said
    reward = rows.reward[..., None] if rows.reward.dim() == 3 else rows.reward
    after = _next_values(net, flat, rows, value, over) if gamma else value
    found = advantages(reward, value, after, rows.continues, over, gamma, lam)
    return Rollout(*flatly[:4], *(part.flatten(1, 2) for part in (log_prob, value, found, found + value)))


def _next_values(net: ActorCriticForm, flat: Tensor, rows: Transition, value: Tensor, over: Tensor) -> Tensor:
    """Return the values after the steps, [L, T, W, U]; those of the next step's observation wherever they are these."""
    after = torch.cat([value[:, 1:], value[:, -1:]], 1)
    for t in range(value.shape[1]):
        if t == value.shape[1] - 1 or bool(over[:, t].any()):
            after[:, t] = net(flat, rows.next_features[:, t]).value
    return after


def play(loop: Loop, horizon: int, gamma: float, lam: float) -> None:
    """Play a rollout and learn from it; the last one of a training may be shorter.

    Args:
        loop: a training whose learner is an `ActorCritic`; its warm-up must be 0.
        horizon: steps of each world.
        gamma: discount.
        lam: as in `advantages`.
    """
    steps, ended, decided = list[Transition](), list[Tensor](), list[Decided]()
    learner, count = cast(ActorCritic, loop.learner), min(horizon, loop.settings.rounds - loop.round)
    for number in range(count):
        steps.append(cast(Transition, loop.step()))
        ended.append(cast(Tensor, loop.ended))
        decided.append(cast(Decided, learner.decided))
        if number == count - 1:
            loop.learn(cast(Any, rollout_of(learner.net, learner.copies(), steps, ended, gamma, lam, decided)))
        loop.record_point()
        loop.assess()


def normalised(advantage: Tensor, unit_mask: Tensor) -> Tensor:
    """Return advantages with mean 0 and standard deviation 1 over the units of each learner that decide something.

    Args:
        advantage: [L, n, U]
        unit_mask: [L, n, U]
    """
    count = unit_mask.sum((1, 2), keepdim=True).clamp(min=1)
    centred = (advantage - (advantage * unit_mask).sum((1, 2), keepdim=True) / count) * unit_mask
    spread = (centred.square().sum((1, 2), keepdim=True) / count).sqrt()
    return centred / (spread + 1e-8)


def mean_over_units(values: Tensor, unit_mask: Tensor) -> Tensor:
    """Return the mean [L] of values over the units that decide something.

    Args:
        values: [L, n, U]
        unit_mask: [L, n, U]
    """
    return (values * unit_mask).sum((1, 2)) / unit_mask.sum((1, 2)).clamp(min=1)
