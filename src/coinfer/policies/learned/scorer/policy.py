"""A policy that decides task after task: greedy with learned prices and orders, for any number of tasks and servers.

Sequential greedy takes, task after task, the action that ends first behind the running queues. It ignores three things.
It does not ask what an action costs others: work on a busy server delays all later tasks, in this slot and the next
ones. It takes the tasks in the order of their numbers, though some orders end much better than others. And its
predictions serve tasks in the order of the decisions, though servers are first come, first served. The scorer differs
in these points:

- A small network, the same for every (task, option, server), puts prices on the actions:

      score = start * slope + service + price + delay       start: behind the running queue

- If a task is ready before the last of those that have joined a server, the prediction serves it before all of them,
  and its service counts as the delay of each.
- The tasks decide in several orders at once, each by a weighted sum (key) of a task's features, smallest first.
- Of the decisions that result, the best by physics is taken: least summed latency of the slot, first come, first
  served, with the prices of the actions and a price for each late task.

Prices are what others of the slot would pay: they count by 1 - 1 / tasks, so a task that is alone takes the action that
ends first. If the last layer is 0, there are no prices; if all keys are 0 too, there is one order only, that of the
numbers; if `insertion` is 0, no task is served before others: that is sequential greedy.

The network sees features of the pair, the task, the server and the world, which are summed in the first layer; those of
the world are means and least values over tasks and servers (deep sets, Zaheer et al., NeurIPS 2017). So permuted
servers permute the decision, and any number of tasks and servers is possible.

Sums of floats depend on the order of summation, and two orders of tasks often lead to decisions that are equally good.
So all sums, by a matrix or over tasks, are of whole numbers small enough to be exact: features, weights and hidden
values in steps, times in ticks. Everything else is one operation on one number, which IEEE 754 rounds alike everywhere.
So the same weights decide alike in PyTorch, in ONNX Runtime, in any batch and on any processor.
"""

from typing import NamedTuple

import torch
from torch import Tensor

from coinfer.physics import latency as physics
from coinfer.policies.learned.scorer.networks import Actions, Rows, run_networks
from coinfer.policies.learned.scorer.weights import Weights
from coinfer.types import DEVICE, OffloadDecision, OffloadObservation, Policy, fields_of

LATE_SCALE_S = 0.1
TICKS = 2.0**17
"""Ticks in a second, for `slot_cost`. Sums are exact up to 128 s of work for one server in one slot."""
FULL_S = 2.0**20
"""Time added to the start on servers without room, for each task too many: chosen only if nothing else is left."""
NEVER = -1e30
TIE_TICKS = 2.0**-10
"""Delay per number of tasks that are ready at the same time, in the cost of a slot."""


class Prepared(NamedTuple):
    """Inputs of the loop over tasks and of the cost of the slot."""

    actions: Actions
    insertion: Tensor
    """[B, ORDERS]"""
    order: Tensor
    """[B, ORDERS, K] the tasks in the order of their decisions; entries without a task are last."""
    late_s: Tensor
    """[B] price of a late task."""


def scorer(weights: Weights) -> Policy[Tensor]:
    """Return the policy of given weights.

    Args:
        weights: of P policies; each decides for its part of the worlds [P * W, ..].
    """
    return lambda observation: decide(weights, observation)


def decide(weights: Weights, observation: OffloadObservation[Tensor]) -> OffloadDecision[Tensor]:
    """Return the decisions, [.., K].

    Args:
        weights: of P policies; each decides for its part of the worlds [P * W, ..].
        observation: [.., K, ..] tensors, with any leading batch axes.
    """
    lead, places = observation.task_mask.shape[:-1], observation.task_mask.shape[-1]
    whole = _flat_batch(observation)
    observation = _trimmed(whole) if whole.task_mask.device.type == "cpu" else whole
    tasks = observation.task_mask.shape[-1]
    prepared = prepare(weights, observation)
    servers = observation.server_room.shape[-1]
    action = sequence(observation, prepared)
    cost = slot_cost(observation, prepared, action)
    best = cost.argmin(-1)
    action = action.gather(1, best[:, None, None].expand(-1, 1, tasks))[:, 0]
    on_device = action == prepared.actions.rows.ready_s.shape[-1] - 1
    option = torch.where(on_device, prepared.actions.local, torch.div(action, servers, rounding_mode="floor"))
    decision = OffloadDecision(option, torch.where(on_device, DEVICE, action % servers))
    if tasks < places:
        pairs = zip(decision, _padding(whole, tasks), strict=True)
        decision = OffloadDecision(*(torch.cat(pair, -1) for pair in pairs))
    return OffloadDecision(*(part.reshape(*lead, -1) for part in decision))


def prepare(weights: Weights, observation: OffloadObservation[Tensor]) -> Prepared:
    """Return the inputs of `sequence` and `slot_cost`.

    Args:
        weights: of P policies.
        observation: [P * W, K, ..]
    """
    weights = Weights(*(part.to(observation.deadline_s.dtype) for part in weights))
    key, actions = run_networks(weights, observation)
    task_mask = observation.task_mask[:, None]
    order = torch.where(task_mask, key.transpose(1, 2), torch.inf).argsort(dim=-1, stable=True)
    insertion, late_s = (part.repeat_interleave(len(key) // len(part), 0) for part in (weights.insertion, weights.late))
    return Prepared(actions, insertion, order, late_s[:, 0] * LATE_SCALE_S)


def sequence(observation: OffloadObservation[Tensor], prepared: Prepared) -> Tensor:
    """Return the actions of the tasks in each of the orders, [B, ORDERS, K]; tasks decide one after another.

    Times are in units of `FULL_S` here, so one task more on a full server counts as 1.

    Args:
        observation: [B, K, ..]
        prepared: from `prepare`, for the same observation.
    """
    order = prepared.order
    worlds, orders, tasks = order.shape
    actions, servers = prepared.actions.rows.ready_s.shape[-1], observation.server_room.shape[-1]
    first = torch.arange(worlds, device=order.device)[:, None] * tasks
    initial_free, initial_over = initial_queues(observation, actions)
    rows = scale_rows(prepared.actions.rows)
    flat = [part.reshape(-1, actions) for part in (*rows, front_scores(rows, initial_free))]
    joins = same_server(actions, servers, order.device).to(flat[0].dtype)
    initial_free, initial_over = (part.repeat_interleave(orders, 0) for part in (initial_free, initial_over))
    insertion = prepared.insertion.reshape(-1, 1)
    free, over, last = initial_free, initial_over, torch.zeros_like(initial_free)
    chosen = []
    for k in range(tasks):
        at = (order[:, :, k] + first).flatten()
        ready, service, slope, fixed, first_fixed = (part[at] for part in flat)
        start = torch.maximum(physics.start_s(ready, free), over)
        delay = torch.maximum((over - initial_over) * service, over)
        action = torch.where(ready < last, first_fixed + delay, start * slope + fixed).argmin(-1, keepdim=True)
        joined = joins[action[:, 0]]
        end = (start + service).gather(-1, action)
        free = torch.maximum(free, joined * end)
        last = torch.maximum(last, joined * (ready * insertion).gather(-1, action))
        over = over + joined
        chosen.append(action)
    decided = torch.cat(chosen, -1).reshape(order.shape)
    return torch.zeros_like(order).scatter(-1, order, decided)


def scale_rows(rows: Rows) -> Rows:
    """Return the same rows with times in units of `FULL_S`; exact, as that is a power of 2.

    Args:
        rows: with times in seconds.
    """
    ready, service, fixed = (part / FULL_S for part in (rows.ready_s, rows.service_s, rows.fixed_s))
    return Rows(ready, service, rows.slope, fixed)


def front_scores(rows: Rows, initial_free: Tensor) -> Tensor:
    """Return the scores [B, K, C] of a task that is served before all others, without their delay.

    Args:
        rows: with times in units of `FULL_S`.
        initial_free: [B, C] when the servers have done the work of earlier slots, in units of `FULL_S`.
    """
    return torch.maximum(rows.ready_s, initial_free[:, None]) * rows.slope + rows.fixed_s


def same_server(actions: int, servers: int, device: torch.device) -> Tensor:
    """Return whether two actions use the same server, [C, C] bool; false if one stays on the device.

    Args:
        actions: C
        servers: N
        device: of the result.
    """
    number = torch.arange(actions, device=device)
    return (number[:, None] % servers == number % servers) & (number < actions - 1) & (number[:, None] < actions - 1)


def initial_queues(observation: OffloadObservation[Tensor], actions: int) -> tuple[Tensor, Tensor]:
    """Return when the server of each action has done its waiting work, and the excess of tasks over its room.

    Both are [B, C]; times are in units of `FULL_S`. The excess begins with 1 - room, so it is above 0 once a server is
    full.

    Args:
        observation: [B, K, ..]
        actions: C
    """
    repeats = (actions - 1) // observation.server_room.shape[-1]
    over = 1 - observation.server_room.clamp(max=99.0).to(observation.deadline_s.dtype)
    parts = ((observation.server_backlog_s / FULL_S, 0.0), (over, 0.0))
    return tuple(torch.nn.functional.pad(part.repeat(1, repeats), (0, 1), value=end) for part, end in parts)  # type: ignore[return-value]


def slot_cost(observation: OffloadObservation[Tensor], prepared: Prepared, action: Tensor) -> Tensor:
    """Return the cost of the slot in ticks for the actions of each order, [B, ORDERS] float64.

    It is the summed latency, first come, first served, with prices. All pairs of tasks are compared, which is less work
    than to sort them.

    Args:
        observation: [B, K, ..]
        prepared: from `prepare`, for the same observation.
        action: [B, ORDERS, K] int64, from `sequence`.
    """
    rows, servers = prepared.actions.rows, observation.server_room.shape[-1]
    orders, tasks = action.shape[1:]
    on_device = action == rows.ready_s.shape[-1] - 1
    chosen = action[..., None]
    ready, service, price = (
        _ticks(part[:, None].expand(-1, orders, -1, -1).gather(-1, chosen)[..., 0])
        for part in (rows.ready_s, rows.service_s, prepared.actions.price_s)
    )
    number = torch.arange(tasks, device=action.device)
    queue = torch.where(on_device | ~observation.task_mask[:, None], -1 - number, action % servers)
    backlog = _ticks(observation.server_backlog_s)[:, None].expand(-1, orders, -1).gather(-1, queue.clamp(min=0))
    arrival = ready.double() + number * TIE_TICKS
    before = (arrival[..., None, :] <= arrival[..., :, None]) & (queue[..., None, :] == queue[..., :, None])
    # [.., k, j]: j is served no later than k
    work = (before.to(service.dtype) @ service[..., None])[..., 0]
    start = torch.where(before, (ready + service - work)[..., None, :], NEVER).amax(-1)
    latency = torch.where(on_device, ready, work + torch.maximum(backlog, start))
    late = (latency > _ticks(observation.deadline_s)[:, None]).to(latency.dtype)
    cost = latency + price + late * _ticks(prepared.late_s)[:, None, None]
    return (cost * observation.task_mask[:, None].to(cost.dtype)).double().sum(-1)


def _ticks(time_s: Tensor) -> Tensor:
    """Return seconds as whole ticks."""
    return (time_s * TICKS).round()


def _trimmed(observation: OffloadObservation[Tensor]) -> OffloadObservation[Tensor]:
    """Return the observation without the entries after the last one that has a task in some world."""
    places = observation.task_mask.any(0).nonzero()
    tasks = int(places[-1]) + 1 if len(places) else 1
    named = zip(fields_of(OffloadObservation).values(), observation, strict=True)
    return OffloadObservation(*(values[:, :tasks] if "K" in field.axes else values for field, values in named))


def _padding(observation: OffloadObservation[Tensor], first: int) -> OffloadDecision[Tensor]:
    """Return decisions for the entries from `first` on, which have no tasks: an option on the device."""
    on_device = (observation.option_upload_bits == 0)[:, first:]
    option = (on_device.int() + (on_device & observation.option_mask[:, first:]).int()).argmax(-1)
    return OffloadDecision(option, torch.full_like(option, DEVICE))


def _flat_batch(observation: OffloadObservation[Tensor]) -> OffloadObservation[Tensor]:
    lead = observation.task_mask.dim() - 1
    return OffloadObservation(*(field.reshape(-1, *field.shape[lead:]) for field in observation))
