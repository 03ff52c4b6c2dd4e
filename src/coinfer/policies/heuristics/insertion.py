"""Sequential greedy that serves first come, first served in its mind too: the strongest baseline without training.

Tasks decide one after another, those with the most work first. One that would be ready before others that have already
decided goes before them, and counts the delay that it means for each of them as its own.
"""

from typing import NamedTuple

import torch
from torch import Tensor

from coinfer.physics import latency
from coinfer.policies.candidates import candidates_of, predicted_s
from coinfer.types import OffloadDecision, OffloadObservation, Policy


class Jobs(NamedTuple):
    """What the first k tasks of the slot decided, all [.., k]."""

    server: Tensor
    """-1 where the task joins none."""
    ready_s: Tensor
    finish_s: Tensor
    """As it was to be when it was decided; those that come before it later are left out."""


def insertion(seed: int = 0) -> Policy:
    """The policy; nothing of it is drawn."""
    return _decide


def _decide(observation: OffloadObservation) -> OffloadDecision:
    found = candidates_of(observation)
    backlog_s, room = observation.server_backlog_s, observation.server_room
    best = predicted_s(found, backlog_s).argmin(-1, keepdim=True)
    work_s = found.service_s.gather(-1, best)[..., 0]
    order = torch.where(observation.task_mask, -work_s, torch.inf).argsort(dim=-1, stable=True)
    tasks = int(observation.task_mask.sum(-1).max())
    number = torch.arange(found.mask.shape[-1], device=order.device) % found.servers
    choice = (found.on_device & found.mask).int().argmax(-1)
    nobody = torch.zeros_like(backlog_s[..., :0])
    jobs = Jobs(nobody.long(), nobody, nobody)
    for k in range(tasks):
        task = order[..., k, None]
        parts = (found.ready_s, found.service_s, found.on_device, found.mask)
        ready_s, service_s, stays, allowed = (
            part.gather(-2, task[..., None].expand(*task.shape, part.shape[-1]))[..., 0, :] for part in parts
        )
        free_s, delayed = _inserted(jobs, number, ready_s, found.of_servers(backlog_s))
        begin_s = torch.where(stays, ready_s, latency.start_s(ready_s, free_s))
        score = begin_s + service_s * (1 + delayed * ~stays)
        score = torch.where(allowed & (stays | (found.of_servers(room) > 0)), score, torch.inf)
        taken = score.argmin(-1, keepdim=True)
        joins = ~stays.gather(-1, taken) & observation.task_mask.gather(-1, task)
        server = torch.where(joins, taken % found.servers, -1)
        choice = choice.scatter(-1, task, taken)
        room = room - (server == torch.arange(found.servers, device=order.device)).to(room.dtype)
        new = (server, ready_s.gather(-1, taken), (begin_s + service_s).gather(-1, taken))
        jobs = Jobs(*(torch.cat(pair, -1) for pair in zip(jobs, new, strict=True)))
    return found.decision(choice)


def _inserted(jobs: Jobs, number: Tensor, ready_s: Tensor, backlog_s: Tensor) -> tuple[Tensor, Tensor]:
    """For a task that would be ready so [.., C] on the servers `number` [C]: when what is before it is done, and how
    many come after it."""
    here = jobs.server[..., None, :] == number[:, None]
    after = jobs.ready_s[..., None, :] > ready_s[..., None]
    if not here.shape[-1]:
        return backlog_s, torch.zeros_like(ready_s)
    ended_s = torch.where(here & ~after, jobs.finish_s[..., None, :], 0.0).amax(-1)
    return torch.maximum(backlog_s, ended_s), (here & after).sum(-1)
