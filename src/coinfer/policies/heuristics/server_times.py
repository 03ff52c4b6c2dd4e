"""What becomes of a server that batches and loads, by the rules of the servers themselves, in plain Python.

`total_s` is the sum of the times at which all its requests are done, some microseconds of arithmetic; `advance` is the
server some time later.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import NamedTuple

from coinfer.physics.batching import MARGIN, BatchTimes, Waiting, batch_members, batch_plan
from coinfer.physics.loading import Loaded, credit, evicted


class Asked(NamedTuple):
    """A request at a server, or on its way to it."""

    ready_s: float
    """When it arrives; from now, like all times."""
    service_s: float
    """Time that it takes alone."""
    piece: int
    network: int
    deadline_s: float
    joined_s: float = float("inf")
    """When it joined the queue; infinite if it did not yet."""


@dataclass(frozen=True)
class ServerState:
    """What is known of a server."""

    times: Sequence[BatchTimes]
    """By network."""
    load_s: Sequence[float]
    """By network."""
    size_bytes: Sequence[float]
    """By network."""
    memory_bytes: float
    free_s: float = 0.0
    """When the batch that runs ends."""
    running: tuple[int, ...] = ()
    """Networks of that batch."""
    asked: tuple[Asked, ...] = ()
    """Requests that wait or are on their way, in the order of arrival."""
    warm: dict[int, Loaded] = field(default_factory=dict)
    floor: float = 0.0
    loading: tuple[int, float] | None = None
    """The network that is being loaded, and when it is there."""
    wanted: tuple[int, ...] = ()
    """Networks that wait to be loaded, in the order in which they were asked for."""


def total_s(server: ServerState, new: Sequence[Asked] = ()) -> float:
    """Return the sum of the times at which all requests of a server are done.

    Args:
        server: as it is now.
        new: requests that come to it.
    """
    asked = sorted((*server.asked, *new), key=lambda one: one.ready_s) if new else server.asked
    if server.memory_bytes == float("inf"):
        return _without_loads(server, asked)
    if server.wanted or server.loading or any(one.network not in server.warm for one in asked):
        return _with_loads(server, asked)
    return _without_loads(server, sorted(asked, key=lambda one: min(one.joined_s, max(one.ready_s, 0.0))))


def _without_loads(server: ServerState, asked: Sequence[Asked]) -> float:
    queue, place, now_s, total = list[Asked](), 0, server.free_s, 0.0
    while place < len(asked) or queue:
        if not queue:
            now_s = max(now_s, asked[place].ready_s)
        while place < len(asked) and asked[place].ready_s <= now_s:
            queue.append(asked[place])
            place += 1
        members, took_s = _batch(server, queue, now_s)
        now_s += took_s
        total += len(members) * now_s
        queue = [one for k, one in enumerate(queue) if k not in members]
    return total


def _batch(server: ServerState, queue: list[Asked], now_s: float) -> tuple[tuple[int, ...], float]:
    """Return the places in the queue of those that run now, and how long they take."""
    first = queue[0]
    times = server.times[first.network]
    if len(queue) == 1 or times.limit == 1:
        return (0,), first.service_s
    same = [k for k, one in enumerate(queue) if one.piece == first.piece]
    size = batch_plan(times, len(same), len(queue))[0]
    members = tuple(same[:size])
    if size > 1 and now_s + MARGIN * sum(one.service_s for one in queue) > min(one.deadline_s for one in queue):
        rows = [Waiting(one.piece == first.piece, one.service_s, one.deadline_s - now_s) for one in queue]
        members = batch_members(times, rows)
    return members, times.ratios[len(members) - 1] * first.service_s


def advance(server: ServerState, new: Sequence[Asked], by_s: float) -> ServerState:
    """Return a server some time later, in times from then, if no more requests come than these.

    Args:
        server: as it is now.
        new: requests that come to it meanwhile or later, in times from now.
        by_s: how much later.
    """
    later_on = _play(server, sorted((*server.asked, *new), key=lambda one: one.ready_s), by_s)[1]
    loading = later_on.loading and (later_on.loading[0], later_on.loading[1] - by_s)
    asked = tuple(sorted((seen_later(one, by_s) for one in later_on.asked), key=lambda one: one.ready_s))
    return replace(later_on, free_s=later_on.free_s - by_s, loading=loading, asked=asked)


def seen_later(asked: Asked, by_s: float) -> Asked:
    """Return a request in times from a later moment.

    Args:
        asked: a request.
        by_s: how much later; negative for an earlier one.
    """
    ready_s, _, _, _, deadline_s, joined_s = asked
    return asked._replace(ready_s=ready_s - by_s, deadline_s=deadline_s - by_s, joined_s=joined_s - by_s)


def _with_loads(server: ServerState, asked: Sequence[Asked]) -> float:
    """Return the same for a server that may have to load networks."""
    return _play(server, asked)[0]


def _play(server: ServerState, asked: Sequence[Asked], until_s: float = float("inf")) -> tuple[float, ServerState]:
    """Return the sum of the ends of what begins before a time, and the server then; events in the order of time."""
    queue = [one for one in asked if one.joined_s < float("inf")]
    queue.sort(key=lambda one: one.joined_s)
    cold = [one for one in asked if one.joined_s == float("inf") and one.ready_s <= 0]
    coming = [one for one in asked if one.joined_s == float("inf") and one.ready_s > 0]
    warm, floor, loading, wanted = dict(server.warm), server.floor, server.loading, list(server.wanted)
    running, free_s, total, place = server.running, server.free_s, 0.0, 0
    while True:
        arrival_s = coming[place].ready_s if place < len(coming) else float("inf")
        load_s = loading[1] if loading else float("inf")
        batch_s = max(free_s, queue[0].joined_s) if queue else float("inf")
        now_s = min(arrival_s, load_s, batch_s)
        if now_s == float("inf") == until_s:
            return total, server
        if now_s >= until_s:
            waits = (*queue, *cold, *coming[place:])
            running = running if free_s > until_s else ()
            return total, replace(
                server, free_s=free_s, running=running, asked=waits, warm=warm, floor=floor, loading=loading,
                wanted=tuple(wanted),
            )  # fmt: skip
        if arrival_s == now_s:
            one = coming[place]
            place += 1
            if one.network in warm:
                warm[one.network] = _use(server, one.network, floor)
                queue.append(one._replace(joined_s=now_s))
            else:
                cold.append(one)
                if one.network not in wanted and not (loading and loading[0] == one.network):
                    wanted.append(one.network)
        elif loading and load_s == now_s:
            warm[loading[0]] = _use(server, loading[0], floor)
            queue += [one._replace(joined_s=now_s) for one in cold if one.network == loading[0]]
            cold = [one for one in cold if one.network != loading[0]]
            loading = None
        else:
            members, took_s = _batch(server, queue, now_s)
            free_s = now_s + took_s
            running = (queue[0].network,)
            total += len(members) * free_s
            queue = [one for k, one in enumerate(queue) if k not in members]
            continue
        if wanted and not loading:
            network = wanted.pop(0)
            in_use = {one.network for one in (*queue, *cold)} | (set(running) if free_s > now_s else set())
            needed = sum(one.size_bytes for one in warm.values()) + server.size_bytes[network] - server.memory_bytes
            if needed > 0:
                for gone in evicted(dict(sorted(warm.items())), needed, in_use):
                    floor = max(floor, warm.pop(gone).credit)
            loading = (network, now_s + server.load_s[network])


def _use(server: ServerState, network: int, floor: float) -> Loaded:
    size_bytes, load_s = server.size_bytes[network], server.load_s[network]
    return Loaded(size_bytes, load_s, credit(floor, load_s, size_bytes))
