"""A lower bound of what a whole episode can cost, for somebody who knows everything beforehand.

Each task picks one of its choices and, for a server, the time at which the server begins with it; servers do one thing
at a time. Waiting on devices and their radios, capacity and first come, first served are left out, so every policy's
episode is among those allowed here. The rule that couples the tasks gets prices (Lagrange multipliers): a second of
server n around time t costs `price[n, t]`, each task takes what is cheapest for it, and for any prices, the sum of the
cheapest costs less the prices of all server time is a bound. Gradient ascent finds prices that make it high.
"""

from typing import NamedTuple

import torch
from torch import Tensor

from coinfer.policies.candidates import Candidates, candidates_of
from coinfer.types import OffloadObservation


class Tasks(NamedTuple):
    """All tasks of an episode, J of them, in each of B worlds; times are seconds. C choices a task."""

    at_s: Tensor
    """[B, J] when it arrives, from the beginning of the episode."""
    there: Tensor
    """[B, J] false where there is no task."""
    server: Tensor
    """[B, J, C] int64; any where the server does nothing."""
    ready_s: Tensor
    """[B, J, C] from its arrival until the server may begin; infinite for what is no choice."""
    service_s: Tensor
    """[B, J, C] of the server; 0 where it does nothing."""
    after_s: Tensor
    """[B, J, C] from the end of the service to the answer."""
    deadline_s: Tensor
    """[B, J] from its arrival."""
    servers: int
    may_drop: bool
    """Whether a task can be lost and counts as waiting until its deadline then."""


class Bound(NamedTuple):
    """What no policy does better, in each world; the longer it was searched, the tighter."""

    total: Tensor
    """[B] summed latency in seconds, or number of late tasks."""
    per_task: Tensor
    """[B] the same over the number of tasks; 0 where there are none."""


FIRST_RATE = 1.0
MOST_CELLS = 60
"""Of the grid within which a task may begin; what lies beyond is bounded without prices."""
ROUNDS, FEW = 4, 8
"""The search looks at so many choices of each task, and chooses them anew so often."""


def tasks_of(
    slots: list[OffloadObservation], slot_s: float, download_s: Tensor | float = 0.0, may_drop: bool = False
) -> Tasks:
    """The tasks of an episode from what is true in its slots.

    Args:
        slots: observations [B, K, ..] with true times and rates, nothing waiting, and no room on servers that are out.
        download_s: [N] way back from each server.
    """
    parts = [_slot_tasks(slot, i * slot_s, download_s) for i, slot in enumerate(slots)]
    width = max(int(part[2].isfinite().sum(-1).amax()) for part in parts)
    fields = zip(*((*part[:2], *_fit(part, width), part[-1]) for part in parts), strict=True)
    at_s, there, server, ready_s, service_s, after_s, deadline_s = (torch.cat(field, 1) for field in fields)
    servers = slots[0].uplink_bps.shape[-1]
    return _present(Tasks(at_s, there, server, ready_s, service_s, after_s, deadline_s, servers, may_drop))


def least_latency(tasks: Tasks, grid_s: float, steps: int = 300) -> Bound:
    """Lower bound of the summed latency.

    Args:
        grid_s: prices are constant for so long; about the shortest work of a server is fine enough.
        steps: of the search for good prices; any number gives a bound, 0 that of servers without queues.
    """
    return _best(tasks, grid_s, steps, late=False)


def fewest_late(tasks: Tasks, grid_s: float, steps: int = 300) -> Bound:
    """Lower bound of the number of tasks that miss their deadline."""
    return _best(tasks, grid_s, steps, late=True)


def _best(tasks: Tasks, grid_s: float, steps: int, late: bool) -> Bound:
    cells, end_s = _grid(tasks, grid_s)
    serving = (tasks.service_s > 0) & tasks.ready_s.isfinite()
    scale = 1 / float(tasks.service_s[serving].median()) if late and serving.any() else 1.0
    price = torch.zeros(tasks.at_s.shape[0], tasks.servers, int(end_s / grid_s) + 2, dtype=tasks.ready_s.dtype)
    best = torch.full(price.shape[:1], -torch.inf, dtype=price.dtype)
    for turn in range(ROUNDS + 1):
        cost = _costs(tasks, price, grid_s, cells, late)
        best = torch.maximum(best, _value(tasks, cost, price, grid_s, late))
        if turn < ROUNDS and steps:
            rate = FIRST_RATE * scale / (1 + turn)
            price = _dearer(_few(tasks, cost), price, grid_s, cells, late, rate, steps // ROUNDS)
    return Bound(best, best / tasks.there.sum(-1).clamp(min=1))


def _dearer(tasks: Tasks, price: Tensor, grid_s: float, cells: int, late: bool, rate: float, steps: int) -> Tensor:
    """Prices with a higher bound, the best that a search finds from these."""
    price = price.clone().requires_grad_()
    optimiser = torch.optim.Adam([price], lr=rate)
    best, at_best = torch.full(price.shape[:1], -torch.inf, dtype=price.dtype), price.detach().clone()
    for step in range(steps):
        value = _value(tasks, _costs(tasks, price, grid_s, cells, late), price, grid_s, late)
        better = value.detach() > best
        best = torch.where(better, value.detach(), best)
        at_best = torch.where(better[:, None, None], price.detach(), at_best)
        optimiser.param_groups[0]["lr"] = rate / (1 + 5 * step / steps)
        optimiser.zero_grad()
        (-value.sum()).backward()
        optimiser.step()
        with torch.no_grad():
            price.clamp_(min=0)
    return at_best


def _few(tasks: Tasks, cost: Tensor) -> Tasks:
    """With the cheapest choices of each task only."""
    order = cost.argsort(-1)[..., :FEW]
    fields = ("server", "ready_s", "service_s", "after_s")
    return tasks._replace(**{name: getattr(tasks, name).gather(-1, order) for name in fields})


def _value(tasks: Tasks, cost: Tensor, price: Tensor, grid_s: float, late: bool) -> Tensor:
    """The bound [B] that these prices give, from what each choice costs at them."""
    least = cost.amin(-1)
    if late:
        least = least.clamp(max=1)
    elif tasks.may_drop:
        least = torch.minimum(least, tasks.deadline_s)
    return torch.where(tasks.there, least, 0.0).sum(-1) - grid_s * price.sum((-1, -2))


def _costs(tasks: Tasks, price: Tensor, grid_s: float, cells: int, late: bool) -> Tensor:
    """What each choice [B, J, C] costs at the least, with the price of the server's time and whenever it begins. From
    edge to edge of the grid the cost is linear in the time of the beginning, so the edges are all that has to be tried,
    for the beginning and for the end."""
    paid_s = torch.nn.functional.pad(price.cumsum(-1) * grid_s, (1, 0))
    at_s, service_s = tasks.at_s[..., None], tasks.service_s[..., None]
    possible = tasks.ready_s.isfinite()
    ready_s = (at_s + torch.where(possible, tasks.ready_s, 0.0))[..., None]
    deadline_s = tasks.deadline_s[..., None, None]
    cell = torch.arange(cells, dtype=price.dtype)
    starts_s = [ready_s, ((ready_s / grid_s).ceil() + cell) * grid_s]
    starts_s.append((((ready_s + service_s) / grid_s).ceil() + cell) * grid_s - service_s)
    beyond_s = torch.minimum(starts_s[1][..., -1:], starts_s[2][..., -1:])
    if late:
        last_s = deadline_s + at_s[..., None] - tasks.after_s[..., None] - service_s
        starts_s.append(torch.where(last_s.isfinite(), last_s, ready_s))
    begin_s = torch.maximum(torch.cat(starts_s, -1), ready_s)
    paid = _paid(paid_s, tasks.server, begin_s + service_s, grid_s) - _paid(paid_s, tasks.server, begin_s, grid_s)
    cost = torch.cat([begin_s, beyond_s], -1) + service_s + tasks.after_s[..., None] - at_s[..., None]
    if late:
        cost = (cost > deadline_s + 1e-9 * (1 + deadline_s)).to(price.dtype)
    cost = cost + torch.nn.functional.pad(paid, (0, 1))
    return torch.where(possible, cost.amin(-1), torch.inf)


def _paid(paid_s: Tensor, server: Tensor, time_s: Tensor, grid_s: float) -> Tensor:
    """What server time costs from the beginning to these times [B, J, C, S]."""
    worlds, _, edges = paid_s.shape
    place = (time_s / grid_s).clamp(0, edges - 1.001)
    low = place.floor().long()
    flat = (server[..., None] * edges + low).reshape(worlds, -1)
    before = paid_s.reshape(worlds, -1).gather(-1, flat).reshape(low.shape)
    after = paid_s.reshape(worlds, -1).gather(-1, flat + 1).reshape(low.shape)
    return before + (place - low) * (after - before)


def _grid(tasks: Tasks, grid_s: float) -> tuple[int, float]:
    """Cells of the grid in which a task may begin, and when the last one ends. Nobody waits longer for a server than
    the slowest device would take."""
    at_once = torch.where(tasks.service_s == 0, tasks.ready_s, torch.inf).amin(-1)
    known = at_once.isfinite() & tasks.there
    wait_s = float(at_once[known].max()) if known.any() else MOST_CELLS * grid_s
    longest_s = float(torch.where(tasks.ready_s.isfinite(), tasks.ready_s + tasks.service_s, 0.0).max())
    cells = max(2, min(MOST_CELLS, int(wait_s / grid_s) + 1))
    return cells, float(tasks.at_s.max()) + 2 * longest_s + cells * grid_s


def _present(tasks: Tasks) -> Tasks:
    """The tasks that there are first, and no more of the others than some world needs."""
    order = (~tasks.there).int().argsort(dim=-1, stable=True)[:, : max(1, int(tasks.there.sum(-1).max()))]
    fields = {}
    for name, field in tasks._asdict().items():
        if isinstance(field, Tensor):
            place = order if field.dim() == 2 else order[..., None].expand(-1, -1, field.shape[-1])
            fields[name] = field.gather(1, place)
    return tasks._replace(**fields)


def _slot_tasks(slot: OffloadObservation, at_s: float, download_s: Tensor | float) -> tuple[Tensor, ...]:
    found = candidates_of(slot)
    server = (torch.arange(found.mask.shape[-1]) % found.servers).expand(found.mask.shape)
    after_s = torch.as_tensor(download_s, dtype=found.ready_s.dtype).expand(found.servers)
    after_s = torch.where(found.on_device, 0.0, found.of_servers(after_s))
    ready_s = torch.where(found.mask & ~_dominated(found), found.ready_s, torch.inf)
    at = torch.full_like(slot.deadline_s, at_s)
    return at, slot.task_mask, ready_s, server, found.service_s, after_s, slot.deadline_s


def _dominated(found: Candidates) -> Tensor:
    """True for a choice that another one on the same server beats in readiness and in work, whatever the prices."""
    ready_s = torch.where(found.mask, found.ready_s, torch.inf).unflatten(-1, (-1, found.servers))
    service_s = found.service_s.unflatten(-1, (-1, found.servers))
    ready_first = ready_s[..., None, :, :] <= ready_s[..., :, None, :]
    less_work = service_s[..., None, :, :] <= service_s[..., :, None, :]
    number = torch.arange(ready_s.shape[-2])
    comes_first = (number[None, :] < number[:, None])[..., None]
    strictly = ~(ready_first & less_work).transpose(-3, -2) | comes_first
    return (ready_first & less_work & strictly).any(-2).flatten(-2) & ~found.on_device


def _fit(part: tuple[Tensor, ...], width: int) -> tuple[Tensor, ...]:
    """Server, readiness, work and way back of the possible choices only, in as few columns as all slots need."""
    _, _, ready_s, server, service_s, after_s, _ = part
    order = (~ready_s.isfinite()).int().argsort(dim=-1, stable=True)[..., :width]
    return tuple(field.gather(-1, order) for field in (server, ready_s, service_s, after_s))
