"""Deciders of `blocks` that know the true state, and the lower bound of an episode: `oracles` and `limits` for it."""

from collections.abc import Callable
from itertools import product

import torch
from torch import Tensor

from coinfer.envs import blocks
from coinfer.envs.core import State
from coinfer.evaluate.oracles import known_state, tile, true_share
from coinfer.policies.bounds.slot import MAX_DECISIONS, BoundError
from coinfer.policies.heuristics.blocks import list_schedule, sequential_greedy
from coinfer.policies.heuristics.blocks_schedule import cut_schedule
from coinfer.types import BlocksDecision, BlocksObservation

Decider = Callable[[State, BlocksObservation[Tensor]], BlocksDecision[Tensor]]
Oracle = Callable[[blocks.Tables], Decider]

WORLDS_AT_ONCE = 4096
"""Decisions that are simulated together."""


def true_observation(tables: blocks.Tables, state: State) -> BlocksObservation[Tensor]:
    """Return the observation if nothing were stale and every time and rate were known.

    Args:
        tables: from `blocks.load`.
        state: at the beginning of a slot.
    """
    draws = state.draws
    seen = blocks.observe(tables, state)
    return seen._replace(
        block_device_s=seen.block_device_s * draws.device_factor[..., None],
        block_server_s=tables.server_s[draws.model] * draws.server_factor[..., None, None] / true_share(state),
        **known_state(tables.edge, state),
    )


def slot_cost(tables: blocks.Tables, state: State, place: Tensor) -> Tensor:
    """Return the summed latency [B, S] of S decisions of a slot, as the environment would serve them.

    Args:
        tables: from `blocks.load`.
        state: at the beginning of the slot.
        place: [B, S, K, M] places of the blocks.
    """
    count = max(1, WORLDS_AT_ONCE // place.shape[0])
    parts = []
    for some in place.split(count, dim=1):
        tiled = tile(state, some.shape[1])
        served = blocks.serve(tables, tiled, BlocksDecision(some.flatten(0, 1)))
        parts.append(served.outcome.latency_s.sum(-1).unflatten(0, some.shape[:2]))
    return torch.cat(parts, 1)


def slot_optimum(tables: blocks.Tables) -> Decider:
    """Return a decider: the placement of least summed latency of each slot by trying all, for slots of few blocks.

    Args:
        tables: from `blocks.load`. The decider raises `BoundError` if there are too many decisions.
    """

    def decide(state: State, observation: BlocksObservation[Tensor]) -> BlocksDecision[Tensor]:
        tasks, count = observation.block_mask.shape[-2:]
        every = _all_places(tasks * count, tables.edge.edge.servers).reshape(-1, tasks, count)
        place = every.expand(observation.block_mask.shape[0], -1, -1, -1)
        return BlocksDecision(every[slot_cost(tables, state, place).argmin(-1)])

    return decide


def _all_places(count: int, servers: int) -> Tensor:
    """Return all ways [S, count] to place so many blocks."""
    ways = (servers + 1.0) ** count
    if ways > MAX_DECISIONS:
        limit = f"exhaustive search takes {MAX_DECISIONS:,}; slot-descent takes more"
        raise BoundError(f"{ways:.1e} ways to place {count} blocks of a slot; {limit}")
    return torch.tensor(list(product(range(servers + 1), repeat=count)))


def slot_descent(tables: blocks.Tables) -> Decider:
    """Return a decider: a rule on the truth, improved task after task until no change of a task helps.

    The rule is sequential greedy, `list_schedule` or `cut_schedule`, whichever is best in the slot. A task tries all
    placements with at most one stay on the device and on two servers, in this order. The result is an upper limit of
    the optimum, not the optimum.

    Args:
        tables: from `blocks.load`.
    """
    servers = tables.edge.edge.servers

    def decide(state: State, observation: BlocksObservation[Tensor]) -> BlocksDecision[Tensor]:
        true = true_observation(tables, state)
        starts = torch.stack([rule()(true).place for rule in (sequential_greedy, list_schedule, cut_schedule)], 1)
        cost, first = slot_cost(tables, state, starts).min(-1)
        place, improved = starts[torch.arange(len(starts), device=starts.device), first], True
        ways = _few_stays(place.shape[-1], servers)
        while improved:
            improved = False
            for k in range(place.shape[1]):
                variants = place[:, None].repeat(1, len(ways), 1, 1)
                variants[:, :, k] = ways
                least, index = slot_cost(tables, state, variants).min(-1)
                better = least < cost * (1 - 1e-6)
                place[:, k] = torch.where(better[:, None], ways[index], place[:, k])
                cost, improved = torch.where(better, least, cost), improved or bool(better.any())
        return BlocksDecision(place)

    return decide


def _few_stays(count: int, servers: int) -> Tensor:
    """Return all placements [S, M] with at most a stay on the device, then on a server, then on another."""
    found = {
        (0,) * first + (one,) * (second - first) + (other,) * (count - second)
        for first in range(count + 1)
        for second in range(first, count + 1)
        for one in range(1, servers + 1)
        for other in range(1, servers + 1)
    }
    return torch.tensor(sorted(found))


BLOCKS_ORACLES: dict[str, Oracle] = {"slot-descent": slot_descent, "slot-optimum": slot_optimum}
"""Names on the command line."""
