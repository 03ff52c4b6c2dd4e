"""A batch of worlds that keeps its state, plain arrays in and out: the common part of the adapters to other libraries.

An action is a row of whole numbers. For `offload` it has one number per task, option * N + server (the server is
ignored if the option sends nothing); for `blocks` one per block of each task, 0 for the device, n for server n - 1.
Observations are the fields of `types`, in SI units, as float32; infinite values (no deadline, no limit) are
`MAX_VALUE`.
"""

from collections.abc import Mapping
from pathlib import Path
from types import ModuleType
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from coinfer.envs import blocks, core, offload, rewards
from coinfer.errors import UserError
from coinfer.scenario import spec
from coinfer.scenario.compile import open_world
from coinfer.scenario.world import BlocksWorld, OffloadWorld, World
from coinfer.types import BlocksDecision, OffloadDecision, OffloadObservation

MAX_VALUE = 1e12
"""Replaces infinity, which networks cannot take."""
_MAY_BE_INFINITE = ("deadline_s", "server_room", "energy_left_j", "block_deadline_s")


class Transition(NamedTuple):
    """The result of a step of B worlds; worlds whose episode is over have not begun the next one."""

    observation: dict[str, Tensor]
    reward: Tensor
    """[B]"""
    truncated: Tensor
    """[B] the episode is over; it never ends before its last slot."""
    tasks: Tensor
    """[B] number of tasks of the slot."""
    latency_s: Tensor
    """[B] their summed latency."""
    in_time: Tensor
    """[B] number of tasks that were answered in time."""


def edge_world(world: World) -> OffloadWorld | BlocksWorld:
    """Return the same world.

    Args:
        world: a compiled scenario of any environment.

    Raises:
        UserError: if its tasks are not offloaded to servers (`wireless-power`); one line.
    """
    if isinstance(world, OffloadWorld | BlocksWorld):
        return world
    raise UserError(f"scenario {world.name}: expected one of environment offload or blocks")


def environment_of(world: World) -> ModuleType:
    """Return the module with `load`, `reset`, `observe` and `step` for a world.

    Args:
        world: a compiled scenario.

    Raises:
        UserError: if it is a world of another kind; one line.
    """
    return offload if isinstance(edge_world(world), OffloadWorld) else blocks


class BatchedEnv:
    """Worlds of one scenario that step together.

    Args:
        world: a compiled scenario.
        count: B, number of worlds.
        reward: from the outcome and draws of a slot to rewards [B].
        device: of PyTorch.
    """

    def __init__(
        self,
        world: OffloadWorld | BlocksWorld,
        count: int,
        reward: rewards.Reward,
        device: str | torch.device = "cpu",
    ):
        self.environment = environment_of(world)
        self.world, self.count, self.reward = world, count, reward
        self.tables = self.environment.load(world, device)
        self.state: core.State = self.environment.reset(self.tables, torch.arange(count))

    @property
    def nvec(self) -> np.ndarray:
        """Return how many values each number of an action has, [A], as `gymnasium.spaces.MultiDiscrete` calls it."""
        edge = self.world.edge
        if isinstance(self.world, OffloadWorld):
            return np.full(edge.tasks, self.world.options * edge.servers)
        return np.full(edge.tasks * self.world.blocks, edge.servers + 1)

    def reset(self, seeds: Tensor, mask: Tensor | None = None) -> None:
        """Begin new episodes.

        Args:
            seeds: [B] int64, of all worlds, also of those that are not reset.
            mask: [B] bool, the worlds to reset; None for all.
        """
        fresh = self.environment.reset(self.tables, seeds)
        self.state = fresh if mask is None or bool(mask.all()) else _merged(mask, fresh, self.state)

    def next_episodes(self, finished: Tensor) -> None:
        """Begin the next episode in some worlds; its seed follows from the one before.

        Args:
            finished: [B] bool, the worlds whose episode is over.
        """
        self.reset(core.next_seeds(self.state.seed), finished)

    def observe(self) -> dict[str, Tensor]:
        """Return the fields of the observation by name, [B, ..], float32 in SI units, infinite values as `MAX_VALUE`.
        Return the fields of the observation by name, [B, ..], float32 in SI units, infinite values as `MAX_VALUE`."""
        seen = self.environment.observe(self.tables, self.state)._asdict()
        return {
            name: field.clamp(max=MAX_VALUE) if name in _MAY_BE_INFINITE else field.to(torch.float32)
            for name, field in seen.items()
        }

    def step(self, action: Tensor) -> Transition:
        """Carry out an action; worlds whose episode is over are not reset.

        Args:
            action: [B, A] int64; not checked, see `check_action`.

        Returns:
            The next observation and the results of the slot.
        """
        stepped = self.environment.step(self.tables, self.state, self.decision(action), self.reward)
        task_mask, outcome = self.state.draws.task_mask, stepped.outcome
        self.state = stepped.state
        return Transition(
            observation=self.observe(),
            reward=stepped.reward,
            truncated=stepped.info.truncated,
            tasks=task_mask.sum(-1),
            latency_s=outcome.latency_s.sum(-1),
            in_time=outcome.in_time.sum(-1),
        )

    def check_action(self, action: np.ndarray) -> None:
        """Check that an action is in the action space.

        Args:
            action: [B, A]

        Raises:
            UserError: if the shape is another, or a number is not whole or out of range; one line.
        """
        nvec = self.nvec
        if action.shape != (self.count, len(nvec)):
            expected = [self.count, len(nvec)]
            raise UserError(f"action has shape {list(action.shape)}, expected {expected}: worlds, numbers")
        if action.dtype.kind not in "iu":
            raise UserError(f"action is of {action.dtype}, expected whole numbers")
        wrong = np.argwhere((action < 0) | (action >= nvec))
        if len(wrong):
            world, number = wrong[0]
            value, last = action[world, number], nvec[number] - 1
            raise UserError(f"action {value} of number {number} in world {world}, expected 0 to {last}")

    def decision(self, action: Tensor) -> OffloadDecision[Tensor] | BlocksDecision:
        """Return the decision that an action stands for.

        Args:
            action: [B, A] int64.
        """
        edge = self.world.edge
        if isinstance(self.world, OffloadWorld):
            return OffloadDecision(torch.div(action, edge.servers, rounding_mode="floor"), action % edge.servers)
        return BlocksDecision(action.reshape(action.shape[0], edge.tasks, self.world.blocks))

    def mask(self) -> Tensor:
        """Return which values of an action can be carried out as far as the observation tells, [B, A, C] bool.

        These are options and places that exist, on links that work, on servers with room. If there is no task or block,
        no value matters, and all are true.
        """
        seen = self.environment.observe(self.tables, self.state)
        reached = (seen.uplink_bps > 0) & (seen.server_room > 0)[:, None, :]
        if isinstance(seen, OffloadObservation):
            on_device = (seen.option_upload_bits == 0)[..., None]
            feasible = seen.option_mask[..., None] & (on_device | reached[:, :, None, :])
            return feasible.flatten(-2) | ~seen.task_mask[..., None]
        places = torch.nn.functional.pad(reached, (1, 0), value=True)[:, :, None, :]
        return (places | ~seen.block_mask[..., None]).flatten(1, 2)


def reward_of(settings: spec.Reward | None) -> rewards.Reward:
    """Return the reward that a scenario's file names.

    Args:
        settings: of the file; None stands for minus the summed latency.
    """
    match settings:
        case spec.LateReward():
            return rewards.late(settings.weight)
        case spec.WeightedReward():
            return rewards.weighted(settings.best_bps, settings.sensitivity, settings.scale_s)
        case spec.EarlyExitReward():
            return rewards.early_exit(settings.latency_weight, settings.late_penalty)
        case _:
            return rewards.latency


def make_batched_env(
    count: int,
    scenario: str | Path | OffloadWorld | BlocksWorld,
    changes: Mapping[str, object] | None = None,
    reward: rewards.Reward | None = None,
    device: str | torch.device = "cpu",
) -> BatchedEnv:
    """Return `count` worlds of a scenario, which step together.

    Args:
        count: B, number of worlds.
        scenario: a preset, a file, or a compiled world.
        changes: values to put into the file, by dotted key; ignored for a compiled world.
        reward: if None, the file's own; for a compiled world minus the summed latency.
        device: of PyTorch.

    Raises:
        UserError: if there is no such scenario, it is wrong, or it belongs to another environment; one line.
    """
    if isinstance(scenario, OffloadWorld | BlocksWorld):
        return BatchedEnv(scenario, count, reward or rewards.latency, device)
    compiled = open_world(scenario, changes)
    return BatchedEnv(edge_world(compiled.world), count, reward or reward_of(compiled.reward), device)


def _merged(mask: Tensor, new: core.State, old: core.State) -> core.State:
    """Return the new state of the worlds of `mask` [B] and the old state of the others."""

    def merged(fresh: Tensor, current: Tensor) -> Tensor:
        if fresh.shape[0] != mask.shape[0]:  # one value for all worlds
            return fresh
        return torch.where(mask.reshape(-1, *[1] * (fresh.dim() - 1)), fresh, current)

    return core.map_worlds(merged, new, old)
