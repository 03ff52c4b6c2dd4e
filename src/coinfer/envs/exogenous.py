"""What chance brings to an edge: who comes in a slot, over which links, to servers of which speed.

Chance is counter-based (`random`): the draws depend on the seed of the episode and the slot alone, so they are the same
on any batch size, device and number type. Links, servers and arrivals follow sample paths of a bank (`scenario.world`).
"""

from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from coinfer.physics import radio, random
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
        link_shift=random.integer(
            random.bits(whole(0), whole(np.arange(edge.servers))), links.rows * links.starts
        ).int(),
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
        device_factor=_quantile(tables.device_factor, random.integer(factor_bits, tables.device_factor.shape[0])),
        server_factor=_quantile(
            tables.server_factor, random.second_integer(factor_bits, tables.server_factor.shape[0])
        ),
        link_bps=link_bps,
        believed_bps=_believed_bps(tables, slot_key, link_bps),
        share=server_share(tables, seeds, slot),
    )


def pick(table: Tensor, index: Tensor) -> Tensor:
    """table[index] for a table [L] and an index of any shape; faster than indexing."""
    return table.index_select(0, index.reshape(-1)).reshape(index.shape)


def rows(table: Tensor, index: Tensor) -> Tensor:
    """Rows table[index] of a table [L, ..] for an index of any shape: fresh memory, and faster than indexing."""
    return table.index_select(0, index.reshape(-1)).reshape(*index.shape, *table.shape[1:])


def _devices(tables: EdgeTables, slot_key: Tensor, who: Tensor) -> Tensor:
    devices = tables.edge.devices
    if not tables.edge.distinct_devices:
        return random.integer(who, devices)
    shift = random.integer(random.bits(slot_key, _COUNT), devices)
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
    placement = random.integer(random.key(seeds, _EPISODE), edge.mean_link.shape[0])
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
    return link_bps * _quantile(tables.rate_error, random.integer(error_bits, tables.rate_error.shape[0]))


def server_share(tables: EdgeTables, seeds: Tensor, slot: Tensor) -> Tensor:
    """[B, N] part of its speed that each server has in a slot [B]."""
    if not tables.shares.varies:
        return tables.shares.values.expand(seeds.shape[0], tables.edge.servers)
    servers = torch.arange(tables.edge.servers, device=tables.device)
    path = _path(tables.shares, random.bits(random.key(seeds, _SERVERS)[:, None], servers))
    return _at(tables.shares, path, slot[:, None])


def _path(bank: Bank, random_bits: Tensor) -> Tensor:
    """A row and a first slot of the bank, as one number."""
    return random.integer(random_bits, bank.rows * bank.starts).to(torch.int32)


def _shifted(bank: Bank, path: Tensor, shift: Tensor) -> Tensor:
    """Other paths, as many as there are shifts: each is as random as the first."""
    path, paths = path + shift, bank.rows * bank.starts
    return path.sub_((path >= paths).int().mul_(paths))


def _at(bank: Bank, path: Tensor, slot: Tensor) -> Tensor:
    """Values of paths in a slot, which broadcasts against them."""
    position = path + (slot * bank.rows).to(torch.int32)
    if bank.circular:
        position = position % bank.values.shape[0]
    return pick(bank.values, position)


def _quantile(values: Tensor, index: Tensor) -> Tensor:
    return values if values.shape[0] == 1 else pick(values, index)
