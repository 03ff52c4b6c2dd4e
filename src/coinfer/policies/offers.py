"""What an agent that decides for all tasks of a slot at once chooses from, and what the physics says of it.

C places of a task: every server, with the cut that CDLP fixed for it (the option that is fastest there, were it idle),
and the device, which is where CDLP leaves a task that no idle server would answer sooner, and no other task that can
reach a server: C = N + 1, `fixed_cut`. Or every surviving option on every server, and the device: C = O * N, `joint`.

`running_s` makes the predictions know of the slot's other tasks: when each server is free for a task, if the tasks
ahead of it each take what is then predicted to be first. It is sequential greedy's queue, found for all tasks at once
by rounds of improvement instead of one task after another; the first r tasks are exact after r rounds.
"""

from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional

from coinfer.policies.choices import choices, predicted_s
from coinfer.policies.features import ENERGY_J, logarithmic
from coinfer.types import DEVICE, OffloadDecision, OffloadObservation

ROUNDS = 12
LONG_AGO_S = -1e9
SCALE_S = 0.02
"""Times about as long look linear to the networks, longer ones logarithmic."""
OFFER_FEATURES = 18


class Offers(NamedTuple):
    """All [.., K, C] but `servers`."""

    option: Tensor
    server: Tensor
    """`DEVICE` where nothing is sent."""
    ready_s: Tensor
    """When the task is at its server; where nothing is sent, when it is done."""
    service_s: Tensor
    accuracy: Tensor
    device_j: Tensor
    mask: Tensor
    servers: int

    @property
    def on_device(self) -> Tensor:
        return self.server == DEVICE

    def decision(self, place: Tensor) -> OffloadDecision:
        """The decision that takes these places [.., K]."""
        option, server = (part.gather(-1, place[..., None])[..., 0] for part in (self.option, self.server))
        return OffloadDecision(option, server)

    def at(self, servers: Tensor, device: float) -> Tensor:
        """Values of servers [.., K, N] as values of places [.., K, C]; `device` where nothing is sent."""
        values = servers.gather(-1, self.server.clamp(min=0))
        return torch.where(self.on_device, device, values)


def joint(o: OffloadObservation) -> Offers:
    """Every option on every server; place c is option c // N on server c % N, as in `choices`."""
    found = choices(o)
    place = torch.arange(found.mask.shape[-1], device=found.mask.device).expand(found.mask.shape)
    option = torch.div(place, found.servers, rounding_mode="floor")
    return Offers(
        option=option,
        server=torch.where(found.on_device, DEVICE, place % found.servers),
        ready_s=found.ready_s,
        service_s=found.service_s,
        accuracy=found.accuracy,
        device_j=o.option_device_j.gather(-1, option),
        mask=found.mask,
        servers=found.servers,
    )


def fixed_cut(o: OffloadObservation) -> Offers:
    """The servers, each with CDLP's cut, and last the device: one call decides the cuts of all tasks (CIAS-PnO). A task
    has either the device or servers to choose from."""
    every = joint(o)
    found = choices(o)
    idle_s = predicted_s(found, torch.zeros_like(o.server_backlog_s))
    sent_s = torch.where(every.on_device, torch.inf, idle_s).unflatten(-1, (-1, every.servers))
    index = torch.arange(every.servers, device=idle_s.device)
    there = sent_s.argmin(-2) * every.servers + index
    here_s = torch.where(every.on_device, idle_s, torch.inf)
    some = every.on_device.int().argmax(-1, keepdim=True)
    least = here_s.argmin(-1, keepdim=True)
    here = torch.where(here_s.gather(-1, least).isfinite(), least, some)
    taken = torch.cat((there, here), -1)
    offers = Offers(*(part.gather(-1, taken) for part in every[:-1]), servers=every.servers)
    soonest_s = sent_s.amin((-2, -1))
    stays = (here_s.amin(-1) <= soonest_s) | soonest_s.isinf()
    return offers._replace(mask=torch.where(offers.on_device, stays[..., None], offers.mask & ~stays[..., None]))


def running_s(o: OffloadObservation, offers: Offers, rounds: int = ROUNDS) -> Tensor:
    """[.., K, N] seconds until each server is free for each task, the tasks ahead of it being served."""
    n, k = offers.servers, offers.mask.shape[-2]
    backlog_s = o.server_backlog_s[..., None, :]
    order = o.server_backlog_s.argsort(-1).argsort(-1)[..., None, :]
    turn = torch.arange(k, device=order.device)[:, None] - order
    queue = (turn % n == 0) & o.task_mask[..., None]
    sent = offers.mask & ~offers.on_device
    nth = functional.one_hot(offers.server.clamp(min=0), n).bool() & sent[..., None]
    ready_s = torch.where(nth, offers.ready_s[..., None], torch.inf).amin(-2)
    service_s = torch.where(nth, offers.service_s[..., None], torch.inf).amin(-2)
    ready_s, service_s = (torch.where(part.isfinite(), part, 0.0) for part in (ready_s, service_s))
    if offers.mask.shape[-1] != n + 1:  # the parts of the option that is soonest done, not the least of each part
        done_s = torch.where(nth, (offers.ready_s + offers.service_s)[..., None], torch.inf).argmin(-2)
        ready_s, service_s = (part.gather(-1, done_s) for part in (offers.ready_s, offers.service_s))
        alive = nth.any(-2)
        ready_s, service_s = (torch.where(alive, part, 0.0) for part in (ready_s, service_s))
    for _ in range(rounds):
        free_s = _ahead_s(ready_s, service_s, backlog_s, queue)
        place = _predicted_s(offers, free_s).argmin(-1, keepdim=True)
        server = offers.server.gather(-1, place)
        queue = (server == torch.arange(n, device=server.device)) & o.task_mask[..., None]
    return _ahead_s(ready_s, service_s, backlog_s, queue)


def _ahead_s(ready_s: Tensor, service_s: Tensor, backlog_s: Tensor, queue: Tensor) -> Tensor:
    """When each server is free for each task: the prefix scan of `physics.queueing`, in the order of the tasks."""
    work_s = service_s * queue
    before_s = work_s.cumsum(-2) - work_s
    begun_s = torch.where(queue, ready_s - before_s, LONG_AGO_S).cummax(-2).values
    begun_s = functional.pad(begun_s[..., :-1, :], (0, 0, 1, 0), value=LONG_AGO_S)
    return before_s + torch.maximum(backlog_s, begun_s)


def _predicted_s(offers: Offers, free_s: Tensor) -> Tensor:
    """[.., K, C] latency with servers free at [.., K, N]; infinite where the place may not be taken."""
    served_s = torch.maximum(offers.ready_s, offers.at(free_s, 0.0)) + offers.service_s
    return torch.where(offers.mask, torch.where(offers.on_device, offers.ready_s, served_s), torch.inf)


def offer_features(o: OffloadObservation, offers: Offers, rounds: int = ROUNDS) -> Tensor:
    """[.., K, C, OFFER_FEATURES] what a network is told of each place: predicted latency with the running queues and
    with the queues as seen, each also over the best place's; its parts; slack to the deadline; and, the same for all
    places of a task, how busy slot and servers are. 0 where it may not be taken."""
    there = o.task_mask.to(offers.ready_s.dtype)
    seen_s = o.server_backlog_s[..., None, :].expand(*o.uplink_bps.shape)
    free_s = running_s(o, offers, rounds) if rounds else seen_s
    running, seen = _predicted_s(offers, free_s), _predicted_s(offers, seen_s)
    work_s = torch.where(offers.mask & ~offers.on_device, offers.service_s, torch.inf).amin(-1)
    work_s = torch.where(work_s.isfinite(), work_s, 0.0) * there
    ahead_s, slot_s = work_s.cumsum(-1) - work_s, work_s.sum(-1, keepdim=True)
    count, before = there.sum(-1, keepdim=True), there.cumsum(-1) - there
    backlog_s = o.server_backlog_s.mean(-1)[..., None]
    age_s, room = o.observation_age_s, o.server_room.clamp(max=100.0)
    by_place = (
        _size(running),
        _over_least(running),
        _over_least(seen),
        _size(offers.ready_s),
        _size(offers.service_s),
        _over_least(torch.where(offers.mask & ~offers.on_device, offers.at(free_s, torch.inf), torch.inf)),
        offers.on_device.to(running.dtype),
        ((o.deadline_s[..., None] - running) / o.deadline_s[..., None]).clamp(-3, 1).nan_to_num(1.0),
        offers.at(room[..., None, :].expand_as(o.uplink_bps), 100.0) / 30,
        _size(offers.at(age_s[..., None, :].expand_as(o.uplink_bps), 0.0)),
        2 * offers.accuracy - 1,
        logarithmic(offers.device_j, ENERGY_J),
    )
    by_task = (
        _size(ahead_s / offers.servers),
        _size(slot_s / offers.servers).expand_as(ahead_s),
        _size(backlog_s).expand_as(ahead_s),
        (count / 32).expand_as(ahead_s),
        (1 / count.clamp(min=1)).expand_as(ahead_s),
        before / 32,
    )
    parts = [*by_place, *(part[..., None].expand_as(running) for part in by_task)]
    return torch.stack(parts, -1) * (offers.mask & o.task_mask[..., None])[..., None]


def flat_features(o: OffloadObservation, offers: Offers) -> Tensor:
    """[.., K * (4 + N) + 2 N] the state of the paper (III) side by side: of each task its work on a server and on its
    device, its deadline and links; of each server its load and what it would still admit."""
    there = o.task_mask.to(offers.ready_s.dtype)
    sent = offers.mask & ~offers.on_device
    work_s = torch.where(sent, offers.service_s, torch.inf).amin(-1)
    here_s = torch.where(offers.mask & offers.on_device, offers.ready_s, torch.inf).amin(-1)
    deadline_s = o.deadline_s.clamp(max=10.0)
    by_task = torch.stack(
        [there, *(_size(torch.where(part.isfinite(), part, 0.0)) * there for part in (work_s, here_s, deadline_s))], -1
    )
    links = logarithmic(o.uplink_bps, (1e6, 1e9)) * there[..., None]
    servers = torch.cat((_size(o.server_backlog_s), o.server_room.clamp(max=100.0) / 30), -1)
    return torch.cat((by_task.flatten(-2), links.flatten(-2), servers), -1)


def _size(time_s: Tensor) -> Tensor:
    """A time of 0 or more; infinite ones look like 100 s."""
    return (time_s.clamp(0, 100) / SCALE_S).log1p() / 3


def _over_least(time_s: Tensor) -> Tensor:
    """How much later than the least of the last axis."""
    return _size(time_s - time_s.amin(-1, keepdim=True).clamp(max=1e6))
