"""Environment `wireless-power` for learners: each round they decide some frames that follow on each other."""

import torch
from torch import Tensor

from coinfer.envs import core, wireless_power
from coinfer.physics import random
from coinfer.rl.core.records import Observation, StepResult
from coinfer.scenario.world import WirelessPowerWorld


class FrameEnv:
    """Episodes of frames for L learners, each with one episode at a time, of which it decides W frames in a round.

    Frames do not depend on decisions, so a learner whose network stays the same for W frames decides them as it would
    one by one. Features are gain and weight of each device, [L, W, 2 N]; K is N, with two choices: 0 computes, 1 sends.

    Args:
        world: the compiled scenario.
        frames: W; an episode ends with the round that decides its last frame.
        device: PyTorch device.
    """

    def __init__(self, world: WirelessPowerWorld, frames: int, device: str | torch.device = "cpu"):
        self.world, self.frames, self.device = world, frames, device
        self.tables = wireless_power.load(world, device)

    def reset(self, seeds: Tensor) -> tuple[wireless_power.State, Observation]:
        """Return the first state, of L * W frames, and its observation.

        Args:
            seeds: [L] int64, one for each learner; its episodes depend on nothing else.
        """
        state = self._state(random.key(seeds, 0), torch.zeros_like(seeds))
        return state, self.observe(state)

    def observe(self, state: wireless_power.State) -> Observation:
        """Return what the learners see of a state.

        Args:
            state: of L * W frames.
        """
        features = torch.cat((state.gain, state.weight), -1).unflatten(0, (-1, self.frames))
        devices = state.gain.shape[-1]
        exists = torch.ones((), dtype=torch.bool, device=features.device).expand(*features.shape[:2], devices)
        return Observation(features, exists[..., None].expand(*exists.shape, 2), exists)

    def step(self, state: wireless_power.State, action: Tensor) -> StepResult[wireless_power.State]:
        """Carry out the modes of W frames and go to the next ones; begin new episodes if the time limit is reached.

        Args:
            state: of L * W frames.
            action: [L, W, N] 1 sends, 0 computes.
        """
        rate_bps = wireless_power.rates_bps(self.tables, state, action.flatten(0, 1)[:, None] > 0)[:, 0]
        seeds, slot = (part[:: self.frames] for part in (state.seed, state.slot))
        slot = slot + self.frames
        over = slot >= self.world.slots
        after = self._state(torch.where(over, core.next_seeds(seeds), seeds), torch.where(over, 0, slot))
        observation = self.observe(after)
        truncated = over[:, None].expand(-1, self.frames)
        return StepResult(
            state=after,
            observation=observation,
            final_observation=observation,
            reward=rate_bps.unflatten(0, (-1, self.frames)),
            terminated=torch.zeros_like(truncated),
            truncated=truncated,
            metrics={},
        )

    def _state(self, seeds: Tensor, slot: Tensor) -> wireless_power.State:
        """Return the frames from `slot` [L] on."""
        slots = (slot[:, None] + torch.arange(self.frames, device=slot.device)).flatten()
        return wireless_power.state_at(self.tables, seeds.repeat_interleave(self.frames), slots)
