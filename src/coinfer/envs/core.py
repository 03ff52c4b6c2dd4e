"""The state of the edge that both decision spaces share, and how time passes.

Everything is a pure function over values with the worlds as leading axis B. Times in a state count from the beginning
of its slot, so that float32 does not wear out in a long episode.
"""

from collections.abc import Callable
from typing import Any, NamedTuple, TypeVar, cast

import torch
from torch import Tensor

from coinfer.envs.exogenous import Draws, EdgeTables, draw, server_share, take
from coinfer.physics import queueing, random
from coinfer.physics.serving import Queues
from coinfer.types import Outcome


class State(NamedTuple):
    """A batch of independent worlds at the beginning of a slot."""

    seed: Tensor
    """[B] int64, of the episode."""
    slot: Tensor
    """[B] int64"""
    device_backlog_s: Tensor
    """[B, U] until the processor of the device is done."""
    uplink_backlog_s: Tensor
    """[B, U] until the radio of the device is done."""
    server_backlog_s: Tensor
    """[B, N] until the server is done."""
    unfinished_s: Tensor
    """[B, N, Q] ring buffer: time until each of the last Q admitted tasks is done, 0 or less if it is. [B, N, 0] if no
    capacity is finite."""
    ring_head: Tensor
    """[B, N] int64, the next entry of the ring to write."""
    spent_j: Tensor
    """[B, U] energy that the device has spent in this episode."""
    past_backlog_s: Tensor
    """[B, S, N] server backlog of the last S slots, latest first; S is the staleness."""
    past_room: Tensor
    """[B, S, N] room on the servers in the same slots."""
    draws: Draws
    queues: Queues | None = None
    """Servers that batch or load; `unfinished_s` and `ring_head` are empty then."""
    past_queues: tuple[Queues, ...] = ()
    """The same servers at the beginning of the last S slots, latest first, each in its own times."""


class Revisions(NamedTuple):
    """How tasks of earlier slots come off now, all [B, R]; on servers that batch or load, later tasks change that."""

    mask: Tensor
    """Whether there is a task whose latency may have changed."""
    slot: Tensor
    """int64, in which it was decided."""
    number: Tensor
    """int64, its number there."""
    old_latency_s: Tensor
    """As if no tasks had come in this slot."""
    latency_s: Tensor
    """As if no more tasks came."""
    deadline_s: Tensor
    accuracy: Tensor


class Info(NamedTuple):
    """Results of a step beside the outcome."""

    truncated: Tensor
    """[B] bool, the episode is over: reset with new seeds before the next step."""
    refused: Tensor
    """[B, K] the decision could not be carried out: not feasible, or no room."""
    dropped: Tensor
    """[B, K] the task was lost."""
    server_tasks: Tensor
    """[B, N] tasks that each server took; for `blocks`, visits of tasks."""
    server_work_s: Tensor
    """[B, N] time that these take on the server."""
    revisions: Revisions | None = None
    """Of earlier slots' outcomes; None if servers serve slot after slot."""


def initial_state(tables: EdgeTables, seeds: Tensor) -> State:
    """Return idle worlds at the first slot of their episodes.

    Args:
        tables: of the scenario.
        seeds: [B] int64, one episode each; on any device.
    """
    edge, worlds = tables.edge, seeds.shape[0]

    def zeros(*shape: int, dtype: torch.dtype | None = None) -> Tensor:
        return torch.zeros((worlds, *shape), dtype=dtype or tables.dtype, device=tables.device)

    seeds = seeds.to(tables.device, torch.int64)
    slot = zeros(dtype=torch.int64)
    state = State(
        seed=seeds,
        slot=slot,
        device_backlog_s=zeros(edge.devices),
        uplink_backlog_s=zeros(edge.devices),
        server_backlog_s=zeros(edge.servers),
        unfinished_s=zeros(edge.servers, tables.places),
        ring_head=zeros(edge.servers, dtype=torch.int64),
        spent_j=zeros(edge.devices if tables.limited_energy else 0),
        past_backlog_s=zeros(edge.staleness_slots, edge.servers),
        past_room=zeros(edge.staleness_slots, edge.servers),
        draws=draw(tables, seeds, slot),
    )
    return state._replace(past_room=room(tables, state)[:, None].expand(-1, edge.staleness_slots, -1))


Values = TypeVar("Values")


def map_worlds(function: Callable[..., Tensor], *values: Values) -> Values:
    """Return a state, or a part of one, with a function applied to each of its tensors.

    Args:
        function: from as many tensors as there are values to one.
        values: tensors, None, or tuples of these, all of one structure.
    """
    first: Any = values[0]
    if isinstance(first, tuple):
        parts = [map_worlds(function, *some) for some in zip(*cast(Any, values), strict=True)]
        return cast(Values, type(first)(*parts) if hasattr(first, "_fields") else tuple(parts))
    return cast(Values, first if first is None else function(*values))


def next_seeds(seeds: Tensor) -> Tensor:
    """Return the seeds of the episodes that follow these, same shape.

    Args:
        seeds: int64 seeds of episodes.
    """
    return random.mix(seeds)


def room(tables: EdgeTables, state: State) -> Tensor:
    """Return how many tasks each server would admit now, [B, N]; 0 during an outage.

    Args:
        tables: of the scenario.
        state: before any task of the slot is served.
    """
    free = tables.server_capacity.expand_as(state.server_backlog_s)
    if state.queues is not None:
        free = free - (state.queues.requests.expected_s > 0).sum(-1)
    elif tables.places:
        free = free - state.unfinished_s.sign().clamp_(min=0).sum(-1) * tables.server_capacity.isfinite()
    return torch.where(state.draws.share > 0, free, 0.0)


def energy_left_j(tables: EdgeTables, state: State) -> Tensor:
    """Return how much energy each task may spend, [B, K]; infinite if there is no limit.

    Args:
        tables: of the scenario.
        state: before any task of the slot is served.
    """
    device_class = state.draws.device_class
    if not tables.limited_energy:
        return torch.full_like(state.draws.deadline_s, torch.inf)
    battery_j = take(tables.battery_j, device_class) - state.spent_j.gather(-1, state.draws.device)
    return torch.minimum(take(tables.task_energy_j, device_class), battery_j.clamp(min=0))


def observed_servers(tables: EdgeTables, state: State) -> tuple[Tensor, Tensor, Tensor]:
    """Return backlog, room and share of each server, all [B, N], as old as the scenario's staleness.

    Args:
        tables: of the scenario.
        state: at the beginning of a slot.
    """
    stale = tables.edge.staleness_slots
    if not stale:
        return state.server_backlog_s, room(tables, state), state.draws.share
    share = server_share(tables, state.seed, (state.slot - stale).clamp(min=0))
    return state.past_backlog_s[:, -1], state.past_room[:, -1], share


def next_slot(tables: EdgeTables, state: State, **changes: Any) -> State:
    """Return the state at the beginning of the next slot.

    Args:
        tables: of the scenario.
        state: at the beginning of this slot; unchanged.
        changes: fields that the tasks of this slot changed, in times from the beginning of this slot.
    """
    slot_s, stale = tables.edge.slot_s, tables.edge.staleness_slots
    past = {}
    if stale:
        past["past_backlog_s"] = torch.cat((state.server_backlog_s[:, None], state.past_backlog_s[:, :-1]), dim=1)
        past["past_room"] = torch.cat((room(tables, state)[:, None], state.past_room[:, :-1]), dim=1)
        if state.queues is not None:
            past["past_queues"] = (state.queues, *state.past_queues[:-1])
    after = state._replace(**changes)
    return after._replace(
        slot=state.slot + 1,
        device_backlog_s=queueing.elapse(after.device_backlog_s, slot_s),
        uplink_backlog_s=queueing.elapse(after.uplink_backlog_s, slot_s),
        server_backlog_s=queueing.elapse(after.server_backlog_s, slot_s),
        unfinished_s=after.unfinished_s - slot_s,
        draws=draw(tables, state.seed, state.slot + 1),
        **past,
    )


def outcome_of(
    *,
    device_s: Tensor,
    upload_s: Tensor,
    queue_s: Tensor,
    server_s: Tensor,
    download_s: Tensor,
    energy_j: Tensor,
    accuracy: Tensor,
    admitted: Tensor,
    answered: Tensor,
    deadline_s: Tensor,
) -> Outcome[Tensor]:
    """Return the outcome of requests; all arguments are [B, K].

    Args:
        device_s: on the device, including waiting.
        upload_s: sending, including waiting.
        queue_s: waiting on the server; until the deadline for a lost task.
        server_s: computing on the server.
        download_s: way back of the answer.
        energy_j: of the device.
        accuracy: 0 to 1; 0 for a lost task.
        admitted: bool, whether the decision was carried out.
        answered: bool, whether there was an answer at all.
        deadline_s: from the request.

    Returns:
        Outcome with the sum of the times as latency (CDO-DSAC, SEKE 2023: T_j); `in_time` if answered and not late.
    """
    latency_s = device_s + upload_s + queue_s + server_s + download_s
    return Outcome(
        device_s=device_s,
        upload_s=upload_s,
        queue_s=queue_s,
        server_s=server_s,
        download_s=download_s,
        latency_s=latency_s,
        energy_j=energy_j,
        accuracy=accuracy,
        admitted=admitted,
        in_time=answered & (latency_s <= deadline_s),
    )
