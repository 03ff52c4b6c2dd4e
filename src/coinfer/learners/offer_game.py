"""The simulated edge as a game of places: each task of a slot takes a server, or its device (`policies.offers`)."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor

from coinfer.envs import core, offload
from coinfer.envs.chance import Draws
from coinfer.learners.records import Transition, Turn, View
from coinfer.physics import random
from coinfer.physics.cost import latency_reward
from coinfer.policies.nets import Mlp, Net
from coinfer.policies.offers import Offers, fixed_cut
from coinfer.scenario.world import OffloadWorld
from coinfer.types import OffloadDecision, OffloadObservation, Outcome, Policy

UNIT_S = 0.1
"""Rewards are minus latencies in this unit, so that they are about 1."""

MakeOffers = Callable[[OffloadObservation], Offers]
MakeFeatures = Callable[[OffloadObservation, Offers], Tensor]


class GameState(NamedTuple):
    worlds: core.State
    option: Tensor
    """[B, K, C] of each place, with `server`: what a chosen place means."""
    server: Tensor
    mask: Tensor
    """[B, K, C]"""


class OfferGame:
    """W worlds of each of L learners; every task's own reward is minus its latency, in units of `UNIT_S`.

    An action is a place [L, W, K], or preferences [L, W, K, C] of which each task's highest allowed one is taken.
    All worlds begin and end their episodes together, by the time limit only.
    """

    def __init__(
        self,
        world: OffloadWorld,
        worlds: int,
        features: MakeFeatures,
        offers: MakeOffers = fixed_cut,
        device: str | torch.device = "cpu",
    ):
        self.world, self.worlds, self.features, self.offers = world, worlds, features, offers
        self.tables = offload.load(world, device)

    def start(self, seeds: Tensor) -> tuple[GameState, View]:
        """Each learner's worlds follow from its seed [L] alone."""
        worlds = random.key(seeds[:, None], torch.arange(self.worlds, device=seeds.device))
        return self._seen(offload.reset(self.tables, worlds.flatten()))

    def view(self, state: GameState) -> View:
        """What the learners see."""
        return self._seen(state.worlds)[1]

    def step(self, state: GameState, action: Tensor) -> Turn:
        place = action.flatten(0, 1)
        if place.dim() == state.mask.dim():
            place = torch.where(state.mask, place, -torch.inf).argmax(-1)
        option, server = (part.gather(-1, place[..., None])[..., 0] for part in (state.option, state.server))
        stepped = offload.step(self.tables, state.worlds, OffloadDecision(option, server), _no_reward)
        outcome, there = stepped.outcome, state.worlds.draws.task_mask
        after, view = self._seen(stepped.state)
        last_view, truncated = view, stepped.info.truncated
        if self._last_slot(state):
            after, view = self._seen(offload.reset(self.tables, core.next_seeds(stepped.state.seed)))
        told = {
            "tasks": there.sum(-1),
            "latency_s": outcome.latency_s.sum(-1),
            "in_time": (outcome.in_time & there).sum(-1),
        }
        reward = latency_reward(outcome.latency_s) / UNIT_S * there
        return Turn(
            state=after,
            view=view,
            last_view=last_view,
            reward=self._by_learner(reward),
            terminated=self._by_learner(torch.zeros_like(truncated)),
            truncated=self._by_learner(truncated),
            told={name: self._by_learner(part) for name, part in told.items()},
        )

    def _seen(self, worlds: core.State) -> tuple[GameState, View]:
        seen = offload.observe(self.tables, worlds)
        offers = self.offers(seen)
        view = View(*map(self._by_learner, (self.features(seen, offers), offers.mask, seen.task_mask)))
        return GameState(worlds, offers.option, offers.server, offers.mask), view

    def _last_slot(self, state: GameState) -> bool:
        return int(state.worlds.slot[0]) + 1 >= self.world.edge.slots

    def _by_learner(self, part: Tensor) -> Tensor:
        return part.unflatten(0, (-1, self.worlds))


def _no_reward(outcome: Outcome, draws: Draws) -> Tensor:
    return outcome.latency_s


@dataclass(frozen=True)
class OfferNet:
    """One small network that scores every place of every task: the same for all tasks and places, so it takes any
    number of both, and tasks or servers in another order are decided alike."""

    inputs: int
    hidden: tuple[int, ...]
    last_gain: float = 1.0

    @property
    def form(self) -> Mlp:
        return Mlp(self.inputs, self.hidden, tasks=1, choices=1, shared=True, last_gain=self.last_gain)

    @property
    def size(self) -> int:
        return self.form.size

    def initial(self, seeds: Tensor) -> Tensor:
        return self.form.initial(seeds)

    def __call__(self, flat: Tensor, features: Tensor) -> Tensor:
        """From [L, B, K, C, F] to [L, B, K, C]; 0 where a place may not be taken. Only the others are computed: most
        slots have far fewer tasks than there is room for."""
        rows = features.flatten(1, 3)
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


def trimmed(batch: Transition) -> Transition:
    """The same without the last tasks that no slot of the batch has; for features [L, n, K, ..] of each task."""
    most = int(torch.maximum(batch.there.sum(-1).amax(), batch.next_there.sum(-1).amax()))
    most = max(1, min(batch.there.shape[-1], most))
    by_task = {"goes_on"} if batch.reward.dim() == 3 else {"goes_on", "reward"}
    return Transition(**{n: p if n in by_task else p[:, :, :most] for n, p in batch._asdict().items()})


def policy_of(net: Net, flat: Tensor, features: MakeFeatures, offers: MakeOffers = fixed_cut) -> Policy:
    """What L trained networks [L, P] decide for L * W worlds, those of a network side by side: the place of the highest
    number."""
    count = flat.shape[0]

    @torch.no_grad()
    def decide(seen: OffloadObservation) -> OffloadDecision:
        found = offers(seen)
        scores: Any = net(flat, features(seen, found).unflatten(0, (count, -1))).flatten(0, 1)
        return found.decision(torch.where(found.mask, scores, -torch.inf).argmax(-1))

    return decide
