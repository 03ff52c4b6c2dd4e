"""Rules for servers that batch and load: task after task goes where it adds least to the latency of all.

What a task adds is its own latency and what it changes for the requests that are there, by the rules of the servers
themselves: that it runs with others, delays them, or has a network loaded and another one evicted. `plan` takes the
first task first; with more rounds it looks at the tasks again, each time at one while the others keep their places,
until nothing improves. Plain Python, for one world.
"""

from collections.abc import Iterable, Sequence
from typing import NamedTuple

from coinfer.policies.heuristics.server_times import Asked, ServerState, total_s


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
