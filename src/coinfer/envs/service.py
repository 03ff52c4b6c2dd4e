"""How the tasks of a slot pass the processor and radio of their devices, and then the servers."""

from typing import NamedTuple

import torch
from torch import Tensor

from coinfer.envs.core import State
from coinfer.envs.exogenous import EdgeTables
from coinfer.physics import latency, queueing


class DevicePass(NamedTuple):
    computed_s: Tensor
    """[B, K] when the device has computed its part."""
    sent_s: Tensor
    """[B, K] when the device has sent it; `computed_s` where it sends nothing."""
    device_until_s: Tensor
    """[B, U] when each processor is done."""
    uplink_until_s: Tensor
    """[B, U] when each radio is done."""


class ServerPass(NamedTuple):
    finish_s: Tensor
    """[B, K] when the server has done its part; means nothing for tasks that use none."""
    server_until_s: Tensor
    """[B, N] when each server is done."""
    tasks: Tensor
    """[B, N] int64, tasks that each server took on."""
    work_s: Tensor
    """[B, N] the time that they take there."""
    unfinished_s: Tensor
    """[B, N, Q] the ring of `State`, with these tasks."""
    ring_head: Tensor
    """[B, N]"""


def through_devices(
    tables: EdgeTables, state: State, computes: Tensor, device_s: Tensor, sends: Tensor, upload_s: Tensor
) -> DevicePass:
    """All [B, K]; the tasks that compute are ready when the slot begins, in the order of their numbers."""
    device = state.draws.device
    processor_s = state.device_backlog_s.gather(-1, device)
    radio_s = state.uplink_backlog_s.gather(-1, device)
    if tables.edge.distinct_devices:
        computed_s = processor_s + device_s
        sent_s = latency.ready_s(computed_s, radio_s, upload_s)
    else:
        order = queueing.service_order(device)
        queue, works, service_s, free_s = _arranged(order, device, computes, device_s, processor_s)
        done_s = queueing.ordered_finish_s(queue, torch.zeros_like(service_s), service_s, works, free_s)
        uses, airtime_s, free_s = _arranged(order, sends, upload_s, radio_s)
        away_s = queueing.ordered_finish_s(queue, done_s, airtime_s, uses, free_s)
        computed_s, sent_s = _put_back(order, done_s), _put_back(order, away_s)
    return DevicePass(
        computed_s=computed_s,
        sent_s=torch.where(sends, sent_s, computed_s),
        device_until_s=queueing.busy_until_s(state.device_backlog_s, device, computed_s, computes),
        uplink_until_s=queueing.busy_until_s(state.uplink_backlog_s, device, sent_s, sends),
    )


def through_servers(
    tables: EdgeTables, state: State, server: Tensor, uses: Tensor, ready_s: Tensor, server_s: Tensor
) -> ServerPass:
    """All [B, K]; `server` is within the servers also for tasks that use none."""
    servers = tables.edge.servers
    queue = torch.where(uses, server, servers)
    order = queueing.service_order(queue, ready_s)
    queue, active = queue.gather(-1, order), uses.gather(-1, order)
    ready, service_s, free_s = _arranged(order, ready_s, server_s, state.server_backlog_s.gather(-1, server))
    done_s = queueing.ordered_finish_s(queue, ready, service_s, active, free_s)
    finish_s = _put_back(order, done_s)
    tasks = queueing.counts(server, uses, servers)
    unfinished_s, ring_head = state.unfinished_s, state.ring_head
    if tables.places:
        unfinished_s, ring_head = _remember(tables, state, queue, done_s, tasks)
    return ServerPass(
        finish_s=finish_s,
        server_until_s=queueing.busy_until_s(state.server_backlog_s, server, finish_s, uses),
        tasks=tasks,
        work_s=queueing.sums(server, server_s * uses, servers),
        unfinished_s=unfinished_s,
        ring_head=ring_head,
    )


def _remember(tables: EdgeTables, state: State, queue: Tensor, done_s: Tensor, tasks: Tensor) -> tuple[Tensor, Tensor]:
    """The ring with tasks in the order of service. At most Q of a server's tasks are unfinished, and they finish in the
    order in which they were put in, so what a newcomer overwrites is finished."""
    places, servers = tables.places, tables.edge.servers
    head = torch.nn.functional.pad(state.ring_head, (0, 1))
    position = queue * places + (head.gather(-1, queue) + queueing.ranks(queue, tasks)) % places
    unused = servers * places
    ring = torch.nn.functional.pad(state.unfinished_s.flatten(1), (0, 1))
    ring = ring.scatter(-1, torch.where(queue < servers, position, unused), done_s)[:, :unused]
    return ring.reshape(state.unfinished_s.shape), (state.ring_head + tasks) % places


def _arranged(order: Tensor, *arrays: Tensor) -> tuple[Tensor, ...]:
    return tuple(array.gather(-1, order) for array in arrays)


def _put_back(order: Tensor, arranged: Tensor) -> Tensor:
    return torch.empty_like(arranged).scatter_(-1, order, arranged)
