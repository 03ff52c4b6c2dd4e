"""Environment `blocks` for learners: each task's blocks choose their places, through the heads of a network."""

import torch
from torch import Tensor

from coinfer.envs import block_visits, blocks, core
from coinfer.envs.rewards import Late
from coinfer.physics import random
from coinfer.physics.rewards import late_reward
from coinfer.policies.learned.blocks.features import BlocksFeatures, BlocksHeads
from coinfer.rl.core.envs.options import task_metrics
from coinfer.rl.core.records import Observation, StepResult
from coinfer.scenario.world import BlocksWorld
from coinfer.types import BlocksDecision

UNIT_S = 0.1
"""Unit of the rewards, which are minus times, so that they are about -5 a task."""


class BlocksEnv:
    """W worlds of each of L learners; a task's own reward is that of equation (14) of multi-task A3C.

    All worlds begin and end their episodes together, by the time limit only.

    Args:
        world: the compiled scenario.
        worlds: W, worlds of each learner.
        features: maps an observation to the inputs of the networks, by task.
        heads: what the choices of the networks' heads mean.
        late_weight: weight of the time after the limits.
        others: 0 to 1, part of each task's reward that is the mean over its slot instead of its own: 1 for the paper's
            reward of slots, which the tasks then share.
        imposed: weight of the time that a task makes others wait in its own reward; with 1 (and `others` 0) tasks that
            look to their own rewards do what is best for all.
        device: PyTorch device of the worlds.
        by_head: whether rewards are those of heads, [L, W, K * heads], equal parts of the task's.
        marginal: whether `imposed` weighs the exact time (`marginal_wait_s`), for decisions of few visits.
    """

    def __init__(
        self,
        world: BlocksWorld,
        worlds: int,
        features: BlocksFeatures,
        heads: BlocksHeads,
        late_weight: float = 1.0,
        others: float = 0.0,
        imposed: float = 0.0,
        device: str | torch.device = "cpu",
        *,
        by_head: bool = False,
        marginal: bool = False,
    ):
        self.world, self.worlds, self.features, self.heads = world, worlds, features, heads
        self.by_head = by_head
        self.imposed_s = block_visits.marginal_wait_s if marginal else block_visits.imposed_s
        self.late, self.others, self.imposed = Late(late_weight), others, imposed
        self.tables = blocks.load(world, device)

    def reset(self, seeds: Tensor) -> tuple[core.State, Observation]:
        """Return the first state and its observation.

        Args:
            seeds: [L] int64, one for each learner; its worlds depend on nothing else.
        """
        worlds = random.key(seeds[:, None], torch.arange(self.worlds, device=seeds.device))
        state = blocks.reset(self.tables, worlds.flatten())
        return state, self.observe(state)

    def observe(self, state: core.State) -> Observation:
        """Return what the learners see of a state.

        Args:
            state: a state of L * W worlds.
        """
        seen = blocks.observe(self.tables, state)
        parts = (self.features(seen), self.heads.mask(seen), self.heads.entry_mask(seen))
        return Observation(*map(self._by_learner, parts))

    def step(self, state: core.State, action: Tensor) -> StepResult[core.State]:
        """Simulate a slot and begin new episodes if it was the last one.

        Args:
            state: the state before the slot.
            action: [L, W, K * heads] int64 choices of the heads.

        Returns:
            The next state; rewards are [L, W, K] in units of `UNIT_S`, metrics the sums of `task_metrics`.
        """
        decision = BlocksDecision(self.heads.places(action.flatten(0, 1)))
        stepped = blocks.step(self.tables, state, decision, self.late)
        outcome, task_mask = stepped.outcome, state.draws.task_mask
        after, observation = stepped.state, self.observe(stepped.state)
        final_observation, truncated = observation, self._by_learner(stepped.info.truncated)
        if int(state.slot[0]) + 1 >= self.world.edge.slots:
            after = blocks.reset(self.tables, core.next_seeds(stepped.state.seed))
            observation = self.observe(after)
        metrics = task_metrics(outcome.latency_s, outcome.in_time, task_mask)
        own = late_reward(outcome.latency_s, stepped.served.excess_s, self.late.weight) * task_mask
        mean = stepped.reward[:, None] / task_mask.sum(-1, keepdim=True).clamp(min=1)
        reward = own + self.others * (mean - own)
        if self.imposed:
            reward = reward - self.imposed * self.imposed_s(self.tables.edge, stepped.served.usage)
        reward = reward / UNIT_S * task_mask
        if self.by_head:
            reward = reward.repeat_interleave(self.heads.heads, -1) / self.heads.heads
        return StepResult(
            state=after,
            observation=observation,
            final_observation=final_observation,
            reward=self._by_learner(reward),
            terminated=torch.zeros_like(truncated),
            truncated=truncated,
            metrics={name: self._by_learner(part) for name, part in metrics.items()},
        )

    def _by_learner(self, part: Tensor) -> Tensor:
        return part.unflatten(0, (-1, self.worlds))
