"""The simulated edge as a game of places: each task of a slot takes a server, or its device
(`policies.learned.placements`)."""

from typing import NamedTuple

import torch
from torch import Tensor

from coinfer.envs import core, offload
from coinfer.envs.exogenous import Draws
from coinfer.physics import random
from coinfer.physics.rewards import latency_reward
from coinfer.policies.learned.placement_policy import MakeFeatures, MakePlacements
from coinfer.policies.learned.placements import fixed_cut
from coinfer.rl.core.records import Observation, StepResult, Transition
from coinfer.scenario.world import OffloadWorld
from coinfer.types import OffloadDecision, Outcome

UNIT_S = 0.1
"""Rewards are minus latencies in this unit, so that they are about 1."""


class PlacementState(NamedTuple):
    worlds: core.State
    option: Tensor
    """[B, K, C] of each place, with `server`: what a chosen place means."""
    server: Tensor
    mask: Tensor
    """[B, K, C]"""


class PlacementEnv:
    """W worlds of each of L learners; every task's own reward is minus its latency, in units of `UNIT_S`.

    An action is a place [L, W, K], or preferences [L, W, K, C] of which each task's highest allowed one is taken.
    All worlds begin and end their episodes together, by the time limit only.
    """

    def __init__(
        self,
        world: OffloadWorld,
        worlds: int,
        features: MakeFeatures,
        placements: MakePlacements = fixed_cut,
        device: str | torch.device = "cpu",
    ):
        self.world, self.worlds, self.features, self.placements = world, worlds, features, placements
        self.tables = offload.load(world, device)

    def reset(self, seeds: Tensor) -> tuple[PlacementState, Observation]:
        """Each learner's worlds follow from its seed [L] alone."""
        worlds = random.key(seeds[:, None], torch.arange(self.worlds, device=seeds.device))
        return self._seen(offload.reset(self.tables, worlds.flatten()))

    def observe(self, state: PlacementState) -> Observation:
        """What the learners see."""
        return self._seen(state.worlds)[1]

    def step(self, state: PlacementState, action: Tensor) -> StepResult:
        place = action.flatten(0, 1)
        if place.dim() == state.mask.dim():
            place = torch.where(state.mask, place, -torch.inf).argmax(-1)
        option, server = (part.gather(-1, place[..., None])[..., 0] for part in (state.option, state.server))
        stepped = offload.step(self.tables, state.worlds, OffloadDecision(option, server), _no_reward)
        outcome, task_mask = stepped.outcome, state.worlds.draws.task_mask
        after, observation = self._seen(stepped.state)
        final_observation, truncated = observation, stepped.info.truncated
        if self._last_slot(state):
            after, observation = self._seen(offload.reset(self.tables, core.next_seeds(stepped.state.seed)))
        metrics = {
            "tasks": task_mask.sum(-1),
            "latency_s": outcome.latency_s.sum(-1),
            "in_time": (outcome.in_time & task_mask).sum(-1),
        }
        reward = latency_reward(outcome.latency_s) / UNIT_S * task_mask
        return StepResult(
            state=after,
            observation=observation,
            final_observation=final_observation,
            reward=self._by_learner(reward),
            terminated=self._by_learner(torch.zeros_like(truncated)),
            truncated=self._by_learner(truncated),
            metrics={name: self._by_learner(part) for name, part in metrics.items()},
        )

    def _seen(self, worlds: core.State) -> tuple[PlacementState, Observation]:
        seen = offload.observe(self.tables, worlds)
        placements = self.placements(seen)
        observation = Observation(
            *map(self._by_learner, (self.features(seen, placements), placements.mask, seen.task_mask))
        )
        return PlacementState(worlds, placements.option, placements.server, placements.mask), observation

    def _last_slot(self, state: PlacementState) -> bool:
        return int(state.worlds.slot[0]) + 1 >= self.world.edge.slots

    def _by_learner(self, part: Tensor) -> Tensor:
        return part.unflatten(0, (-1, self.worlds))


def _no_reward(outcome: Outcome, draws: Draws) -> Tensor:
    return outcome.latency_s


def trim_tasks(batch: Transition) -> Transition:
    """The same without the last tasks that no slot of the batch has; for features [L, n, K, ..] of each task."""
    most = int(torch.maximum(batch.task_mask.sum(-1).amax(), batch.next_task_mask.sum(-1).amax()))
    most = max(1, min(batch.task_mask.shape[-1], most))
    by_task = {"continues"} if batch.reward.dim() == 3 else {"continues", "reward"}
    return Transition(**{n: p if n in by_task else p[:, :, :most] for n, p in batch._asdict().items()})
