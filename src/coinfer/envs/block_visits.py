"""Visits of the tasks of a slot to the places of their blocks (`blocks`).

Neighbouring blocks in one place are one piece of work, a **visit**, as the runtime runs them. Visit 0 is to the device,
and is empty if the first block is elsewhere; before each later visit the task's data travel. A processor, radio or
server serves first the visit that is ready first, whichever of its task's visits it is. So the times of all visits
depend on each other, and are computed in rounds over all of them until nothing changes. The earliest event is right
after the first round, and each following event one round later, so the rounds end. Worlds that have ended leave the
rounds when they are at least half of those in them. Which visits go to which queue is known before, so a round sorts
each queue by itself (`queueing.row_finish_s`).
"""

from typing import NamedTuple

import torch
from torch import Tensor

from coinfer.envs import core
from coinfer.envs.core import State
from coinfer.envs.exogenous import EdgeTables
from coinfer.physics import latency, queueing, radio
from coinfer.physics.queueing import QueueRows
from coinfer.types import DEVICE


class Plan(NamedTuple):
    """The places of the blocks of a slot's tasks, all [B, K, M]; a place is `DEVICE` or a server."""

    exists: Tensor
    place: Tensor
    on_server: Tensor
    """Whether there is a block, and its place is a server."""
    moves: Tensor
    """Whether the input of the block comes from another place; that of the first block comes from the device."""
    uploads: Tensor
    """Whether its input comes from the device to a server."""
    bits: Tensor
    """Size of the block's input if it comes from another place, else 0."""
    rate_bps: Tensor
    """Rate of the link or backhaul that the input crosses; meaningless if it crosses none."""


class Visits(NamedTuple):
    """The same by visit, all [B, K, S]."""

    on_server: Tensor
    """True for a visit to a server."""
    on_device: Tensor
    """True for a visit to the device with at least one block."""
    server: Tensor
    """Number of the server; any for a visit that is not to a server."""
    work_s: Tensor
    uploads: Tensor
    """True if the input comes over the device's radio."""
    moving_s: Tensor
    """Time of the transfer before the visit."""


class SlotUsage(NamedTuple):
    """When the resources have done the tasks of a slot, and the time that each task has spent on what."""

    processor_s: Tensor
    """[B, U]"""
    radio_s: Tensor
    """[B, U]"""
    server_s: Tensor
    """[B, N]"""
    device_s: Tensor
    """[B, K], as all fields without a comment."""
    upload_s: Tensor
    queue_s: Tensor
    on_server_s: Tensor
    """Transfers between servers included."""
    download_s: Tensor
    airtime_s: Tensor
    server_tasks: Tensor
    """[B, N] visits of tasks to each server."""
    server_work_s: Tensor
    """[B, N]"""
    before_s: Tensor
    """[B, K, S] transfer and waiting before each visit."""
    visits: Visits
    done_s: Tensor
    """[B, K, S] when each visit ends."""


class _VisitTimes(NamedTuple):
    """The times of visits from the beginning of the slot, all [B, K, S]."""

    left_s: Tensor
    """When the task has finished the visit before."""
    ready_s: Tensor
    """When its input has arrived."""
    done_s: Tensor


class _VisitLoad(NamedTuple):
    """What the rounds need to know: [B, 1 + K * S], where entry 0 is no visit and has 0, or queues."""

    moving_s: Tensor
    device_work_s: Tensor
    """0 for a visit that is not to the device."""
    radio: Tensor | QueueRows
    """If each device has one task: when it is free for the visit, 0 if the visit does not use it."""
    processor: Tensor | QueueRows
    servers: QueueRows


def visits_of(edge: EdgeTables, plan: Plan, work_s: Tensor) -> Visits:
    """Return the visits of a plan; S is the greatest number of visits of a task.

    Args:
        edge: tables of the edge.
        plan: of the slot's tasks.
        work_s: [B, K, M] time of each block in its place; 0 if there is no block.
    """
    number = plan.moves.cumsum(-1)
    count = number[..., -1:]
    shape = (*count.shape[:-1], int(count.max()) + 1)
    zero = torch.zeros(shape, dtype=work_s.dtype, device=work_s.device)
    rate_bps = plan.rate_bps
    if edge.edge.shared_bandwidth:
        server = plan.place.clamp(min=0).flatten(1)
        senders = queueing.counts(server, plan.uploads.flatten(1), edge.edge.servers).gather(-1, server)
        rate_bps = torch.where(plan.uploads, radio.shared_bps(rate_bps, senders.reshape(rate_bps.shape)), rate_bps)
    # Each visit has the place and transfer of its first block. Other blocks write `DEVICE` and 0 to visit 0.
    begun = number * plan.moves
    place = torch.full(shape, DEVICE, device=number.device)
    place = place.scatter_(-1, begun, torch.where(plan.moves, plan.place, DEVICE))
    on_server = place >= 0
    on_device = ~on_server & (torch.arange(shape[-1], device=number.device) <= count)
    on_device[..., 0] = plan.exists[..., 0] & ~plan.moves[..., 0]
    return Visits(
        on_server=on_server,
        on_device=on_device,
        server=place.clamp(min=0),
        work_s=zero.scatter_add(-1, number, work_s),
        uploads=on_server & ~torch.nn.functional.pad(on_server[..., :-1], (1, 0)),
        moving_s=zero.scatter(-1, begun, radio.upload_s(plan.bits, rate_bps)),
    )


def run_visits(edge: EdgeTables, state: State, visits: Visits) -> SlotUsage:
    """Serve the tasks of a slot on all their visits.

    Args:
        edge: tables of the edge.
        state: at the beginning of the slot; unchanged.
        visits: of the slot's tasks.

    Returns:
        Times from the beginning of the slot.
    """
    left_s, ready_s, done_s = _visit_times(edge, state, visits)
    draws, server = state.draws, visits.server.flatten(1)
    # Numbers multiply faster than truth values.
    on_server, on_device, uploads = (
        mask.to(done_s.dtype) for mask in (visits.on_server, visits.on_device, visits.uploads)
    )
    work_s, airtime_s = visits.work_s * on_server, visits.moving_s * uploads
    return SlotUsage(
        processor_s=queueing.busy_until_s(
            state.device_backlog_s, draws.device, (done_s * on_device).amax(-1), draws.task_mask
        ),
        radio_s=queueing.busy_until_s(
            state.uplink_backlog_s, draws.device, (ready_s * uploads).amax(-1), draws.task_mask
        ),
        server_s=queueing.busy_until_s(state.server_backlog_s, server, done_s.flatten(1), on_server.flatten(1)),
        device_s=((done_s - ready_s) * on_device).sum(-1),
        upload_s=((ready_s - left_s) * uploads).sum(-1),
        queue_s=((done_s - work_s - ready_s).clamp_(min=0) * on_server).sum(-1),
        on_server_s=(work_s + visits.moving_s * (on_server - uploads)).sum(-1),
        download_s=(visits.moving_s * on_device).sum(-1),
        airtime_s=airtime_s.sum(-1),
        server_tasks=queueing.counts(server, visits.on_server.flatten(1), edge.edge.servers),
        server_work_s=queueing.sums(server, work_s.flatten(1), edge.edge.servers),
        before_s=done_s - left_s - visits.work_s,
        visits=visits,
        done_s=done_s,
    )


def imposed_s(edge: EdgeTables, usage: SlotUsage) -> Tensor:
    """Return how long each task makes others of its slot wait, [B, K]: its work times the visits served after it.

    It is what the others would gain without it if their server was busy all the time; without shorter waits of devices.

    Args:
        edge: tables of the edge.
        usage: of the slot.
    """
    visits, servers = usage.visits, edge.edge.servers
    active, queue, order = _served(edge, usage)
    counts = queueing.counts(queue, active, servers + 1)
    ahead = torch.empty_like(order).scatter_(-1, order, queueing.ranks(queue.gather(-1, order), counts[:, :servers]))
    behind = ((counts.gather(-1, queue) - 1 - ahead) * active).reshape(visits.work_s.shape)
    return (behind * visits.work_s).sum(-1)


def marginal_wait_s(edge: EdgeTables, usage: SlotUsage) -> Tensor:
    """Return by how much shorter the others of its slot would wait without each task, [B, K].

    It is exact for a task with one visit to a server, as long as the others' visits are ready when they are now. A
    visit behind gains the work before it, but no more than it waits, or any visit between the two. Takes memory in the
    square of the number of visits; `imposed_s` is faster, and counts too much where servers pause. Waiting for a
    device's radio counts as waiting for the server.

    Args:
        edge: tables of the edge.
        usage: of the slot.
    """
    visits, servers = usage.visits, edge.edge.servers
    active, queue, order = _served(edge, usage)
    sorted_queue = queue.gather(-1, order)
    work_s = (visits.work_s.flatten(1) * active).gather(-1, order)
    waits_s = (usage.before_s - visits.moving_s).flatten(1).gather(-1, order)
    follows = sorted_queue == torch.nn.functional.pad(sorted_queue[:, :-1], (1, 0), value=-1)
    waits_s = torch.where(follows & (sorted_queue < servers), waits_s.clamp(min=0), 0.0)
    behind = torch.ones(order.shape[-1], order.shape[-1], dtype=torch.bool, device=order.device).triu(1)
    least_s = torch.where(behind, waits_s[:, None, :], torch.inf).cummin(-1).values
    gains_s = torch.minimum(least_s, work_s[..., None]) * behind
    return torch.empty_like(work_s).scatter_(-1, order, gains_s.sum(-1)).reshape(visits.work_s.shape).sum(-1)


def _served(edge: EdgeTables, usage: SlotUsage) -> tuple[Tensor, Tensor, Tensor]:
    """Return which visits are to servers, each one's queue (N for none), and their order of service, [B, K * S]."""
    active = usage.visits.on_server.flatten(1)
    queue = torch.where(active, usage.visits.server.flatten(1), edge.edge.servers)
    return active, queue, queueing.service_order(queue, usage.done_s.flatten(1))


def _visit_times(edge: EdgeTables, state: State, visits: Visits) -> _VisitTimes:
    """Return the times of all visits under first come, first served."""
    shape = visits.work_s.shape
    follows = torch.ones_like(visits.work_s[:1])
    follows[..., 0] = 0.0
    follows = _flat(follows)
    whole = load = _visit_load(edge, state, visits)
    done_s = last_s = _flat((visits.moving_s + visits.work_s).cumsum(-1))
    world = torch.arange(shape[0], device=done_s.device)
    while world.numel():
        now_s = _done_s(load, _ready_s(load, _left_s(last_s, follows)))
        changed = ((now_s - last_s).abs_().amax(-1) > 0).nonzero()[:, 0]
        last_s = now_s
        if 2 * changed.numel() <= world.numel():
            done_s[world] = now_s
            world, load, last_s = core.map_worlds(
                lambda field: field.index_select(0, changed),  # noqa: B023
                (world, load, now_s),
            )
    left_s = _left_s(done_s, follows)
    times = (left_s, _ready_s(whole, left_s), done_s)
    return _VisitTimes(*(flat[:, 1:].reshape(shape) for flat in times))


def _visit_load(edge: EdgeTables, state: State, visits: Visits) -> _VisitLoad:
    device = state.draws.device[..., None].expand(visits.on_server.shape).flatten(1)
    moving_s, work_s = _flat(visits.moving_s), _flat(visits.work_s)

    def of_device(backlog_s: Tensor, service_s: Tensor, uses: Tensor) -> Tensor | QueueRows:
        if edge.edge.distinct_devices:
            return _flat(backlog_s.gather(-1, state.draws.device)[..., None] * uses)
        return queueing.queue_rows(device, service_s, uses.flatten(1), backlog_s)

    return _VisitLoad(
        moving_s,
        device_work_s=_flat(visits.work_s * visits.on_device),
        radio=of_device(state.uplink_backlog_s, moving_s, visits.uploads),
        processor=of_device(state.device_backlog_s, work_s, visits.on_device),
        servers=queueing.queue_rows(
            visits.server.flatten(1), work_s, visits.on_server.flatten(1), state.server_backlog_s
        ),
    )


def _flat(of_visits: Tensor) -> Tensor:
    """Return times [B, K, S] as [B, 1 + K * S], after 0 for no visit."""
    return torch.nn.functional.pad(of_visits.flatten(1), (1, 0))


def _left_s(done_s: Tensor, follows: Tensor) -> Tensor:
    """Return when the visit before each ends, [B, 1 + K * S].

    Args:
        done_s: [B, 1 + K * S] when each visit ends.
        follows: [1, 1 + K * S] 1, or 0 for no visit and for the first visits of tasks.
    """
    left_s = torch.zeros_like(done_s)
    torch.mul(done_s[:, :-1], follows[:, 1:], out=left_s[:, 1:])
    return left_s


def _ready_s(load: _VisitLoad, left_s: Tensor) -> Tensor:
    """Return when the input of each visit has arrived, [B, 1 + K * S]."""
    return _finish_s(load.radio, left_s, load.moving_s)


def _done_s(load: _VisitLoad, ready_s: Tensor) -> Tensor:
    """Return when each visit ends, [B, 1 + K * S]."""
    return queueing.row_finish_s(load.servers, ready_s, _finish_s(load.processor, ready_s, load.device_work_s))


def _finish_s(queues: Tensor | QueueRows, ready_s: Tensor, service_s: Tensor) -> Tensor:
    """Return when devices have done with visits: their queues, or when each is free for its only task."""
    if isinstance(queues, Tensor):
        return latency.end_s(ready_s, queues, service_s)
    return queueing.row_finish_s(queues, ready_s, ready_s + service_s)
