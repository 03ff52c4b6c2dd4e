"""Visits of the tasks of a slot to the places of their blocks (`blocks`).

Neighbouring blocks in one place are one piece of work, a **visit**, as the runtime runs them. Visit 0 is to the device,
and is empty if the first block is elsewhere; before each later visit the task's data travel. A processor, radio or
server serves first the visit that is ready first, whichever of its task's visits it is. So the times of all visits
depend on each other, and are computed in rounds over all of them until nothing changes. The earliest event is right
after the first round, and each following event one round later, so the rounds end. Worlds that have ended leave the
rounds. Which visits go to which queue is known before, so a round sorts each queue by itself (`queueing.row_finish_s`).
"""

from typing import NamedTuple

import torch
from torch import Tensor

from coinfer.envs import core
from coinfer.envs.core import State
from coinfer.envs.exogenous import EdgeTables
from coinfer.physics import latency, queueing, radio
from coinfer.physics.queueing import QueueRows

_ROUNDS = 4
"""Rounds after which worlds that have ended leave."""


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
    ready_s: Tensor
    """When its input has arrived."""
    done_s: Tensor


class _VisitLoad(NamedTuple):
    """What the rounds need to know; [B, K, S], or queues."""

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
    moves = plan.moves
    number = moves.cumsum(-1)
    count = number[..., -1:]
    visit = torch.arange(int(count.max()) + 1, device=count.device)
    comes = (visit > 0) & (visit <= count)
    exists = comes | (plan.exists & ~moves)[..., :1] & (visit == 0)
    shape, blocks = comes.shape, torch.arange(moves.shape[-1], device=count.device).expand_as(number)
    # The first block of every visit; those of other blocks and of empty visits are written and read nowhere else.
    spare = torch.where(moves, number, shape[-1])
    first = torch.zeros((*shape[:-1], shape[-1] + 1), dtype=torch.int64, device=count.device)
    first = first.scatter_(-1, spare, blocks)[..., :-1]
    place, bits, rate_bps = (part.gather(-1, first) for part in (plan.place, plan.bits, plan.rate_bps))
    on_server, server = exists & (place >= 0), place.clamp(min=0)
    uploads, downloads = (way.gather(-1, first) & comes for way in (plan.uploads, plan.downloads))
    if edge.edge.shared_bandwidth:
        senders = queueing.counts(server.flatten(1), uploads.flatten(1), edge.edge.servers)
        sharing = senders.gather(-1, server.flatten(1)).reshape(shape)
        rate_bps = torch.where(uploads, radio.shared_bps(rate_bps, sharing), rate_bps)
    return Visits(
        on_server=on_server,
        on_device=exists & ~on_server,
        server=server,
        work_s=torch.zeros(shape, dtype=work_s.dtype, device=work_s.device).scatter_add_(-1, number, work_s),
        uploads=uploads,
        downloads=downloads,
        moving_s=radio.upload_s(bits * comes, rate_bps),
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
            state.uplink_backlog_s, device, times.ready_s.flatten(1), visits.uploads.flatten(1)
        ),
        server_s=queueing.busy_until_s(state.server_backlog_s, server, done_s, on_server),
        device_s=((times.done_s - times.ready_s) * visits.on_device).sum(-1),
        upload_s=((times.ready_s - times.left_s) * visits.uploads).sum(-1),
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
    whole = load = _visit_load(edge, state, visits)
    done_s = left_s = (visits.moving_s + visits.work_s).cumsum(-1)
    world = torch.arange(done_s.shape[0], device=done_s.device)
    before_s, number = left_s.new_empty(0), 0
    while not left_s.equal(before_s):
        before_s, left_s, number = left_s, _done_s(load, _ready_s(load, _left_s(left_s))), number + 1
        if number % _ROUNDS == 0:
            changed = (left_s - before_s).abs_().flatten(1).amax(-1) > 0
            done_s[world] = left_s
            world, load, left_s, before_s = core.map_worlds(
                lambda field: field[changed],  # noqa: B023
                (world, load, left_s, before_s),
            )
    done_s[world] = left_s
    left_s = _left_s(done_s)
    return _VisitTimes(left_s, _ready_s(whole, left_s), done_s)


def _visit_load(edge: EdgeTables, state: State, visits: Visits) -> _VisitLoad:
    device = state.draws.device[..., None].expand(visits.on_server.shape)

    def queues(queue: Tensor, service_s: Tensor, active: Tensor, free_s: Tensor) -> QueueRows:
        return queueing.queue_rows(queue.flatten(1), service_s.flatten(1), active.flatten(1), free_s)

    def of_device(backlog_s: Tensor, service_s: Tensor, uses: Tensor) -> Tensor | QueueRows:
        if edge.edge.distinct_devices:
            return backlog_s.gather(-1, device.flatten(1)).reshape(device.shape) * uses
        return queues(device, service_s, uses, backlog_s)

    return _VisitLoad(
        visits.moving_s,
        visits.work_s * visits.on_device,
        radio=of_device(state.uplink_backlog_s, visits.moving_s, visits.uploads),
        processor=of_device(state.device_backlog_s, visits.work_s, visits.on_device),
        servers=queues(visits.server, visits.work_s, visits.on_server, state.server_backlog_s),
    )


def _left_s(done_s: Tensor) -> Tensor:
    """Return when the visit before each ends, [B, K, S]."""
    return torch.nn.functional.pad(done_s[..., :-1], (1, 0))


def _ready_s(load: _VisitLoad, left_s: Tensor) -> Tensor:
    """Return when the input of each visit has arrived, [B, K, S]."""
    return _finish_s(load.radio, left_s, load.moving_s)


def _done_s(load: _VisitLoad, ready_s: Tensor) -> Tensor:
    """Return when each visit ends, [B, K, S]."""
    return _in_rows(load.servers, ready_s, _finish_s(load.processor, ready_s, load.device_work_s))


def _finish_s(queues: Tensor | QueueRows, ready_s: Tensor, service_s: Tensor) -> Tensor:
    """Return when devices have done with visits [B, K, S]: their queues, or when each is free for its only task."""
    if isinstance(queues, Tensor):
        return latency.end_s(ready_s, queues, service_s)
    return _in_rows(queues, ready_s, ready_s + service_s)


def _in_rows(rows: QueueRows, ready_s: Tensor, otherwise_s: Tensor) -> Tensor:
    """Return when the visits that wait in these queues end, [B, K, S]; for the others, `otherwise_s`.

    Args:
        otherwise_s: at most when each visit that waits ends.
    """
    return otherwise_s.maximum(queueing.row_finish_s(rows, ready_s.flatten(1)).reshape(ready_s.shape))
