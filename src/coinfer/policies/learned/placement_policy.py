"""The network that scores places (`placements`), and trained networks as policies."""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from coinfer.policies.learned.nets import Mlp, Net
from coinfer.policies.learned.placements import (
    Placements,
    fixed_cut,
    flat_features,
    placement_features,
    ranked_cut,
    ranked_features,
)
from coinfer.types import OffloadDecision, OffloadObservation

MakePlacements = Callable[[OffloadObservation], Placements]
MakeFeatures = Callable[[OffloadObservation, Placements], Tensor]


def placements_for(form: str) -> MakePlacements:
    """What a network of such a form (`places`, `flat` or `ranked`) chooses from, the cut being fixed."""
    return ranked_cut if form == "ranked" else fixed_cut


def features_for(form: str, running_queues: bool, most: int | None = None) -> MakeFeatures:
    """What it is told; `running_queues` and `most` as of `placements.placement_features`, for form `places`."""
    if form != "places":
        return flat_features if form == "flat" else ranked_features
    return lambda seen, placements: placement_features(seen, placements, running_queues, most)


@dataclass(frozen=True)
class PlacementNet:
    """One small network that scores every place of every task: the same for all tasks and places, so it takes any
    number of both, and tasks or servers in another order are decided alike."""

    inputs: int
    hidden: tuple[int, ...]
    last_gain: float = 1.0
    packed: bool = True
    """Whether only places that may be taken are computed, as most slots have far fewer tasks than there is room for.
    The others score 0; without it, anything."""

    @property
    def form(self) -> Mlp:
        return Mlp(self.inputs, self.hidden, tasks=1, choices=1, shared=True, last_gain=self.last_gain)

    @property
    def size(self) -> int:
        return self.form.size

    def initial(self, seeds: Tensor) -> Tensor:
        return self.form.initial(seeds)

    def __call__(self, flat: Tensor, features: Tensor) -> Tensor:
        """From [L, B, K, C, F], the last feature telling whether a place may be taken, to [L, B, K, C]."""
        rows = features.flatten(1, 3)
        if not self.packed:
            return self.form(flat, rows[:, :, None])[:, :, 0, 0].reshape(features.shape[:-1])
        index = _allowed_rows(rows[..., -1] > 0)
        allowed = rows.gather(1, index[..., None].expand(-1, -1, rows.shape[-1]).clamp(max=rows.shape[1] - 1))
        score = self.form(flat, allowed[:, :, None])[:, :, 0, 0]
        every = score.new_zeros((rows.shape[0], rows.shape[1] + 1)).scatter(1, index, score)
        return every[:, :-1].reshape(features.shape[:-1])


def _allowed_rows(allowed: Tensor) -> Tensor:
    """[L, M] the true entries of allowed [L, R], M being the most of them in a row; R for those that are not needed."""
    counts = allowed.sum(1)
    row, place = allowed.nonzero(as_tuple=True)
    rank = torch.arange(len(row), device=allowed.device) - (counts.cumsum(0) - counts)[row]
    index = torch.full((len(allowed), max(1, int(counts.max()))), allowed.shape[1], device=allowed.device)
    index[row, rank] = place
    return index


class PlacementPolicy(nn.Module):
    """Takes each task's place of the greatest number; for `export` too.

    Args:
        flat: [L, P] parameters; observations [L * W, ..] are those of the L networks side by side, W of each.
    """

    flat: Tensor

    def __init__(self, net: Net, flat: Tensor, features: MakeFeatures, placements: MakePlacements):
        super().__init__()
        self.net, self.features, self.placements = net, features, placements
        self.register_buffer("flat", flat.detach().clone())

    @torch.no_grad()
    def forward(self, observation: OffloadObservation) -> OffloadDecision:
        found = self.placements(observation)
        features = self.features(observation, found)
        count = self.flat.shape[0]
        features = features[None] if count == 1 else features.unflatten(0, (count, -1))
        scores = self.net(self.flat, features).flatten(0, 1)
        return found.decision(torch.where(found.mask, scores, -torch.inf).argmax(-1))
