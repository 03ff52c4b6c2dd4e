"""A batch of worlds with a state, plain arrays in and out: what the adapters to other libraries have in common.

An action is a row of whole numbers: for `offload` one for each task, option * N + server (the server is ignored where
the option sends nothing); for `blocks` one for each block of each task, 0 the device, n server n - 1. Observations are
the fields of `types`, in SI units, as float32; what is infinite (no deadline, no limit) is `MOST`.
"""

from collections.abc import Mapping
from pathlib import Path
from types import ModuleType
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from coinfer.envs import blocks, core, offload, rewards
from coinfer.errors import UserError
from coinfer.scenario.compile import open_world
from coinfer.scenario.world import BlocksWorld, OffloadWorld
from coinfer.types import BlocksDecision, OffloadDecision, OffloadObservation

MOST = 1e12
"""Stands for infinity, so that networks can be fed."""
_MAY_BE_INFINITE = ("deadline_s", "server_room", "energy_left_j")


class Transition(NamedTuple):
    """What a step of B worlds brings, the worlds that are over not yet begun anew."""

    observation: dict[str, Tensor]
    reward: Tensor
    """[B]"""
    truncated: Tensor
    """[B] the episode is over; it never ends before its last slot."""
    tasks: Tensor
    """[B] tasks of the slot."""
    latency_s: Tensor
    """[B] their summed latency."""
    in_time: Tensor
    """[B] how many were in time."""


def environment_of(world: Any) -> ModuleType:
    """The module with `load`, `reset`, `observe` and `step` for such a world.

    Raises:
        UserError: where it is a world of another kind.
    """
    if isinstance(world, OffloadWorld):
        return offload
    if isinstance(world, BlocksWorld):
        return blocks
    raise UserError(f"scenario {world.name}: expected one of environment offload or blocks")


class BatchedEnv:
    """Worlds of one scenario that step together.

    Args:
        world: an `OffloadWorld` or a `BlocksWorld`.
        count: B.
    """

    def __init__(
        self,
        world: Any,
        count: int,
        reward: rewards.Reward,
        device: str | torch.device = "cpu",
    ):
        self.environment = environment_of(world)
        self.world, self.count, self.reward = world, count, reward
        self.tables = self.environment.load(world, device)
        self.state: core.State = self.environment.reset(self.tables, torch.arange(count))

    @property
    def choices(self) -> np.ndarray:
        """[A] how many values each number of an action has."""
        edge = self.world.edge
        if isinstance(self.world, OffloadWorld):
            return np.full(edge.tasks, self.world.options * edge.servers)
        return np.full(edge.tasks * self.world.blocks, edge.servers + 1)

    def reset(self, seeds: Tensor, mask: Tensor | None = None) -> None:
        """New episodes with these seeds [B] int64, in the worlds of `mask` [B] or in all."""
        fresh = self.environment.reset(self.tables, seeds)
        self.state = fresh if mask is None or bool(mask.all()) else _where(mask, fresh, self.state, self.count)

    def next_episodes(self, over: Tensor) -> None:
        """The episodes that follow in the worlds that are over; their seeds follow from the ones before."""
        self.reset(core.next_seeds(self.state.seed), over)

    def observe(self) -> dict[str, Tensor]:
        """Fields [B, ..] by name, float32."""
        seen = self.environment.observe(self.tables, self.state)._asdict()
        return {
            name: field.clamp(max=MOST) if name in _MAY_BE_INFINITE else field.to(torch.float32)
            for name, field in seen.items()
        }

    def step(self, action: Tensor) -> Transition:
        """Carries an action [B, A] out."""
        stepped = self.environment.step(self.tables, self.state, self.decision(action), self.reward)
        there, outcome = self.state.draws.task_mask, stepped.outcome
        self.state = stepped.state
        return Transition(
            observation=self.observe(),
            reward=stepped.reward,
            truncated=stepped.info.truncated,
            tasks=there.sum(-1),
            latency_s=outcome.latency_s.sum(-1),
            in_time=outcome.in_time.sum(-1),
        )

    def check_action(self, action: np.ndarray) -> None:
        """Refuse what is no action.

        Args:
            action: [B, A]

        Raises:
            UserError: if the shape is another, or a number is not whole or out of range; one line.
        """
        choices = self.choices
        if action.shape != (self.count, len(choices)):
            expected = [self.count, len(choices)]
            raise UserError(f"action has shape {list(action.shape)}, expected {expected}: worlds, numbers")
        if action.dtype.kind not in "iu":
            raise UserError(f"action is of {action.dtype}, expected whole numbers")
        wrong = np.argwhere((action < 0) | (action >= choices))
        if len(wrong):
            world, number = wrong[0]
            value, last = action[world, number], choices[number] - 1
            raise UserError(f"action {value} of number {number} in world {world}, expected 0 to {last}")

    def decision(self, action: Tensor) -> OffloadDecision | BlocksDecision:
        """What an action [B, A] means."""
        edge = self.world.edge
        if isinstance(self.world, OffloadWorld):
            return OffloadDecision(torch.div(action, edge.servers, rounding_mode="floor"), action % edge.servers)
        return BlocksDecision(action.reshape(action.shape[0], edge.tasks, self.world.blocks))

    def mask(self) -> Tensor:
        """[B, A, C] true for the values that can be carried out as far as can be seen: what exists, on live links, on
        servers with room; every value where there is no task or block, where it does not matter."""
        seen = self.environment.observe(self.tables, self.state)
        reached = (seen.uplink_bps > 0) & (seen.server_room > 0)[:, None, :]
        if isinstance(seen, OffloadObservation):
            stays = (seen.option_upload_bits == 0)[..., None]
            can = seen.option_mask[..., None] & (stays | reached[:, :, None, :])
            return can.flatten(-2) | ~seen.task_mask[..., None]
        places = torch.nn.functional.pad(reached, (1, 0), value=True)[:, :, None, :]
        return (places | ~seen.block_mask[..., None]).flatten(1, 2)


def reward_of(settings: Any) -> rewards.Reward:
    """The reward that a scenario's file names; minus the summed latency where it names none."""
    match getattr(settings, "kind", "latency"):
        case "late":
            return rewards.late(settings.weight)
        case "weighted":
            return rewards.weighted(settings.best_bps, settings.sensitivity, settings.scale_s)
        case "early-exit":
            return rewards.early_exit(settings.latency_weight, settings.late_penalty)
        case _:
            return rewards.latency


def make_batched_env(
    count: int,
    scenario: str | Path | OffloadWorld | BlocksWorld,
    changes: Mapping[str, Any] | None = None,
    reward: rewards.Reward | None = None,
    device: str | torch.device = "cpu",
) -> BatchedEnv:
    """Return `count` worlds of a scenario.

    Args:
        scenario: a preset, a file, or a compiled world.
        changes: values to put into the file, by dotted key.
        reward: the file's own if there is none.

    Raises:
        UserError: if there is no such scenario, it is wrong, or of another environment.
    """
    if isinstance(scenario, OffloadWorld | BlocksWorld):
        return BatchedEnv(scenario, count, reward or rewards.latency, device)
    compiled = open_world(scenario, changes)
    return BatchedEnv(compiled.world, count, reward or reward_of(compiled.reward), device)


def _where(mask: Tensor, new: Any, old: Any, count: int) -> Any:
    """State by state of each world, from one or the other."""
    if isinstance(new, tuple):
        return type(new)(*(_where(mask, *pair, count) for pair in zip(new, old, strict=True)))
    if new.shape[0] != count:
        return new
    return torch.where(mask.reshape(-1, *[1] * (new.dim() - 1)), new, old)
