"""What an agent that decides for all tasks of a slot at once chooses from, and what the physics predicts of it.

C placements of a task: every server, with the cut that CDLP fixed for it (the option that is fastest there if it is
idle), and the device, if that is at all sensible: C = N + 1, `fixed_cut`. Or every surviving option on every server,
and the device: C = O * N, `joint`.

`running_s` makes the predictions know of the slot's other tasks: when each server is free for a task, if the tasks
ahead of it each take what is then predicted to be soonest, as sequential greedy does.
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
"""Times about as long look linear to the networks, longer ones logarithmic."""
PLACEMENT_FEATURES = 20


class Placements(NamedTuple):
    """What the tasks may choose from; all fields are [.., K, C] but `servers`."""

    option: Tensor
    server: Tensor
    """`DEVICE` if nothing is sent."""
    ready_s: Tensor
    """When the task is at its server; if nothing is sent, when it is done."""
    service_s: Tensor
    accuracy: Tensor
    device_j: Tensor
    mask: Tensor
    """True for what may be chosen."""
    servers: int
    """N"""

    @property
    def on_device(self) -> Tensor:
        """True if nothing is sent [.., K, C]."""
        return self.server == DEVICE

    def decision(self, place: Tensor) -> OffloadDecision:
        """Return the decision that takes the placements of these numbers [.., K]."""
        option, server = (part.gather(-1, place[..., None])[..., 0] for part in (self.option, self.server))
        return OffloadDecision(option, server)

    def at(self, servers: Tensor, device: float) -> Tensor:
        """Return values of servers [.., K, N] as values of placements [.., K, C].

        Args:
            device: the value if nothing is sent.
        """
        values = servers.gather(-1, self.server.clamp(min=0))
        return torch.where(self.on_device, device, values)


def joint(o: OffloadObservation) -> Placements:
    """Return every option on every server; placement c is option c // N on server c % N, as in `candidates_of`."""
    found = candidates_of(o)
    place = torch.arange(found.mask.shape[-1], device=found.mask.device).expand(found.mask.shape)
    option = torch.div(place, found.servers, rounding_mode="floor")
    return Placements(
        option=option,
        server=torch.where(found.on_device, DEVICE, place % found.servers),
        ready_s=found.ready_s,
        service_s=found.service_s,
        accuracy=found.accuracy,
        device_j=o.option_device_j.gather(-1, option),
        mask=found.mask,
        servers=found.servers,
    )


def fixed_cut(o: OffloadObservation) -> Placements:
    """Return the servers, each with CDLP's cut, and last the device: one call decides the cuts of all tasks (CIAS-PnO).

    The device may be chosen if it answers before the deadline, or sooner than any idle server, or nothing else is left.
    """
    every = joint(o)
    found = candidates_of(o)
    idle_s = predicted_s(found, torch.zeros_like(o.server_backlog_s))
    sent_s = torch.where(every.on_device, torch.inf, idle_s).unflatten(-1, (-1, every.servers))
    index = torch.arange(every.servers, device=idle_s.device)
    remote = sent_s.argmin(-2) * every.servers + index
    here_s = torch.where(every.on_device, idle_s, torch.inf)
    some = every.on_device.int().argmax(-1, keepdim=True)
    least = here_s.argmin(-1, keepdim=True)
    local = torch.where(here_s.gather(-1, least).isfinite(), least, some)
    index = torch.cat((remote, local), -1)
    placements = Placements(*(part.gather(-1, index) for part in every[:-1]), servers=every.servers)
    soonest_s, own_s = sent_s.amin((-2, -1)), here_s.amin(-1)
    stays = (own_s <= soonest_s) | (own_s <= o.deadline_s) | soonest_s.isinf()
    return placements._replace(mask=placements.mask & (~placements.on_device | stays[..., None]))


def by_load(o: OffloadObservation) -> Tensor:
    """Return the servers' numbers [.., N] by rising load, equal loads in the order of the numbers."""
    load_s = o.server_backlog_s
    number = torch.arange(load_s.shape[-1], device=load_s.device)
    first = number[:, None] > number
    less = (load_s[..., None, :] < load_s[..., None]) | ((load_s[..., None, :] == load_s[..., None]) & first)
    return less.sum(-1).argsort(-1)


def ranked_cut(o: OffloadObservation) -> Placements:
    """Return `fixed_cut` with the servers in the order of `by_load`: placement 0 is the least loaded one."""
    found = fixed_cut(o)
    order = by_load(o)[..., None, :].expand(*found.mask.shape[:-1], found.servers)
    place = torch.cat((order, torch.full_like(order[..., :1], found.servers)), -1)
    return Placements(*(part.gather(-1, place) for part in found[:-1]), servers=found.servers)


def running_s(o: OffloadObservation, placements: Placements, max_tasks: int | None = None) -> Tensor:
    """Return the seconds [.., K, N] until each server is free for each task, the tasks ahead of it being served.

    Args:
        max_tasks: only so many tasks are looked at; without it as many as there are in any world.
    """
    n = placements.servers
    ready_s, service_s, own_s = _by_server(placements)
    free_s, found, number = o.server_backlog_s, [], torch.arange(n, device=ready_s.device)
    tasks = ready_s.shape[-2]
    if max_tasks is None:
        max_tasks = min(tasks, max(1, int(o.task_mask.sum(-1).amax())))
    for k in range(max_tasks):
        found.append(free_s)
        done_s = latency.end_s(ready_s[..., k, :], free_s, service_s[..., k, :])
        soonest_s, server = done_s.min(-1, keepdim=True)
        goes = (soonest_s < own_s[..., k : k + 1]) & o.task_mask[..., k : k + 1]
        free_s = torch.where((server == number) & goes, done_s, free_s)
    return torch.stack(found + [free_s] * (tasks - max_tasks), -2)


def _by_server(placements: Placements) -> tuple[Tensor, Tensor, Tensor]:
    """Of each server [.., K, N] when its soonest placement is ready, and its work; [.., K] when the device would be
    done; infinite if there is no placement."""
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
    """[.., K, C] latency with servers free at [.., K, N]; infinite if the placement may not be taken."""
    served_s = latency.end_s(placements.ready_s, placements.at(free_s, 0.0), placements.service_s)
    return torch.where(placements.mask, torch.where(placements.on_device, placements.ready_s, served_s), torch.inf)


def placement_features(
    o: OffloadObservation, placements: Placements, *, running_queues: bool = True, max_tasks: int | None = None
) -> Tensor:
    """Return what a network sees of each placement [.., K, C, PLACEMENT_FEATURES].

    Predicted latency with the running queues and with the queues as seen, each also over the best placement's; its
    parts; slack to the deadline; whether it is the placement that the running queues count the task in; and, the same
    for all placements of a task, how busy slot and servers are; the last is 1. All are 0 if it may not be taken.

    Args:
        running_queues: False puts the queues as seen also in the place of the running ones.
        max_tasks: as in `running_s`.
    """
    seen_s = o.server_backlog_s[..., None, :].expand(*o.uplink_bps.shape)
    free_s = running_s(o, placements, max_tasks) if running_queues else seen_s
    then_s, now_s = _predicted_s(placements, free_s), _predicted_s(placements, seen_s)
    parts = (
        *_features_of_placements(o, placements, free_s, then_s, now_s),
        *(part[..., None].expand_as(then_s) for part in _features_of_tasks(o, placements)),
        torch.ones_like(then_s),
    )
    return torch.stack(parts, -1) * (placements.mask & o.task_mask[..., None])[..., None]


def _features_of_placements(
    o: OffloadObservation, placements: Placements, free_s: Tensor, then_s: Tensor, now_s: Tensor
) -> tuple[Tensor, ...]:
    """All [.., K, C], with servers free at [.., K, N] and latencies then and now."""
    sent = placements.mask & ~placements.on_device
    age_s, room = o.observation_age_s, o.server_room.clamp(max=100.0)
    return (
        _size(then_s),
        _over_least(then_s),
        _over_least(now_s),
        _size(placements.ready_s),
        _size(placements.service_s),
        _over_least(torch.where(sent, placements.at(free_s, torch.inf), torch.inf)),
        placements.on_device.to(then_s.dtype),
        ((o.deadline_s[..., None] - then_s) / o.deadline_s[..., None]).clamp(-3, 1).nan_to_num(1.0),
        placements.at(room[..., None, :].expand_as(o.uplink_bps), 100.0) / 30,
        _size(placements.at(age_s[..., None, :].expand_as(o.uplink_bps), 0.0)),
        2 * placements.accuracy - 1,
        logarithmic(placements.device_j, ENERGY_J),
        functional.one_hot(then_s.argmin(-1), then_s.shape[-1]).to(then_s.dtype),
    )


def _features_of_tasks(o: OffloadObservation, placements: Placements) -> tuple[Tensor, ...]:
    """All [.., K]."""
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


def flat_features(o: OffloadObservation, placements: Placements) -> Tensor:
    """Return the state of the paper (III) side by side [.., K * (4 + N) + 2 N].

    Of each task its work on a server and on its device, its deadline and links; of each server its load and what it
    would still admit.
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


def ranked_features(o: OffloadObservation, placements: Placements) -> Tensor:
    """Return `flat_features` with the servers in the order of `by_load`."""
    order = by_load(o)
    links = o.uplink_bps.gather(-1, order[..., None, :].expand_as(o.uplink_bps))
    loads, room = (part.gather(-1, order) for part in (o.server_backlog_s, o.server_room))
    return flat_features(o._replace(uplink_bps=links, server_backlog_s=loads, server_room=room), placements)


def _size(time_s: Tensor) -> Tensor:
    """A time of 0 or more; infinite ones look like 100 s."""
    return (time_s.clamp(0, 100) / SCALE_S).log1p() / 3


def _over_least(time_s: Tensor) -> Tensor:
    """How much later than the least of the last axis."""
    return _size(time_s - time_s.amin(-1, keepdim=True).clamp(max=1e6))
