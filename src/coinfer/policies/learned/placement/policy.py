"""The network that scores placements (`placements`), and its policies."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Literal

import torch
from torch import Tensor, nn

from coinfer.policies.learned.nets import Mlp, Net
from coinfer.policies.learned.placement.placements import (
    Placements,
    fixed_cut,
    flat_features,
    placement_features,
    ranked_cut,
    ranked_features,
)
from coinfer.types import OffloadDecision, OffloadObservation

MakePlacements = Callable[[OffloadObservation[Tensor]], Placements]
MakeFeatures = Callable[[OffloadObservation[Tensor], Placements], Tensor]
Form = Literal["places", "flat", "ranked"]
"""Form of a network: it scores every placement separately, or takes the whole state, plain or with ranked servers."""


def placements_for(form: Form) -> MakePlacements:
    """Return the function that makes the placements for a network of this form if the cuts are fixed.

    Args:
        form: of the network.
    """
    return ranked_cut if form == "ranked" else fixed_cut


def features_for(form: Form, running_queues: bool, max_tasks: int | None = None) -> MakeFeatures:
    """Return the function that makes the features for a network of this form.

    Args:
        form: of the network.
        running_queues: see `placements.placement_features`; used by form `places` only.
        max_tasks: see `placements.running_s`; used by form `places` only.
    """
    if form != "places":
        return flat_features if form == "flat" else ranked_features
    return lambda observation, placements: placement_features(
        observation, placements, running_queues=running_queues, max_tasks=max_tasks
    )


def flat_inputs(tasks: int, servers: int) -> int:
    """Return the number of features of `placements.flat_features` and `ranked_features`.

    Args:
        tasks: K
        servers: N
    """
    return tasks * (4 + servers) + 2 * servers


@dataclass(frozen=True)
class PlacementNet:
    """One small network that scores every placement of every task.

    It is the same for all tasks and placements, so it takes any number of both, and permuted tasks or servers permute
    the decision.
    """

    inputs: int
    """Features of a placement."""
    hidden: tuple[int, ...]
    """Widths of the hidden layers."""
    last_gain: float = 1.0
    """As in `nets.Mlp`."""
    packed: bool = True
    """Whether only allowed placements are computed, because most slots have far fewer tasks than entries. The others
    then score 0; if false, they score anything."""

    @property
    def form(self) -> Mlp:
        """Return the network of one placement."""
        return Mlp(self.inputs, self.hidden, tasks=1, choices=1, shared=True, last_gain=self.last_gain)

    @property
    def size(self) -> int:
        """Return P, the number of parameters of one learner."""
        return self.form.size

    def initial(self, seeds: Tensor) -> Tensor:
        """Return initial parameters, [L, P].

        Args:
            seeds: [L] int64.
        """
        return self.form.initial(seeds)

    def __call__(self, flat: Tensor, features: Tensor) -> Tensor:
        """Return the scores, [L, B, K, C].

        Args:
            flat: [L, P] parameters.
            features: [L, B, K, C, F]; the last feature is above 0 if the placement is allowed.
        """
        rows = features.flatten(1, 3)
        if not self.packed:
            return self.form(flat, rows[:, :, None])[:, :, 0, 0].reshape(features.shape[:-1])
        index = _allowed_rows(rows[..., -1] > 0)
        allowed = rows.gather(1, index[..., None].expand(-1, -1, rows.shape[-1]).clamp(max=rows.shape[1] - 1))
        score = self.form(flat, allowed[:, :, None])[:, :, 0, 0]
        every = score.new_zeros((rows.shape[0], rows.shape[1] + 1)).scatter(1, index, score)
        return every[:, :-1].reshape(features.shape[:-1])


def _allowed_rows(allowed: Tensor) -> Tensor:
    """Return the true entries of `allowed` [L, R] as indices [L, M], where M is the greatest number in a row.

    Unused entries are R.
    """
    counts = allowed.sum(1)
    row, place = allowed.nonzero(as_tuple=True)
    rank = torch.arange(len(row), device=allowed.device) - (counts.cumsum(0) - counts)[row]
    index = torch.full((len(allowed), max(1, int(counts.max()))), allowed.shape[1], device=allowed.device)
    index[row, rank] = place
    return index


class PlacementPolicy(nn.Module):
    """The placement of the greatest score for each task; a module, so that `export` can take it.

    Args:
        net: scores placements.
        flat: [L, P] parameters; observations [L * W, ..] are those of the L networks side by side, W of each.
        features: from an observation and its placements to the network's inputs.
        placements: from an observation to the placements of its tasks.
    """

    flat: Tensor

    def __init__(self, net: Net, flat: Tensor, features: MakeFeatures, placements: MakePlacements):
        super().__init__()
        self.net, self.features, self.placements = net, features, placements
        self.register_buffer("flat", flat.detach().clone())

    @torch.no_grad()
    def forward(self, observation: OffloadObservation[Tensor]) -> OffloadDecision[Tensor]:
        """Return the decisions, [.., K].

        Args:
            observation: [L * W, K, ..] tensors.
        """
        placements = self.placements(observation)
        features = self.features(observation, placements)
        count = self.flat.shape[0]
        features = features[None] if count == 1 else features.unflatten(0, (count, -1))
        scores = self.net(self.flat, features).flatten(0, 1)
        return placements.decision(torch.where(placements.mask, scores, -torch.inf).argmax(-1))


def policies_of(
    net: Net, flat: Tensor, features: MakeFeatures, placements: MakePlacements
) -> tuple[PlacementPolicy, ...]:
    """Return one policy, fit for export, for each row of parameters.

    Args:
        net: form of all networks.
        flat: [L, P] parameters.
        features: from an observation and its placements to the network's inputs.
        placements: from an observation to the placements of its tasks.
    """
    plain = net
    if isinstance(net, PlacementNet):
        plain = replace(net, packed=False)
    elif isinstance(net, Mlp):
        plain = replace(net, bfloat16=False)
    return tuple(PlacementPolicy(plain, row[None], features, placements) for row in flat)
