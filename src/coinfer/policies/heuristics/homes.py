"""A server for each network, the same for everybody: what deciders can agree on who do not know of each other."""

from collections.abc import Sequence
from itertools import product

import numpy as np
from scipy import sparse
from scipy.optimize import Bounds, LinearConstraint, milp

from coinfer.types import DEVICE

_STEPS = 10_000
"""Of memory: whole numbers are exact."""
_NODES = 3000
"""Of the search for the best homes; a limit of time would let deciders come to unlike ones."""


def homes(
    work: Sequence[float],
    saved: Sequence[float],
    size_bytes: Sequence[float],
    memory_bytes: Sequence[float],
    *,
    crowded: bool = False,
) -> list[int]:
    """Return the home of each network, [X]: servers get about equal work, of networks that their memory holds.

    Where memory is limited, the networks at home are those that save most together (to 0.2 %, an integer program); the
    others stay on devices or, if `crowded`, share the room of others: of these, those with most work choose first, each
    the server with least work of those that could hold it.

    Args:
        work: [X] share of the servers' time that each network takes.
        saved: [X] time that servers save its requests, in the same unit.
        size_bytes: [X] of each network.
        memory_bytes: [N] of each server; infinite where memory is not limited.
        crowded: whether a server's memory need not hold all that are at home there at the same time.
    """
    if all(memory == float("inf") for memory in memory_bytes):
        found, busy = [DEVICE] * len(work), [0.0] * len(memory_bytes)
        for x in sorted(range(len(work)), key=lambda x: -work[x]):
            found[x] = busy.index(min(busy))
            busy[found[x]] += work[x]
        return found
    found = _kept(np.array(saved), np.array(size_bytes), np.array(memory_bytes))
    _even(found, work, size_bytes, memory_bytes)
    busy = [sum(work[x] for x, home in enumerate(found) if home == n) for n in range(len(memory_bytes))]
    for x in sorted(range(len(work)), key=lambda x: -work[x]) if crowded else ():
        could = [n for n, memory in enumerate(memory_bytes) if size_bytes[x] <= memory]
        if found[x] == DEVICE and could:
            found[x] = min(could, key=busy.__getitem__)
            busy[found[x]] += work[x]
    return found


def _kept(saved: np.ndarray, size_bytes: np.ndarray, memory_bytes: np.ndarray) -> list[int]:
    """Return homes of networks that save most together; one variable for each network and server."""
    networks, servers = len(saved), len(memory_bytes)
    once = sparse.kron(sparse.eye(networks), np.ones((1, servers)))
    memory_bytes = np.minimum(memory_bytes, 2 * size_bytes.sum())
    unit_bytes = memory_bytes.max() / _STEPS
    fits = sparse.kron(np.ceil(size_bytes[None] / unit_bytes - 1e-6), sparse.eye(servers))
    room = np.floor(memory_bytes / unit_bytes + 1e-6)
    rows, limits = sparse.csr_matrix(sparse.vstack((once, fits))), np.concatenate((np.ones(networks), room))
    result = milp(
        -np.repeat(saved / max(float(saved.sum()), 1e-12), servers),
        constraints=LinearConstraint(rows, -np.inf, limits),  # pyright: ignore[reportArgumentType]
        integrality=1,
        bounds=Bounds(0, 1),
        options={"node_limit": _NODES, "mip_rel_gap": 0.002},
    )
    if result.x is None:
        return [DEVICE] * networks
    chosen = result.x.reshape(networks, servers).round()
    return [int(row.argmax()) if row.any() else DEVICE for row in chosen]


def _even(found: list[int], work: Sequence[float], size_bytes: Sequence[float], memory_bytes: Sequence[float]) -> None:
    """Exchange networks at home, one for one or for none, while that leaves the busier of two servers less work."""
    servers = range(len(memory_bytes))

    def sums(values: Sequence[float]) -> list[float]:
        return [sum(value for value, home in zip(values, found, strict=True) if home == n) for n in servers]

    for _ in range(10 * len(found)):
        busy, taken = sums(work), sums(size_bytes)
        n = max(servers, key=busy.__getitem__)
        best, change = busy[n], None
        for x, y in product([x for x, home in enumerate(found) if home == n], [DEVICE, *range(len(found))]):
            for m in servers if y == DEVICE else [found[y]]:
                if m in {n, DEVICE}:
                    continue
                more, bytes_ = (
                    (work[x], size_bytes[x]) if y == DEVICE else (work[x] - work[y], size_bytes[x] - size_bytes[y])
                )
                fits = taken[m] + bytes_ <= memory_bytes[m] and taken[n] - bytes_ <= memory_bytes[n]
                if fits and max(busy[n] - more, busy[m] + more) < best * (1 - 1e-9):
                    best, change = max(busy[n] - more, busy[m] + more), (x, y, m)
        if change is None:
            return
        x, y, m = change
        found[x] = m
        if y != DEVICE:
            found[y] = n
