"""The best that can be done in one slot, exactly where the slot is small: what no policy beats there.

All take the truth, not what a policy gets to see: an observation that is not stale and whose times are what they will
be. The rule of service is that of `physics.queueing`, with tasks of different devices: first come, first served on each
server, as many tasks as it has room for.
"""

from collections.abc import Callable, Iterator
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from coinfer.errors import UserError
from coinfer.physics.queueing import counts, finish_s
from coinfer.policies.candidates import Candidates, candidates_of
from coinfer.policies.heuristics.offload import sequential_greedy
from coinfer.types import OffloadDecision, OffloadObservation

Cost = Callable[[Tensor], Tensor]
"""From choices [.., S, K] of S ways to decide a slot to their costs [.., S]; infinite where a way is not allowed."""

MAX_WAYS = 2_000_000


class BoundError(UserError):
    """A bound that cannot be had; the message is one line for a person."""


class Optimum(NamedTuple):
    decision: OffloadDecision
    cost: Tensor
    """[..]"""


def slot_latency_s(observation: OffloadObservation, choice: Tensor, found: Candidates | None = None) -> Tensor:
    """Latency [.., S, K] of every task in S ways to decide one slot: 0 where there is no task, infinite for a choice
    that is not allowed or finds no room.

    Args:
        choice: [.., S, K] entries of `candidates_of(observation)`.
    """
    found = found or candidates_of(observation)
    chosen = choice[..., None]
    ready_s, service_s, on_device, allowed = (
        part[..., None, :, :].expand(*choice.shape, -1).gather(-1, chosen)[..., 0]
        for part in (found.ready_s, found.service_s, found.on_device, found.mask)
    )
    there = observation.task_mask[..., None, :].expand(choice.shape)
    server, sends = choice % found.servers, ~on_device & there
    free_s = observation.server_backlog_s[..., None, :].expand(*choice.shape[:-1], found.servers).gather(-1, server)
    served_s = torch.where(on_device, ready_s, finish_s(server, ready_s, service_s, sends, free_s))
    full = counts(server, sends, found.servers) > observation.server_room[..., None, :]
    possible = allowed & ~(sends & full.gather(-1, server))
    return torch.where(there, torch.where(possible, served_s, torch.inf), 0.0)


def latency_cost(observation: OffloadObservation) -> Cost:
    """Summed latency of a slot's tasks."""
    found = candidates_of(observation)
    return lambda choice: slot_latency_s(observation, choice, found).sum(-1)


def late_cost(observation: OffloadObservation) -> Cost:
    """How many of a slot's tasks miss their deadline."""
    found = candidates_of(observation)

    def cost(choice: Tensor) -> Tensor:
        latency_s = slot_latency_s(observation, choice, found)
        late = (latency_s > observation.deadline_s[..., None, :]) & observation.task_mask[..., None, :]
        return torch.where(torch.isinf(latency_s).any(-1), torch.inf, late.sum(-1).to(latency_s.dtype))

    return cost


def exhaustive(observation: OffloadObservation, cost: Cost | None = None) -> Optimum:
    """The best of all ways to decide a slot, one after another.

    Raises:
        BoundError: where there are more than `MAX_WAYS`.
    """
    found, cost = candidates_of(observation), cost or latency_cost(observation)
    entries, size = _allowed_first(found, observation.task_mask)
    ways = int(np.prod([float(n) for n in size]))
    if ways > MAX_WAYS:
        raise BoundError(
            f"{ways:.1e} ways to decide a slot of {len(size)} tasks; "
            f"exhaustive search takes {MAX_WAYS:,}; slot-descent and slot-milp take more"
        )
    best_cost = torch.full(observation.task_mask.shape[:-1], torch.inf, dtype=found.ready_s.dtype)
    best = entries[..., 0].clone()
    for digits in _all_ways(size, ways):
        choice = entries[..., None, :, :].expand(*best.shape[:-1], len(digits), *entries.shape[-2:])
        choice = choice.gather(-1, digits.expand(*best.shape[:-1], *digits.shape)[..., None])[..., 0]
        least, way = cost(choice).min(-1)
        better = least < best_cost
        taken = choice.gather(-2, way[..., None, None].expand(*way.shape, 1, best.shape[-1]))[..., 0, :]
        best = torch.where(better[..., None], taken, best)
        best_cost = torch.where(better, least, best_cost)
    return Optimum(found.decision(best), best_cost)


def coordinate_descent(
    observation: OffloadObservation, cost: Cost | None = None, start: OffloadDecision | None = None
) -> Optimum:
    """Task after task takes its best choice, the others staying, round after round until nobody gains (the coordinate
    descent of DROO, IEEE TMC 2020, with one change at a time).

    No bound by itself: an upper end for the optimum where a slot is too large for the exact ones.

    Args:
        start: sequential greedy's decision without it.
    """
    found, cost = candidates_of(observation), cost or latency_cost(observation)
    best = as_choice(found, start or sequential_greedy()(observation))
    entries, size = _allowed_first(found, observation.task_mask)
    least, gained = cost(best[..., None, :])[..., 0], True
    while gained:
        gained = False
        for k in range(best.shape[-1]):
            ways = best[..., None, :].repeat(*[1] * (best.dim() - 1), size[k], 1)
            ways[..., k] = entries[..., k, : size[k]]
            found_cost, way = cost(ways).min(-1)
            better = found_cost < least * (1 - 1e-6)
            taken = entries[..., k, :].gather(-1, way[..., None])[..., 0]
            best[..., k] = torch.where(better, taken, best[..., k])
            least = torch.where(better, found_cost, least)
            gained = gained or bool(better.any())
    return Optimum(found.decision(best), least)


def as_choice(found: Candidates, decision: OffloadDecision) -> Tensor:
    """The entries [.., K] that a decision takes."""
    return decision.option * found.servers + decision.server.clamp(min=0)


def _allowed_first(found: Candidates, task_mask: Tensor) -> tuple[Tensor, list[int]]:
    """Entries [.., K, S] with the allowed ones in front, and for each task how many have to be looked at; one where
    there is no task."""
    allowed = found.mask & task_mask[..., None]
    most = allowed.sum(-1).flatten(0, -2).amax(0).clamp(min=1)
    entries = (~allowed).int().argsort(dim=-1, stable=True)
    return entries[..., : int(most.max())], most.tolist()


def _all_ways(size: list[int], ways: int, chunk: int = 4096) -> Iterator[Tensor]:
    """Digits [S, K] of all numbers whose k-th digit is below size[k]."""
    place = torch.tensor([1, *np.cumprod(size[:-1], dtype=np.int64).tolist()])
    for begin in range(0, ways, chunk):
        number = torch.arange(begin, min(begin + chunk, ways))[:, None]
        yield torch.div(number, place, rounding_mode="floor") % torch.tensor(size)
