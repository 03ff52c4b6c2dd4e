"""A schedule of all tasks of a slot at once, in which devices compute first blocks while their tasks would wait.

`blocks.planned_servers` shares whole tasks out. A task that waits anyway can do its first blocks on its device in the
meantime, which leaves the servers less to do, so that those behind it begin sooner. How far the queues then reach and
how many blocks fit into the waiting depend on each other, and are computed in rounds over all tasks (`schedule_cuts`).
"""

from typing import NamedTuple

import torch
from torch import Tensor

from coinfer.physics import latency
from coinfer.policies.heuristics.blocks import (
    NEVER_S,
    BlocksPolicy,
    fastest_places,
    least_latency_s,
    planned_servers,
    reachable,
)
from coinfer.types import BlocksDecision, BlocksObservation, fields_of

_ROUNDS = 4
_STEP = 0.6
"""Part of the way from the last round's times to those that its cuts lead to; with 1 they swing where servers are short
of time."""


class CutTimes(NamedTuple):
    """Times of placements with at most one cut: a task's first blocks on its device, the others on a server."""

    local_s: Tensor
    """[.., K] when it ends on its device alone."""
    begins_s: Tensor
    """[.., K, M] when its device has done the blocks before this one."""
    upload_s: Tensor
    """[.., K, M, N] time on air of this block's input."""
    ready_s: Tensor
    """[.., K, M, N] when this block's input has arrived."""
    work_s: Tensor
    """[.., K, M, N] work of the blocks from this one on; `NEVER_S` if there is no such block."""


class Schedule(NamedTuple):
    """Who serves each task, and the queues that it finds."""

    server: Tensor
    """[.., K] int64, from 0; for a task that stays on its device, the one that would have served it."""
    cut: Tensor
    """[.., K] int64, the first block on that server; M for a task that stays on its device."""
    free_s: Tensor
    """[.., K, N] when each server has done the work of the tasks before."""


def cut_schedule(seed: int = 0) -> BlocksPolicy:
    """Return a policy that follows `schedule_cuts`, with its last task placed anew (`with_last_moved`).

    Args:
        seed: ignored; the policy is deterministic.
    """

    def decide(o: BlocksObservation[Tensor]) -> BlocksDecision[Tensor]:
        planned = schedule_cuts(o, cut_times(o))
        number = torch.arange(o.block_mask.shape[-1], device=planned.cut.device)
        place = torch.where(number >= planned.cut[..., None], planned.server[..., None] + 1, 0)
        return BlocksDecision(with_last_moved(o, reachable(o, place).place))

    return decide


def cut_times(o: BlocksObservation[Tensor]) -> CutTimes:
    """Return the times of all placements with at most one cut.

    Args:
        o: with any leading batch axes.
    """
    before_s = o.block_device_s.cumsum(-1) - o.block_device_s
    begins_s = torch.where(before_s > 0, before_s + o.device_backlog_s[..., None], 0.0)
    upload_s = o.block_input_bits[..., None] / o.uplink_bps.clamp(min=1e-3)[..., None, :]
    work_s = o.block_server_s.flip(-2).cumsum(-2).flip(-2)
    return CutTimes(
        local_s=o.device_backlog_s + o.block_device_s.sum(-1),
        begins_s=begins_s,
        upload_s=upload_s,
        ready_s=latency.ready_s(begins_s[..., None], o.uplink_backlog_s[..., None, None], upload_s),
        work_s=torch.where(o.block_mask[..., None], work_s, NEVER_S),
    )


def schedule_cuts(o: BlocksObservation[Tensor], times: CutTimes) -> Schedule:
    """Return a schedule in which every task is cut where it ends first, on its device and its planned server.

    The plan does not ask which servers a task can reach: one whose link is broken stays on its device.

    Args:
        o: with any leading batch axes.
        times: of its placements.
    """
    server, backlog_s = planned_servers(o)
    servers, blocks = times.work_s.shape[-1], times.work_s.shape[-2]
    mine = server[..., None, None].expand(*times.work_s.shape[:-1], 1)
    ready_s, work_s = (part.gather(-1, mine)[..., 0] for part in (times.ready_s, times.work_s))
    takes = (server[..., None] == torch.arange(servers, device=server.device)) & o.task_mask[..., None]
    first_s = torch.where(takes, ready_s[..., :1], NEVER_S).amin(-2)
    begins_s = torch.maximum(backlog_s, torch.where(first_s < NEVER_S, first_s, 0.0))[..., None, :]
    cut, free_s = torch.zeros_like(server), begins_s.expand(takes.shape)
    for number in range(_ROUNDS):
        taken_s = work_s.gather(-1, cut.clamp(max=blocks - 1)[..., None]) * (takes & (cut < blocks)[..., None])
        after_s = begins_s + taken_s.cumsum(-2) - taken_s
        free_s = torch.lerp(free_s, after_s, _STEP) if number else after_s
        end_s = latency.end_s(ready_s, free_s.gather(-1, server[..., None]), work_s)
        cut = torch.cat([end_s, times.local_s[..., None]], -1).argmin(-1)
    return Schedule(server, cut, free_s)


def with_last_moved(o: BlocksObservation[Tensor], place: Tensor) -> Tensor:
    """Return the placement [.., K, M] in which the task that ends last goes wherever it ends first behind all others.

    At the end of a slot places fall idle: that task can begin on a slow one and go on where others have finished. An
    old picture of the servers does not say which ones, so nothing is moved on it.

    Args:
        o: with any leading batch axes.
        place: [.., K, M] with at most one cut.
    """
    times, servers = cut_times(o), o.uplink_bps.shape[-1]
    cut = (place.cumsum(-1) == 0).sum(-1)
    on_server, server = (cut < place.shape[-1]) & o.task_mask, (place.amax(-1) - 1).clamp(min=0)
    own = (cut.clamp(max=place.shape[-1] - 1) * servers + server)[..., None]
    ready_s, work_s = (part.flatten(-2).gather(-1, own)[..., 0] for part in (times.ready_s, times.work_s))
    takes = (server[..., None] == torch.arange(servers, device=place.device)) & on_server[..., None]
    backlog_s = torch.where(o.server_room > 0, o.server_backlog_s, torch.inf)[..., None, :]
    taken_s = work_s[..., None] * takes
    free_s = (backlog_s + taken_s.cumsum(-2) - taken_s).gather(-1, server[..., None])[..., 0]
    end_s = torch.where(on_server, latency.end_s(ready_s, free_s, work_s), times.local_s) * o.task_mask
    last = end_s.argmax(-1, keepdim=True)
    others = takes & (torch.arange(place.shape[-2], device=place.device) != last)[..., None]
    tail_s = torch.maximum(torch.where(others, end_s[..., None], 0.0).amax(-2), backlog_s[..., 0, :])
    alone, queues_s = _one_task(o, last), torch.nn.functional.pad(tail_s, (1, 0))[..., None, :]
    better = least_latency_s(alone, queues_s) < end_s.gather(-1, last) - 1e-6
    better = better & (o.observation_age_s.amax(-1, keepdim=True) <= 0)
    row = last[..., None].expand(*last.shape, place.shape[-1])
    moved = torch.where(better[..., None], fastest_places(alone, queues_s), place.gather(-2, row))
    return place.scatter(-2, row, moved)


def _one_task(o: BlocksObservation[Tensor], number: Tensor) -> BlocksObservation[Tensor]:
    """Return the observation of one task of each world alone, by number [.., 1]; K becomes 1."""
    fields: dict[str, Tensor] = {}
    for name, field in fields_of(BlocksObservation).items():
        if "K" in field.axes:
            value = getattr(o, name)
            after = len(field.axes) - 1 - field.axes.index("K")
            shape = (*number.shape, *value.shape[value.dim() - after :])
            index = number.reshape(*number.shape, *[1] * after).expand(shape)
            fields[name] = value.gather(value.dim() - 1 - after, index)
    return o._replace(**fields)
