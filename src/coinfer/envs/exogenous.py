"""Random inputs of an edge: the tasks of a slot, their links, and the speed of the servers.

Draws are counter-based (`physics.random`): they depend on the seed of the episode and the slot alone, so they are the
same for any batch size, device and number type. Links, servers and arrivals follow sample paths of a bank
(`scenario.world`).
"""

from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from coinfer.physics import radio, random
from coinfer.scenario.world import BlocksWorld, Edge, OffloadWorld
from coinfer.scenario.world_check import check

_EPISODE, _ARRIVALS, _LINKS, _SERVERS, _SLOTS = range(5)
_TASKS, _RATES, _COUNT = range(3)


class Bank(NamedTuple):
    """Sample paths of a process."""

    values: Tensor
    """[L * R], slot after slot; R paths of L slots."""
    rows: int
    """R, number of paths."""
    starts: int
    """Number of slots of a path at which an episode may start."""

    @property
    def varies(self) -> bool:
        """Whether the process has more than one value."""
        return self.values.shape[0] > 1

    @property
    def circular(self) -> bool:
        """Whether paths are read in a circle, because an episode is at least as long as they are."""
        return self.values.shape[0] == self.rows * self.starts


class EdgeTables(NamedTuple):
    """An `Edge` as tensors of one type on one device, with the sizes as plain numbers."""

    edge: Edge
    dtype: torch.dtype
    device: torch.device
    device_class: Tensor
    """[U] int64"""
    model_cdf: Tensor
    """[X - 1], or [A, X - 1] by the state of the arrivals; the last entry, which is 1, is left out."""
    arrival_cdf: Tensor
    """[A, K]"""
    arrivals: Bank
    min_deadline_s: Tensor
    """[X * C] least deadline."""
    deadline_range_s: Tensor
    """[X * C] greatest less least deadline; 0 if they are infinite."""
    device_factor: Tensor
    """[Q]"""
    server_factor: Tensor
    """[Q]"""
    mean_link: Tensor
    """[G * U, N]"""
    links: Bank
    link_shift: Tensor
    """[N] int32, offset of a device's path to each server from its first path."""
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
    """Q, the greatest finite capacity of a server; 0 if all are infinite."""
    always_room: bool
    """Whether no server ever refuses a task."""
    limited_energy: bool
    """Whether any device has a finite limit."""
    recorded: "Recorded | None"
    """Tasks in the place of drawn ones; None if they are drawn."""


class Recorded(NamedTuple):
    """Tasks of each slot, all [L, K]; there are none in the last one."""

    task_mask: Tensor
    device: Tensor
    """int64"""
    model: Tensor
    """int64"""


class Draws(NamedTuple):
    """The random inputs of one slot. Policies observe parts of them, and the rates with an error."""

    task_mask: Tensor
    """[B, K] true if there is a task."""
    device: Tensor
    """[B, K] int64, device of the task."""
    model: Tensor
    """[B, K] int64, network of the task."""
    device_class: Tensor
    """[B, K] int64"""
    deadline_s: Tensor
    """[B, K]"""
    device_factor: Tensor
    """[B, K] true over expected time on the device; [1] if all are the same."""
    server_factor: Tensor
    """[B, K] or [1], the same for the server."""
    link_bps: Tensor
    """[B, K, N] true rate of each link."""
    believed_bps: Tensor
    """[B, K, N] rate that the device believes each link has."""
    share: Tensor
    """[B, N] part of its speed that a server has; 0 while it is out."""


def load_edge(world: OffloadWorld | BlocksWorld, device: str | torch.device, dtype: torch.dtype) -> EdgeTables:
    """Return the processes of a world as tensors.

    Args:
        world: a compiled scenario.
        device: where the tensors live.
        dtype: of all real numbers, float32 or float64.

    Raises:
        WorldError: if the arrays of the world do not fit together; one line.
    """
    check(world)
    edge = world.edge
    finite = edge.server_capacity[np.isfinite(edge.server_capacity)]
    min_deadline_s, max_deadline_s = edge.deadline_s.astype(np.float64).reshape(-1, 2).T
    limits = np.concatenate((edge.task_energy_j, edge.battery_j))

    def real(array: npt.ArrayLike) -> Tensor:
        return torch.as_tensor(np.asarray(array, dtype=np.float64)).to(device, dtype)

    def whole(array: npt.ArrayLike) -> Tensor:
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
        model_cdf=real((edge.model_cdf if edge.model_mix is None else edge.model_mix)[..., :-1]),
        arrival_cdf=real(edge.arrival_cdf),
        arrivals=bank(whole(edge.arrival_state)),
        min_deadline_s=real(min_deadline_s),
        deadline_range_s=real(
            np.subtract(
                max_deadline_s, min_deadline_s, where=max_deadline_s > min_deadline_s, out=np.zeros_like(min_deadline_s)
            )
        ),
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
        recorded=None
        if edge.recorded is None
        else Recorded(*(whole(np.pad(part, ((0, 1), (0, 0)))) for part in edge.recorded)),
    )


def draw(tables: EdgeTables, seeds: Tensor, slot: Tensor) -> Draws:
    """Return the random inputs of one slot of each episode.

    Args:
        tables: of the scenario.
        seeds: [B] int64, seeds of the episodes.
        slot: [B] int64, number of the slot in each episode.
    """
    edge = tables.edge
    slot_key = random.key(random.key(seeds, _SLOTS), slot)
    task = 3 * torch.arange(edge.tasks, device=tables.device)
    task_key = random.key(slot_key, _TASKS)[:, None]
    task_bits = random.bits(task_key, task)
    task_mask, device, model = (
        _drawn_tasks(tables, seeds, slot, slot_key, task_bits)
        if tables.recorded is None
        else _recorded_tasks(tables.recorded, slot)
    )
    device_class = take(tables.device_class, device)
    factor_bits = random.bits(task_key, task + 1)
    link_bps = _link_bps(tables, seeds, slot, device)
    return Draws(
        task_mask=task_mask,
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


def take(table: Tensor, index: Tensor) -> Tensor:
    """Return table[index]; faster than indexing.

    Args:
        table: [L]
        index: int64, any shape, which the result has too.
    """
    return table.index_select(0, index.reshape(-1)).reshape(index.shape)


def take_rows(table: Tensor, index: Tensor) -> Tensor:
    """Return the rows table[index] in fresh memory; faster than indexing.

    Args:
        table: [L, ..]
        index: int64, any shape; the result is [*index, ..] and may be changed in place.
    """
    return table.index_select(0, index.reshape(-1)).reshape(*index.shape, *table.shape[1:])


def _drawn_tasks(
    tables: EdgeTables, seeds: Tensor, slot: Tensor, slot_key: Tensor, task_bits: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """Return whether there is a task, its device and its network, all [B, K]."""
    arrivals = _arrival_state(tables, seeds, slot)
    mix = tables.model_cdf if tables.model_cdf.dim() == 1 else tables.model_cdf[arrivals][:, None, :]
    count = random.second_uniform(random.bits(slot_key, _COUNT), tables.dtype)[:, None]
    return (
        count >= tables.arrival_cdf[arrivals],
        _devices(tables, slot_key, task_bits),
        (random.second_uniform(task_bits, tables.dtype)[..., None] >= mix).sum(-1),
    )


def _recorded_tasks(recorded: Recorded, slot: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Return the same of tasks that were recorded."""
    slot = slot.clamp(max=recorded.task_mask.shape[0] - 1)
    return take_rows(recorded.task_mask, slot) > 0, take_rows(recorded.device, slot), take_rows(recorded.model, slot)


def _devices(tables: EdgeTables, slot_key: Tensor, task_bits: Tensor) -> Tensor:
    devices = tables.edge.devices
    if not tables.edge.distinct_devices:
        return random.integer(task_bits, devices)
    shift = random.integer(random.bits(slot_key, _COUNT), devices)
    return (shift[:, None] + torch.arange(task_bits.shape[1], device=task_bits.device)) % devices


def _arrival_state(tables: EdgeTables, seeds: Tensor, slot: Tensor) -> Tensor | slice:
    """Return the state of the arrivals, [B]; all if there is one."""
    if tables.arrival_cdf.shape[0] == 1:
        return slice(None)
    return _bank_values(tables.arrivals, _path(tables.arrivals, random.key(seeds, _ARRIVALS)), slot)


def _deadline_s(tables: EdgeTables, kind: Tensor, random_bits: Tensor) -> Tensor:
    return take(tables.min_deadline_s, kind) + take(tables.deadline_range_s, kind) * random.uniform(
        random_bits, tables.dtype
    )


def _link_bps(tables: EdgeTables, seeds: Tensor, slot: Tensor, device: Tensor) -> Tensor:
    edge, (worlds, tasks) = tables.edge, device.shape
    placement = random.integer(random.key(seeds, _EPISODE), edge.mean_link.shape[0])
    row = placement[:, None] * edge.devices + device
    bps = tables.mean_link.index_select(0, row.reshape(-1)).reshape(worlds, tasks, edge.servers)
    if tables.links.varies:
        path = _path(tables.links, random.bits(random.key(seeds, _LINKS)[:, None], device))[..., None]
        path = path if edge.one_path else _shifted(tables.links, path, tables.link_shift)
        bps.mul_(_bank_values(tables.links, path, slot[:, None, None]))
    return bps if edge.bandwidth_hz is None else radio.shannon_bps(bps, edge.bandwidth_hz)


def _believed_bps(tables: EdgeTables, slot_key: Tensor, link_bps: Tensor) -> Tensor:
    if tables.rate_error.shape[0] == 1:
        error = float(tables.edge.rate_error[0])
        return link_bps if error == 1 else link_bps * error
    number = torch.arange(link_bps.shape[1] * link_bps.shape[2], device=tables.device).reshape(link_bps.shape[1:])
    error_bits = random.bits(random.key(slot_key, _RATES)[:, None, None], number)
    return link_bps * _quantile(tables.rate_error, random.integer(error_bits, tables.rate_error.shape[0]))


def server_share(tables: EdgeTables, seeds: Tensor, slot: Tensor) -> Tensor:
    """Return the part of its speed that each server has, [B, N]; 0 during an outage. Do not change it in place.

    Args:
        tables: of the scenario.
        seeds: [B] int64, seeds of the episodes.
        slot: [B] int64, number of the slot in each episode.
    """
    if not tables.shares.varies:
        return tables.shares.values.expand(seeds.shape[0], tables.edge.servers)
    servers = torch.arange(tables.edge.servers, device=tables.device)
    path = _path(tables.shares, random.bits(random.key(seeds, _SERVERS)[:, None], servers))
    return _bank_values(tables.shares, path, slot[:, None])


def _path(bank: Bank, random_bits: Tensor) -> Tensor:
    """Return a random row and first slot of the bank, as one number."""
    return random.integer(random_bits, bank.rows * bank.starts).to(torch.int32)


def _shifted(bank: Bank, path: Tensor, shift: Tensor) -> Tensor:
    """Return other paths, one for each shift; each is as random as the first."""
    path, paths = path + shift, bank.rows * bank.starts
    return path.sub_((path >= paths).int().mul_(paths))


def _bank_values(bank: Bank, path: Tensor, slot: Tensor) -> Tensor:
    """Return the values of paths in a slot, which broadcasts against them."""
    position = path + (slot * bank.rows).to(torch.int32)
    if bank.circular:
        position = position % bank.values.shape[0]
    return take(bank.values, position)


def _quantile(values: Tensor, index: Tensor) -> Tensor:
    return values if values.shape[0] == 1 else take(values, index)
