"""The network that scores places (`offers`), and trained networks as policies."""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from coinfer.policies.learned.nets import Mlp, Net
from coinfer.policies.learned.placements import (
    Offers,
    fixed_cut,
    flat_features,
    offer_features,
    ranked_cut,
    ranked_features,
)
from coinfer.types import OffloadDecision, OffloadObservation

MakeOffers = Callable[[OffloadObservation], Offers]
MakeFeatures = Callable[[OffloadObservation, Offers], Tensor]


def offers_for(form: str) -> MakeOffers:
    """What a network of such a form (`places`, `flat` or `ranked`) chooses from, the cut being fixed."""
    return ranked_cut if form == "ranked" else fixed_cut


def features_for(form: str, running: bool, most: int | None = None) -> MakeFeatures:
    """What it is told; `running` and `most` as of `offers.offer_features`, for form `places`."""
    if form != "places":
        return flat_features if form == "flat" else ranked_features
    return lambda seen, offers: offer_features(seen, offers, running, most)


@dataclass(frozen=True)
class OfferNet:
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
        index = _taken_rows(rows[..., -1] > 0)
        taken = rows.gather(1, index[..., None].expand(-1, -1, rows.shape[-1]).clamp(max=rows.shape[1] - 1))
        score = self.form(flat, taken[:, :, None])[:, :, 0, 0]
        every = score.new_zeros((rows.shape[0], rows.shape[1] + 1)).scatter(1, index, score)
        return every[:, :-1].reshape(features.shape[:-1])


def _taken_rows(there: Tensor) -> Tensor:
    """[L, M] the true entries of there [L, R], M being the most of them in a row; R for those that are not needed."""
    counts = there.sum(1)
    row, place = there.nonzero(as_tuple=True)
    rank = torch.arange(len(row), device=there.device) - (counts.cumsum(0) - counts)[row]
    index = torch.full((len(there), max(1, int(counts.max()))), there.shape[1], device=there.device)
    index[row, rank] = place
    return index


class OfferPolicy(nn.Module):
    """Takes each task's place of the greatest number; for `export` too.

    Args:
        flat: [L, P] parameters; observations [L * W, ..] are those of the L networks side by side, W of each.
    """

    flat: Tensor

    def __init__(self, net: Net, flat: Tensor, features: MakeFeatures, offers: MakeOffers):
        super().__init__()
        self.net, self.features, self.offers = net, features, offers
        self.register_buffer("flat", flat.detach().clone())

    @torch.no_grad()
    def forward(self, observation: OffloadObservation) -> OffloadDecision:
        found = self.offers(observation)
        told = self.features(observation, found)
        count = self.flat.shape[0]
        told = told[None] if count == 1 else told.unflatten(0, (count, -1))
        scores = self.net(self.flat, told).flatten(0, 1)
        return found.decision(torch.where(found.mask, scores, -torch.inf).argmax(-1))
