"""What both decision spaces share: the state of the edge, what chance brings in each slot, and how time passes.

Everything is a pure function over values with the worlds as leading axis B. Chance is counter-based (`random`): a
world's draws depend on its seed and the slot alone, so they are the same on any batch size, device and number type.
Times in a state count from the beginning of its slot, so that float32 does not wear out in a long episode.
"""

from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from coinfer.envs import random
from coinfer.physics import queueing, radio
from coinfer.scenario.world import BlocksWorld, Edge, OffloadWorld, check

_EPISODE, _ARRIVALS, _LINKS, _SERVERS, _SLOTS = range(5)
_TASKS, _RATES, _COUNT = range(3)


class Bank(NamedTuple):
    """Sample paths of a process."""

    values: Tensor
    """[L * R], slot after slot."""
    rows: int
    starts: int
    """How many of a path's slots an episode may start at."""

    @property
    def varies(self) -> bool:
        """Whether there is anything to look up."""
        return self.values.shape[0] > 1

    @property
    def circular(self) -> bool:
        """Whether paths are read in a circle, an episode being as long as they are or longer."""
        return self.values.shape[0] == self.rows * self.starts


class EdgeTables(NamedTuple):
    """An `Edge` as tensors of one type on one device, with the sizes as plain numbers."""

    edge: Edge
    dtype: torch.dtype
    device: torch.device
    device_class: Tensor
    """[U] int64"""
    model_cdf: Tensor
    """[X - 1] without the last, which is 1."""
    arrival_cdf: Tensor
    """[A, K]"""
    arrivals: Bank
    least_s: Tensor
    """[X * C] least deadline."""
    spread_s: Tensor
    """[X * C] from the least to the greatest deadline; 0 where they are infinite."""
    device_factor: Tensor
    """[Q]"""
    server_factor: Tensor
    """[Q]"""
    mean_link: Tensor
    """[G * U, N]"""
    links: Bank
    link_shift: Tensor
    """[N] int32, how far a device's path to each server lies from its first."""
    rate_error: Tensor
    """[Q]"""
    transmit_power_w: Tensor
    """[C]"""
    server_capacity: Tensor
    """[N]"""
    shares: Bank
    download_s: Tensor
    """[N]"""
    task_energy_j: Tensor
    """[C]"""
    battery_j: Tensor
    """[C]"""
    places: int
    """Q, the greatest finite capacity of a server; 0 where all are infinite."""
    always_room: bool
    """Whether no server ever refuses a task."""
    limited_energy: bool
    """Whether any device has a finite limit."""


class Draws(NamedTuple):
    """What chance brought in this slot. Policies see parts of it, and the rates with an error."""

    task_mask: Tensor
    """[B, K] true where there is a task."""
    device: Tensor
    """[B, K] int64, device of the task."""
    model: Tensor
    """[B, K] int64, network of the task."""
    device_class: Tensor
    """[B, K] int64"""
    deadline_s: Tensor
    """[B, K]"""
    device_factor: Tensor
    """[B, K] true time on the device over the expected one; [1] where it is always 1."""
    server_factor: Tensor
    """[B, K] the same on the server."""
    link_bps: Tensor
    """[B, K, N] true rate of each link."""
    believed_bps: Tensor
    """[B, K, N] what the device believes it is."""
    share: Tensor
    """[B, N] part of its speed that a server has; 0 while it is out."""


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
    """[B, N, Q] ring: time until each of the last Q admitted tasks is done; 0 or less where it is. [B, N, 0] where no
    capacity is finite."""
    ring_head: Tensor
    """[B, N] int64, where the ring goes on."""
    spent_j: Tensor
    """[B, U] energy that the device has spent in this episode."""
    past_backlog_s: Tensor
    """[B, S, N] server backlog of the last S slots, latest first; S is the staleness."""
    past_room: Tensor
    """[B, S, N] room then."""
    draws: Draws


class Info(NamedTuple):
    """What a step did beside the outcome."""

    truncated: Tensor
    """[B] bool, the episode is over: reset with new seeds before the next step."""
    refused: Tensor
    """[B, K] the decision could not be carried out: not feasible, or no room."""
    dropped: Tensor
    """[B, K] the task was lost."""
    server_tasks: Tensor
    """[B, N] tasks (for `blocks`: blocks) that each server took on."""
    server_work_s: Tensor
    """[B, N] time that they take there."""


def load_edge(world: OffloadWorld | BlocksWorld, device: str | torch.device, dtype: torch.dtype) -> EdgeTables:
    """Checks the world and puts its processes on a device."""
    check(world)
    edge = world.edge
    finite = edge.server_capacity[np.isfinite(edge.server_capacity)]
    least_s, most_s = edge.deadline_s.astype(np.float64).reshape(-1, 2).T
    limits = np.concatenate((edge.task_energy_j, edge.battery_j))

    def real(array: Any) -> Tensor:
        return torch.as_tensor(np.asarray(array, dtype=np.float64)).to(device, dtype)

    def whole(array: Any) -> Tensor:
        return torch.as_tensor(np.asarray(array, dtype=np.int64)).to(device)

    def bank(values: Tensor) -> Bank:
        rows, length = values.shape
        starts = length - edge.slots if length > edge.slots else length
        return Bank(values.T.reshape(-1).contiguous(), rows, starts)

    links = bank(real(edge.link_bank))
    return EdgeTables(
        edge=edge,
        dtype=dtype,
        device=torch.device(device),
        device_class=whole(edge.device_class),
        model_cdf=real(edge.model_cdf[:-1]),
        arrival_cdf=real(edge.arrival_cdf),
        arrivals=bank(whole(edge.arrival_state)),
        least_s=real(least_s),
        spread_s=real(np.subtract(most_s, least_s, where=most_s > least_s, out=np.zeros_like(least_s))),
        device_factor=real(edge.device_factor),
        server_factor=real(edge.server_factor),
        mean_link=real(edge.mean_link * (edge.link_bank[0, 0] if edge.link_bank.size == 1 else 1)).reshape(
            -1, edge.servers
        ),
        links=links,
        link_shift=random.below(random.bits(whole(0), whole(np.arange(edge.servers))), links.rows * links.starts).int(),
        rate_error=real(edge.rate_error),
        transmit_power_w=real(edge.transmit_power_w),
        server_capacity=real(edge.server_capacity),
        shares=bank(real(edge.share_bank)),
        download_s=real(edge.download_s),
        task_energy_j=real(edge.task_energy_j),
        battery_j=real(edge.battery_j),
        places=int(finite.max()) if finite.size else 0,
        always_room=not finite.size and bool((edge.share_bank > 0).all()),
        limited_energy=bool(np.isfinite(limits).any()),
    )


def start(tables: EdgeTables, seeds: Tensor) -> State:
    """Idle worlds, each at the first slot of the episode that its seed names."""
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


def next_seeds(seeds: Tensor) -> Tensor:
    """Seeds of the episodes that follow these."""
    return random.mix(seeds)


def room(tables: EdgeTables, state: State) -> Tensor:
    """[B, N] tasks that each server would admit now; none while it is out."""
    free = tables.server_capacity.expand_as(state.server_backlog_s)
    if tables.places:
        free = free - state.unfinished_s.sign().clamp_(min=0).sum(-1) * tables.server_capacity.isfinite()
    return torch.where(state.draws.share > 0, free, 0.0)


def energy_left_j(tables: EdgeTables, state: State) -> Tensor:
    """[B, K] what each task may spend."""
    device_class = state.draws.device_class
    if not tables.limited_energy:
        return torch.full_like(state.draws.deadline_s, torch.inf)
    battery_j = pick(tables.battery_j, device_class) - state.spent_j.gather(-1, state.draws.device)
    return torch.minimum(pick(tables.task_energy_j, device_class), battery_j.clamp(min=0))


def seen_servers(tables: EdgeTables, state: State) -> tuple[Tensor, Tensor, Tensor]:
    """Backlog, room and share [B, N] as old as the scenario says."""
    stale = tables.edge.staleness_slots
    if not stale:
        return state.server_backlog_s, room(tables, state), state.draws.share
    share = _server_share(tables, state.seed, (state.slot - stale).clamp(min=0))
    return state.past_backlog_s[:, -1], state.past_room[:, -1], share


def draw(tables: EdgeTables, seeds: Tensor, slot: Tensor) -> Draws:
    """What chance brings in a slot [B] of the episodes [B]."""
    edge = tables.edge
    slot_key = random.key(random.key(seeds, _SLOTS), slot)
    task = 3 * torch.arange(edge.tasks, device=tables.device)
    task_key = random.key(slot_key, _TASKS)[:, None]
    who = random.bits(task_key, task)
    device = _devices(tables, slot_key, who)
    device_class = pick(tables.device_class, device)
    model = (random.second_uniform(who, tables.dtype)[..., None] >= tables.model_cdf).sum(-1)
    factor_bits = random.bits(task_key, task + 1)
    link_bps = _link_bps(tables, seeds, slot, device)
    return Draws(
        task_mask=_task_mask(tables, seeds, slot, slot_key),
        device=device,
        model=model,
        device_class=device_class,
        deadline_s=_deadline_s(tables, model * edge.classes + device_class, random.bits(task_key, task + 2)),
        device_factor=_quantile(tables.device_factor, random.below(factor_bits, tables.device_factor.shape[0])),
        server_factor=_quantile(tables.server_factor, random.second_below(factor_bits, tables.server_factor.shape[0])),
        link_bps=link_bps,
        believed_bps=_believed_bps(tables, slot_key, link_bps),
        share=_server_share(tables, seeds, slot),
    )


def pass_slot(tables: EdgeTables, state: State, **now: Tensor) -> State:
    """The state at the beginning of the next slot, given the fields that the tasks of this slot changed, in times from
    the beginning of this slot."""
    slot_s, stale = tables.edge.slot_s, tables.edge.staleness_slots
    past = {}
    if stale:
        past["past_backlog_s"] = torch.cat((state.server_backlog_s[:, None], state.past_backlog_s[:, :-1]), dim=1)
        past["past_room"] = torch.cat((room(tables, state)[:, None], state.past_room[:, :-1]), dim=1)
    after = state._replace(**now)
    return after._replace(
        slot=state.slot + 1,
        device_backlog_s=queueing.elapse(after.device_backlog_s, slot_s),
        uplink_backlog_s=queueing.elapse(after.uplink_backlog_s, slot_s),
        server_backlog_s=queueing.elapse(after.server_backlog_s, slot_s),
        unfinished_s=after.unfinished_s - slot_s,
        draws=draw(tables, state.seed, state.slot + 1),
        **past,
    )


def _devices(tables: EdgeTables, slot_key: Tensor, who: Tensor) -> Tensor:
    devices = tables.edge.devices
    if not tables.edge.distinct_devices:
        return random.below(who, devices)
    shift = random.below(random.bits(slot_key, _COUNT), devices)
    return (shift[:, None] + torch.arange(who.shape[1], device=who.device)) % devices


def _task_mask(tables: EdgeTables, seeds: Tensor, slot: Tensor, slot_key: Tensor) -> Tensor:
    cdf = tables.arrival_cdf
    if cdf.shape[0] > 1:
        cdf = cdf[_at(tables.arrivals, _path(tables.arrivals, random.key(seeds, _ARRIVALS)), slot)]
    return random.second_uniform(random.bits(slot_key, _COUNT), tables.dtype)[:, None] >= cdf


def _deadline_s(tables: EdgeTables, kind: Tensor, random_bits: Tensor) -> Tensor:
    return pick(tables.least_s, kind) + pick(tables.spread_s, kind) * random.uniform(random_bits, tables.dtype)


def _link_bps(tables: EdgeTables, seeds: Tensor, slot: Tensor, device: Tensor) -> Tensor:
    edge, (worlds, tasks) = tables.edge, device.shape
    placement = random.below(random.key(seeds, _EPISODE), edge.mean_link.shape[0])
    row = placement[:, None] * edge.devices + device
    bps = tables.mean_link.index_select(0, row.reshape(-1)).reshape(worlds, tasks, edge.servers)
    if tables.links.varies:
        path = _path(tables.links, random.bits(random.key(seeds, _LINKS)[:, None], device))[..., None]
        path = path if edge.one_path else _shifted(tables.links, path, tables.link_shift)
        bps.mul_(_at(tables.links, path, slot[:, None, None]))
    return bps if edge.bandwidth_hz is None else radio.shannon_bps(bps, edge.bandwidth_hz)


def _believed_bps(tables: EdgeTables, slot_key: Tensor, link_bps: Tensor) -> Tensor:
    if tables.rate_error.shape[0] == 1:
        error = float(tables.edge.rate_error[0])
        return link_bps if error == 1 else link_bps * error
    number = torch.arange(link_bps.shape[1] * link_bps.shape[2], device=tables.device).reshape(link_bps.shape[1:])
    error_bits = random.bits(random.key(slot_key, _RATES)[:, None, None], number)
    return link_bps * _quantile(tables.rate_error, random.below(error_bits, tables.rate_error.shape[0]))


def _server_share(tables: EdgeTables, seeds: Tensor, slot: Tensor) -> Tensor:
    if not tables.shares.varies:
        return tables.shares.values.expand(seeds.shape[0], tables.edge.servers)
    servers = torch.arange(tables.edge.servers, device=tables.device)
    path = _path(tables.shares, random.bits(random.key(seeds, _SERVERS)[:, None], servers))
    return _at(tables.shares, path, slot[:, None])


def _path(bank: Bank, random_bits: Tensor) -> Tensor:
    """A row and a first slot of the bank, as one number."""
    return random.below(random_bits, bank.rows * bank.starts).to(torch.int32)


def _shifted(bank: Bank, path: Tensor, shift: Tensor) -> Tensor:
    """Other paths, as many as there are shifts: each is as random as the first."""
    path, paths = path + shift, bank.rows * bank.starts
    return path.sub_((path >= paths) * torch.tensor(paths, dtype=torch.int32, device=path.device))


def _at(bank: Bank, path: Tensor, slot: Tensor) -> Tensor:
    """Values of paths in a slot, which broadcasts against them."""
    position = path + (slot * bank.rows).to(torch.int32)
    if bank.circular:
        position = position % bank.values.shape[0]
    return pick(bank.values, position)


def pick(table: Tensor, index: Tensor) -> Tensor:
    """table[index] for a table [L] and an index of any shape; faster than indexing."""
    return table.index_select(0, index.reshape(-1)).reshape(index.shape)


def rows(table: Tensor, index: Tensor) -> Tensor:
    """Rows table[index] of a table [L, ..] for an index of any shape: fresh memory, and faster than indexing."""
    return table.index_select(0, index.reshape(-1)).reshape(*index.shape, *table.shape[1:])


def _quantile(values: Tensor, index: Tensor) -> Tensor:
    return values if values.shape[0] == 1 else pick(values, index)
