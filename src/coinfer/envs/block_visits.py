"""Visits of the tasks of a slot to the places of their blocks (`blocks`).

Neighbouring blocks in one place are one piece of work, a **visit**, as the runtime runs them. Visit 0 is to the device,
and is empty if the first block is elsewhere; before each later visit the task's data travel. A processor, radio or
server serves first the visit that is ready first, whichever of its task's visits it is. So the times of all visits
depend on each other, and are computed in rounds over all of them until nothing changes. The earliest event is right
after the first round, and each following event one round later, so the rounds end.
"""

from typing import NamedTuple

import torch
from torch import Tensor

from coinfer.envs.core import State
from coinfer.envs.exogenous import EdgeTables
from coinfer.physics import latency, queueing, radio


class Plan(NamedTuple):
    """The places of the blocks of a slot's tasks, all [B, K, M]; a place is `DEVICE` or a server."""

    exists: Tensor
    place: Tensor
    previous: Tensor
    """Place of the block before, `DEVICE` for the first."""
    bits: Tensor
    """Size of the block's input if it comes from another place, else 0."""
    rate_bps: Tensor
    """Rate of the link or backhaul that the input crosses; meaningless if it crosses none."""

    @property
    def moves(self) -> Tensor:
        """Whether the input of each block comes from another place."""
        return self.exists & (self.place != self.previous)

    @property
    def uploads(self) -> Tensor:
        """Whether the input of each block comes from the device to a server."""
        return self.exists & (self.previous < 0) & (self.place >= 0)

    @property
    def downloads(self) -> Tensor:
        """Whether the input of each block comes from a server to the device."""
        return self.exists & (self.previous >= 0) & (self.place < 0)


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
    downloads: Tensor
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
    sent_s: Tensor
    """When the radio has sent the input; meaningless if it sends nothing."""
    ready_s: Tensor
    done_s: Tensor


def visits_of(edge: EdgeTables, plan: Plan, work_s: Tensor) -> Visits:
    """Return the visits of a plan; S is the greatest number of visits of a task.

    Args:
        edge: tables of the edge.
        plan: of the slot's tasks.
        work_s: [B, K, M] time of each block in its place; 0 if there is no block.
    """
    number = plan.moves.cumsum(-1)
    shape = (*number.shape[:-1], int(number.max()) + 1)

    def per_visit_max(values: Tensor) -> Tensor:
        return torch.zeros(shape, dtype=values.dtype, device=values.device).scatter_reduce(-1, number, values, "amax")

    def per_visit_any(flags: Tensor) -> Tensor:
        return per_visit_max(flags.byte()).bool()

    server = per_visit_max((plan.place + 1) * plan.exists) - 1
    exists, uploads = per_visit_any(plan.exists), per_visit_any(plan.uploads)
    bits, rate_bps = per_visit_max(plan.bits), per_visit_max(plan.rate_bps * plan.moves)
    if edge.edge.shared_bandwidth:
        senders = queueing.counts(server.clamp(min=0).flatten(1), uploads.flatten(1), edge.edge.servers)
        sharing = senders.gather(-1, server.clamp(min=0).flatten(1)).reshape(shape)
        rate_bps = torch.where(uploads, radio.shared_bps(rate_bps, sharing), rate_bps)
    return Visits(
        on_server=exists & (server >= 0),
        on_device=exists & (server < 0),
        server=server.clamp(min=0),
        work_s=torch.zeros(shape, dtype=work_s.dtype, device=work_s.device).scatter_add_(-1, number, work_s),
        uploads=uploads,
        downloads=per_visit_any(plan.downloads),
        moving_s=radio.upload_s(bits, torch.where(bits > 0, rate_bps, 1.0)),
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
    times = _visit_times(edge, state, visits)
    device = state.draws.device[..., None].expand(visits.on_server.shape).flatten(1)
    server, on_server = visits.server.flatten(1), visits.on_server.flatten(1)
    airtime_s, work_s, done_s = (
        visits.moving_s * visits.uploads,
        visits.work_s * visits.on_server,
        times.done_s.flatten(1),
    )
    across = visits.on_server & ~visits.uploads
    return SlotUsage(
        processor_s=queueing.busy_until_s(state.device_backlog_s, device, done_s, visits.on_device.flatten(1)),
        radio_s=queueing.busy_until_s(
            state.uplink_backlog_s, device, times.sent_s.flatten(1), visits.uploads.flatten(1)
        ),
        server_s=queueing.busy_until_s(state.server_backlog_s, server, done_s, on_server),
        device_s=((times.done_s - times.ready_s) * visits.on_device).sum(-1),
        upload_s=((times.sent_s - times.left_s) * visits.uploads).sum(-1),
        queue_s=((times.done_s - work_s - times.ready_s).clamp(min=0) * visits.on_server).sum(-1),
        on_server_s=(work_s + visits.moving_s * across).sum(-1),
        download_s=(visits.moving_s * visits.downloads).sum(-1),
        airtime_s=airtime_s.sum(-1),
        server_tasks=queueing.counts(server, on_server, edge.edge.servers),
        server_work_s=queueing.sums(server, work_s.flatten(1), edge.edge.servers),
        before_s=times.done_s - times.left_s - visits.work_s,
        visits=visits,
        done_s=times.done_s,
    )


def imposed_s(edge: EdgeTables, usage: SlotUsage) -> Tensor:
    """Return how long each task makes others of its slot wait, [B, K]: its work times the visits served after it.

    It is what the others would gain without it if their server was busy all the time; without shorter waits of devices.

    Args:
        edge: tables of the edge.
        usage: of the slot.
    """
    visits, servers = usage.visits, edge.edge.servers
    active = visits.on_server.flatten(1)
    queue = torch.where(active, visits.server.flatten(1), servers)
    order = queueing.service_order(queue, usage.done_s.flatten(1))
    counts = queueing.counts(queue, active, servers + 1)
    ahead = torch.empty_like(order).scatter_(-1, order, queueing.ranks(queue.gather(-1, order), counts[:, :servers]))
    behind = ((counts.gather(-1, queue) - 1 - ahead) * active).reshape(visits.work_s.shape)
    return (behind * visits.work_s).sum(-1)


def _visit_times(edge: EdgeTables, state: State, visits: Visits) -> _VisitTimes:
    """Return the times of all visits under first come, first served."""
    devices = edge.edge.devices
    device = state.draws.device[..., None].expand(visits.on_server.shape)
    resource = torch.where(visits.on_server, devices + visits.server, device)
    free_s = torch.cat((state.device_backlog_s, state.server_backlog_s), -1)
    free_s = free_s.gather(-1, resource.flatten(1)).reshape(resource.shape)
    radio_free_s = state.uplink_backlog_s.gather(-1, device.flatten(1)).reshape(device.shape)
    one_task_per_device = edge.edge.distinct_devices
    queued = visits.on_server if one_task_per_device else visits.on_server | visits.on_device
    no_queue = devices + edge.edge.servers
    queue = _queue(torch.where(queued, resource, no_queue), visits.work_s, queued, free_s)
    radio = _queue(torch.where(visits.uploads, device, no_queue), visits.moving_s, visits.uploads, radio_free_s)

    def next_round(done_s: Tensor) -> _VisitTimes:
        left_s = torch.nn.functional.pad(done_s[..., :-1], (1, 0))
        if one_task_per_device:
            sent_s = latency.ready_s(left_s, radio_free_s, visits.moving_s)
        else:
            sent_s = _finish_s(radio, left_s)
        ready_s = torch.where(visits.uploads, sent_s, left_s + visits.moving_s)
        finish_s = _finish_s(queue, ready_s)
        if one_task_per_device:
            finish_s = torch.where(visits.on_device, latency.end_s(ready_s, free_s, visits.work_s), finish_s)
        return _VisitTimes(left_s, sent_s, ready_s, torch.where(visits.on_device | visits.on_server, finish_s, ready_s))

    times = next_round((visits.moving_s + visits.work_s).cumsum(-1))
    while True:
        before_s, times = times.done_s, next_round(times.done_s)
        if times.done_s.equal(before_s):
            return times


class _Queue(NamedTuple):
    """The visits that wait for resources of one kind, A at most in a world; all [B, A] but the first."""

    shape: torch.Size
    """[B, K, S] of all visits."""
    position: Tensor
    """Place among all visits of the world; those that do not wait follow those that do."""
    queue: Tensor
    service_s: Tensor
    active: Tensor
    """False for a place that is filled by a visit that does not wait."""
    free_s: Tensor


def _queue(queue: Tensor, service_s: Tensor, active: Tensor, free_s: Tensor) -> _Queue:
    """Return the active ones of all visits [B, K, S]."""
    flat = [array.flatten(1) for array in (queue, service_s, active, free_s)]
    width = max(1, int(flat[2].sum(-1).amax())) if flat[2].numel() else 0
    position = (~flat[2]).byte().argsort(dim=-1, stable=True)[:, :width]
    return _Queue(queue.shape, position, *(array.gather(-1, position) for array in flat))


def _finish_s(queue: _Queue, ready_s: Tensor) -> Tensor:
    """`queueing.finish_s` of the visits that wait [B, K, S]; that of others means nothing."""
    flat = ready_s.flatten(1)
    waits_s = flat.gather(-1, queue.position)
    done_s = queueing.finish_s(queue.queue, waits_s, queue.service_s, queue.active, queue.free_s)
    return flat.scatter(-1, queue.position, done_s).reshape(queue.shape)
