"""What the networks of `scorer` see, in whole numbers small enough that their sums are exact (see there)."""

import torch
from torch import Tensor

from coinfer.policies.candidates import Candidates
from coinfer.types import OffloadObservation

STEPS = 512.0
"""In one, for features, weights and hidden values."""
WORK_TICKS, MAX_WORK_S = 2.0**14, 8.0
"""Ticks in a second for the work of all tasks, each of which counts no more than so many seconds: exact up to 128
tasks."""
MAX_S = 100.0
"""Times above this are all the same to the networks."""
HALF_S, HALF_BPS = 0.1, 2e7
"""Times and rates that a feature shows as one half."""
_TINY_S = 1e-6


def features(seen: OffloadObservation, found: Candidates, latency_s: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Return features of every pair [B, K, C, PAIR], task [B, K, TASK], server [B, N, SERVER] and world [B, WORLD].

    They are whole numbers of steps.

    Args:
        latency_s: [B, K, C] predicted as if the task were the only one.
    """
    servers, dtype = found.servers, found.ready_s.dtype
    task_mask = seen.task_mask.to(dtype)
    count = task_mask.sum(-1)
    best = latency_s.argmin(-1)
    latency_s = latency_s.clamp(max=MAX_S)
    ready_s = found.ready_s.clamp(max=MAX_S)
    deadline_s = seen.deadline_s.clamp(min=_TINY_S, max=MAX_S)
    on_device_s = torch.where(found.on_device & found.mask, ready_s, MAX_S).amin(-1)
    air_s = seen.option_upload_bits[..., None] / seen.uplink_bps[..., None, :]
    air_s = torch.where(found.on_device, 0.0, air_s.flatten(-2).clamp(max=MAX_S))
    wait_s = (found.expand_servers(seen.server_backlog_s)[:, None] - ready_s).clamp(min=0)
    best_s, best_ready_s, best_service_s = (
        part.gather(-1, best[..., None])[..., 0] for part in (latency_s, ready_s, found.service_s)
    )
    wait_s = torch.where(found.on_device, 0.0, wait_s)
    spare = ((deadline_s[..., None] - latency_s) / deadline_s[..., None]).clamp(min=-2)
    times_s = (found.own_s.clamp(max=MAX_S), air_s, ready_s, found.service_s, wait_s, latency_s - best_s[..., None])
    sizes = size_steps(torch.stack(times_s, -1))
    others = to_steps(torch.stack((found.on_device.to(dtype), spare), -1))
    pair = torch.cat((sizes[..., :5], others, sizes[..., 5:]), -1)
    spare = ((deadline_s - best_s) / deadline_s).clamp(min=-2)
    stays = found.on_device.gather(-1, best[..., None])[..., 0]
    sizes = size_steps(torch.stack((on_device_s, best_s, best_ready_s, best_service_s, deadline_s), -1))
    task = torch.cat((sizes, to_steps(torch.stack((spare, stays.to(dtype)), -1))), -1)
    backlog = size_steps(seen.server_backlog_s)
    mean_backlog = (backlog.sum(-1, keepdim=True) / servers).round()
    liked = best[..., None] == torch.arange(latency_s.shape[-1], device=best.device)
    liked = liked.unflatten(-1, (-1, servers)).any(-2) & (seen.task_mask & ~stays)[..., None]
    work = (best_service_s.clamp(max=MAX_WORK_S) * WORK_TICKS).round()
    server = (
        backlog,
        backlog - mean_backlog,
        part_steps(seen.server_room.clamp(max=99.0).to(dtype), 10.0),
        size_steps(seen.observation_age_s),
        part_steps(liked.to(dtype).sum(-2), 4.0),
        size_steps((liked * work[..., None]).sum(-2) / WORK_TICKS),
    )
    rate = part_steps(seen.uplink_bps.clamp(max=1e12), HALF_BPS).sum(-1)
    work_s = (task_mask * work).sum(-1) / WORK_TICKS
    numbers = torch.stack((count, count / servers, work_s / servers, torch.full_like(count, servers)), -1)
    parts = part_steps(numbers, numbers.new_tensor((10.0, 2.0, HALF_S, 5.0)))
    backlogs = torch.stack((mean_backlog[..., 0], backlog.amin(-1)), -1)
    mean_rate = ((task_mask * rate).sum(-1) / (count.clamp(min=1) * servers)).round()[..., None]
    world = torch.cat((parts[..., :2], backlogs, parts[..., 2:], mean_rate), -1)
    return pair, task, torch.stack(server, -1), world


def to_steps(values: Tensor) -> Tensor:
    """Return numbers in steps, rounded to whole ones."""
    return (values * STEPS).round()


def part_steps(value: Tensor, half: float | Tensor) -> Tensor:
    """Return numbers from 0 on as steps of 0 to 1, those that are `half` as half."""
    return (value * STEPS / (value + half)).round()


def size_steps(time_s: Tensor) -> Tensor:
    """Return seconds from 0 on as steps of 0 to 1."""
    return part_steps(time_s, HALF_S)
