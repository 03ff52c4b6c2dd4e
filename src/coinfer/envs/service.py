"""Service of the tasks of a slot: first the processor and radio of their devices, then the servers."""

from typing import NamedTuple

import torch
from torch import Tensor

from coinfer.envs.core import State
from coinfer.envs.exogenous import EdgeTables
from coinfer.physics import latency, queueing


class DeviceStage(NamedTuple):
    """Times at which devices have computed and sent the tasks of a slot, from its beginning."""

    computed_s: Tensor
    """[B, K] when the device has computed its part."""
    sent_s: Tensor
    """[B, K] when the device has sent it; `computed_s` if it sends nothing."""
    device_until_s: Tensor
    """[B, U] when each processor is done."""
    uplink_until_s: Tensor
    """[B, U] when each radio is done."""


class ServerStage(NamedTuple):
    """Times at which servers have served the tasks of a slot, from its beginning, and their load."""

    finish_s: Tensor
    """[B, K] when the server has done its part; means nothing for tasks that use none."""
    server_until_s: Tensor
    """[B, N] when each server is done."""
    tasks: Tensor
    """[B, N] int64, tasks that each server took."""
    work_s: Tensor
    """[B, N] time that they take on the server."""
    unfinished_s: Tensor
    """[B, N, Q] the ring buffer of `State` after these tasks."""
    ring_head: Tensor
    """[B, N]"""


def device_stage(
    tables: EdgeTables, state: State, computes: Tensor, device_s: Tensor, sends: Tensor, upload_s: Tensor
) -> DeviceStage:
    """Compute and send the tasks of a slot; on a device they are served in the order of their numbers.

    Args:
        tables: of the scenario.
        state: at the beginning of the slot; unchanged.
        computes: [B, K] bool, whether the task uses the processor.
        device_s: [B, K] its computing time.
        sends: [B, K] bool, whether the task uses the radio.
        upload_s: [B, K] its time on air.

    Returns:
        Finish times of the tasks and of the devices.
    """
    device = state.draws.device
    processor_s = state.device_backlog_s.gather(-1, device)
    radio_s = state.uplink_backlog_s.gather(-1, device)
    if tables.edge.distinct_devices:
        computed_s = processor_s + device_s
        sent_s = latency.ready_s(computed_s, radio_s, upload_s)
    else:
        order = queueing.service_order(device)
        queue, works, service_s, free_s = _gathered(order, device, computes, device_s, processor_s)
        done_in_order_s = queueing.ordered_finish_s(queue, torch.zeros_like(service_s), service_s, works, free_s)
        uses, airtime_s, free_s = _gathered(order, sends, upload_s, radio_s)
        sent_in_order_s = queueing.ordered_finish_s(queue, done_in_order_s, airtime_s, uses, free_s)
        computed_s, sent_s = _scattered(order, done_in_order_s), _scattered(order, sent_in_order_s)
    return DeviceStage(
        computed_s=computed_s,
        sent_s=torch.where(sends, sent_s, computed_s),
        device_until_s=queueing.busy_until_s(state.device_backlog_s, device, computed_s, computes),
        uplink_until_s=queueing.busy_until_s(state.uplink_backlog_s, device, sent_s, sends),
    )


def server_stage(
    tables: EdgeTables, state: State, server: Tensor, uses: Tensor, ready_s: Tensor, server_s: Tensor
) -> ServerStage:
    """Serve the tasks of a slot on the servers, first come, first served.

    Args:
        tables: of the scenario.
        state: at the beginning of the slot; unchanged.
        server: [B, K] int64 below N, also for tasks that use no server.
        uses: [B, K] bool, whether the task uses a server.
        ready_s: [B, K] when the task arrives at the server.
        server_s: [B, K] its service time.

    Returns:
        Finish times of the tasks and of the servers, and the load of the servers.
    """
    servers = tables.edge.servers
    queue = torch.where(uses, server, servers)
    order = queueing.service_order(queue, ready_s)
    queue, active = queue.gather(-1, order), uses.gather(-1, order)
    ready, service_s, free_s = _gathered(order, ready_s, server_s, state.server_backlog_s.gather(-1, server))
    done_in_order_s = queueing.ordered_finish_s(queue, ready, service_s, active, free_s)
    finish_s = _scattered(order, done_in_order_s)
    tasks = queueing.counts(server, uses, servers)
    unfinished_s, ring_head = state.unfinished_s, state.ring_head
    if tables.places:
        unfinished_s, ring_head = _extended_ring(tables, state, queue, done_in_order_s, tasks)
    return ServerStage(
        finish_s=finish_s,
        server_until_s=queueing.busy_until_s(state.server_backlog_s, server, finish_s, uses),
        tasks=tasks,
        work_s=queueing.sums(server, server_s * uses, servers),
        unfinished_s=unfinished_s,
        ring_head=ring_head,
    )


def _extended_ring(
    tables: EdgeTables, state: State, queue: Tensor, done_in_order_s: Tensor, tasks: Tensor
) -> tuple[Tensor, Tensor]:
    """Return the ring buffer with these tasks, which are in the order of service, and its new head.

    At most Q tasks of a server are unfinished, and they finish in the order in which they entered, so a new task
    overwrites a finished one.
    """
    places, servers = tables.places, tables.edge.servers
    head = torch.nn.functional.pad(state.ring_head, (0, 1))
    position = queue * places + (head.gather(-1, queue) + queueing.ranks(queue, tasks)) % places
    unused = servers * places
    ring = torch.nn.functional.pad(state.unfinished_s.flatten(1), (0, 1))
    ring = ring.scatter(-1, torch.where(queue < servers, position, unused), done_in_order_s)[:, :unused]
    return ring.reshape(state.unfinished_s.shape), (state.ring_head + tasks) % places


def _gathered(order: Tensor, *arrays: Tensor) -> tuple[Tensor, ...]:
    return tuple(array.gather(-1, order) for array in arrays)


def _scattered(order: Tensor, arranged: Tensor) -> Tensor:
    return torch.empty_like(arranged).scatter_(-1, order, arranged)
