"""A policy that decides task after task: sequential greedy with learned prices, for any number of tasks and servers.

Sequential greedy takes, task after task, the choice that is done first behind the running queues. What it costs others
it does not ask: work put on a busy server delays all that comes later, in this slot and the next ones, and a further
sender slows the others where they share a radio. A small network, the same for every (task, option, server), gives the
rates of such prices; each price is a simple function of the running queues, so the loop over tasks stays short:

    score = end                            when the task would be done behind the queue, in seconds
          + price                          of the choice by itself
          + rate * service                 of time on a server, also by the number of tasks that are yet to be decided
          + rate * service * start         of time on a server that is busy for long
          + rate * airtime of the others   that send to the same server in this slot
          + price of being late            rising from 0 to its full height around the deadline

Each task has a key, a weighted sum of its features; those with the smallest keys decide first. All weights of the last
layer being 0, all prices are 0 and the order is that of the tasks' numbers: that is sequential greedy.

The networks see features of the pair, the task, the server and the world, which are summed in the first layer; those of
the world are means and least values over tasks and servers (deep sets, Zaheer et al., NeurIPS 2017). So permuted
servers permute the decision, and nothing depends on how many there are.
"""

from typing import NamedTuple

import torch
from torch import Tensor

from coinfer.policies.choices import Choices, choices, predicted_s
from coinfer.types import DEVICE, OffloadDecision, OffloadObservation, Policy

HIDDEN = 8
PAIR, TASK, SERVER, WORLD = 8, 7, 6, 7
"""Features of each kind."""
PRICE_SCALE_S, START_SCALE_S = 0.05, 0.2
FULL_S = 1e6
"""Added to the score of servers without room: they are taken only where nothing else is left."""
MOST_S = 100.0
"""Times above this are all the same to the networks."""
_TINY_S = 1e-6


class Weights(NamedTuple):
    """Of P policies side by side, every array [P, ..]."""

    pair: Tensor
    """[P, PAIR, HIDDEN], and so on."""
    task: Tensor
    server: Tensor
    world: Tensor
    first_bias: Tensor
    """[P, HIDDEN]"""
    rates: Tensor
    """[P, HIDDEN, 8] to the rates of the prices, as in `Rates`."""
    rates_bias: Tensor
    key: Tensor
    """[P, TASK]"""


class Rates(NamedTuple):
    """What the network says of every choice, all [B, K, C]."""

    price: Tensor
    service: Tensor
    service_by_rest: Tensor
    service_by_start: Tensor
    senders: Tensor
    """How far each sender to the same server lengthens the upload, 0 or more; 1 where they share a radio evenly."""
    others: Tensor
    delay: Tensor
    """Above 1: of time on a server, for each task that was decided before and would be served after."""
    late: Tensor


SHAPES = {
    "pair": (PAIR, HIDDEN),
    "task": (TASK, HIDDEN),
    "server": (SERVER, HIDDEN),
    "world": (WORLD, HIDDEN),
    "first_bias": (HIDDEN,),
    "rates": (HIDDEN, len(Rates._fields)),
    "rates_bias": (len(Rates._fields),),
    "key": (TASK,),
}
SIZE = sum(torch.Size(shape).numel() for shape in SHAPES.values())
"""Numbers in the weights of one policy."""


def first_weights(seed: int = 0) -> Tensor:
    """[SIZE] weights that decide as sequential greedy does."""
    generator = torch.Generator().manual_seed(seed)
    parts = []
    for name, shape in SHAPES.items():
        if name in ("rates", "key") or name.endswith("bias"):
            parts.append(torch.zeros(shape))
        else:
            scale = (2.0 / (PAIR + TASK + SERVER + WORLD)) ** 0.5
            parts.append(scale * torch.randn(shape, generator=generator))
    return torch.cat([part.flatten() for part in parts])


def unpack(flat: Tensor) -> Weights:
    """Weights from numbers [P, SIZE]."""
    parts = flat.split([torch.Size(shape).numel() for shape in SHAPES.values()], dim=-1)
    return Weights(*(part.reshape(-1, *shape) for part, shape in zip(parts, SHAPES.values(), strict=True)))


def scorer(weights: Weights, insertion: bool = True) -> Policy:
    """The policy of such weights; of P > 1 policies, each decides for its P-th part of the worlds [P * W, ..]."""
    return lambda observation: decide(weights, observation, insertion)


def decide(weights: Weights, observation: OffloadObservation, insertion: bool = True) -> OffloadDecision:
    """The decisions [.., K] for worlds [.., K, ..]."""
    lead, places = observation.task_mask.shape[:-1], observation.task_mask.shape[-1]
    seen = _with_one_batch_axis(observation)
    whole = seen
    if seen.task_mask.device.type == "cpu":
        seen = _up_to_last(seen)
    tasks = seen.task_mask.shape[-1]
    found = choices(seen)
    rows, order = prepared(weights, seen, found, insertion)
    choice = sequence(seen, found.servers, rows, order, tasks, insertion)
    decision = found.decision(choice)
    if tasks < places:
        rest = _on_device(whole, tasks)
        decision = OffloadDecision(*(torch.cat(pair, -1) for pair in zip(decision, rest, strict=True)))
    return OffloadDecision(*(part.reshape(*lead, -1) for part in decision))


def prepared(
    weights: Weights, seen: OffloadObservation, found: Choices, insertion: bool = True
) -> tuple[Tensor, Tensor]:
    """What the loop needs of every choice, [B, K, C, 12] (see `terms`), and the order [B, K] of the tasks; those that
    are not there come last."""
    weights = Weights(*(part.to(found.ready_s.dtype) for part in weights))
    air_s = airtime_s(seen, found)
    rates, key = network(weights, seen, found, air_s)
    if insertion:
        key = key - _size(service_of_best(seen, found))
    rank = ranks(torch.where(seen.task_mask, key, torch.inf))
    number = torch.arange(rank.shape[-1], device=rank.device).expand(rank.shape)
    order = torch.zeros_like(rank).scatter(-1, rank, number)
    return torch.stack(terms(seen, found, air_s, rates, rank), -1), order


def ranks(key: Tensor) -> Tensor:
    """Places [B, K] in the order of the keys, equal ones in the order of their numbers: what exporters know no sort
    for."""
    number = torch.arange(key.shape[-1], device=key.device)
    mine, other = key[..., :, None], key[..., None, :]
    return ((other < mine) | ((other == mine) & (number < number[:, None]))).sum(-1)


def airtime_s(observation: OffloadObservation, found: Choices) -> Tensor:
    """[B, K, C] time of the upload alone, 0 where nothing is sent."""
    sent_s = observation.option_upload_bits[..., None] / observation.uplink_bps[..., None, :]
    return torch.where(found.on_device, 0.0, sent_s.flatten(-2).clamp(max=MOST_S))


def network(weights: Weights, seen: OffloadObservation, found: Choices, air_s: Tensor) -> tuple[Rates, Tensor]:
    """The rates of the prices, and the key [B, K] of every task."""
    pair, task, server, world = features(seen, found, air_s)
    sends = (~found.on_device).to(pair.dtype)[..., None]
    server_part = _times(server, weights.server)
    server_part = server_part.repeat(1, found.mask.shape[-1] // found.servers, 1)[:, None] * sends
    task_part = _times(task, weights.task)[:, :, None]
    world_part = _times(world[:, None], weights.world)[:, :, None]
    hidden = _times(pair, weights.pair).add_(server_part).add_(task_part + world_part)
    hidden = _biased(hidden, weights.first_bias).relu_()
    rates = Rates(*_biased(_times(hidden, weights.rates), weights.rates_bias).unbind(-1))
    return rates, _times(task, weights.key[..., None])[..., 0]


def features(seen: OffloadObservation, found: Choices, air_s: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Of every pair [B, K, C, PAIR], task [B, K, TASK], server [B, N, SERVER] and world [B, WORLD]; all of size 1."""
    servers, dtype = found.servers, found.ready_s.dtype
    there = seen.task_mask.to(dtype)
    count = there.sum(-1, keepdim=True)
    latency_s = predicted_s(found, seen.server_backlog_s)
    best_s, best = latency_s.min(-1)
    best_s = best_s.clamp(max=MOST_S)
    latency_s = latency_s.clamp(max=MOST_S)
    ready_s = found.ready_s.clamp(max=MOST_S)
    deadline_s = seen.deadline_s.clamp(min=_TINY_S, max=MOST_S)
    on_device_s = torch.where(found.on_device & found.mask, ready_s, MOST_S).amin(-1)
    wait_s = (found.of_servers(seen.server_backlog_s)[:, None] - ready_s).clamp(min=0)
    pair = (
        _size(found.own_s.clamp(max=MOST_S)),
        _size(air_s),
        _size(ready_s),
        _size(found.service_s),
        torch.where(found.on_device, 0.0, _size(wait_s)),
        found.on_device.to(dtype),
        ((deadline_s[..., None] - latency_s) / deadline_s[..., None]).clamp(min=-2),
        _size(latency_s - best_s[..., None]),
    )
    best_ready_s, best_service_s = (part.gather(-1, best[..., None])[..., 0] for part in (ready_s, found.service_s))
    task = (
        _size(on_device_s),
        _size(best_s),
        _size(best_ready_s),
        _size(best_service_s),
        _size(deadline_s),
        ((deadline_s - best_s) / deadline_s).clamp(min=-2),
        found.on_device.gather(-1, best[..., None])[..., 0].to(dtype),
    )
    backlog = _size(seen.server_backlog_s)
    liked = best[..., None] == torch.arange(latency_s.shape[-1], device=best.device)
    liked = liked.unflatten(-1, (-1, servers)).any(-2).to(dtype) * (there * (1 - task[-1]))[..., None]
    server = (
        backlog,
        backlog - backlog.mean(-1, keepdim=True),
        torch.log1p(seen.server_room.clamp(max=99.0)) / 4,
        _size(seen.observation_age_s),
        torch.log1p(liked.sum(-2)) / 2,
        _size((liked * best_service_s[..., None]).sum(-2)),
    )
    rate = torch.log10(seen.uplink_bps.clamp(min=1e3)).mean(-1) / 4 - 1.5
    world = (
        torch.log1p(count[..., 0]) / 4,
        torch.log1p(count[..., 0] / servers) / 2,
        backlog.mean(-1),
        backlog.amin(-1),
        _size((there * best_service_s).sum(-1) / servers),
        torch.full_like(count[..., 0], servers).log1p() / 4,
        (there * rate).sum(-1) / count[..., 0].clamp(min=1),
    )
    return tuple(torch.stack(part, -1) for part in (pair, task, server, world))  # type: ignore[return-value]


def sequence(
    seen: OffloadObservation, servers: int, rows: Tensor, order: Tensor, tasks: int, insertion: bool
) -> Tensor:
    """The choices [B, K] that the tasks take one after another; those past the first `tasks` in order are any. Tasks
    that are not there join no queue."""
    options = rows.shape[-2] // servers
    queue = Queue.empty(seen, order.shape[-1])
    choice = torch.zeros_like(order)
    world = torch.arange(order.shape[0], device=order.device)
    for k in range(tasks):
        task = order[:, k]
        row = rows[world, task].reshape(-1, options, servers, rows.shape[-1])
        ready_s, service_s, sends, air_s, longer, steep, fixed, others, delay, late, late_rise, late_start = row.unbind(
            -1
        )
        ready_s = ready_s + longer * queue.senders[:, None]
        free_s, delayed = queue.inserted(ready_s, k) if insertion else (queue.free_s[:, None], 0)
        begin_s = torch.maximum(ready_s, free_s * sends)
        lateness = (begin_s * late_rise + late_start).clamp(0.0, 1.0)
        score = (begin_s * steep + fixed) + (others * queue.sent_s[:, None] + late * lateness)
        score = (score + delay * delayed) + sends * (queue.over[:, None].clamp(min=0) * FULL_S)
        taken = score.flatten(1).argmin(-1, keepdim=True)
        choice.scatter_(1, task[:, None], taken)
        joins = sends.flatten(1).gather(1, taken) * seen.task_mask.gather(1, task[:, None])
        parts = (part.flatten(1).gather(1, taken) for part in (ready_s, begin_s + service_s, air_s))
        queue = queue.joined(k, taken % servers, joins, *parts)
    return choice


class Queue(NamedTuple):
    """What was decided so far in this slot, and what waits on the servers with it."""

    free_s: Tensor
    """[B, N] when each server is done, if tasks are served in the order of the decisions."""
    over: Tensor
    """[B, N] above 0 where there is no room: how many tasks more than that would be left with one place."""
    senders: Tensor
    """[B, N] tasks of this slot that send there."""
    sent_s: Tensor
    """[B, N] their airtimes, each as if alone."""
    before_s: Tensor
    """[B, N] what waited when the slot began."""
    server: Tensor
    """[B, K] of the k-th decision, -1 where it joined none."""
    ready_s: Tensor
    """[B, K] of the k-th decision."""
    finish_s: Tensor
    """[B, K] when it was to be done as it was decided; those that come before it later are left out."""

    @classmethod
    def empty(cls, seen: OffloadObservation, tasks: int) -> "Queue":
        free_s = seen.server_backlog_s
        never = torch.full((free_s.shape[0], tasks), torch.inf, dtype=free_s.dtype, device=free_s.device)
        nobody = torch.full_like(never, -1, dtype=torch.int64)
        zero = torch.zeros_like(free_s)
        return cls(free_s, 1 - seen.server_room.to(free_s.dtype), zero, zero, free_s, nobody, never, never)

    def inserted(self, ready_s: Tensor, k: int) -> tuple[Tensor, Tensor]:
        """For a task that would be ready so [B, O, N], served first come, first served: when what is before it is done,
        and how many come after it."""
        servers = torch.arange(self.over.shape[-1], device=ready_s.device)
        here = (self.server[:, None, :k] == servers[:, None])[:, None]
        after = self.ready_s[:, None, None, :k] > ready_s[..., None]
        free_s = self.before_s[:, None].expand(ready_s.shape)
        if k == 0:
            return free_s, torch.zeros_like(ready_s)
        ended_s = torch.where(here & ~after, self.finish_s[:, None, None, :k], 0.0).amax(-1)
        return torch.maximum(free_s, ended_s), (here & after).sum(-1)

    def joined(self, k: int, server: Tensor, joins: Tensor, ready_s: Tensor, end_s: Tensor, air_s: Tensor) -> "Queue":
        """With the k-th decision; all [B, 1], `joins` 1 where the task joins a server."""
        here = torch.nn.functional.one_hot(server[:, 0], self.over.shape[-1]) * joins

        def put(whole: Tensor, new: Tensor) -> Tensor:
            return torch.cat((whole[:, :k], new, whole[:, k + 1 :]), -1)

        return self._replace(
            free_s=torch.where(here > 0, end_s, self.free_s),
            over=self.over + here,
            senders=self.senders + here,
            sent_s=self.sent_s + here * air_s,
            server=put(self.server, torch.where(joins > 0, server, -1)),
            ready_s=put(self.ready_s, ready_s),
            finish_s=put(self.finish_s, end_s),
        )


def terms(seen: OffloadObservation, found: Choices, air_s: Tensor, rates: Rates, rank: Tensor) -> tuple[Tensor, ...]:
    """What the loop needs of every choice, each [B, K, C]: ready, service, whether it sends, airtime, what a sender
    more adds to the upload, factor of the start, what is fixed, rate of the others' airtime, price of each task that is
    delayed, and of being late, its rise over the start, and where it starts."""
    dtype = found.ready_s.dtype
    sends = (~found.on_device).to(dtype)
    rest = (seen.task_mask.sum(-1, keepdim=True) - 1 - rank).clamp(min=0)[..., None] / found.servers
    service_s = found.service_s
    price_s = rates.price * PRICE_SCALE_S + (rates.service + rates.service_by_rest * rest) * service_s
    finite = seen.deadline_s.isfinite()[..., None]
    deadline_s = torch.where(finite, seen.deadline_s[..., None], 1.0).clamp(min=_TINY_S)
    rise = torch.where(finite, 4 / deadline_s, 0.0).expand_as(service_s)
    return (
        torch.where(found.mask, found.ready_s, 0.0),
        service_s,
        sends,
        air_s,
        rates.senders.clamp(min=0) * air_s,
        1 + rates.service_by_start * service_s / START_SCALE_S,
        torch.where(found.mask, service_s + price_s, torch.inf),
        rates.others * sends,
        (1 + rates.delay) * service_s * sends,
        rates.late * PRICE_SCALE_S,
        rise,
        torch.where(finite, (service_s - deadline_s) * rise + 0.5, 0.0),
    )


def service_of_best(seen: OffloadObservation, found: Choices) -> Tensor:
    """[B, K] work for a server where each task would be done first, were it alone."""
    best = predicted_s(found, seen.server_backlog_s).argmin(-1, keepdim=True)
    return found.service_s.gather(-1, best)[..., 0]


def _size(time_s: Tensor) -> Tensor:
    """Times of milliseconds to minutes as numbers of size 1."""
    return torch.log1p(time_s * 100) / 3


def _times(values: Tensor, matrix: Tensor) -> Tensor:
    """[P * W, .., F] times [P, F, H]."""
    policies = matrix.shape[0]
    flat = values.reshape(policies, -1, values.shape[-1])
    return torch.bmm(flat, matrix).reshape(*values.shape[:-1], matrix.shape[-1])


def _biased(values: Tensor, bias: Tensor) -> Tensor:
    """[P * W, .., H] plus [P, H]."""
    policies = bias.shape[0]
    flat = values.reshape(policies, -1, values.shape[-1])
    return (flat + bias[:, None]).reshape(values.shape)


def _up_to_last(seen: OffloadObservation) -> OffloadObservation:
    """Without the places after the last one that has a task."""
    places = seen.task_mask.any(0).nonzero()
    tasks = int(places[-1]) + 1 if len(places) else 1
    by_server = ("server_backlog_s", "server_room", "observation_age_s")
    return OffloadObservation(
        **{name: field if name in by_server else field[:, :tasks] for name, field in seen._asdict().items()}
    )


def _on_device(seen: OffloadObservation, first: int) -> OffloadDecision:
    """For the places from `first` on, where no tasks are: what stays on the device."""
    stays = (seen.option_upload_bits == 0)[:, first:]
    option = (stays.int() + (stays & seen.option_mask[:, first:]).int()).argmax(-1)
    return OffloadDecision(option, torch.full_like(option, DEVICE))


def _with_one_batch_axis(observation: OffloadObservation) -> OffloadObservation:
    lead = observation.task_mask.dim() - 1
    uplink_backlog_s = torch.as_tensor(observation.uplink_backlog_s, device=observation.deadline_s.device)
    whole = observation._replace(
        uplink_backlog_s=uplink_backlog_s.to(observation.deadline_s.dtype).expand(observation.deadline_s.shape)
    )
    return OffloadObservation(*(field.reshape(-1, *field.shape[lead:]) for field in whole))
