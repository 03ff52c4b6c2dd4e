"""A policy that decides task after task: greedy with learned prices and orders, for any number of tasks and servers.

Sequential greedy takes, task after task, the choice that is done first behind the running queues. Three things it does
not do. It does not ask what a choice costs others: work on a busy server delays all that comes later, in this slot and
the next ones. It takes the tasks as they are numbered, though some orders end much better than others. And in its mind
servers work in the order of the decisions, though they serve first come, first served. So here

- a small network, the same for every (task, option, server), puts prices on the choices:

      score = start * slope + service + price + delay       start: behind the running queue

- a task that is ready before the last of those that have joined a server goes before all of them in our mind, and its
  service counts as the delay of each;
- the tasks are taken in several orders at once, each by a weighted sum (key) of a task's features, smallest first;
- of the decisions that come out, physics takes the best: least summed latency of the slot, served first come, first
  served, with the prices of what was chosen and one for each task that is late.

Prices are what others of the slot would pay: they count by 1 - 1 / tasks, so a task that is alone goes where it is done
first. The last layer being 0, there are no prices; all keys being 0, too, there is one order only, that of the numbers;
`early` being 0, nobody goes before others: that is sequential greedy.

The network sees features of the pair, the task, the server and the world, which are summed in the first layer; those of
the world are means and least values over tasks and servers (deep sets, Zaheer et al., NeurIPS 2017). So permuted
servers permute the decision, and nothing depends on how many there are.

Sums of floats depend on who sums them in which order, and two orders often come to decisions that are just as good. So
all that is summed, by a matrix or over tasks, are whole numbers small enough to be exact: features, weights and hidden
values in steps, times in ticks. Everything else is one operation on one number, which IEEE 754 rounds alike everywhere.
The same weights thus decide alike in PyTorch, in ONNX Runtime, in any batch and on any processor.
"""

from typing import NamedTuple

import torch
from torch import Tensor

from coinfer.physics import latency as physics
from coinfer.policies.candidates import Candidates, candidates_of, predicted_s
from coinfer.policies.learned.scorer_features import MAX_S, STEPS, features, to_steps
from coinfer.types import DEVICE, OffloadDecision, OffloadObservation, Policy, fields_of

HIDDEN, ORDERS = 8, 8
PAIR, TASK, SERVER, WORLD = 8, 7, 6, 7
"""Features of each kind."""
PRICE_SCALE_S, START_SCALE_S, LATE_SCALE_S = 0.05, 0.2, 0.1
MAX_WEIGHT, MAX_KEY, MAX_HIDDEN = 2.0, 4.0, 3.75
"""With these, 28 features (of -2 to 1 or 0 to 1) and a bias, and as many hidden values as there are, sum up to less
than 62, which is 24 bits in steps of steps."""
TICKS = 2.0**17
"""In a second, for what is judged. Sums are exact up to 128 s of work for one server in one slot."""
FULL_S = 2.0**20
"""Start on servers without room, for each task too many: they are taken only where nothing else is left."""
MIN_PART, SLOPES = 0.5, (0.8, 1.25)
"""A price is between minus this part of the latency predicted for the choice and all of it, and a slope between these:
far from what training saw, learned weights do only so much harm."""
NEVER = -1e30
TIE_TICKS = 2.0**-10
"""Of tasks that are ready at once, the judgement has those with higher numbers come so much later."""


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
    early: Tensor
    """[P, ORDERS] 1 where tasks may go before others in our mind, 0 where they join the end; between them, some may."""
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
    early: Tensor
    """[B, ORDERS]"""
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
    "early": (ORDERS,),
    "late": (1,),
}
SIZE = sum(torch.Size(shape).numel() for shape in SHAPES.values())
"""Numbers in the weights of one policy, with all orders."""


def greedy_weights(seed: int = 0) -> Tensor:
    """Return weights [SIZE] that decide as sequential greedy does."""
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
    """Return weights [SIZE] as `greedy_weights`, with orders to choose from, in which tasks go before others.

    The orders are: as numbered, by readiness and work, by work, by readiness, and random ones.
    """
    generator = torch.Generator().manual_seed(seed)
    key = torch.randn((TASK, ORDERS), generator=generator)
    key[:, :4] = 0
    key[_KEYS["ready"], [1, 3]] = 1
    key[_KEYS["service"], 1] = 1
    key[_KEYS["service"], 2] = -1
    flat = greedy_weights(seed)
    return torch.cat((flat[: -1 - ORDERS - key.numel()], key.flatten(), torch.ones(ORDERS), flat[-1:]))


_KEYS = {"ready": 2, "service": 3}
"""Features of a task by number, of its best choice."""


def unpack(flat: Tensor) -> Weights:
    """Return weights from numbers [P, SIZE], or fewer if some orders were left out; in whole steps."""
    orders = ORDERS - (SIZE - flat.shape[-1]) // (TASK + 1)
    shapes = {**SHAPES, "key": (TASK, orders), "early": (orders,)}
    parts = flat.split([torch.Size(shape).numel() for shape in shapes.values()], dim=-1)
    named = zip(shapes.items(), parts, strict=True)
    return Weights(*(_limited(name, part).reshape(-1, *shape) for (name, shape), part in named))


def _limited(name: str, part: Tensor) -> Tensor:
    low, high = {"key": (-MAX_KEY, MAX_KEY), "early": (0.0, 1.0), "late": (0.0, MAX_WEIGHT)}.get(
        name, (-MAX_WEIGHT, MAX_WEIGHT)
    )
    return to_steps(part.clamp(low, high)) / STEPS


def with_orders(flat: Tensor, kept: list[int]) -> Tensor:
    """Return the weights [SIZE] of one policy with some of its orders only.

    Args:
        kept: numbers of the orders.
    """
    weights = unpack(flat[None])
    kept_of = weights._replace(key=weights.key[..., kept], early=weights.early[..., kept])
    return torch.cat([part.flatten() for part in kept_of])


def scorer(weights: Weights) -> Policy:
    """Return the policy of such weights; each of P policies decides for its part of the worlds [P * W, ..]."""
    return lambda observation: decide(weights, observation)


def decide(weights: Weights, observation: OffloadObservation) -> OffloadDecision:
    """Return the decisions [.., K] for worlds [.., K, ..]."""
    lead, places = observation.task_mask.shape[:-1], observation.task_mask.shape[-1]
    whole = _with_one_batch_axis(observation)
    seen = _up_to_last(whole) if whole.task_mask.device.type == "cpu" else whole
    tasks = seen.task_mask.shape[-1]
    made = prepared(weights, seen)
    servers = seen.server_room.shape[-1]
    way = sequence(seen, made)
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
    """Return all that the loop over tasks and the judgement begin with."""
    weights = Weights(*(part.to(seen.deadline_s.dtype) for part in weights))
    key, (ready_s, service_s, slope, fixed_s, price_s, local) = networks(weights, seen)
    task_mask = seen.task_mask[:, None]
    order = torch.where(task_mask, key.transpose(1, 2), torch.inf).argsort(dim=-1, stable=True)
    early, late_s = (part.repeat_interleave(len(key) // len(part), 0) for part in (weights.early, weights.late))
    return Prepared(Rows(ready_s, service_s, slope, fixed_s), early, order, price_s, local, late_s[:, 0] * LATE_SCALE_S)


def networks(weights: Weights, seen: OffloadObservation) -> tuple[Tensor, tuple[Tensor, ...]]:
    """Return keys [B, K, ORDERS]; rows, prices and local options as `ways`."""
    found = candidates_of(seen)
    latency_s = predicted_s(found, seen.server_backlog_s)
    pair, task, server, world = features(seen, found, latency_s)
    latency_s = latency_s.clamp(max=MAX_S)
    sends = (~found.on_device).to(pair.dtype)[..., None]
    server_part = _times(server, weights.server)
    server_part = server_part.repeat(1, found.mask.shape[-1] // found.servers, 1)[:, None] * sends
    task_part = _times(task, weights.task)[:, :, None]
    world_part = _biased(_times(world[:, None], weights.world), weights.first_bias * STEPS)[:, :, None]
    hidden = _times(pair, weights.pair) + server_part + (task_part + world_part)
    hidden = hidden.clamp(0.0, MAX_HIDDEN * STEPS).round()
    prices = _biased(_times(hidden, weights.prices), weights.prices_bias * STEPS) / STEPS
    price, by_service, steep = prices.unbind(-1)
    others = (1 - 1 / seen.task_mask.sum(-1).clamp(min=1).to(price.dtype))[:, None, None]
    price_s = (price * PRICE_SCALE_S + by_service * found.service_s) * others
    price_s = torch.minimum(torch.maximum(price_s, -MIN_PART * latency_s), latency_s)
    slope = (1 + steep * others * found.service_s / START_SCALE_S).clamp(*SLOPES)
    return _times(task, weights.key), ways(found, price_s, slope)


def ways(found: Candidates, price_s: Tensor, slope: Tensor) -> tuple[Tensor, ...]:
    """Return rows, prices [B, K, C] and options [B, K] of the last way, from prices and slopes [B, K, C]."""
    goes = found.mask & ~found.on_device
    stays = found.mask & found.on_device
    score_s = torch.where(stays, found.ready_s + price_s, torch.inf)
    local = score_s.argmin(-1, keepdim=True)
    local_s = score_s.gather(-1, local)
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


def sequence(seen: OffloadObservation, made: Prepared) -> Tensor:
    """Return the ways [B, ORDERS, K] of the tasks, which decide one after another in each of the orders.

    Times are in units of `FULL_S` here, so that a task more on a server that is full is 1.
    """
    order = made.order
    worlds, orders, tasks = order.shape
    ways_, servers = made.rows.ready_s.shape[-1], seen.server_room.shape[-1]
    first = torch.arange(worlds, device=order.device)[:, None] * tasks
    begun, empty = queues(seen, ways_)
    rows = in_full(made.rows)
    flat = [part.reshape(-1, ways_) for part in (*rows, first_scores(rows, begun))]
    joins = same_server(ways_, servers, order.device).to(flat[0].dtype)
    begun, empty = (part.repeat_interleave(orders, 0) for part in (begun, empty))
    early = made.early.reshape(-1, 1)
    free, over, last = begun, empty, torch.zeros_like(begun)
    taken = []
    for k in range(tasks):
        at = (order[:, :, k] + first).flatten()
        ready, service, slope, fixed, first_fixed = (part[at] for part in flat)
        start = torch.maximum(physics.start_s(ready, free), over)
        delay = torch.maximum((over - empty) * service, over)
        way = torch.where(ready < last, first_fixed + delay, start * slope + fixed).argmin(-1, keepdim=True)
        joined = joins[way[:, 0]]
        end = (start + service).gather(-1, way)
        free = torch.maximum(free, joined * end)
        last = torch.maximum(last, joined * (ready * early).gather(-1, way))
        over = over + joined
        taken.append(way)
    decided = torch.cat(taken, -1).reshape(order.shape)
    return torch.zeros_like(order).scatter(-1, order, decided)


def in_full(rows: Rows) -> Rows:
    """Return the same rows with times in units of `FULL_S`; exact, as that is a power of 2."""
    ready, service, fixed = (part / FULL_S for part in (rows.ready_s, rows.service_s, rows.fixed_s))
    return Rows(ready, service, rows.slope, fixed)


def first_scores(rows: Rows, begun: Tensor) -> Tensor:
    """Return the scores [B, K, C] of going before all others, but for their delay.

    Args:
        rows: with times in units of `FULL_S`, as `begun` [B, C], when the servers are done with earlier slots.
    """
    return torch.maximum(rows.ready_s, begun[:, None]) * rows.slope + rows.fixed_s


def same_server(ways_: int, servers: int, device: torch.device) -> Tensor:
    """Return whether both ways lead to the same server [C, C]; False if one stays on the device."""
    number = torch.arange(ways_, device=device)
    return (number[:, None] % servers == number % servers) & (number < ways_ - 1) & (number[:, None] < ways_ - 1)


def queues(seen: OffloadObservation, ways_: int) -> tuple[Tensor, Tensor]:
    """Return of each way's server [B, C] when it is done with what waits, and how long to wait for room.

    Times are in units of `FULL_S`.
    """
    repeats = (ways_ - 1) // seen.server_room.shape[-1]
    over = 1 - seen.server_room.clamp(max=99.0).to(seen.deadline_s.dtype)
    parts = ((seen.server_backlog_s / FULL_S, 0.0), (over, 0.0))
    return tuple(torch.nn.functional.pad(part.repeat(1, repeats), (0, 1), value=end) for part, end in parts)  # type: ignore[return-value]


def judged(seen: OffloadObservation, made: Prepared, way: Tensor) -> Tensor:
    """Return the cost of the slot [B, ORDERS], in ticks, if the tasks go these ways [B, ORDERS, K].

    It is the summed latency, served first come, first served, with prices. All pairs of tasks are looked at, which is
    less to do than to sort them.
    """
    rows, servers = made.rows, seen.server_room.shape[-1]
    orders, tasks = way.shape[1:]
    stays = way == rows.ready_s.shape[-1] - 1
    taken = way[..., None]
    ready, service, price = (
        _ticks(part[:, None].expand(-1, orders, -1, -1).gather(-1, taken)[..., 0])
        for part in (rows.ready_s, rows.service_s, made.price_s)
    )
    number = torch.arange(tasks, device=way.device)
    queue = torch.where(stays | ~seen.task_mask[:, None], -1 - number, way % servers)
    backlog = _ticks(seen.server_backlog_s)[:, None].expand(-1, orders, -1).gather(-1, queue.clamp(min=0))
    arrival = ready.double() + number * TIE_TICKS
    before = (arrival[..., None, :] <= arrival[..., :, None]) & (queue[..., None, :] == queue[..., :, None])
    # [.., k, j]: j is served no later than k
    work = (before.to(service.dtype) @ service[..., None])[..., 0]
    start = torch.where(before, (ready + service - work)[..., None, :], NEVER).amax(-1)
    latency = torch.where(stays, ready, work + torch.maximum(backlog, start))
    late = (latency > _ticks(seen.deadline_s)[:, None]).to(latency.dtype)
    cost = latency + price + late * _ticks(made.late_s)[:, None, None]
    return (cost * seen.task_mask[:, None].to(cost.dtype)).double().sum(-1)


def _ticks(time_s: Tensor) -> Tensor:
    """Whole numbers of them."""
    return (time_s * TICKS).round()


def _times(values: Tensor, matrix: Tensor) -> Tensor:
    """[P * W, .., F] times [P, F, H]."""
    policies = matrix.shape[0]
    if policies == 1:
        return values @ matrix[0]
    flat = values.reshape(policies, -1, values.shape[-1])
    return torch.bmm(flat, matrix).reshape(*values.shape[:-1], matrix.shape[-1])


def _biased(values: Tensor, bias: Tensor) -> Tensor:
    """[P * W, .., H] plus [P, H]."""
    policies = bias.shape[0]
    if policies == 1:
        return values + bias[0]
    flat = values.reshape(policies, -1, values.shape[-1])
    return (flat + bias[:, None]).reshape(values.shape)


def _up_to_last(seen: OffloadObservation) -> OffloadObservation:
    """Without the places after the last one that has a task."""
    places = seen.task_mask.any(0).nonzero()
    tasks = int(places[-1]) + 1 if len(places) else 1
    named = zip(fields_of(OffloadObservation).values(), seen, strict=True)
    return OffloadObservation(*(values[:, :tasks] if "K" in field.axes else values for field, values in named))


def _rest(seen: OffloadObservation, first: int) -> OffloadDecision:
    """For the places from `first` on, where no tasks are: what stays on the device."""
    stays = (seen.option_upload_bits == 0)[:, first:]
    option = (stays.int() + (stays & seen.option_mask[:, first:]).int()).argmax(-1)
    return OffloadDecision(option, torch.full_like(option, DEVICE))


def _with_one_batch_axis(observation: OffloadObservation) -> OffloadObservation:
    lead = observation.task_mask.dim() - 1
    return OffloadObservation(*(field.reshape(-1, *field.shape[lead:]) for field in observation))
