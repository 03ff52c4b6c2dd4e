"""Sequential greedy with first come, first served in its predictions too: the strongest untrained baseline we found.

Tasks decide one after another, those with the most work first. If a task would be ready before others that have already
decided, it is served before them, and the delay of each of them counts as its own.
"""

from typing import NamedTuple

import torch
from torch import Tensor

from coinfer.physics import latency
from coinfer.policies.candidates import candidates_of, predicted_s
from coinfer.types import OffloadDecision, OffloadObservation, Policy


class Jobs(NamedTuple):
    """Decisions of the first k tasks of the slot, all [.., k]."""

    server: Tensor
    """-1 if the task joins none."""
    ready_s: Tensor
    finish_s: Tensor
    """Predicted when the task was decided, without tasks that are inserted before it later."""


def insertion(seed: int = 0) -> Policy[Tensor]:
    """Return the policy.

    Args:
        seed: ignored; the policy is deterministic.
    """
    return _decide


def _decide(observation: OffloadObservation[Tensor]) -> OffloadDecision[Tensor]:
    candidates = candidates_of(observation)
    backlog_s, room = observation.server_backlog_s, observation.server_room
    best = predicted_s(candidates, backlog_s).argmin(-1, keepdim=True)
    work_s = candidates.service_s.gather(-1, best)[..., 0]
    order = torch.where(observation.task_mask, -work_s, torch.inf).argsort(dim=-1, stable=True)
    tasks = int(observation.task_mask.sum(-1).max())
    number = torch.arange(candidates.mask.shape[-1], device=order.device) % candidates.servers
    choice = (candidates.on_device & candidates.mask).int().argmax(-1)
    empty = torch.zeros_like(backlog_s[..., :0])
    jobs = Jobs(empty.long(), empty, empty)
    for k in range(tasks):
        task = order[..., k, None]
        parts = (candidates.ready_s, candidates.service_s, candidates.on_device, candidates.mask)
        ready_s, service_s, on_device, allowed = (
            part.gather(-2, task[..., None].expand(*task.shape, part.shape[-1]))[..., 0, :] for part in parts
        )
        free_s, delayed = _inserted(jobs, number, ready_s, candidates.expand_servers(backlog_s))
        begin_s = torch.where(on_device, ready_s, latency.start_s(ready_s, free_s))
        score = begin_s + service_s * (1 + delayed * ~on_device)
        score = torch.where(allowed & (on_device | (candidates.expand_servers(room) > 0)), score, torch.inf)
        best_choice = score.argmin(-1, keepdim=True)
        joins = ~on_device.gather(-1, best_choice) & observation.task_mask.gather(-1, task)
        server = torch.where(joins, best_choice % candidates.servers, -1)
        choice = choice.scatter(-1, task, best_choice)
        room = room - (server == torch.arange(candidates.servers, device=order.device)).to(room.dtype)
        job = (server, ready_s.gather(-1, best_choice), (begin_s + service_s).gather(-1, best_choice))
        jobs = Jobs(*(torch.cat(pair, -1) for pair in zip(jobs, job, strict=True)))
    return candidates.decision(choice)


def _inserted(jobs: Jobs, number: Tensor, ready_s: Tensor, backlog_s: Tensor) -> tuple[Tensor, Tensor]:
    """Return when earlier work is done for a task that is inserted, and how many tasks come after it.

    Args:
        jobs: decided tasks.
        number: [C] server of each choice.
        ready_s: [.., C] when the task would be ready.
        backlog_s: [.., C] until the server has done the work of earlier slots.
    """
    same_server = jobs.server[..., None, :] == number[:, None]
    after = jobs.ready_s[..., None, :] > ready_s[..., None]
    if not same_server.shape[-1]:
        return backlog_s, torch.zeros_like(ready_s)
    ended_s = torch.where(same_server & ~after, jobs.finish_s[..., None, :], 0.0).amax(-1)
    return torch.maximum(backlog_s, ended_s), (same_server & after).sum(-1)
