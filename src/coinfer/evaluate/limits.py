"""Bounds that no policy exceeds over whole episodes, from the true inputs of all their slots."""

import torch
from torch import Tensor

from coinfer.envs import blocks, core, offload
from coinfer.evaluate import blocks_oracles, oracles
from coinfer.evaluate.simulate import MEASURES, Run, episode_seeds
from coinfer.physics.serving import ServingTables
from coinfer.policies.bounds import blocks_slot, episode
from coinfer.policies.bounds.episode import Tasks
from coinfer.progress import Progress, quiet
from coinfer.scenario.world import BlocksWorld, OffloadWorld

NAME = "lower bound"
OPTION = "lower-bound"
"""Name on the command line."""
SLOTS_PER_PART = 20
"""Slots that share prices. Servers start each such part idle, so the bound is lower but faster to compute."""


def lower_bound(
    world: OffloadWorld, seeds: int, episodes: int, steps: int = 100, progress: Progress = quiet, first: int = 0
) -> Run:
    """Return bounds of the mean latency (from below) and the share of tasks in time (from above).

    They are for the episodes of `simulate.run_policy`; all other measures are NaN. Servers that batch give each task
    its part of the best batch, and nothing has to be loaded.

    Args:
        world: a compiled scenario.
        seeds: number of seeds; each gives one value of every measure.
        episodes: number of episodes of each seed.
        steps: of the search for prices; more steps give tighter bounds.
        progress: called with parts done, parts to do, and `NAME`.
        first: number of the first seed.
    """
    tables = offload.load(world, dtype=torch.float64)
    starts = range(0, world.edge.slots, SLOTS_PER_PART)
    latency_s, late, count = (torch.zeros(seeds * episodes, dtype=torch.float64) for _ in range(3))
    for number, start in enumerate(starts):
        progress(number, len(starts), NAME)
        end = min(start + SLOTS_PER_PART, world.edge.slots)
        tasks = true_tasks(tables, episode_seeds(seeds, episodes, first), start, end)
        grid_s = _grid_s(tasks, world.edge.slot_s)
        latency_s += episode.least_latency(tasks, grid_s, steps).total
        late += episode.fewest_late(tasks, grid_s, steps).total
        count += tasks.task_mask.sum(-1)
    progress(len(starts), len(starts), NAME)
    by_seed = [part.reshape(seeds, episodes).sum(-1).numpy() for part in (latency_s, late, count)]
    missing = torch.full((seeds,), torch.nan).numpy()
    measures = dict.fromkeys(MEASURES, missing)
    measures |= {"mean_s": by_seed[0] / by_seed[2], "in_time": 1 - by_seed[1].clip(0) / by_seed[2]}
    return Run(NAME, measures, int(count.sum()), 0.0)


def lower_bound_of_blocks(world: BlocksWorld, seeds: int, episodes: int, progress: Progress = quiet) -> Run:
    """Return bounds of the mean latency from below for the episodes of `simulate.run_policy`; all else is NaN.

    They are sums of bounds of slots that begin idle (`bounds.blocks_slot`).

    Args:
        world: a compiled scenario.
        seeds: number of seeds; each gives one value of every measure.
        episodes: number of episodes of each seed.
        progress: called with slots done, slots to do, and `NAME`.
    """
    tables = blocks.load(world, dtype=torch.float64)
    state = blocks.reset(tables, episode_seeds(seeds, episodes))
    may_drop = world.edge.drop_refused or bool(tables.edge.limited_energy)
    latency_s, count = torch.zeros(seeds * episodes, dtype=torch.float64), torch.zeros(seeds * episodes)
    for slot in range(world.edge.slots):
        progress(slot, world.edge.slots, NAME)
        number = torch.full_like(state.seed, slot)
        state = state._replace(slot=number, draws=core.draw(tables.edge, state.seed, number))
        latency_s += blocks_slot.least_latency(blocks_oracles.true_observation(tables, state), may_drop)
        count += state.draws.task_mask.sum(-1)
    progress(world.edge.slots, world.edge.slots, NAME)
    by_seed = [part.reshape(seeds, episodes).sum(-1).numpy() for part in (latency_s, count)]
    measures = dict.fromkeys(MEASURES, torch.full((seeds,), torch.nan).numpy())
    return Run(NAME, measures | {"mean_s": by_seed[0] / by_seed[1]}, int(count.sum()), 0.0)


def true_tasks(tables: offload.Tables, seeds: Tensor, start: int, end: int) -> Tasks:
    """Return the tasks of some slots with their true times and rates.

    Args:
        tables: from `offload.load`.
        seeds: [B] int64, seeds of the episodes.
        start: first slot.
        end: slot after the last one.
    """
    edge = tables.edge.edge
    state = offload.reset(tables, seeds)
    slots, shared = [], []
    for slot in range(start, end):
        number = torch.full_like(seeds, slot)
        state = state._replace(slot=number, draws=core.draw(tables.edge, seeds, number))
        idle = oracles.idle_observation(tables, state)
        if tables.serving is not None:  # a batch takes as long as its first task, whichever that is
            kind = state.draws.model * edge.classes + state.draws.device_class
            idle = idle._replace(option_server_s=tables.server_s[kind] * tables.edge.server_factor.min())
            shared.append(_least_parts(tables.serving)[state.draws.model])
        slots.append(idle)
    may_drop = edge.drop_refused or bool(tables.edge.limited_energy)
    return episode.tasks_of(slots, edge.slot_s, tables.edge.download_s, may_drop, shared or None)


def _least_parts(serving: ServingTables) -> Tensor:
    """Return the least part [X, N] of its time alone that a task takes in a batch of any size."""
    size = torch.arange(1, serving.batch_ratio.shape[1] + 1)
    return (serving.batch_ratio / size).amin(-1).reshape(-1, len(serving.load_s))


def _grid_s(tasks: Tasks, slot_s: float) -> float:
    """Return about the shortest common service time of a server, but no finer than the search can afford."""
    serving = (tasks.service_s > 0) & tasks.ready_s.isfinite()
    work_s = float(tasks.service_s[serving].quantile(0.25)) if serving.any() else slot_s
    return max(work_s, slot_s / 40)
