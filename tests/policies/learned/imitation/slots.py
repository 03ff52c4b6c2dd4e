"""Slots of GRLE's world, small, with some entries without a task and a queue at each server."""

import torch
from torch import Tensor

from coinfer.envs import core, offload
from coinfer.scenario.compile import Compiled, open_world
from coinfer.scenario.world import OffloadWorld
from coinfer.types import OffloadObservation


def compiled(scenario: str = "grle", devices: int = 5, **changes: object) -> Compiled:
    sizes = {"devices.0.count": devices, "tasks_per_slot": devices, "arrivals.tasks": devices, "slots": 8}
    return open_world(scenario, sizes | {name.replace("__", "."): value for name, value in changes.items()})


def world(scenario: Compiled) -> OffloadWorld:
    assert isinstance(scenario.world, OffloadWorld)
    return scenario.world


def opened(scenario: Compiled, worlds: int = 6) -> tuple[offload.Tables, core.State]:
    """Return the tables and a state in which the servers are busy for up to 40 ms."""
    tables = offload.load(world(scenario), dtype=torch.float64)
    state = offload.reset(tables, torch.arange(worlds))
    backlog_s = 0.04 * torch.rand(state.server_backlog_s.shape, generator=torch.Generator().manual_seed(1))
    return tables, state._replace(server_backlog_s=backlog_s.double())


def observed(scenario: Compiled, worlds: int = 6) -> OffloadObservation[Tensor]:
    tables, state = opened(scenario, worlds)
    observation = offload.observe(tables, state)
    missing = torch.arange(worlds) % 2 == 1
    observation.task_mask[missing, 1] = False
    return observation


def random_choices(mask: Tensor, count: int) -> Tensor:
    """Return `count` random allowed decisions [.., S, K]."""
    drawn = torch.rand((*mask.shape[:-2], count, *mask.shape[-2:]), generator=torch.Generator().manual_seed(2))
    return drawn.masked_fill(~mask[..., None, :, :], -1.0).argmax(-1)
