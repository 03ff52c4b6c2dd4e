"""What happens on servers that batch and load, in the order of time: arrivals, loads and batches.

The servers of all worlds advance together: each round, every server that still has something to do does the next thing.
"""

import torch
from torch import Tensor

from coinfer.physics.batching import MARGIN
from coinfer.physics.serving import Memory, Queues, Requests, ServingTables


def advance(tables: ServingTables, queues: Queues, until_s: float) -> Queues:
    """Return the servers after everything that happens before a time; what has begun by then has a known end.

    Args:
        tables: of the servers.
        queues: at some time before; unchanged.
        until_s: from the beginning of the slot; infinite for the end of all work.
    """
    while True:
        arrival_s, load_s, batch_s = _next_events(queues)
        now_s = torch.minimum(torch.minimum(arrival_s, load_s), batch_s)
        happens = now_s < until_s
        if not happens.any():
            return queues
        arrives = happens & (arrival_s == now_s)
        loads = happens & ~arrives & (load_s == now_s)
        if bool((arrives | loads).any()):
            queues = _loaded(tables, _arrived(tables, queues, now_s, arrives), now_s, loads)
            queues = _load_next(tables, queues, now_s, arrives | loads)
        queues = _begin_batch(tables, queues, now_s, happens & ~arrives & ~loads)


def _next_events(queues: Queues) -> tuple[Tensor, Tensor, Tensor]:
    """Return when the next request arrives, the next load ends and the next batch begins, all [B, N]."""
    requests = queues.requests
    arrival_s = torch.where(requests.arrived, torch.inf, requests.ready_s).amin(-1)
    waits_s = torch.where(requests.finish_s.isinf(), requests.joined_s, torch.inf).amin(-1)
    return arrival_s, queues.memory.loaded_s, torch.maximum(waits_s, queues.free_s)


def _arrived(tables: ServingTables, queues: Queues, now_s: Tensor, arrives: Tensor) -> Queues:
    """Let the next request of some servers arrive: it joins the queue, or waits until its network is loaded."""
    requests, memory = queues.requests, queues.memory
    place = torch.where(requests.arrived, torch.inf, requests.ready_s).argmin(-1, keepdim=True)
    chosen = _marked(place, requests.ready_s) & arrives[..., None]
    network = take(tables.piece_network, requests.piece.gather(-1, place))
    warm = memory.warm.gather(-1, network)
    asked = _marked(network, memory.wanted_s) & arrives[..., None] & ~memory.warm & ~_is_loading(memory)
    joined_s = torch.where(chosen & warm, now_s[..., None], requests.joined_s)
    requests = requests._replace(arrived=requests.arrived | chosen, joined_s=joined_s)
    wanted_s = torch.where(asked, torch.minimum(memory.wanted_s, now_s[..., None]), memory.wanted_s)
    memory = _used(tables, memory._replace(wanted_s=wanted_s), network, arrives & warm[..., 0])
    return Queues(requests, memory, queues.free_s)


def _loaded(tables: ServingTables, queues: Queues, now_s: Tensor, loads: Tensor) -> Queues:
    """End the load of some servers: all who waited for it join the queue."""
    requests, memory = queues.requests, queues.memory
    network = memory.loading[..., None]
    waits = (requests.ready_s <= now_s[..., None]) & requests.joined_s.isinf() & requests.arrived
    waits = waits & (take(tables.piece_network, requests.piece) == network)
    joined_s = torch.where(waits & loads[..., None], now_s[..., None], requests.joined_s)
    memory = _used(tables, memory, network, loads)
    memory = memory._replace(
        warm=memory.warm | (_marked(network, memory.wanted_s) & loads[..., None]),
        loaded_s=torch.where(loads, torch.inf, memory.loaded_s),
    )
    return Queues(requests._replace(joined_s=joined_s), memory, queues.free_s)


def _load_next(tables: ServingTables, queues: Queues, now_s: Tensor, looks: Tensor) -> Queues:
    """Begin the load that was asked for first, on servers that load nothing; make room for it."""
    memory, requests = queues.memory, queues.requests
    first_s, network = memory.wanted_s.min(-1, keepdim=True)
    begins = looks & memory.loaded_s.isinf() & first_s[..., 0].isfinite()
    if not begins.any():
        return queues
    unfinished = (requests.ready_s <= now_s[..., None]) & requests.arrived & (requests.finish_s > now_s[..., None])
    networks = take(tables.piece_network, requests.piece)
    in_use = torch.zeros_like(memory.warm, dtype=torch.int64).scatter_add(-1, networks, unfinished.long()) > 0
    needed = take(tables.network_bytes, network) + (memory.warm * tables.network_bytes).sum(-1, keepdim=True)
    evicted = _evicted(tables, memory, in_use, needed - tables.memory_bytes[:, None]) & begins[..., None]
    load_s = tables.load_s.expand_as(memory.credit).gather(-1, network)[..., 0]
    chosen = _marked(network, memory.wanted_s) & begins[..., None]
    memory = memory._replace(
        warm=memory.warm & ~evicted,
        floor=torch.maximum(memory.floor, torch.where(evicted, memory.credit, 0.0).amax(-1)),
        wanted_s=torch.where(chosen, torch.inf, memory.wanted_s),
        loading=torch.where(begins, network[..., 0], memory.loading),
        loaded_s=torch.where(begins, now_s + load_s, memory.loaded_s),
    )
    return queues._replace(memory=memory)


def _evicted(tables: ServingTables, memory: Memory, in_use: Tensor, needed: Tensor) -> Tensor:
    """Return what goes for some bytes [B, N, 1] to become free: the least credit first (`loading.evicted`)."""
    credit = torch.where(memory.warm & ~in_use, memory.credit, torch.inf)
    order = credit.argsort(dim=-1, stable=True)
    size = torch.where(credit.isfinite(), tables.network_bytes, 0.0).gather(-1, order)
    goes = (size.cumsum(-1) - size < needed) & (size > 0)
    return torch.zeros_like(goes).scatter(-1, order, goes)


def _used(tables: ServingTables, memory: Memory, network: Tensor, uses: Tensor) -> Memory:
    """Give a network [B, N, 1] the credit of one that is used now, on some servers."""
    worth = memory.floor[..., None] + tables.load_s / tables.network_bytes
    return memory._replace(credit=torch.where(_marked(network, memory.credit) & uses[..., None], worth, memory.credit))


def _begin_batch(tables: ServingTables, queues: Queues, now_s: Tensor, begins: Tensor) -> Queues:
    """Run the first request of some queues, with others of the same piece as `batching.batch_members` has it."""
    requests, order = queues.requests, None
    if tables.loads:  # arrived in another order than they joined
        order = requests.joined_s.argsort(dim=-1, stable=True)
        requests = Requests(*(field.gather(-1, order) for field in requests))
    waits = requests.finish_s.isinf() & (requests.joined_s <= now_s[..., None]) & begins[..., None]
    head = waits.int().argmax(-1, keepdim=True)
    piece, service_s = requests.piece.gather(-1, head), requests.service_s.gather(-1, head)
    curve = take(tables.piece_network, piece) * tables.load_s.shape[0]
    curve = curve + torch.arange(tables.load_s.shape[0], device=piece.device)[:, None]
    same = waits & (requests.piece == piece)
    size, ratio = _batch(tables, requests, waits, same, curve, service_s, now_s)
    members = same & (same.cumsum(-1) <= size)
    end_s = now_s[..., None] + ratio * service_s
    finish_s = torch.where(members, end_s, requests.finish_s)
    if order is not None:
        finish_s = torch.empty_like(finish_s).scatter_(-1, order, finish_s)
    free_s = torch.where(begins, end_s[..., 0], queues.free_s)
    return queues._replace(requests=queues.requests._replace(finish_s=finish_s), free_s=free_s)


def _batch(
    tables: ServingTables,
    requests: Requests,
    waits: Tensor,
    same: Tensor,
    curve: Tensor,
    service_s: Tensor,
    now_s: Tensor,
) -> tuple[Tensor, Tensor]:
    """Return size and relative time [B, N, 1] of the batch that begins: as planned, or smaller for deadlines."""
    places = tables.batch_size.shape[-1]
    row = (curve * places + same.sum(-1, keepdim=True)) * places + waits.sum(-1, keepdim=True)
    size = take(tables.batch_size.reshape(-1), row)
    limit_s = torch.where(waits, requests.deadline_s - now_s[..., None], torch.inf)
    rank, alone_s = same.cumsum(-1), (requests.service_s * waits).cumsum(-1)
    while True:
        ratio = take(tables.batch_ratio.reshape(-1), curve * tables.batch_ratio.shape[1] + (size - 1).clamp(min=0))
        batch_s = MARGIN * ratio * service_s
        members = same & (rank <= size)
        behind_s = batch_s + (requests.service_s * (waits & ~members)).cumsum(-1)
        late = (alone_s <= limit_s) & (torch.where(members, batch_s, behind_s) > limit_s)
        shrinks = (late & waits).any(-1, keepdim=True) & (size > 1)
        if not shrinks.any():
            return size, ratio
        size = size - shrinks.long()


def _is_loading(memory: Memory) -> Tensor:
    """Return which networks are being loaded, [B, N, X]."""
    return _marked(memory.loading[..., None], memory.credit) & memory.loaded_s.isfinite()[..., None]


def _marked(index: Tensor, like: Tensor) -> Tensor:
    """Return true at an index [B, N, 1] of the last axis of `like`."""
    return torch.arange(like.shape[-1], device=like.device) == index


def take(table: Tensor, index: Tensor) -> Tensor:
    """Return table[index]; faster than indexing.

    Args:
        table: [L]
        index: int64, any shape, which the result has too.
    """
    return table.index_select(0, index.reshape(-1)).reshape(index.shape)
