"""The features of the networks of `policy`, whole numbers small enough that their sums are exact (see `policy`)."""

from typing import NamedTuple

import torch
from torch import Tensor

from coinfer.policies.candidates import Candidates
from coinfer.types import OffloadObservation

STEPS = 512.0
"""Steps in one, for features, weights and hidden values."""
WORK_TICKS, MAX_WORK_S = 2.0**14, 8.0
"""Ticks in a second for the work of all tasks, and the most seconds that a task counts: sums are exact up to 128
tasks."""
MAX_S = 100.0
"""The networks do not distinguish times above this."""
HALF_S, HALF_BPS = 0.1, 2e7
"""Times and rates that a feature shows as one half."""
_TINY_S = 1e-6


class Features(NamedTuple):
    """Features of all kinds, whole numbers of steps."""

    pair: Tensor
    """[B, K, C, PAIR]"""
    task: Tensor
    """[B, K, TASK]"""
    server: Tensor
    """[B, N, SERVER]"""
    world: Tensor
    """[B, WORLD]"""


class _Best(NamedTuple):
    """Each task's choice of least predicted latency, all [B, K]."""

    choice: Tensor
    latency_s: Tensor
    ready_s: Tensor
    service_s: Tensor
    on_device: Tensor
    work: Tensor
    """Service time in whole `WORK_TICKS`."""


def features(observation: OffloadObservation[Tensor], candidates: Candidates, latency_s: Tensor) -> Features:
    """Return the features of every pair, task, server and world.

    Args:
        observation: [B, K, ..]
        candidates: of the same observation.
        latency_s: [B, K, C] predicted as if each task were the only one.
    """
    best = _best(candidates, latency_s)
    deadline_s = observation.deadline_s.clamp(min=_TINY_S, max=MAX_S)
    return Features(
        _pair_features(observation, candidates, latency_s.clamp(max=MAX_S), best, deadline_s),
        _task_features(candidates, best, deadline_s),
        _server_features(observation, candidates, best),
        _world_features(observation, best),
    )


def _best(candidates: Candidates, latency_s: Tensor) -> _Best:
    choice = latency_s.argmin(-1)
    fields = (latency_s.clamp(max=MAX_S), candidates.ready_s.clamp(max=MAX_S), candidates.service_s)
    best_s, ready_s, service_s, on_device = (
        part.gather(-1, choice[..., None])[..., 0] for part in (*fields, candidates.on_device)
    )
    work = (service_s.clamp(max=MAX_WORK_S) * WORK_TICKS).round()
    return _Best(choice, best_s, ready_s, service_s, on_device, work)


def _pair_features(
    observation: OffloadObservation[Tensor], candidates: Candidates, latency_s: Tensor, best: _Best, deadline_s: Tensor
) -> Tensor:
    ready_s, on_device = candidates.ready_s.clamp(max=MAX_S), candidates.on_device
    air_s = observation.option_upload_bits[..., None] / observation.uplink_bps[..., None, :]
    air_s = torch.where(on_device, 0.0, air_s.flatten(-2).clamp(max=MAX_S))
    wait_s = (candidates.expand_servers(observation.server_backlog_s)[:, None] - ready_s).clamp(min=0)
    wait_s = torch.where(on_device, 0.0, wait_s)
    slack = ((deadline_s[..., None] - latency_s) / deadline_s[..., None]).clamp(min=-2)
    own_s, excess_s = candidates.own_s.clamp(max=MAX_S), latency_s - best.latency_s[..., None]
    sizes = size_steps(torch.stack((own_s, air_s, ready_s, candidates.service_s, wait_s, excess_s), -1))
    others = to_steps(torch.stack((on_device.to(ready_s.dtype), slack), -1))
    return torch.cat((sizes[..., :5], others, sizes[..., 5:]), -1)


def _task_features(candidates: Candidates, best: _Best, deadline_s: Tensor) -> Tensor:
    ready_s = candidates.ready_s.clamp(max=MAX_S)
    on_device_s = torch.where(candidates.on_device & candidates.mask, ready_s, MAX_S).amin(-1)
    slack = ((deadline_s - best.latency_s) / deadline_s).clamp(min=-2)
    times_s = (on_device_s, best.latency_s, best.ready_s, best.service_s, deadline_s)
    others = torch.stack((slack, best.on_device.to(ready_s.dtype)), -1)
    return torch.cat((size_steps(torch.stack(times_s, -1)), to_steps(others)), -1)


def _server_features(observation: OffloadObservation[Tensor], candidates: Candidates, best: _Best) -> Tensor:
    dtype = candidates.ready_s.dtype
    backlog = size_steps(observation.server_backlog_s)
    preferred = best.choice[..., None] == torch.arange(candidates.mask.shape[-1], device=backlog.device)
    preferred = preferred.unflatten(-1, (-1, candidates.servers)).any(-2)
    preferred = preferred & (observation.task_mask & ~best.on_device)[..., None]
    parts = (
        backlog,
        backlog - _mean_backlog(backlog),
        part_steps(observation.server_room.clamp(max=99.0).to(dtype), 10.0),
        size_steps(observation.observation_age_s),
        part_steps(preferred.to(dtype).sum(-2), 4.0),
        size_steps((preferred * best.work[..., None]).sum(-2) / WORK_TICKS),
    )
    return torch.stack(parts, -1)


def _world_features(observation: OffloadObservation[Tensor], best: _Best) -> Tensor:
    task_mask, servers = observation.task_mask.to(best.ready_s.dtype), observation.server_room.shape[-1]
    count = task_mask.sum(-1)
    work_s = (task_mask * best.work).sum(-1) / WORK_TICKS
    numbers = torch.stack((count, count / servers, work_s / servers, torch.full_like(count, servers)), -1)
    parts = part_steps(numbers, numbers.new_tensor((10.0, 2.0, HALF_S, 5.0)))
    backlog = size_steps(observation.server_backlog_s)
    backlogs = torch.stack((_mean_backlog(backlog)[..., 0], backlog.amin(-1)), -1)
    rate = part_steps(observation.uplink_bps.clamp(max=1e12), HALF_BPS).sum(-1)
    mean_rate = ((task_mask * rate).sum(-1) / (count.clamp(min=1) * servers)).round()[..., None]
    return torch.cat((parts[..., :2], backlogs, parts[..., 2:], mean_rate), -1)


def _mean_backlog(backlog: Tensor) -> Tensor:
    """Return the mean [B, 1] of backlogs in steps [B, N], in whole steps."""
    return (backlog.sum(-1, keepdim=True) / backlog.shape[-1]).round()


def to_steps(values: Tensor) -> Tensor:
    """Return numbers in steps, rounded to whole ones.

    Args:
        values: any shape.
    """
    return (values * STEPS).round()


def part_steps(value: Tensor, half: float | Tensor) -> Tensor:
    """Return value / (value + half), 0 to 1, in whole steps.

    Args:
        value: any shape, at least 0.
        half: value that maps to one half; broadcasts.
    """
    return (value * STEPS / (value + half)).round()


def size_steps(time_s: Tensor) -> Tensor:
    """Return time / (time + HALF_S), 0 to 1, in whole steps.

    Args:
        time_s: any shape, at least 0 and finite.
    """
    return part_steps(time_s, HALF_S)
