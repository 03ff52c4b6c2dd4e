"""The placements of the tasks of a slot, for an agent that decides for all of them at once, and their predictions.

A task has C placements: every server, with the cut that CDLP fixed for it (the fastest option if the server is idle),
and the device, if that is sensible at all: C = N + 1, `fixed_cut`. Or every surviving option on every server, and the
device: C = O * N, `joint`.

`running_s` lets the predictions know the slot's other tasks: it returns when each server is free for a task, if each of
the tasks before it takes its soonest placement by prediction, as sequential greedy does.
"""

from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional

from coinfer.physics import latency
from coinfer.policies.candidates import candidates_of, predicted_s
from coinfer.policies.learned.features import ENERGY_J, logarithmic
from coinfer.types import DEVICE, OffloadDecision, OffloadObservation

SCALE_S = 0.02
"""The features of times up to about this are nearly linear, those of longer times logarithmic."""
PLACEMENT_FEATURES = 20


class Placements(NamedTuple):
    """The placements of the tasks; all fields are [.., K, C] but `servers`."""

    option: Tensor
    server: Tensor
    """`DEVICE` if nothing is sent."""
    ready_s: Tensor
    """When the task arrives at its server; if nothing is sent, when it is done."""
    service_s: Tensor
    accuracy: Tensor
    device_j: Tensor
    mask: Tensor
    """True if the placement is allowed."""
    servers: int
    """N"""

    @property
    def on_device(self) -> Tensor:
        """Return whether nothing is sent, [.., K, C] bool."""
        return self.server == DEVICE

    def decision(self, place: Tensor) -> OffloadDecision[Tensor]:
        """Return the decision that takes given placements, [.., K].

        Args:
            place: [.., K] int64 below C.
        """
        option, server = (part.gather(-1, place[..., None])[..., 0] for part in (self.option, self.server))
        return OffloadDecision(option, server)

    def expand_servers(self, values: Tensor, device: float) -> Tensor:
        """Return values of servers as values of placements, [.., K, C].

        Args:
            values: [.., K, N]
            device: the value if nothing is sent.
        """
        expanded = values.gather(-1, self.server.clamp(min=0))
        return torch.where(self.on_device, device, expanded)


def joint(o: OffloadObservation[Tensor]) -> Placements:
    """Return every option on every server; placement c is option c // N on server c % N, as in `candidates_of`.

    Args:
        o: with any leading batch axes.
    """
    candidates = candidates_of(o)
    place = torch.arange(candidates.mask.shape[-1], device=candidates.mask.device).expand(candidates.mask.shape)
    option = torch.div(place, candidates.servers, rounding_mode="floor")
    return Placements(
        option=option,
        server=torch.where(candidates.on_device, DEVICE, place % candidates.servers),
        ready_s=candidates.ready_s,
        service_s=candidates.service_s,
        accuracy=candidates.accuracy,
        device_j=o.option_device_j.gather(-1, option),
        mask=candidates.mask,
        servers=candidates.servers,
    )


def fixed_cut(o: OffloadObservation[Tensor]) -> Placements:
    """Return the servers, each with CDLP's cut, and last the device: one call decides the cuts of all tasks (CIAS-PnO).

    The device is allowed if it answers before the deadline, or sooner than any idle server, or nothing else is left.

    Args:
        o: with any leading batch axes.
    """
    every = joint(o)
    candidates = candidates_of(o)
    idle_s = predicted_s(candidates, torch.zeros_like(o.server_backlog_s))
    sent_s = torch.where(every.on_device, torch.inf, idle_s).unflatten(-1, (-1, every.servers))
    index = torch.arange(every.servers, device=idle_s.device)
    remote = sent_s.argmin(-2) * every.servers + index
    here_s = torch.where(every.on_device, idle_s, torch.inf)
    first_local = every.on_device.int().argmax(-1, keepdim=True)
    least = here_s.argmin(-1, keepdim=True)
    local = torch.where(here_s.gather(-1, least).isfinite(), least, first_local)
    index = torch.cat((remote, local), -1)
    placements = Placements(*(part.gather(-1, index) for part in every[:-1]), servers=every.servers)
    soonest_s, own_s = sent_s.amin((-2, -1)), here_s.amin(-1)
    stays = (own_s <= soonest_s) | (own_s <= o.deadline_s) | soonest_s.isinf()
    return placements._replace(mask=placements.mask & (~placements.on_device | stays[..., None]))


def by_load(o: OffloadObservation[Tensor]) -> Tensor:
    """Return the servers' numbers by rising load, [.., N]; equal loads in the order of the numbers.

    Args:
        o: with any leading batch axes.
    """
    load_s = o.server_backlog_s
    number = torch.arange(load_s.shape[-1], device=load_s.device)
    first = number[:, None] > number
    less = (load_s[..., None, :] < load_s[..., None]) | ((load_s[..., None, :] == load_s[..., None]) & first)
    return less.sum(-1).argsort(-1)


def ranked_cut(o: OffloadObservation[Tensor]) -> Placements:
    """Return `fixed_cut` with the servers in the order of `by_load`: placement 0 is the least loaded server.

    Args:
        o: with any leading batch axes.
    """
    fixed = fixed_cut(o)
    order = by_load(o)[..., None, :].expand(*fixed.mask.shape[:-1], fixed.servers)
    place = torch.cat((order, torch.full_like(order[..., :1], fixed.servers)), -1)
    return Placements(*(part.gather(-1, place) for part in fixed[:-1]), servers=fixed.servers)


def running_s(o: OffloadObservation[Tensor], placements: Placements, max_tasks: int | None = None) -> Tensor:
    """Return the seconds until each server is free for each task, [.., K, N], after the tasks with lower numbers.

    Args:
        o: with any leading batch axes.
        placements: of the same observation.
        max_tasks: only the first tasks are served; None takes as many as some world has.
    """
    n = placements.servers
    ready_s, service_s, own_s = _by_server(placements)
    free_s, free_by_task, number = o.server_backlog_s, [], torch.arange(n, device=ready_s.device)
    tasks = ready_s.shape[-2]
    if max_tasks is None:
        max_tasks = min(tasks, max(1, int(o.task_mask.sum(-1).amax())))
    for k in range(max_tasks):
        free_by_task.append(free_s)
        done_s = latency.end_s(ready_s[..., k, :], free_s, service_s[..., k, :])
        soonest_s, server = done_s.min(-1, keepdim=True)
        sent = (soonest_s < own_s[..., k : k + 1]) & o.task_mask[..., k : k + 1]
        free_s = torch.where((server == number) & sent, done_s, free_s)
    return torch.stack(free_by_task + [free_s] * (tasks - max_tasks), -2)


def _by_server(placements: Placements) -> tuple[Tensor, Tensor, Tensor]:
    """Return readiness and service time of each server's soonest placement, and when the device would be done.

    They are [.., K, N], [.., K, N] and [.., K]; infinite if there is no placement.
    """
    n = placements.servers
    own_s = torch.where(placements.mask & placements.on_device, placements.ready_s, torch.inf).amin(-1)
    sent = placements.mask & ~placements.on_device
    if placements.mask.shape[-1] == n + 1:
        ready_s, service_s = (
            torch.where(sent, part, torch.inf)[..., :n] for part in (placements.ready_s, placements.service_s)
        )
        return ready_s, service_s, own_s
    done_s = torch.where(sent, placements.ready_s + placements.service_s, torch.inf).unflatten(-1, (-1, n))
    soonest = done_s.argmin(-2, keepdim=True)
    ready_s, service_s = (
        torch.where(sent, part, torch.inf).unflatten(-1, (-1, n)).gather(-2, soonest)[..., 0, :]
        for part in (placements.ready_s, placements.service_s)
    )
    return ready_s, service_s, own_s


def _predicted_s(placements: Placements, free_s: Tensor) -> Tensor:
    """Return the latency [.., K, C] with servers free at [.., K, N]; infinite if the placement is not allowed."""
    served_s = latency.end_s(placements.ready_s, placements.expand_servers(free_s, 0.0), placements.service_s)
    return torch.where(placements.mask, torch.where(placements.on_device, placements.ready_s, served_s), torch.inf)


def placement_features(
    o: OffloadObservation[Tensor], placements: Placements, *, running_queues: bool = True, max_tasks: int | None = None
) -> Tensor:
    """Return the features of each placement, [.., K, C, PLACEMENT_FEATURES]; all are 0 if it is not allowed.

    They are: predicted latency with the running queues, and how much it exceeds the best placement's, also with the
    queues as observed; its parts; slack to the deadline; whether the running queues count the task in this placement;
    and, the same for all placements of a task, how busy slot and servers are. The last one is 1.

    Args:
        o: with any leading batch axes.
        placements: of the same observation.
        running_queues: if false, the observed queues replace the running ones.
        max_tasks: see `running_s`.
    """
    observed_s = o.server_backlog_s[..., None, :].expand(*o.uplink_bps.shape)
    free_s = running_s(o, placements, max_tasks) if running_queues else observed_s
    running_latency_s, observed_latency_s = _predicted_s(placements, free_s), _predicted_s(placements, observed_s)
    parts = (
        *_features_of_placements(o, placements, free_s, running_latency_s, observed_latency_s),
        *(part[..., None].expand_as(running_latency_s) for part in _features_of_tasks(o, placements)),
        torch.ones_like(running_latency_s),
    )
    return torch.stack(parts, -1) * (placements.mask & o.task_mask[..., None])[..., None]


def _features_of_placements(
    o: OffloadObservation[Tensor],
    placements: Placements,
    free_s: Tensor,
    running_latency_s: Tensor,
    observed_latency_s: Tensor,
) -> tuple[Tensor, ...]:
    """Return features that differ by placement, all [.., K, C], with servers free at [.., K, N] and both latencies."""
    sent = placements.mask & ~placements.on_device
    age_s, room = o.observation_age_s, o.server_room.clamp(max=100.0)
    return (
        _size(running_latency_s),
        _over_least(running_latency_s),
        _over_least(observed_latency_s),
        _size(placements.ready_s),
        _size(placements.service_s),
        _over_least(torch.where(sent, placements.expand_servers(free_s, torch.inf), torch.inf)),
        placements.on_device.to(running_latency_s.dtype),
        ((o.deadline_s[..., None] - running_latency_s) / o.deadline_s[..., None]).clamp(-3, 1).nan_to_num(1.0),
        placements.expand_servers(room[..., None, :].expand_as(o.uplink_bps), 100.0) / 30,
        _size(placements.expand_servers(age_s[..., None, :].expand_as(o.uplink_bps), 0.0)),
        2 * placements.accuracy - 1,
        logarithmic(placements.device_j, ENERGY_J),
        functional.one_hot(running_latency_s.argmin(-1), running_latency_s.shape[-1]).to(running_latency_s.dtype),
    )


def _features_of_tasks(o: OffloadObservation[Tensor], placements: Placements) -> tuple[Tensor, ...]:
    """Return features that differ by task only, all [.., K]."""
    task_mask = o.task_mask.to(placements.ready_s.dtype)
    work_s = torch.where(placements.mask & ~placements.on_device, placements.service_s, torch.inf).amin(-1)
    work_s = torch.where(work_s.isfinite(), work_s, 0.0) * task_mask
    ahead_s, slot_s = work_s.cumsum(-1) - work_s, work_s.sum(-1, keepdim=True)
    count, before = task_mask.sum(-1, keepdim=True), task_mask.cumsum(-1) - task_mask
    return (
        _size(ahead_s / placements.servers),
        _size(slot_s / placements.servers).expand_as(ahead_s),
        _size(o.server_backlog_s.mean(-1)[..., None]).expand_as(ahead_s),
        (count / 32).expand_as(ahead_s),
        (1 / count.clamp(min=1)).expand_as(ahead_s),
        before / 32,
    )


def flat_features(o: OffloadObservation[Tensor], placements: Placements) -> Tensor:
    """Return the state of the paper (III) in one row, [.., K * (4 + N) + 2 N].

    For each task its work on a server and on its device, its deadline and links; for each server its load and room.

    Args:
        o: with any leading batch axes.
        placements: of the same observation.
    """
    task_mask = o.task_mask.to(placements.ready_s.dtype)
    sent = placements.mask & ~placements.on_device
    work_s = torch.where(sent, placements.service_s, torch.inf).amin(-1)
    here_s = torch.where(placements.mask & placements.on_device, placements.ready_s, torch.inf).amin(-1)
    deadline_s = o.deadline_s.clamp(max=10.0)
    by_task = torch.stack(
        [
            task_mask,
            *(_size(torch.where(part.isfinite(), part, 0.0)) * task_mask for part in (work_s, here_s, deadline_s)),
        ],
        -1,
    )
    links = logarithmic(o.uplink_bps, (1e6, 1e9)) * task_mask[..., None]
    servers = torch.cat((_size(o.server_backlog_s), o.server_room.clamp(max=100.0) / 30), -1)
    return torch.cat((by_task.flatten(-2), links.flatten(-2), servers), -1)


def ranked_features(o: OffloadObservation[Tensor], placements: Placements) -> Tensor:
    """Return `flat_features` with the servers in the order of `by_load`.

    Args:
        o: with any leading batch axes.
        placements: of the same observation, from `ranked_cut`.
    """
    order = by_load(o)
    links = o.uplink_bps.gather(-1, order[..., None, :].expand_as(o.uplink_bps))
    loads, room = (part.gather(-1, order) for part in (o.server_backlog_s, o.server_room))
    return flat_features(o._replace(uplink_bps=links, server_backlog_s=loads, server_room=room), placements)


def _size(time_s: Tensor) -> Tensor:
    """Return a feature of a time of at least 0; infinite times look like 100 s."""
    return (time_s.clamp(0, 100) / SCALE_S).log1p() / 3


def _over_least(time_s: Tensor) -> Tensor:
    """Return a feature of the difference to the least time of the last axis."""
    return _size(time_s - time_s.amin(-1, keepdim=True).clamp(max=1e6))
