"""How the tasks of a slot pass through the places of their blocks (`blocks`).

Neighbouring blocks in one place are one piece of work, a **stay**, as the runtime runs them. Stay 0 is on the device,
and is empty where the first block is elsewhere; before each later one the task travels. Whoever is ready first at a
processor, radio or server is served first, whichever stay of its task it is; so the times of all stays hang together,
and are found by going over all of them until nothing changes any more. What happens first is right after the first
round, and whatever follows next is right one round later, so that ends.
"""

from typing import NamedTuple

import torch
from torch import Tensor

from coinfer.envs.core import State
from coinfer.envs.exogenous import EdgeTables
from coinfer.physics import latency, queueing, radio


class Plan(NamedTuple):
    """Where the blocks of a slot's tasks are run, all [B, K, M]; places are `DEVICE`, else the server."""

    exists: Tensor
    place: Tensor
    before: Tensor
    """Place of the block before."""
    bits: Tensor
    """What the block takes in, where it comes from elsewhere."""
    rate_bps: Tensor
    """Of the link or backhaul that it crosses; without meaning where it crosses none."""

    @property
    def moves(self) -> Tensor:
        return self.exists & (self.place != self.before)

    @property
    def up(self) -> Tensor:
        return self.exists & (self.before < 0) & (self.place >= 0)

    @property
    def down(self) -> Tensor:
        return self.exists & (self.before >= 0) & (self.place < 0)


class Stays(NamedTuple):
    """The same by stay, all [B, K, S]."""

    there: Tensor
    """On a server."""
    here: Tensor
    """On the device, with something to do."""
    server: Tensor
    """Any where it is on none."""
    work_s: Tensor
    up: Tensor
    """Comes over the device's radio."""
    down: Tensor
    moving_s: Tensor
    """Transfer beforehand."""


class Passage(NamedTuple):
    """When the resources are done, and how long each task has spent on what."""

    processor_s: Tensor
    """[B, U]"""
    radio_s: Tensor
    """[B, U]"""
    server_s: Tensor
    """[B, N]"""
    device_s: Tensor
    """[B, K], and so on."""
    upload_s: Tensor
    queue_s: Tensor
    on_server_s: Tensor
    """Transfers between servers included."""
    download_s: Tensor
    airtime_s: Tensor
    server_tasks: Tensor
    """[B, N] stays of tasks."""
    server_work_s: Tensor
    """[B, N]"""


class _Times(NamedTuple):
    """[B, K, S]"""

    left_s: Tensor
    """When the task left the stay before."""
    sent_s: Tensor
    """When the radio is done with it; without meaning where it sends nothing."""
    ready_s: Tensor
    done_s: Tensor


def stays_of(edge: EdgeTables, plan: Plan, work_s: Tensor) -> Stays:
    """The stays of a plan, as many as some task has.

    Args:
        work_s: [B, K, M] what each block takes where it is run; 0 where there is none.
    """
    number = plan.moves.cumsum(-1)
    shape = (*number.shape[:-1], int(number.max()) + 1)

    def most(values: Tensor) -> Tensor:
        return torch.zeros(shape, dtype=values.dtype, device=values.device).scatter_reduce(-1, number, values, "amax")

    def any_of(flags: Tensor) -> Tensor:
        return most(flags.byte()).bool()

    server = most((plan.place + 1) * plan.exists) - 1
    exists, up = any_of(plan.exists), any_of(plan.up)
    bits, rate_bps = most(plan.bits), most(plan.rate_bps * plan.moves)
    if edge.edge.shared_bandwidth:
        uploads = queueing.counts(server.clamp(min=0).flatten(1), up.flatten(1), edge.edge.servers)
        sharing = uploads.gather(-1, server.clamp(min=0).flatten(1)).reshape(shape)
        rate_bps = torch.where(up, radio.shared_bps(rate_bps, sharing), rate_bps)
    return Stays(
        there=exists & (server >= 0),
        here=exists & (server < 0),
        server=server.clamp(min=0),
        work_s=torch.zeros(shape, dtype=work_s.dtype, device=work_s.device).scatter_add_(-1, number, work_s),
        up=up,
        down=any_of(plan.down),
        moving_s=radio.upload_s(bits, torch.where(bits > 0, rate_bps, 1.0)),
    )


def pass_through(edge: EdgeTables, state: State, stays: Stays) -> Passage:
    """Takes the tasks of a slot through all their stays."""
    times = _settled(edge, state, stays)
    device = state.draws.device[..., None].expand(stays.there.shape).flatten(1)
    server, there = stays.server.flatten(1), stays.there.flatten(1)
    airtime_s, work_s, done_s = stays.moving_s * stays.up, stays.work_s * stays.there, times.done_s.flatten(1)
    across = stays.there & ~stays.up
    return Passage(
        processor_s=queueing.busy_until_s(state.device_backlog_s, device, done_s, stays.here.flatten(1)),
        radio_s=queueing.busy_until_s(state.uplink_backlog_s, device, times.sent_s.flatten(1), stays.up.flatten(1)),
        server_s=queueing.busy_until_s(state.server_backlog_s, server, done_s, there),
        device_s=((times.done_s - times.ready_s) * stays.here).sum(-1),
        upload_s=((times.sent_s - times.left_s) * stays.up).sum(-1),
        queue_s=((times.done_s - work_s - times.ready_s).clamp(min=0) * stays.there).sum(-1),
        on_server_s=(work_s + stays.moving_s * across).sum(-1),
        download_s=(stays.moving_s * stays.down).sum(-1),
        airtime_s=airtime_s.sum(-1),
        server_tasks=queueing.counts(server, there, edge.edge.servers),
        server_work_s=queueing.sums(server, work_s.flatten(1), edge.edge.servers),
    )


def _settled(edge: EdgeTables, state: State, stays: Stays) -> _Times:
    """The times of all stays, each served when it is its turn."""
    devices = edge.edge.devices
    device = state.draws.device[..., None].expand(stays.there.shape)
    resource = torch.where(stays.there, devices + stays.server, device)
    free_s = torch.cat((state.device_backlog_s, state.server_backlog_s), -1)
    free_s = free_s.gather(-1, resource.flatten(1)).reshape(resource.shape)
    radio_free_s = state.uplink_backlog_s.gather(-1, device.flatten(1)).reshape(device.shape)
    alone = edge.edge.distinct_devices
    queued, elsewhere = (stays.there if alone else stays.there | stays.here), devices + edge.edge.servers
    queue = torch.where(queued, resource, elsewhere)
    radio_queue = torch.where(stays.up, device, elsewhere)
    done_s = (stays.moving_s + stays.work_s).cumsum(-1)
    while True:
        left_s = torch.nn.functional.pad(done_s[..., :-1], (1, 0))
        if alone:
            sent_s = latency.ready_s(left_s, radio_free_s, stays.moving_s)
        else:
            sent_s = _finish_s(radio_queue, left_s, stays.moving_s, stays.up, radio_free_s)
        ready_s = torch.where(stays.up, sent_s, left_s + stays.moving_s)
        finish_s = _finish_s(queue, ready_s, stays.work_s, queued, free_s)
        if alone:
            finish_s = torch.where(stays.here, latency.end_s(ready_s, free_s, stays.work_s), finish_s)
        before_s, done_s = done_s, torch.where(stays.here | stays.there, finish_s, ready_s)
        if done_s.equal(before_s):
            return _Times(left_s, sent_s, ready_s, done_s)


def _finish_s(queue: Tensor, ready_s: Tensor, service_s: Tensor, active: Tensor, free_s: Tensor) -> Tensor:
    """`queueing.finish_s` of all stays [B, K, S] of all tasks."""
    flat = (array.flatten(1) for array in (queue, ready_s, service_s, active, free_s))
    return queueing.finish_s(*flat).reshape(ready_s.shape)
