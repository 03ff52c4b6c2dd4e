"""The simulated edge as an environment whose actions are options: each task chooses an option and a server."""

import torch
from torch import Tensor

from coinfer.envs import core, offload
from coinfer.envs.rewards import Reward
from coinfer.physics import random
from coinfer.policies.candidates import candidates_of
from coinfer.policies.learned.features import Features, whole_features
from coinfer.policies.learned.imitation.candidate_policy import take_options
from coinfer.rl.core.records import Observation, StepResult
from coinfer.scenario.world import OffloadWorld
from coinfer.types import OffloadDecision, OffloadObservation


class OptionEnv:
    """Environment `offload` for L learners with W worlds each.

    A choice is option * N + server, as in `policies.candidates`. All worlds begin and end their episodes together, and
    episodes end by their time limit only.

    Args:
        world: the compiled scenario.
        reward: maps outcome and draws to rewards [B] of slots or [B, K] of tasks.
        worlds: W, worlds of each learner.
        features: maps an observation to the inputs of the networks.
        device: PyTorch device of the worlds.
        unmasked: whether the mask also allows decisions that break the energy limit or find no room; the environment
            refuses them.
        options: [O'] int64 numbers of the options that the learners may take; None for all.
    """

    def __init__(
        self,
        world: OffloadWorld,
        reward: Reward,
        worlds: int,
        features: Features = whole_features,
        device: str | torch.device = "cpu",
        *,
        unmasked: bool = False,
        options: Tensor | None = None,
    ):
        self.world, self.reward, self.worlds, self.features = world, reward, worlds, features
        self.unmasked = unmasked
        self.options = torch.arange(world.options, device=device) if options is None else options
        self.tables = offload.load(world, device)

    @property
    def tasks(self) -> int:
        """Return K, the number of tasks of a slot."""
        return self.world.edge.tasks

    @property
    def choices(self) -> int:
        """Return C, the number of choices of a task."""
        return len(self.options) * self.world.edge.servers

    def reset(self, seeds: Tensor) -> tuple[core.State, Observation]:
        """Return the first state and its observation.

        Args:
            seeds: [L] int64, one for each learner; its worlds depend on nothing else.
        """
        worlds = random.key(seeds[:, None], torch.arange(self.worlds, device=seeds.device))
        state = offload.reset(self.tables, worlds.flatten())
        return state, self.observe(state)

    def observe(self, state: core.State) -> Observation:
        """Return what the learners see of a state.

        Args:
            state: a state of L * W worlds.
        """
        observation = offload.observe(self.tables, state)
        if len(self.options) < self.world.options:
            observation = take_options(observation, self.options)
        parts = (self.features(observation), self._mask(observation, state), observation.task_mask)
        return Observation(*map(self._by_learner, parts))

    def step(self, state: core.State, action: Tensor) -> StepResult[core.State]:
        """Simulate a slot and begin new episodes if the time limit is reached.

        Args:
            state: the state before the slot.
            action: [L, W, K] int64 choices option * N + server.

        Returns:
            The next state; metrics are the sums of `task_metrics`.
        """
        flat, servers = action.flatten(0, 1), self.world.edge.servers
        option = self.options[torch.div(flat, servers, rounding_mode="floor")]
        decision = OffloadDecision(option, flat % servers)
        stepped = offload.step(self.tables, state, decision, self.reward)
        observation = final_observation = self.observe(stepped.state)
        after, truncated = stepped.state, self._by_learner(stepped.info.truncated)
        if bool(truncated.any()):
            after = offload.reset(self.tables, core.next_seeds(after.seed))
            observation = self.observe(after)
        outcome = stepped.outcome
        metrics = task_metrics(outcome.latency_s, outcome.in_time, state.draws.task_mask)
        metrics["timely_accuracy"] = (outcome.accuracy * outcome.in_time).sum(-1)
        return StepResult(
            state=after,
            observation=observation,
            final_observation=final_observation,
            reward=self._by_learner(stepped.reward),
            terminated=torch.zeros_like(truncated),
            truncated=truncated,
            metrics={name: self._by_learner(part) for name, part in metrics.items()},
        )

    def _mask(self, observation: OffloadObservation, state: core.State) -> Tensor:
        """Return which choices are allowed [B, K, C]."""
        if not self.unmasked:
            return candidates_of(observation).mask
        draws = state.draws
        exists = self.tables.exists[draws.model * self.tables.edge.edge.classes + draws.device_class]
        exists = exists.index_select(-1, self.options)
        room = torch.ones_like(observation.server_room)
        return candidates_of(observation._replace(option_mask=exists, server_room=room)).mask

    def _by_learner(self, part: Tensor) -> Tensor:
        return part.unflatten(0, (-1, self.worlds))


def task_metrics(latency_s: Tensor, in_time: Tensor, task_mask: Tensor) -> dict[str, Tensor]:
    """Return sums [B] over a slot's tasks, by name; `rl.core.loop` divides them by `tasks`.

    Args:
        latency_s: [B, K] seconds, 0 if there is no task.
        in_time: [B, K] whether the deadline was met.
        task_mask: [B, K] true if there is a task.
    """
    return {
        "tasks": task_mask.sum(-1),
        "latency_s": latency_s.sum(-1),
        "in_time": (in_time & task_mask).sum(-1),
    }
