"""Rules for servers that batch and load: task after task goes where it adds least to the latency of all.

What a task adds is its own latency and what it changes for the requests that are there, by the rules of the servers
themselves: that it runs with others, delays them, or has a network loaded and another one evicted. `plan` takes the
first task first; with more rounds it looks at the tasks again, each time at one while the others keep their places,
until nothing improves. Plain Python, for one world: a server's future is some microseconds of arithmetic.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
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


class Choice(NamedTuple):
    """One way to serve a task."""

    option: int
    server: int
    """-1 is the device."""
    ready_s: float
    """When the task arrives at the server, or is done on the device."""
    service_s: float
    piece: int
    network: int


class Task(NamedTuple):
    """A task to decide."""

    choices: tuple[Choice, ...]
    deadline_s: float
    download_s: Sequence[float] = ()
    """By server; none without any."""


def later(task: Task, by_s: float) -> Task:
    """Return the same task in times from an earlier moment.

    Args:
        task: of a slot.
        by_s: how much earlier.
    """
    if not by_s:
        return task
    choices = tuple(one._replace(ready_s=one.ready_s + by_s) for one in task.choices)
    return task._replace(choices=choices, deadline_s=task.deadline_s + by_s)


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


def plan(
    servers: Sequence[ServerState], tasks: Sequence[Task], rounds: int = 1, load_weight: float = 1.0
) -> list[Choice]:
    """Return a choice for every task.

    Args:
        servers: as they are now.
        tasks: those that arrive first should come first.
        rounds: how often each task is looked at, at most. With more than one, all tasks of a network are also tried on
            each server together, which one task alone would not pay for if it had to load it.
        load_weight: part of a load that the task which asks for it counts, as later tasks profit from it too.
    """
    search = Placement(servers, tasks)
    for round_ in range(rounds):
        changed = sum(search.improve_task(k, load_weight) for k in range(len(tasks)))
        if rounds > 1:
            changed += sum(search.improve_network(x, n) for x in search.networks for n in range(len(servers)))
        if round_ and not changed:
            break
        load_weight = 1.0
    return [one or task.choices[0] for one, task in zip(search.placed, tasks, strict=True)]


class Placement:
    """Choices of tasks, and what they come to on each server.

    Args:
        servers: as they are now.
        tasks: none of them placed yet.
    """

    def __init__(self, servers: Sequence[ServerState], tasks: Sequence[Task]):
        self.servers, self.tasks = servers, tasks
        self.placed: list[Choice | None] = [None] * len(tasks)
        self.on: list[dict[int, Asked]] = [{} for _ in servers]
        self.totals = [total_s(server) for server in servers]
        found = {choice.network for task in tasks for choice in task.choices if choice.server >= 0}
        self.networks = sorted(found) if any(server.memory_bytes < float("inf") for server in servers) else []

    def added_s(self, k: int, choice: Choice) -> tuple[float, float]:
        """Return what a choice adds to the latency of all, and the sum of its server's times with it.

        Args:
            k: number of a task that is not placed.
            choice: of that task.
        """
        n, task = choice.server, self.tasks[k]
        if n < 0:
            return choice.ready_s, 0.0
        total = self._total_s(n, {k: _asked(choice, task)})
        return total - self.totals[n] + _download_s(choice, task), total

    def place(self, k: int, choice: Choice, total: float) -> None:
        """Place a task.

        Args:
            k: number of a task that is not placed.
            choice: of that task.
            total: from `added_s` of that choice.
        """
        self.placed[k] = choice
        if choice.server >= 0:
            self.on[choice.server][k] = _asked(choice, self.tasks[k])
            self.totals[choice.server] = total

    def must_load(self, n: int, network: int) -> bool:
        """Return whether a request for a network would be the one that has it loaded.

        Args:
            n: number of the server.
            network: number of the network.
        """
        server = self.servers[n]
        coming = network in server.wanted or (server.loading is not None and server.loading[0] == network)
        return not (network in server.warm or coming or any(one.network == network for one in self.on[n].values()))

    def improve_task(self, k: int, load_weight: float) -> bool:
        """Give a task its best choice while all others keep theirs; return whether that is a new one.

        Args:
            k: number of the task.
            load_weight: as in `plan`.
        """
        task, before = self.tasks[k], self.placed[k]
        if before is not None and before.server >= 0:
            del self.on[before.server][k]
            self.totals[before.server] = self._total_s(before.server)
        best_s, best, best_total = float("inf"), task.choices[0], 0.0
        for choice in task.choices:
            added_s, total = self.added_s(k, choice)
            n = choice.server
            if load_weight < 1 and n >= 0 and self.must_load(n, choice.network):
                added_s -= (1 - load_weight) * self.servers[n].load_s[choice.network]
            if added_s < best_s - 1e-9 * (choice != before):
                best_s, best, best_total = added_s, choice, total
        self.place(k, best, best_total)
        return best != before

    def improve_network(self, network: int, server: int) -> bool:
        """Move all tasks of a network to a server if that is better; return whether it is.

        Args:
            network: number of the network.
            server: number of the server.
        """
        moves = dict[int, Choice]()
        for k, task in enumerate(self.tasks):
            there = [one for one in task.choices if one.server == server and one.network == network]
            if there and self.placed[k] != there[0]:
                moves[k] = there[0]
        if not moves:
            return False
        left = {k: one for k in moves if (one := self.placed[k]) is not None}
        touched = {server, *(one.server for one in left.values() if one.server >= 0)}
        fixed_s = sum(_download_s(one, self.tasks[k]) for k, one in moves.items())
        before_s = sum(
            _download_s(one, self.tasks[k]) + (one.ready_s if one.server < 0 else 0) for k, one in left.items()
        )
        asked = {k: _asked(one, self.tasks[k]) for k, one in moves.items()}
        totals = {n: self._total_s(n, asked if n == server else {}, left) for n in touched}
        if fixed_s + sum(totals.values()) >= before_s + sum(self.totals[n] for n in touched) - 1e-9:
            return False
        for k, one in left.items():
            if one.server >= 0:
                del self.on[one.server][k]
        self.on[server] |= asked
        for n, total in totals.items():
            self.totals[n] = total
        for k, one in moves.items():
            self.placed[k] = one
        return True

    def _total_s(self, n: int, more: dict[int, Asked] | None = None, less: Iterable[int] = ()) -> float:
        kept = {k: one for k, one in self.on[n].items() if k not in less} if less else self.on[n]
        return total_s(self.servers[n], [*kept.values(), *(more or {}).values()])


def _download_s(choice: Choice, task: Task) -> float:
    return task.download_s[choice.server] if task.download_s and choice.server >= 0 else 0.0


def _asked(choice: Choice, task: Task) -> Asked:
    return Asked(choice.ready_s, choice.service_s, choice.piece, choice.network, task.deadline_s)


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


def _with_loads(server: ServerState, asked: Sequence[Asked]) -> float:
    """Return the same for a server that may have to load networks; events in the order of time."""
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
        if now_s == float("inf"):
            return total
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
