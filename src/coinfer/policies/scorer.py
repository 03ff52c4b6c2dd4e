"""A policy that decides task after task: sequential greedy with learned prices and orders, for any number of both.

Sequential greedy takes, task after task, the choice that is done first behind the running queues. Three things it does
not do. It does not ask what a choice costs others: work on a busy server delays all that comes later, in this slot and
the next ones. It takes the tasks as they are numbered, though some orders end much better than others. And in its mind
servers work in the order of the decisions, though they serve first come, first served. So here

- a small network, the same for every (task, option, server), puts prices on the choices:

      score = ready + waiting * slope + service + price      waiting: until the server is done with the running queue

- the tasks are taken in several orders at once, each by a weighted sum (key) of a task's features, smallest first;
- of the decisions that come out, physics takes the best: least summed latency of the slot, served first come, first
  served, with the prices of what was chosen and one for each task that is late.

Prices are what others of the slot would pay: they count by 1 - 1 / tasks, so a task that is alone goes where it is done
first. The last layer being 0, there are no prices; all keys being 0, too, there is one order only, that of the numbers:
that is sequential greedy.

The network sees features of the pair, the task, the server and the world, which are summed in the first layer; those of
the world are means and least values over tasks and servers (deep sets, Zaheer et al., NeurIPS 2017). So permuted
servers permute the decision, and nothing depends on how many there are.
"""

from typing import NamedTuple

import torch
from torch import Tensor

from coinfer.policies.choices import Choices, choices, predicted_s
from coinfer.types import DEVICE, OffloadDecision, OffloadObservation, Policy

HIDDEN, ORDERS = 8, 12
PAIR, TASK, SERVER, WORLD = 8, 7, 6, 7
"""Features of each kind."""
PRICE_SCALE_S, START_SCALE_S, LATE_SCALE_S = 0.05, 0.2, 0.1
FULL_S = 1e6
"""Start on servers without room, for each task too many: they are taken only where nothing else is left."""
LEAST_PART, SLOPES = 0.5, (0.8, 1.25)
"""A price is between minus this part of the latency predicted for the choice and all of it, and a slope between these:
far from what training saw, learned weights do only so much harm."""
MOST_S = 100.0
"""Times above this are all the same to the networks."""
NEVER_S = -1e30
TIE_S = 1e-7
"""Of tasks that are ready at once, the judgement has those with higher numbers come so much later."""
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
    prices: Tensor
    """[P, HIDDEN, 3] to the price of the choice by itself, of each second of service, and the slope."""
    prices_bias: Tensor
    key: Tensor
    """[P, TASK, ORDERS], or fewer orders"""
    late: Tensor
    """[P, 1] price of a task that is late."""


class Rows(NamedTuple):
    """Of every task's C = O * N + 1 ways, all [B, K, C]; the last is the best option on its device, which joins no
    queue."""

    ready_s: Tensor
    service_s: Tensor
    slope: Tensor
    """The score is start * slope + fixed."""
    fixed_s: Tensor


class Prepared(NamedTuple):
    """What the loop over tasks, and the judgement after it, begin with."""

    rows: Rows
    order: Tensor
    """[B, ORDERS, K] the tasks in the order of their decisions; those that are not there come last."""
    price_s: Tensor
    """[B, K, C]"""
    local: Tensor
    """[B, K] option of the last way."""
    late_s: Tensor
    """[B] price of a task that is late."""


SHAPES = {
    "pair": (PAIR, HIDDEN),
    "task": (TASK, HIDDEN),
    "server": (SERVER, HIDDEN),
    "world": (WORLD, HIDDEN),
    "first_bias": (HIDDEN,),
    "prices": (HIDDEN, 3),
    "prices_bias": (3,),
    "key": (TASK, ORDERS),
    "late": (1,),
}
SIZE = sum(torch.Size(shape).numel() for shape in SHAPES.values())
"""Numbers in the weights of one policy, with all orders."""


def greedy_weights(seed: int = 0) -> Tensor:
    """[SIZE] weights that decide as sequential greedy does."""
    generator = torch.Generator().manual_seed(seed)
    parts = []
    for name, shape in SHAPES.items():
        if name in ("pair", "task", "server", "world"):
            scale = (2.0 / (PAIR + TASK + SERVER + WORLD)) ** 0.5
            parts.append(scale * torch.randn(shape, generator=generator))
        else:
            parts.append(torch.zeros(shape))
    return torch.cat([part.flatten() for part in parts])


def first_weights(seed: int = 0) -> Tensor:
    """[SIZE] the same with orders to choose from: as numbered, by readiness, by work, both, and any others."""
    generator = torch.Generator().manual_seed(seed)
    key = torch.randn((TASK, ORDERS), generator=generator)
    key[:, :4] = 0
    key[_KEYS["ready"], 1:4:2] = 1
    key[_KEYS["service"], 2:4] = -1
    flat = greedy_weights(seed)
    flat[-1 - key.numel() : -1] = key.flatten()
    return flat


_KEYS = {"ready": 2, "service": 3}
"""Features of a task by number, of its best choice."""


def unpack(flat: Tensor) -> Weights:
    """Weights from numbers [P, SIZE], or fewer where some orders were left out."""
    shapes = {**SHAPES, "key": (TASK, ORDERS - (SIZE - flat.shape[-1]) // TASK)}
    parts = flat.split([torch.Size(shape).numel() for shape in shapes.values()], dim=-1)
    return Weights(*(part.reshape(-1, *shape) for part, shape in zip(parts, shapes.values(), strict=True)))


def with_orders(flat: Tensor, kept: list[int]) -> Tensor:
    """The weights [SIZE] of one policy with some of its orders only."""
    weights = unpack(flat[None])
    return torch.cat([part.flatten() for part in weights._replace(key=weights.key[..., kept])])


def scorer(weights: Weights) -> Policy:
    """The policy of such weights; of P > 1 policies, each decides for its P-th part of the worlds [P * W, ..]."""
    return lambda observation: decide(weights, observation)


def decide(weights: Weights, observation: OffloadObservation) -> OffloadDecision:
    """The decisions [.., K] for worlds [.., K, ..]."""
    lead, places = observation.task_mask.shape[:-1], observation.task_mask.shape[-1]
    whole = _with_one_batch_axis(observation)
    seen = _up_to_last(whole) if whole.task_mask.device.type == "cpu" else whole
    tasks = seen.task_mask.shape[-1]
    made = prepared(weights, seen)
    servers = seen.server_room.shape[-1]
    way = sequence(seen, made.rows, made.order)
    cost = judged(seen, made, way)
    best = cost.argmin(-1)
    way = way.gather(1, best[:, None, None].expand(-1, 1, tasks))[:, 0]
    stays = way == made.rows.ready_s.shape[-1] - 1
    option = torch.where(stays, made.local, torch.div(way, servers, rounding_mode="floor"))
    decision = OffloadDecision(option, torch.where(stays, DEVICE, way % servers))
    if tasks < places:
        decision = OffloadDecision(*(torch.cat(pair, -1) for pair in zip(decision, _rest(whole, tasks), strict=True)))
    return OffloadDecision(*(part.reshape(*lead, -1) for part in decision))


def prepared(weights: Weights, seen: OffloadObservation) -> Prepared:
    """All but the loop and the judgement."""
    weights = Weights(*(part.to(seen.deadline_s.dtype) for part in weights))
    key, late_s, (ready_s, service_s, slope, fixed_s, price_s, local) = networks(weights, seen)
    there = seen.task_mask[:, None]
    order = torch.where(there, key.transpose(1, 2), torch.inf).argsort(dim=-1, stable=True)
    return Prepared(Rows(ready_s, service_s, slope, fixed_s), order, price_s, local, late_s)


def networks(weights: Weights, seen: OffloadObservation) -> tuple[Tensor, Tensor, tuple[Tensor, ...]]:
    """Keys [B, K, ORDERS]; price of being late [B]; rows, prices and local options."""
    found = choices(seen)
    latency_s = predicted_s(found, seen.server_backlog_s)
    pair, task, server, world = features(seen, found, latency_s)
    latency_s = latency_s.clamp(max=MOST_S)
    sends = (~found.on_device).to(pair.dtype)[..., None]
    server_part = _times(server, weights.server)
    server_part = server_part.repeat(1, found.mask.shape[-1] // found.servers, 1)[:, None] * sends
    task_part = _times(task, weights.task)[:, :, None]
    world_part = _biased(_times(world[:, None], weights.world), weights.first_bias)[:, :, None]
    hidden = (_times(pair, weights.pair) + server_part + (task_part + world_part)).relu()
    price, by_service, steep = _biased(_times(hidden, weights.prices), weights.prices_bias).unbind(-1)
    key = _times(task, weights.key)
    late_s = weights.late[:, 0].clamp(min=0) * LATE_SCALE_S
    late_s = late_s[:, None].expand(-1, key.shape[0] // late_s.shape[0]).reshape(-1)
    others = (1 - 1 / seen.task_mask.sum(-1).clamp(min=1).to(price.dtype))[:, None, None]
    price_s = (price * PRICE_SCALE_S + by_service * found.service_s) * others
    price_s = torch.minimum(torch.maximum(price_s, -LEAST_PART * latency_s), latency_s)
    slope = (1 + steep * others * found.service_s / START_SCALE_S).clamp(*SLOPES)
    return key, late_s, ways(found, price_s, slope)


def ways(found: Choices, price_s: Tensor, slope: Tensor) -> tuple[Tensor, ...]:
    """The rows, the prices [B, K, C], and the options [B, K] of the last way."""
    goes = found.mask & ~found.on_device
    stays = found.mask & found.on_device
    local_s, local = torch.where(stays, found.ready_s + price_s, torch.inf).min(-1, keepdim=True)
    ready_s = torch.where(goes, found.ready_s, 0.0)
    own_s, own_price_s = (part.gather(-1, local) for part in (found.ready_s, price_s))
    zero = torch.zeros_like(local_s)
    price_s = torch.where(goes, price_s, 0.0)
    fixed_s = torch.where(goes, found.service_s + price_s + (1 - slope) * ready_s, torch.inf)
    pairs = (
        (ready_s, own_s),
        (found.service_s, zero),
        (slope, zero),
        (fixed_s, local_s),
        (price_s, own_price_s),
    )
    joined = tuple(torch.cat(pair, -1) for pair in pairs)
    return (*joined, torch.div(local[..., 0], found.servers, rounding_mode="floor"))


def features(seen: OffloadObservation, found: Choices, latency_s: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Of every pair [B, K, C, PAIR], task [B, K, TASK], server [B, N, SERVER] and world [B, WORLD]; all of size 1.

    Args:
        latency_s: [B, K, C] predicted, were the task the only one.
    """
    servers, dtype = found.servers, found.ready_s.dtype
    there = seen.task_mask.to(dtype)
    count = there.sum(-1, keepdim=True)
    best_s, best = latency_s.min(-1)
    best_s = best_s.clamp(max=MOST_S)
    latency_s = latency_s.clamp(max=MOST_S)
    ready_s = found.ready_s.clamp(max=MOST_S)
    deadline_s = seen.deadline_s.clamp(min=_TINY_S, max=MOST_S)
    on_device_s = torch.where(found.on_device & found.mask, ready_s, MOST_S).amin(-1)
    air_s = seen.option_upload_bits[..., None] / seen.uplink_bps[..., None, :]
    air_s = torch.where(found.on_device, 0.0, air_s.flatten(-2).clamp(max=MOST_S))
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


def sequence(seen: OffloadObservation, rows: Rows, order: Tensor) -> Tensor:
    """The ways [B, ORDERS, K] of the tasks, which decide one after another in each of the orders."""
    worlds, orders, tasks = order.shape
    ways_, servers = rows.ready_s.shape[-1], seen.server_room.shape[-1]
    first = torch.arange(worlds, device=order.device)[:, None] * tasks
    flat = [part.reshape(-1, ways_) for part in rows]
    same = same_server(ways_, servers, order.device)
    joins_s = same.to(rows.ready_s.dtype) * FULL_S
    free_s, over_s = (part.repeat_interleave(orders, 0) for part in queues(seen, ways_))
    taken = []
    for k in range(tasks):
        at = (order[:, :, k] + first).flatten()
        ready_s, service_s, slope, fixed_s = (part[at] for part in flat)
        begin_s = torch.maximum(torch.maximum(ready_s, free_s), over_s)
        way = (begin_s * slope + fixed_s).argmin(-1, keepdim=True)
        end_s = (begin_s + service_s).gather(-1, way)
        free_s = torch.where(same[way[:, 0]], end_s, free_s)
        over_s = over_s + joins_s[way[:, 0]]
        taken.append(way)
    decided = torch.cat(taken, -1).reshape(order.shape)
    return torch.zeros_like(order).scatter(-1, order, decided)


def same_server(ways_: int, servers: int, device: torch.device) -> Tensor:
    """[C, C] whether both ways lead to the same server; never where one stays on the device."""
    number = torch.arange(ways_, device=device)
    return (number[:, None] % servers == number % servers) & (number < ways_ - 1) & (number[:, None] < ways_ - 1)


def queues(seen: OffloadObservation, ways_: int) -> tuple[Tensor, Tensor]:
    """Of each way's server [B, C]: when it is done with what waits, and how long to wait for room."""
    repeats = (ways_ - 1) // seen.server_room.shape[-1]
    over_s = (1 - seen.server_room.clamp(max=99.0).to(seen.deadline_s.dtype)) * FULL_S
    parts = ((seen.server_backlog_s, 0.0), (over_s, 0.0))
    return tuple(torch.nn.functional.pad(part.repeat(1, repeats), (0, 1), value=end) for part, end in parts)  # type: ignore[return-value]


def judged(seen: OffloadObservation, made: Prepared, way: Tensor) -> Tensor:
    """[B, ORDERS] cost of the slot where the tasks go these ways [B, ORDERS, K]: summed latency, served first come,
    first served, with prices. All pairs of tasks are looked at, which is less to do than to sort them."""
    rows, servers = made.rows, seen.server_room.shape[-1]
    orders, tasks = way.shape[1:]
    stays = way == rows.ready_s.shape[-1] - 1
    taken = way[..., None]
    ready_s, service_s, price_s = (
        part[:, None].expand(-1, orders, -1, -1).gather(-1, taken)[..., 0]
        for part in (rows.ready_s, rows.service_s, made.price_s)
    )
    number = torch.arange(tasks, device=way.device)
    queue = torch.where(stays | ~seen.task_mask[:, None], -1 - number, way % servers)
    backlog_s = seen.server_backlog_s[:, None].expand(-1, orders, -1).gather(-1, queue.clamp(min=0))
    arrival_s = ready_s + number * TIE_S
    before = (arrival_s[..., None, :] <= arrival_s[..., :, None]) & (queue[..., None, :] == queue[..., :, None])
    # [.., k, j]: j is served no later than k
    work_s = (before.to(service_s.dtype) @ service_s[..., None])[..., 0]
    start_s = torch.where(before, (ready_s + service_s - work_s)[..., None, :], NEVER_S).amax(-1)
    latency_s = torch.where(stays, ready_s, work_s + torch.maximum(backlog_s, start_s))
    late = (latency_s > seen.deadline_s[:, None]).to(latency_s.dtype)
    cost = latency_s + price_s + late * made.late_s[:, None, None]
    return (cost * seen.task_mask[:, None].to(cost.dtype)).sum(-1)


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


def _rest(seen: OffloadObservation, first: int) -> OffloadDecision:
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
