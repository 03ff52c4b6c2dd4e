"""The simulated edge as an environment whose actions are placements: each task of a slot chooses a server, or its own
device (`policies.learned.placement.placements`)."""

from typing import NamedTuple

import torch
from torch import Tensor

from coinfer.envs import core, offload
from coinfer.envs.exogenous import Draws
from coinfer.physics import random
from coinfer.physics.rewards import latency_reward
from coinfer.policies.learned.placement.placements import fixed_cut
from coinfer.policies.learned.placement.policy import MakeFeatures, MakePlacements
from coinfer.rl.core.envs.options import task_metrics
from coinfer.rl.core.records import Observation, StepResult, Transition
from coinfer.scenario.world import OffloadWorld
from coinfer.types import OffloadDecision, Outcome

UNIT_S = 0.1
"""Unit of the rewards, which are minus latencies, so that they are about -1."""


class PlacementState(NamedTuple):
    """State of the worlds, and the placements that each task can choose from."""

    worlds: core.State
    option: Tensor
    """[B, K, C] int64 option of each placement."""
    server: Tensor
    """[B, K, C] int64 server of each placement."""
    mask: Tensor
    """[B, K, C] true for allowed placements."""


class PlacementEnv:
    """W worlds of each of L learners; every task's own reward is minus its latency, in units of `UNIT_S`.

    An action is the number of a placement [L, W, K], or preferences [L, W, K, C] of which each task's highest allowed
    one is taken. All worlds begin and end their episodes together, by the time limit only.

    Args:
        world: the compiled scenario.
        worlds: W, worlds of each learner.
        features: maps observation and placements to the inputs of the networks.
        placements: maps an observation to the placements that tasks choose from.
        device: PyTorch device of the worlds.
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
        """Return the first state and its observation.

        Args:
            seeds: [L] int64, one for each learner; its worlds depend on nothing else.
        """
        worlds = random.key(seeds[:, None], torch.arange(self.worlds, device=seeds.device))
        return self._enter(offload.reset(self.tables, worlds.flatten()))

    def observe(self, state: PlacementState) -> Observation:
        """Return what the learners see of a state.

        Args:
            state: a state of L * W worlds.
        """
        return self._enter(state.worlds)[1]

    def step(self, state: PlacementState, action: Tensor) -> StepResult[PlacementState]:
        """Simulate a slot and begin new episodes if it was the last one.

        Args:
            state: the state before the slot.
            action: [L, W, K] int64 numbers of placements, or [L, W, K, C] preferences.

        Returns:
            The next state; rewards are [L, W, K] in units of `UNIT_S`, metrics the sums of `task_metrics`.
        """
        place = action.flatten(0, 1)
        if place.dim() == state.mask.dim():
            place = torch.where(state.mask, place, -torch.inf).argmax(-1)
        option, server = (part.gather(-1, place[..., None])[..., 0] for part in (state.option, state.server))
        stepped = offload.step(self.tables, state.worlds, OffloadDecision(option, server), _no_reward)
        outcome, task_mask = stepped.outcome, state.worlds.draws.task_mask
        after, observation = self._enter(stepped.state)
        final_observation, truncated = observation, self._by_learner(stepped.info.truncated)
        if self._last_slot(state):
            after, observation = self._enter(offload.reset(self.tables, core.next_seeds(stepped.state.seed)))
        metrics = task_metrics(outcome.latency_s, outcome.in_time, task_mask)
        return StepResult(
            state=after,
            observation=observation,
            final_observation=final_observation,
            reward=self._by_learner(latency_reward(outcome.latency_s) / UNIT_S * task_mask),
            terminated=torch.zeros_like(truncated),
            truncated=truncated,
            metrics={name: self._by_learner(part) for name, part in metrics.items()},
        )

    def _enter(self, worlds: core.State) -> tuple[PlacementState, Observation]:
        observed = offload.observe(self.tables, worlds)
        placements = self.placements(observed)
        parts = (self.features(observed, placements), placements.mask, observed.task_mask)
        state = PlacementState(worlds, placements.option, placements.server, placements.mask)
        return state, Observation(*map(self._by_learner, parts))

    def _last_slot(self, state: PlacementState) -> bool:
        return int(state.worlds.slot[0]) + 1 >= self.world.edge.slots

    def _by_learner(self, part: Tensor) -> Tensor:
        return part.unflatten(0, (-1, self.worlds))


def _no_reward(outcome: Outcome[Tensor], draws: Draws) -> Tensor:
    return torch.zeros_like(outcome.latency_s[:, 0])


def trim_tasks(batch: Transition) -> Transition:
    """Return a batch without the last places for tasks, if no slot of the batch has a task there.

    Args:
        batch: [L, n, ..] steps whose features are [L, n, K, ..], by task.
    """
    tasks = int(torch.maximum(batch.task_mask.sum(-1).amax(), batch.next_task_mask.sum(-1).amax()))
    tasks = max(1, min(batch.task_mask.shape[-1], tasks))
    whole = {"continues"} if batch.reward.dim() == 3 else {"continues", "reward"}
    return Transition(**{n: p if n in whole else p[:, :, :tasks] for n, p in batch._asdict().items()})
