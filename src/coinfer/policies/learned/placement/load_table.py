"""Tabular decisions by the load of the servers, for `rl.algorithms.online_rl`: rows of the table, and its policy."""

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional

from coinfer.policies.learned.placement.placements import Placements, fixed_cut
from coinfer.types import OffloadDecision, OffloadObservation


@dataclass(frozen=True)
class Grid:
    """Discretisation of requests into rows of the table; all bounds ascend."""

    servers: int
    """N, number of servers."""
    loads_s: tuple[float, ...]
    """Bounds between the levels of a server's load."""
    rates_bps: tuple[float, ...]
    """Bounds between the levels of a request's mean link rate."""
    works_s: tuple[float, ...]
    """Bounds between the kinds of request, by their mean work on the servers."""
    running_queues: bool
    """Whether loads count the requests decided earlier in the slot."""

    @property
    def levels(self) -> int:
        """Return the number of levels of a server's load."""
        return len(self.loads_s) + 1

    @property
    def rows(self) -> int:
        """Return the number of rows of the table."""
        return self.levels**self.servers * (len(self.rates_bps) + 1) * (len(self.works_s) + 1)

    def features(self, observation: OffloadObservation, placements: Placements) -> Tensor:
        """Return the features [.., K, 1 + 2 N] of each request: its kind and rate as one number, its work on each
        server, and the servers' loads at the slot's beginning, both in seconds.

        Args:
            observation: the observation [..].
            placements: the placements of `fixed_cut`, servers first.
        """
        work_s = placements.service_s[..., : self.servers]
        kind = _level(work_s.mean(-1), self.works_s) * (len(self.rates_bps) + 1)
        kind = kind + _level(observation.uplink_bps.mean(-1), self.rates_bps)
        load_s = observation.server_backlog_s[..., None, :].expand_as(work_s)
        return torch.cat((kind[..., None].to(work_s.dtype), work_s, load_s), -1)

    def row(self, kind: Tensor, load_s: Tensor) -> tuple[Tensor, Tensor]:
        """Return the rows [..] of requests, and the servers [.., N] in the order of their level of load.

        Args:
            kind: [..] kind and rate as one number, the first of `features`.
            load_s: [.., N] load of each server in seconds.
        """
        level = _level(load_s, self.loads_s)
        number = torch.arange(self.servers, device=kind.device)
        order = (level * self.servers + number).sort(-1).indices
        weight = self.levels**number
        return kind.long() * self.levels**self.servers + (level.gather(-1, order) * weight).sum(-1), order

    def decision_loads_s(self, features: Tensor, place: Tensor, task_mask: Tensor) -> Tensor:
        """Return the loads [.., K, N] in seconds at the time of each request's decision.

        Args:
            features: [.., K, 1 + 2 N] what `features` returned.
            place: [.., K] int64 places that the requests took: a server, or N for the device.
            task_mask: [.., K] true if there is a request.
        """
        work_s, load_s = features[..., 1 : 1 + self.servers], features[..., 1 + self.servers :]
        if not self.running_queues:
            return load_s
        sent = functional.one_hot(place, self.servers + 1)[..., : self.servers] * task_mask[..., None]
        added_s = work_s * sent
        return load_s + added_s.cumsum(-2) - added_s


def decide(grid: Grid, values: Tensor, features: Tensor, mask: Tensor, task_mask: Tensor) -> Tensor:
    """Return the allowed places [L, W, K] of greatest value: a server, or N for the device.

    Args:
        grid: discretisation of the requests.
        values: [L, rows, N + 1] tables.
        features: [L, W, K, 1 + 2 N] what `Grid.features` returned.
        mask: [L, W, K, N + 1] true for allowed places.
        task_mask: [L, W, K] true if there is a request.
    """
    if not grid.running_queues:
        return _best(grid, values, features[..., 0], features[..., 1 + grid.servers :], mask)
    load_s, places = features[..., 0, 1 + grid.servers :], []
    for k in range(features.shape[-2]):
        best = _best(grid, values, features[..., k : k + 1, 0], load_s[..., None, :], mask[..., k : k + 1, :])
        sent = functional.one_hot(best[..., 0], grid.servers + 1)[..., : grid.servers] * task_mask[..., k : k + 1]
        load_s = load_s + features[..., k, 1 : 1 + grid.servers] * sent
        places.append(best)
    return torch.cat(places, -1)


def _best(grid: Grid, values: Tensor, kind: Tensor, load_s: Tensor, mask: Tensor) -> Tensor:
    n = grid.servers
    row, order = grid.row(kind, load_s)
    base = (torch.arange(values.shape[0], device=row.device) * values.shape[1]).reshape(-1, *[1] * (row.dim() - 1))
    row_values = values.reshape(-1, n + 1)[row + base]
    allowed = torch.cat((mask[..., :n].gather(-1, order), mask[..., n:]), -1)
    action = torch.where(allowed, row_values, -torch.inf).argmax(-1)
    server = order.gather(-1, action.clamp(max=n - 1)[..., None])[..., 0]
    return torch.where(action < n, server, n)


def _level(value: Tensor, steps: tuple[float, ...]) -> Tensor:
    """Return the number of bounds that each value exceeds."""
    level = torch.zeros_like(value, dtype=torch.int64)
    for step in steps:
        level = level + (value > step)
    return level


class TablePolicy(nn.Module):
    """Policy of trained tables, as a module for `policies.learned.export`.

    Args:
        grid: discretisation of the requests.
        values: [L, rows, N + 1] tables; observations [L * W, ..] are those of the L learners side by side, W of each.
    """

    values: Tensor

    def __init__(self, grid: Grid, values: Tensor):
        super().__init__()
        self.grid = grid
        self.register_buffer("values", values.detach().clone())

    @torch.no_grad()
    def forward(self, observation: OffloadObservation[Tensor]) -> OffloadDecision[Tensor]:
        """Return the decisions [B, K] of greatest value.

        Args:
            observation: [B, ..] with B a multiple of L.
        """
        placements = fixed_cut(observation)
        inputs = (self.grid.features(observation, placements), placements.mask, observation.task_mask)
        count = self.values.shape[0]
        features, mask, task_mask = (
            (part.unflatten(0, (count, -1)) for part in inputs) if count > 1 else (p[None] for p in inputs)
        )
        return placements.decision(decide(self.grid, self.values, features, mask, task_mask).flatten(0, 1))
