"""The simulated edge as a game of places: each task of a slot takes a server, or its device
(`policies.learned.placements`)."""

from typing import NamedTuple

import torch
from torch import Tensor

from coinfer.envs import core, offload
from coinfer.envs.exogenous import Draws
from coinfer.physics import random
from coinfer.physics.latency import latency_reward
from coinfer.policies.learned.placement_policy import MakeFeatures, MakeOffers
from coinfer.policies.learned.placements import fixed_cut
from coinfer.rl.core.records import Transition, Turn, View
from coinfer.scenario.world import OffloadWorld
from coinfer.types import OffloadDecision, Outcome

UNIT_S = 0.1
"""Rewards are minus latencies in this unit, so that they are about 1."""


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


def trimmed(batch: Transition) -> Transition:
    """The same without the last tasks that no slot of the batch has; for features [L, n, K, ..] of each task."""
    most = int(torch.maximum(batch.there.sum(-1).amax(), batch.next_there.sum(-1).amax()))
    most = max(1, min(batch.there.shape[-1], most))
    by_task = {"goes_on"} if batch.reward.dim() == 3 else {"goes_on", "reward"}
    return Transition(**{n: p if n in by_task else p[:, :, :most] for n, p in batch._asdict().items()})
