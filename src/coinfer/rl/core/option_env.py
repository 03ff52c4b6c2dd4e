"""The simulated edge as a game for L learners with W worlds each."""

from typing import Any

import torch
from torch import Tensor

from coinfer.envs import core, offload
from coinfer.envs.rewards import Reward
from coinfer.physics import random
from coinfer.policies.candidates import choices
from coinfer.policies.learned.features import Features, whole_features
from coinfer.rl.core.records import Observation, StepResult
from coinfer.scenario.world import OffloadWorld
from coinfer.types import OffloadDecision, OffloadObservation


class OptionEnv:
    """Environment `offload`; a choice is option * N + server, as in `policies.candidates`.

    All worlds begin and end their episodes together. Episodes end by their time limit only.

    Args:
        worlds: W, of each learner.
        reward: from outcome and draws to [B] or, each task's own, [B, K].
        unmasked: whether also decisions may be tried that break a limit on energy or find no room; the environment
            refuses them.
    """

    def __init__(
        self,
        world: OffloadWorld,
        reward: Reward,
        worlds: int,
        features: Features = whole_features,
        device: str | torch.device = "cpu",
        unmasked: bool = False,
    ):
        self.world, self.reward, self.worlds, self.features = world, reward, worlds, features
        self.unmasked = unmasked
        self.tables = offload.load(world, device)

    @property
    def tasks(self) -> int:
        """K"""
        return self.world.edge.tasks

    @property
    def choices(self) -> int:
        """C"""
        return self.world.options * self.world.edge.servers

    def reset(self, seeds: Tensor) -> tuple[core.State, Observation]:
        """Each learner's worlds follow from its seed [L] alone."""
        worlds = random.key(seeds[:, None], torch.arange(self.worlds, device=seeds.device))
        state = offload.reset(self.tables, worlds.flatten())
        return state, self.observe(state)

    def observe(self, state: core.State) -> Observation:
        """What the learners see."""
        seen = offload.observe(self.tables, state)
        parts = (self.features(seen), self._mask(seen, state), seen.task_mask)
        return Observation(*(part.unflatten(0, (-1, self.worlds)) for part in parts))

    def _mask(self, seen: OffloadObservation, state: core.State) -> Tensor:
        """[B, K, C]"""
        if not self.unmasked:
            return choices(seen).mask
        draws = state.draws
        exists = self.tables.exists[draws.model * self.tables.edge.edge.classes + draws.device_class]
        return choices(seen._replace(option_mask=exists, server_room=torch.ones_like(seen.server_room))).mask

    def step(self, state: Any, action: Tensor) -> StepResult:
        flat, servers = action.flatten(0, 1), self.world.edge.servers
        decision = OffloadDecision(torch.div(flat, servers, rounding_mode="floor"), flat % servers)
        stepped = offload.step(self.tables, state, decision, self.reward)
        outcome, task_mask = stepped.outcome, state.draws.task_mask
        observation = final_observation = self.observe(stepped.state)
        after, truncated = stepped.state, stepped.info.truncated
        if bool(truncated.any()):
            after = offload.reset(self.tables, core.next_seeds(after.seed))
            observation = self.observe(after)
        metrics = {
            "tasks": task_mask.sum(-1),
            "latency_s": outcome.latency_s.sum(-1),
            "in_time": (outcome.in_time & task_mask).sum(-1),
        }
        return StepResult(
            state=after,
            observation=observation,
            final_observation=final_observation,
            reward=stepped.reward.unflatten(0, (-1, self.worlds)),
            terminated=torch.zeros_like(truncated).unflatten(0, (-1, self.worlds)),
            truncated=truncated.unflatten(0, (-1, self.worlds)),
            metrics={name: part.unflatten(0, (-1, self.worlds)) for name, part in metrics.items()},
        )
