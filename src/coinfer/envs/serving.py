"""Servers that batch requests and load networks: their tables and their state.

The rules are those of the edge server: `physics.batching` (one worker, which never waits for a batch to fill) and
`physics.loading` (one load at a time, beside the worker; a request joins the queue when its network is there). All times
are from the beginning of the slot. `serving_events` lets time pass, `serving_slot` adds the tasks of a slot.
"""

from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from coinfer.physics.batching import BatchTimes, batch_plan
from coinfer.scenario.serving import Serving


class ServingTables(NamedTuple):
    """A `Serving` as tensors, with the rule of batches looked up instead of computed."""

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


def load(serving: Serving, places: int, device: torch.device, dtype: torch.dtype) -> ServingTables:
    """Return the tables of a world's servers.

    Args:
        serving: of the world.
        places: H, most requests that a server holds.
        device: where the tensors live.
        dtype: of real numbers.
    """
    models, servers, _ = serving.batch_ratio.shape
    size = {tuple(row): _sizes(row, places) for row in serving.batch_ratio.reshape(models * servers, -1)}
    rows = np.stack([size[tuple(row)] for row in serving.batch_ratio.reshape(models * servers, -1)])

    def real(array: np.ndarray) -> Tensor:
        return torch.as_tensor(np.asarray(array, dtype=np.float64)).to(device, dtype)

    def whole(array: np.ndarray) -> Tensor:
        return torch.as_tensor(np.asarray(array, dtype=np.int64)).to(device)

    return ServingTables(
        option_piece=whole(serving.option_piece).reshape(-1),
        piece_network=whole(serving.piece_network),
        batch_ratio=real(serving.batch_ratio).reshape(models * servers, -1),
        batch_size=whole(rows),
        memory_bytes=real(serving.memory_bytes),
        network_bytes=real(serving.network_bytes),
        load_s=real(serving.load_s.T),
        places=places,
        loads=serving.loads,
    )


def _sizes(ratio: np.ndarray, places: int) -> np.ndarray:
    """Return the next batch [H + 1, H + 1] by how many of the piece, and how many in all, wait."""
    allowed = tuple(ratio[np.isfinite(ratio)].tolist())
    times = BatchTimes(tuple(range(1, len(allowed) + 1)), allowed)
    table = np.ones((places + 1, places + 1), np.int64)
    for waiting in range(2, places + 1) if times.limit > 1 else ():
        for same in range(2, waiting + 1):
            table[same, waiting] = batch_plan(times, same, waiting)[0]
    return table


def idle(tables: ServingTables, worlds: int) -> Queues:
    """Return servers without requests. Where memory is limited, it is empty; else it holds everything.

    Args:
        tables: from `load`.
        worlds: B.
    """
    (servers, networks), places = tables.load_s.shape, tables.places
    like = {"dtype": tables.load_s.dtype, "device": tables.load_s.device}

    def full(value: float, *shape: int) -> Tensor:
        return torch.full((worlds, servers, *shape), value, **like)

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
