"""A lower bound of the cost of a whole episode, for a decider that knows everything beforehand.

Each task picks one of its choices and, for a server, the time at which the server begins with it; servers do one thing
at a time. Waiting on devices and their radios, capacity and first come, first served are left out, so every policy's
episode is among those allowed here. The rule that couples the tasks gets prices (Lagrange multipliers): a second of
server n around time t costs `price[n, t]`, each task takes its cheapest choice, and for any prices, the sum of the
cheapest costs less the prices of all server time is a bound. Gradient ascent finds prices that make it high.
"""

from typing import NamedTuple

import torch
from torch import Tensor

from coinfer.policies.candidates import Candidates, candidates_of
from coinfer.types import OffloadObservation


class Tasks(NamedTuple):
    """All tasks of an episode, J of them, in each of B worlds, with C choices each; times are seconds."""

    arrival_s: Tensor
    """[B, J] when the task arrives, from the beginning of the episode."""
    task_mask: Tensor
    """[B, J] true if there is a task."""
    server: Tensor
    """[B, J, C] int64; any if the server does nothing."""
    ready_s: Tensor
    """[B, J, C] from the arrival until the server may begin; infinite for entries that are not allowed."""
    service_s: Tensor
    """[B, J, C] of the server; 0 if it does nothing."""
    download_s: Tensor
    """[B, J, C] from the end of the service to the answer."""
    deadline_s: Tensor
    """[B, J] from the arrival."""
    alone_s: Tensor
    """[B, J, C] least time from `ready_s` to the end of the service; more than `service_s` for a task that shares its
    time on a server with others."""
    servers: int
    may_drop: bool
    """Whether a task can be lost, which counts as waiting until its deadline."""


class _Goal(NamedTuple):
    """What is bounded, and the grid of the prices."""

    late: bool
    """True for the number of late tasks, false for the summed latency."""
    grid_s: float
    """Width of a cell of the grid, within which prices are constant."""
    cells: int
    """Cells within which a task may begin with prices."""


class Bound(NamedTuple):
    """A bound for every policy, in each world; the longer the search, the tighter."""

    total: Tensor
    """[B] summed latency in seconds, or number of late tasks."""
    per_task: Tensor
    """[B] the same over the number of tasks; 0 if there are none."""


LEARNING_RATE = 1.0
MAX_CELLS = 60
"""Cells of the grid within which a task may begin; later beginnings are bounded without prices."""
ROUNDS, CHOICES_PER_ROUND = 4, 8
"""Rounds of the search, and how many of the cheapest choices of each task every round looks at."""


def tasks_of(
    slots: list[OffloadObservation[Tensor]],
    slot_s: float,
    download_s: Tensor | float = 0.0,
    may_drop: bool = False,
    shared: list[Tensor] | None = None,
) -> Tasks:
    """Return the tasks of an episode from the true observations of its slots.

    Args:
        slots: observations [B, K, ..] with true times and rates, nothing waiting, and no room on servers that are out.
        slot_s: length of a slot.
        download_s: [N] way back from each server.
        may_drop: whether a task can be lost, which counts as waiting until its deadline.
        shared: of each slot, [B, K, N] least part of its service time that a task takes of a server, as batches share
            time; without it, all.
    """
    parts = [_slot_tasks(slot, i * slot_s, download_s, shared[i] if shared else None) for i, slot in enumerate(slots)]
    width = max(int(part[2].isfinite().sum(-1).amax()) for part in parts)
    fields = zip(*((*part[:2], *_pack_choices(part, width), part[-1]) for part in parts), strict=True)
    arrival_s, task_mask, server, ready_s, service_s, download_s, alone_s, deadline_s = (
        torch.cat(field, 1) for field in fields
    )
    servers = slots[0].uplink_bps.shape[-1]
    return _pack_tasks(
        Tasks(arrival_s, task_mask, server, ready_s, service_s, download_s, deadline_s, alone_s, servers, may_drop)
    )


def least_latency(tasks: Tasks, grid_s: float, steps: int = 300) -> Bound:
    """Return a lower bound of the summed latency.

    Args:
        tasks: of the episode.
        grid_s: time for which prices are constant; about the shortest service time of a server is fine enough.
        steps: of the search for good prices; any number gives a bound, 0 that of servers without queues.
    """
    return _best(tasks, grid_s, steps, late=False)


def fewest_late(tasks: Tasks, grid_s: float, steps: int = 300) -> Bound:
    """Return a lower bound of the number of tasks that miss their deadline.

    Args:
        tasks: of the episode.
        grid_s: time for which prices are constant; about the shortest service time of a server is fine enough.
        steps: of the search for good prices; any number gives a bound, 0 that of servers without queues.
    """
    return _best(tasks, grid_s, steps, late=True)


def _best(tasks: Tasks, grid_s: float, steps: int, late: bool) -> Bound:
    cells, end_s = _grid(tasks, grid_s)
    goal = _Goal(late, grid_s, cells)
    serving = (tasks.service_s > 0) & tasks.ready_s.isfinite()
    scale = 1 / float(tasks.service_s[serving].median()) if late and serving.any() else 1.0
    price = torch.zeros(tasks.arrival_s.shape[0], tasks.servers, int(end_s / grid_s) + 2, dtype=tasks.ready_s.dtype)
    best = torch.full(price.shape[:1], -torch.inf, dtype=price.dtype)
    for round_ in range(ROUNDS + 1):
        cost = _costs(tasks, price, goal)
        best = torch.maximum(best, _value(tasks, cost, price, goal))
        if round_ < ROUNDS and steps:
            learning_rate = LEARNING_RATE * scale / (1 + round_)
            price = _ascend(_cheapest(tasks, cost), price, goal, learning_rate, steps // ROUNDS)
    return Bound(best, best / tasks.task_mask.sum(-1).clamp(min=1))


def _ascend(tasks: Tasks, price: Tensor, goal: _Goal, learning_rate: float, steps: int) -> Tensor:
    """Return prices with a higher bound: the best that a search by gradient ascent finds from the given ones."""
    price = price.clone().requires_grad_()
    optimiser = torch.optim.Adam([price], lr=learning_rate)
    best, at_best = torch.full(price.shape[:1], -torch.inf, dtype=price.dtype), price.detach().clone()
    for step in range(steps):
        value = _value(tasks, _costs(tasks, price, goal), price, goal)
        better = value.detach() > best
        best = torch.where(better, value.detach(), best)
        at_best = torch.where(better[:, None, None], price.detach(), at_best)
        optimiser.param_groups[0]["lr"] = learning_rate / (1 + 5 * step / steps)
        optimiser.zero_grad()
        (-value.sum()).backward()
        optimiser.step()
        with torch.no_grad():
            price.clamp_(min=0)
    return at_best


def _cheapest(tasks: Tasks, cost: Tensor) -> Tasks:
    """Return the tasks with their cheapest choices only."""
    order = cost.argsort(-1)[..., :CHOICES_PER_ROUND]
    fields = ("server", "ready_s", "service_s", "download_s", "alone_s")
    return tasks._replace(**{name: getattr(tasks, name).gather(-1, order) for name in fields})


def _value(tasks: Tasks, cost: Tensor, price: Tensor, goal: _Goal) -> Tensor:
    """Return the bound [B] that these prices give, from the cost of each choice at these prices."""
    least = cost.amin(-1)
    if goal.late:
        least = least.clamp(max=1)
    elif tasks.may_drop:
        least = torch.minimum(least, tasks.deadline_s)
    return torch.where(tasks.task_mask, least, 0.0).sum(-1) - goal.grid_s * price.sum((-1, -2))


def _costs(tasks: Tasks, price: Tensor, goal: _Goal) -> Tensor:
    """Return the least cost of each choice [B, J, C] over the times of beginning, with the price of the server's time.

    From edge to edge of the grid the cost is linear in the time of the beginning, so only the edges have to be tried,
    for the beginning and for the end.
    """
    grid_s = goal.grid_s
    paid_s = torch.nn.functional.pad(price.cumsum(-1) * grid_s, (1, 0))
    arrival_s, service_s = tasks.arrival_s[..., None], tasks.service_s[..., None]
    possible = tasks.ready_s.isfinite()
    ready_s = (arrival_s + torch.where(possible, tasks.ready_s, 0.0))[..., None]
    deadline_s = tasks.deadline_s[..., None, None]
    cell = torch.arange(goal.cells, dtype=price.dtype)
    starts_s = [ready_s, ((ready_s / grid_s).ceil() + cell) * grid_s]
    starts_s.append((((ready_s + service_s) / grid_s).ceil() + cell) * grid_s - service_s)
    beyond_s = torch.minimum(starts_s[1][..., -1:], starts_s[2][..., -1:])
    if goal.late:
        last_s = deadline_s + arrival_s[..., None] - tasks.download_s[..., None] - service_s
        starts_s.append(torch.where(last_s.isfinite(), last_s, ready_s))
    shares = not tasks.alone_s.equal(tasks.service_s)
    if shares:
        starts_s.append(ready_s + (tasks.alone_s - tasks.service_s)[..., None])
    begin_s = torch.maximum(torch.cat(starts_s, -1), ready_s)
    paid = _paid(paid_s, tasks.server, begin_s + service_s, grid_s) - _paid(paid_s, tasks.server, begin_s, grid_s)
    cost = torch.cat([begin_s, beyond_s], -1) + service_s + tasks.download_s[..., None] - arrival_s[..., None]
    if shares:
        least_s = torch.where(possible, tasks.ready_s + tasks.alone_s, 0.0) + tasks.download_s
        cost = torch.maximum(cost, least_s[..., None])
    if goal.late:
        cost = (cost > deadline_s + 1e-9 * (1 + deadline_s)).to(price.dtype)
    cost = cost + torch.nn.functional.pad(paid, (0, 1))
    return torch.where(possible, cost.amin(-1), torch.inf)


def _paid(paid_s: Tensor, server: Tensor, time_s: Tensor, grid_s: float) -> Tensor:
    """Return the price of a server's time from the beginning of the episode to given times [B, J, C, S]."""
    worlds, _, edges = paid_s.shape
    place = (time_s / grid_s).clamp(0, edges - 1.001)
    low = place.floor().long()
    flat = (server[..., None] * edges + low).reshape(worlds, -1)
    before = paid_s.reshape(worlds, -1).gather(-1, flat).reshape(low.shape)
    after = paid_s.reshape(worlds, -1).gather(-1, flat + 1).reshape(low.shape)
    return before + (place - low) * (after - before)


def _grid(tasks: Tasks, grid_s: float) -> tuple[int, float]:
    """Return the number of cells in which a task may begin, and when the last one ends.

    Nobody waits longer for a server than the slowest device would take.
    """
    at_once = torch.where(tasks.service_s == 0, tasks.ready_s, torch.inf).amin(-1)
    known = at_once.isfinite() & tasks.task_mask
    wait_s = float(at_once[known].max()) if known.any() else MAX_CELLS * grid_s
    longest_s = float(torch.where(tasks.ready_s.isfinite(), tasks.ready_s + tasks.service_s, 0.0).max())
    cells = max(2, min(MAX_CELLS, int(wait_s / grid_s) + 1))
    return cells, float(tasks.arrival_s.max()) + 2 * longest_s + cells * grid_s


def _pack_tasks(tasks: Tasks) -> Tasks:
    """Return the tasks with existing ones first, and with only as many entries as some world needs."""
    order = (~tasks.task_mask).int().argsort(dim=-1, stable=True)[:, : max(1, int(tasks.task_mask.sum(-1).max()))]
    fields = {}
    for name, field in tasks._asdict().items():
        if isinstance(field, Tensor):
            place = order if field.dim() == 2 else order[..., None].expand(-1, -1, field.shape[-1])
            fields[name] = field.gather(1, place)
    return tasks._replace(**fields)


def _slot_tasks(
    slot: OffloadObservation[Tensor], arrival_s: float, server_download_s: Tensor | float, shared: Tensor | None
) -> tuple[Tensor, ...]:
    candidates = candidates_of(slot)
    server = (torch.arange(candidates.mask.shape[-1]) % candidates.servers).expand(candidates.mask.shape)
    download_s = torch.as_tensor(server_download_s, dtype=candidates.ready_s.dtype).expand(candidates.servers)
    download_s = torch.where(candidates.on_device, 0.0, candidates.expand_servers(download_s))
    ready_s = torch.where(candidates.mask & ~_dominated(candidates), candidates.ready_s, torch.inf)
    arrivals_s = torch.full_like(slot.deadline_s, arrival_s)
    alone_s = candidates.service_s
    service_s = alone_s if shared is None else alone_s * candidates.expand_servers(shared)
    return arrivals_s, slot.task_mask, ready_s, server, service_s, download_s, alone_s, slot.deadline_s


def _dominated(candidates: Candidates) -> Tensor:
    """Return true for a choice that is later and longer than another on the same server, so worse at any prices."""
    ready_s = torch.where(candidates.mask, candidates.ready_s, torch.inf).unflatten(-1, (-1, candidates.servers))
    service_s = candidates.service_s.unflatten(-1, (-1, candidates.servers))
    ready_first = ready_s[..., None, :, :] <= ready_s[..., :, None, :]
    less_work = service_s[..., None, :, :] <= service_s[..., :, None, :]
    number = torch.arange(ready_s.shape[-2])
    earlier = (number[None, :] < number[:, None])[..., None]
    strictly = ~(ready_first & less_work).transpose(-3, -2) | earlier
    return (ready_first & less_work & strictly).any(-2).flatten(-2) & ~candidates.on_device


def _pack_choices(part: tuple[Tensor, ...], width: int) -> tuple[Tensor, ...]:
    """Return server, readiness, work, way back and time alone of the possible choices, in as few columns as all slots
    need."""
    _, _, ready_s, server, service_s, download_s, alone_s, _ = part
    order = (~ready_s.isfinite()).int().argsort(dim=-1, stable=True)[..., :width]
    return tuple(field.gather(-1, order) for field in (server, ready_s, service_s, download_s, alone_s))
