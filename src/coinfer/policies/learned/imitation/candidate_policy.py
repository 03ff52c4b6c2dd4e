"""A network's decision improved by a critic: the best of a few candidates, DROO's loop for environment `offload`."""

from typing import Protocol

import torch
from torch import Tensor, nn

from coinfer.policies.candidates import Candidates, candidates_of
from coinfer.policies.learned.imitation.critic import Critic
from coinfer.policies.learned.imitation.quantisers import fixed_gumbel, order_preserving_choices, single_changes
from coinfer.types import OffloadDecision, OffloadObservation

_NOISE = 64
"""The noise of as many tasks and of as many choices is stored; more have that of the first ones again."""


class ChoiceNet(Protocol):
    """A network with a logit for every choice of every task."""

    def logits(
        self, flat: Tensor, observation: OffloadObservation[Tensor], candidates: Candidates | None = None
    ) -> Tensor:
        """Return logits [.., K, C]; a choice is option * N + server.

        Args:
            flat: [L, P] parameters.
            observation: [L, B, ..] or [L * B, ..]
            candidates: of the observation, if the caller has them already.
        """
        ...


def decision_candidates(logits: Tensor, mask: Tensor, count: int, noise: Tensor | None = None) -> Tensor:
    """Return candidates for the tasks of a slot, the network's own decision first, [.., S, K] int64.

    Of the others, those that noise gives are as many as the noise has copies; half of the rest change one task (the
    least certain first), half keep the order of the outputs.

    Args:
        logits: [.., K, C] outputs.
        mask: [.., K, C] true for allowed choices; each task has one.
        count: S, at least 1; fewer if there are not so many.
        noise: [.., R, K, C] added to the outputs, R below `count`; broadcasts; None for no such part.
    """
    plain = count - (0 if noise is None else noise.shape[-3])
    changed = 1 + plain // 2
    parts = [single_changes(logits, mask, changed)]
    if plain > changed:
        parts.append(order_preserving_choices(logits, mask, plain - changed + 1)[..., 1:, :])
    if noise is not None:
        allowed = mask[..., None, :, :]
        parts.append(torch.where(allowed, logits[..., None, :, :] + noise, -torch.inf).argmax(-1))
    return torch.cat(parts, -2)


def take_options(observation: OffloadObservation[Tensor], options: Tensor) -> OffloadObservation[Tensor]:
    """Return the observation with some of the options only.

    Args:
        observation: with any leading batch axes.
        options: [O'] int64 their numbers.
    """
    o = observation
    taken = {
        name: getattr(o, name).index_select(-1, options)
        for name in ("option_device_s", "option_upload_bits", "option_accuracy", "option_device_j", "option_mask")
    }
    return o._replace(option_server_s=o.option_server_s.index_select(-2, options), **taken)


class CandidatePolicy(nn.Module):
    """The candidate of greatest score in each slot; a module, so that `export` can take it.

    It computes in float64, so that two runtimes decide alike if two candidates are nearly equal.

    Args:
        net: form of the network.
        flat: [L, P] parameters; observations [L * W, ..] are those of the L networks side by side, W of each.
        critic: scores candidates on what is observed.
        count: S, number of candidates; 1 decides by the network alone.
        noisy: how many of them come from noisy outputs, with noise that is always the same; below `count`.
        options: [O'] int64 numbers of the options that it may take; None for all.
    """

    flat: Tensor
    noise: Tensor
    options: Tensor | None

    def __init__(
        self, net: ChoiceNet, flat: Tensor, critic: Critic, count: int, noisy: int = 0, options: Tensor | None = None
    ):
        super().__init__()
        self.net, self.critic, self.count = net, critic, count
        self.register_buffer("flat", flat.detach().double())
        self.register_buffer("noise", fixed_gumbel(noisy, _NOISE, _NOISE))
        self.register_buffer("options", options)

    @torch.no_grad()
    def forward(self, observation: OffloadObservation[Tensor]) -> OffloadDecision[Tensor]:
        """Return the decisions, [B, K].

        Args:
            observation: [L * W, K, ..] tensors.
        """
        return self.decide(observation, observation)

    @torch.no_grad()
    def decide(
        self, observation: OffloadObservation[Tensor], judged: OffloadObservation[Tensor]
    ) -> OffloadDecision[Tensor]:
        """Return the decisions [B, K] if the network sees one observation and the critic judges on another.

        Args:
            observation: [L * W, K, ..] tensors.
            judged: [L * W, K, ..] of the same slot; `oracles.true_observation` for a critic that knows the truth.
        """
        seen = self._own(observation)
        known = candidates_of(seen)
        if judged is observation:
            judged, choices = seen, known
        else:
            judged = self._own(judged)
            choices = candidates_of(judged)
        logits = self.net.logits(self.flat, seen, known)
        candidates = decision_candidates(logits, choices.mask, self.count, self._noise(*logits.shape[-2:]))
        best = self.critic(judged, candidates, choices).argmax(-1)
        index = best[..., None, None].expand(*best.shape, 1, candidates.shape[-1])
        decision = choices.decision(candidates.gather(-2, index)[..., 0, :])
        return decision if self.options is None else decision._replace(option=self.options[decision.option])

    def _noise(self, tasks: int, choices: int) -> Tensor | None:
        """Return the noise [R, K, C]; None if there is none."""
        if not len(self.noise):
            return None
        task, choice = (torch.arange(size, device=self.noise.device) % _NOISE for size in (tasks, choices))
        return self.noise.index_select(-2, task).index_select(-1, choice)

    def _own(self, observation: OffloadObservation[Tensor]) -> OffloadObservation[Tensor]:
        wide = OffloadObservation(*(_widened(torch.as_tensor(field)) for field in observation))
        return wide if self.options is None else take_options(wide, self.options)


def _widened(field: Tensor) -> Tensor:
    return field.double() if field.is_floating_point() else field
