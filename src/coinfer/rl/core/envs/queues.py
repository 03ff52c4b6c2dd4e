"""Environment `wireless-power` with queues for learners: frame after frame, as queues follow from decisions."""

import torch
from torch import Tensor

from coinfer.envs import core, data_queues
from coinfer.physics import random
from coinfer.rl.core.records import Observation, StepResult
from coinfer.scenario.world import QueueWorld


class QueueEnv:
    """W worlds for each of L learners.

    Features are gain and weight w + Q / V of each device, [L, W, 2 N]; K is N, with two choices: 0 computes, 1 sends.

    Args:
        world: the compiled scenario.
        worlds: W
        device: PyTorch device.
    """

    def __init__(self, world: QueueWorld, worlds: int, device: str | torch.device = "cpu"):
        self.world, self.worlds = world, worlds
        self.tables = data_queues.load(world, device)

    def reset(self, seeds: Tensor) -> tuple[data_queues.State, Observation]:
        """Return the first state, of L * W worlds, and its observation.

        Args:
            seeds: [L] int64, one for each learner; its worlds depend on nothing else.
        """
        every = random.key(seeds[:, None], torch.arange(self.worlds, device=seeds.device)).flatten()
        state = data_queues.reset(self.tables, every)
        return state, self.observe(state)

    def observe(self, state: data_queues.State) -> Observation:
        """Return what the learners see of a state.

        Args:
            state: of L * W worlds.
        """
        parts = (state.frame.gain, data_queues.weights(self.tables, state))
        features = torch.cat(parts, -1).unflatten(0, (-1, self.worlds))
        devices = state.queue_bits.shape[-1]
        exists = torch.ones((), dtype=torch.bool, device=features.device).expand(*features.shape[:2], devices)
        return Observation(features, exists[..., None].expand(*exists.shape, 2), exists)

    def step(self, state: data_queues.State, action: Tensor) -> StepResult[data_queues.State]:
        """Carry out the modes of a frame; begin new episodes if the time limit is reached.

        Args:
            state: of L * W worlds.
            action: [L, W, N] 1 sends, 0 computes.
        """
        step = data_queues.step(self.tables, state, action.flatten(0, 1) > 0)
        after, observation = step.state, self.observe(step.state)
        final_observation = observation
        if bool(step.truncated.any()):  # all episodes are equally long
            after = data_queues.reset(self.tables, core.next_seeds(after.frame.seed))
            observation = self.observe(after)
        reward = (step.served_bits * state.frame.weight).sum(-1).unflatten(0, (-1, self.worlds))
        return StepResult(
            state=after,
            observation=observation,
            final_observation=final_observation,
            reward=reward,
            terminated=torch.zeros_like(reward, dtype=torch.bool),
            truncated=step.truncated.unflatten(0, (-1, self.worlds)),
            metrics={"queue_bits": state.queue_bits.mean(-1).unflatten(0, (-1, self.worlds))},
        )
