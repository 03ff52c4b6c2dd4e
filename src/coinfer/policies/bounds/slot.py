"""The best decision of one slot, exact if the slot is small: no policy does better in that slot.

All functions take the truth, not what a policy gets to see: an observation that is not stale and whose times are the
true ones. Service is that of `physics.queueing`, with tasks of different devices: first come, first served on each
server, which takes as many tasks as it has room for.
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
"""From choices [.., S, K] of S decisions of a slot to their costs [.., S]; infinite if a decision is not allowed."""

MAX_DECISIONS = 2_000_000


class BoundError(UserError):
    """A bound that cannot be computed; the message is one line for a person."""


class Optimum(NamedTuple):
    """The best decision found, and its cost."""

    decision: OffloadDecision[Tensor]
    cost: Tensor
    """[..]"""


def slot_latency_s(
    observation: OffloadObservation[Tensor], choice: Tensor, candidates: Candidates | None = None
) -> Tensor:
    """Return the latency of every task in S decisions of one slot, [.., S, K].

    It is 0 for an entry without a task, infinite for a choice that is not allowed or finds no room.

    Args:
        observation: true and not stale.
        choice: [.., S, K] entries of `candidates_of(observation)`.
        candidates: of the observation, if the caller has them already.
    """
    candidates = candidates or candidates_of(observation)
    chosen = choice[..., None]
    ready_s, service_s, on_device, allowed = (
        part[..., None, :, :].expand(*choice.shape, -1).gather(-1, chosen)[..., 0]
        for part in (candidates.ready_s, candidates.service_s, candidates.on_device, candidates.mask)
    )
    task_mask = observation.task_mask[..., None, :].expand(choice.shape)
    server, sends = choice % candidates.servers, ~on_device & task_mask
    free_s = (
        observation.server_backlog_s[..., None, :].expand(*choice.shape[:-1], candidates.servers).gather(-1, server)
    )
    served_s = torch.where(on_device, ready_s, finish_s(server, ready_s, service_s, sends, free_s))
    full = counts(server, sends, candidates.servers) > observation.server_room[..., None, :]
    possible = allowed & ~(sends & full.gather(-1, server))
    return torch.where(task_mask, torch.where(possible, served_s, torch.inf), 0.0)


def latency_cost(observation: OffloadObservation[Tensor]) -> Cost:
    """Return a cost: the summed latency of a slot's tasks.

    Args:
        observation: true and not stale.
    """
    candidates = candidates_of(observation)
    return lambda choice: slot_latency_s(observation, choice, candidates).sum(-1)


def late_cost(observation: OffloadObservation[Tensor]) -> Cost:
    """Return a cost: the number of a slot's tasks that miss their deadline.

    Args:
        observation: true and not stale.
    """
    candidates = candidates_of(observation)

    def cost(choice: Tensor) -> Tensor:
        latency_s = slot_latency_s(observation, choice, candidates)
        late = (latency_s > observation.deadline_s[..., None, :]) & observation.task_mask[..., None, :]
        return torch.where(torch.isinf(latency_s).any(-1), torch.inf, late.sum(-1).to(latency_s.dtype))

    return cost


def exhaustive(observation: OffloadObservation[Tensor], cost: Cost | None = None) -> Optimum:
    """Return the best of all decisions of a slot, by trying each.

    Args:
        observation: true and not stale.
        cost: summed latency by default.

    Raises:
        BoundError: if there are more than `MAX_DECISIONS`; one line.
    """
    candidates, cost = candidates_of(observation), cost or latency_cost(observation)
    entries, size = _allowed_first(candidates, observation.task_mask)
    decisions = int(np.prod([float(n) for n in size]))
    if decisions > MAX_DECISIONS:
        raise BoundError(
            f"{decisions:.1e} ways to decide a slot of {len(size)} tasks; "
            f"exhaustive search takes {MAX_DECISIONS:,}; slot-descent and slot-milp take more"
        )
    best_cost = torch.full(observation.task_mask.shape[:-1], torch.inf, dtype=candidates.ready_s.dtype)
    best = entries[..., 0].clone()
    for digits in _all_digits(size, decisions):
        choice = entries[..., None, :, :].expand(*best.shape[:-1], len(digits), *entries.shape[-2:])
        choice = choice.gather(-1, digits.expand(*best.shape[:-1], *digits.shape)[..., None])[..., 0]
        least_cost, index = cost(choice).min(-1)
        better = least_cost < best_cost
        cheapest = choice.gather(-2, index[..., None, None].expand(*index.shape, 1, best.shape[-1]))[..., 0, :]
        best = torch.where(better[..., None], cheapest, best)
        best_cost = torch.where(better, least_cost, best_cost)
    return Optimum(candidates.decision(best), best_cost)


def coordinate_descent(
    observation: OffloadObservation[Tensor], cost: Cost | None = None, start: OffloadDecision[Tensor] | None = None
) -> Optimum:
    """Return a decision that no change of a single task improves (coordinate descent of DROO, IEEE TMC 2020).

    Task after task takes its best choice while the others keep theirs, round after round. The cost is no bound by
    itself, but an upper limit of the optimum for slots that are too large for the exact functions.

    Args:
        observation: true and not stale.
        cost: summed latency by default.
        start: first decision; that of sequential greedy by default.
    """
    candidates, cost = candidates_of(observation), cost or latency_cost(observation)
    best = candidates.choice(start or sequential_greedy()(observation))
    entries, size = _allowed_first(candidates, observation.task_mask)
    best_cost, improved = cost(best[..., None, :])[..., 0], True
    while improved:
        improved = False
        for k in range(best.shape[-1]):
            variants = best[..., None, :].repeat(*[1] * (best.dim() - 1), size[k], 1)
            variants[..., k] = entries[..., k, : size[k]]
            least_cost, index = cost(variants).min(-1)
            better = least_cost < best_cost * (1 - 1e-6)
            entry = entries[..., k, :].gather(-1, index[..., None])[..., 0]
            best[..., k] = torch.where(better, entry, best[..., k])
            best_cost = torch.where(better, least_cost, best_cost)
            improved = improved or bool(better.any())
    return Optimum(candidates.decision(best), best_cost)


def _allowed_first(candidates: Candidates, task_mask: Tensor) -> tuple[Tensor, list[int]]:
    """Return entries [.., K, S] with the allowed ones first, and how many of them each task has in some world.

    It is 1 if there is no task.
    """
    allowed = candidates.mask & task_mask[..., None]
    size = allowed.sum(-1).flatten(0, -2).amax(0).clamp(min=1)
    entries = (~allowed).int().argsort(dim=-1, stable=True)
    return entries[..., : int(size.max())], size.tolist()


def _all_digits(size: list[int], count: int, chunk: int = 4096) -> Iterator[Tensor]:
    """Return the digits [S, K] of all `count` numbers whose k-th digit is below size[k]."""
    place = torch.tensor([1, *np.cumprod(size[:-1], dtype=np.int64).tolist()])
    for begin in range(0, count, chunk):
        number = torch.arange(begin, min(begin + chunk, count))[:, None]
        yield torch.div(number, place, rounding_mode="floor") % torch.tensor(size)
