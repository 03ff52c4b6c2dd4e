"""Servers that batch requests and load networks: their tables and their state, for many worlds at once.

The rules are those of the edge server: `physics.batching` (one worker, which never waits for a batch to fill) and
`physics.loading` (one load at a time, beside the worker; a request joins the queue when its network is there). All
times are from the beginning of the slot. `serving_events` lets time pass.

Letters are those of `scenario.world`; H requests, P pieces of networks, W the largest batch.
"""

from typing import NamedTuple

import torch
from torch import Tensor


class ServingTables(NamedTuple):
    """What does not change, with the rule of batches looked up instead of computed."""

    option_piece: Tensor
    """[X * C * O] int64"""
    piece_network: Tensor
    """[P] int64"""
    batch_ratio: Tensor
    """[X * N, W]"""
    batch_size: Tensor
    """[X * N, H + 1, H + 1] int64, size of the next batch if so many of the piece and so many in all wait."""
    memory_bytes: Tensor
    """[N]"""
    network_bytes: Tensor
    """[X]"""
    load_s: Tensor
    """[N, X]"""
    places: int
    """H, most requests that a server holds."""
    loads: bool
    """Whether any server may have to load a network."""


class Requests(NamedTuple):
    """The admitted and unfinished requests of each server, all [B, N, H]; in the order of arrival."""

    ready_s: Tensor
    """When it arrives at the server; infinite for an entry without a request."""
    joined_s: Tensor
    """When it joined the queue; infinite if it did not yet."""
    finish_s: Tensor
    """When its batch ends; infinite if that has not begun."""
    service_s: Tensor
    """Time that it takes alone."""
    piece: Tensor
    """int64"""
    deadline_s: Tensor
    slot: Tensor
    """int64, number of the slot in which it was decided."""
    number: Tensor
    """int64, number of the task in that slot."""
    expected_s: Tensor
    """When it is finished if no more tasks come."""
    accuracy: Tensor
    arrived: Tensor
    """bool, whether it is at the server."""


class Memory(NamedTuple):
    """Networks on each server."""

    warm: Tensor
    """[B, N, X] bool, in memory."""
    wanted_s: Tensor
    """[B, N, X] since when a request waits for the network to be loaded; infinite if none does."""
    credit: Tensor
    """[B, N, X] of `physics.loading`."""
    floor: Tensor
    """[B, N] credit of what was evicted last."""
    loading: Tensor
    """[B, N] int64, the network that is being loaded; any if none is."""
    loaded_s: Tensor
    """[B, N] when it is there; infinite if none is loading."""


class Queues(NamedTuple):
    """The state of all servers."""

    requests: Requests
    memory: Memory
    free_s: Tensor
    """[B, N] when the worker's last batch ends."""


def idle(tables: ServingTables, worlds: int) -> Queues:
    """Return servers without requests. Where memory is limited, it is empty; else it holds everything.

    Args:
        tables: from `load`.
        worlds: B.
    """
    (servers, networks), places = tables.load_s.shape, tables.places

    def full(value: float, *shape: int) -> Tensor:
        return tables.load_s.new_full((worlds, servers, *shape), value)

    never, nothing, none = full(torch.inf, places), full(0.0, places), full(0.0, places).long()
    requests = Requests(
        ready_s=never,
        joined_s=never,
        finish_s=never,
        service_s=nothing,
        piece=none,
        deadline_s=never,
        slot=none,
        number=none,
        expected_s=nothing,
        accuracy=nothing,
        arrived=none.bool(),
    )
    memory = Memory(
        warm=tables.memory_bytes.isinf()[:, None].expand(worlds, -1, networks),
        wanted_s=full(torch.inf, networks),
        credit=full(0.0, networks),
        floor=full(0.0),
        loading=full(0.0).long(),
        loaded_s=full(torch.inf),
    )
    return Queues(requests, memory, full(0.0))
