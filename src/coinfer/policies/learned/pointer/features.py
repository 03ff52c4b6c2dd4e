"""What the pointer policy knows of the choices of a task, and how it decides a slot. Plain Python and NumPy.

The policy takes the tasks of a slot one after the other, as the rule `heuristics.demand` does, and for each one points
at a choice: the one of greatest score. The score is minus the rule's price, in units of `scale_s`, plus what a network
finds in the features of the choice (`net`). The features tell the server, the batch that is forming, what is warm, what
a load would evict, and what the tasks before this one chose. There may be any number of tasks, servers and options.
"""

import math
from collections.abc import Callable, Sequence

import numpy as np

from coinfer.policies.heuristics.demand import Scored, Slot

NAMES = (
    "device", "added", "price", "ready", "service", "deadline", "left", "demand",
    "queue", "waiting", "same", "share",
    "loads", "coming", "waits", "copies", "gain", "lost", "loading", "size", "free",
)  # fmt: skip
"""Of the features of a choice; the last nine are about what is warm, the four before about queues and batches."""
BATCHES = NAMES[8:12]
WARM = NAMES[12:]
COLUMNS = 1 + len(NAMES)
"""Numbers of a choice: minus its price by the rule, above the best one's, and its features."""
WORLD = 8
"""Numbers of a world, for the value of its state."""
Scores = Callable[[np.ndarray], np.ndarray]
"""From choices [T, C, COLUMNS] of T tasks to their scores [T, C]."""


def choice_rows(slot: Slot, k: int, scored: Sequence[Scored], scale_s: float) -> list[list[float]]:
    """Return the numbers of each choice of a task, [C][COLUMNS].

    Args:
        slot: in which the tasks before this one are placed.
        k: number of the task.
        scored: from `Slot.scored`.
        scale_s: a time that matters, such as that of a batch.
    """
    prices = [one.added_s + one.price_s for one in scored]
    least_s, least_added_s = min(prices), min(one.added_s for one in scored)
    task = slot.tasks[k]
    network = task.choices[0].network
    shared = [_log(task.deadline_s, scale_s), slot.left[network] / 8, _log(slot.memory.saved[network], 0.1)]
    rows = []
    for one, price_s in zip(scored, prices, strict=True):
        n = one.choice.server
        rows.append([
            (least_s - price_s) / scale_s,
            float(n < 0),
            _log(one.added_s - least_added_s, scale_s),
            _log(one.price_s, scale_s),
            _log(one.choice.ready_s, scale_s),
            _log(one.choice.service_s, scale_s) if n >= 0 else 0.0,
            *shared,
            *(_server_part(slot, one, scale_s) if n >= 0 else _ON_DEVICE),
        ])  # fmt: skip
    return rows


_ON_DEVICE = [0.0] * (len(BATCHES) + len(WARM))


def _server_part(slot: Slot, one: Scored, scale_s: float) -> list[float]:
    n, piece = one.choice.server, one.choice.piece
    server, here = slot.servers[n], slot.placement.on[n].values()
    waiting = len(server.asked) + len(here)
    same = sum(other.piece == piece for other in server.asked) + sum(other.piece == piece for other in here)
    queue_s = max(0.0, server.free_s) + sum(other.service_s for other in server.asked)
    coming = not one.loads and one.waits_s > 0
    return [
        _log(queue_s, scale_s),
        waiting / 16,
        min(same, 16) / 8,
        one.share,
        float(one.loads),
        float(coming),
        _log(one.waits_s, scale_s),
        one.copies / 4,
        _log(one.saved, 0.1) * one.loads,
        _log(one.lost, 0.1),
        (len(server.wanted) + (server.loading is not None)) / 4,
        server.size_bytes[one.choice.network] / server.memory_bytes,
        (server.memory_bytes - slot.used_bytes[n]) / server.memory_bytes if server.memory_bytes < math.inf else 1.0,
    ]


def _log(value: float, scale: float) -> float:
    """Return a number of about -3 to 3: in proportion below the scale, logarithmic above; infinite ones as a large."""
    return 0.5 * math.asinh(min(value / scale, 1e4))


def world_row(slot: Slot, scale_s: float) -> list[float]:
    """Return the numbers of a world before anything is decided, [WORLD].

    Args:
        slot: at its beginning.
        scale_s: as in `choice_rows`.
    """
    saved, servers = slot.memory.saved, slot.servers
    held = sum(value for x, value in enumerate(saved) if slot.copies[x])
    backlog_s = sum(max(0.0, server.free_s) + sum(one.service_s for one in server.asked) for server in servers)
    waits = sum(one.network not in server.warm for server in servers for one in server.asked)
    alone_s = sum(min(one.ready_s + one.service_s for one in task.choices) for task in slot.tasks)
    return [
        len(slot.tasks) / 16,
        _log(alone_s, scale_s),
        _log(sum(saved), 0.1),
        _log(held, 0.1),
        _log(backlog_s / len(servers), scale_s),
        sum(len(server.asked) for server in servers) / 32,
        waits / 16 if slot.placement.networks else 0.0,
        sum(len(server.wanted) + (server.loading is not None) for server in servers) / 8,
    ]


def decide_slot(slot: Slot, scores: Scores, scale_s: float) -> list[Scored]:
    """Return the choice of every task of a slot, each made after those before it.

    Args:
        slot: at its beginning; changed.
        scores: of the network, see `Scores`.
        scale_s: as in `choice_rows`.
    """
    found = []
    for k in range(len(slot.tasks)):
        scored = slot.scored(k)
        rows = np.array([choice_rows(slot, k, scored, scale_s)], np.float32)
        found.append(scored[int(scores(rows)[0].argmax())])
        slot.place(k, found[-1])
    return found
