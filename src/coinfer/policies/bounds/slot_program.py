"""The optimum of a slot as a mixed integer program, solved by HiGHS: for slots too large for exhaustive search.

The choices on a server, in the order in which they would be ready (then of the tasks' numbers), form a chain: after
item i the server is busy until W_i = max(W_{i-1}, r_i x_i) + s_i x_i. As later is never better, the two sides of the
maximum are two inequalities: first come, first served costs one variable and two rows an item, and no pairs of tasks.
"""

from typing import Any, NamedTuple

import numpy as np
import torch
from scipy import sparse
from scipy.optimize import Bounds, LinearConstraint, OptimizeResult, milp
from torch import Tensor

from coinfer.policies.bounds.slot import BoundError
from coinfer.policies.candidates import Candidates, candidates_of, predicted_s
from coinfer.types import OffloadDecision, OffloadObservation


class Solution(NamedTuple):
    """The best decision of one slot that the solver found."""

    decision: OffloadDecision[Tensor]
    """[K]"""
    cost: float
    """Cost of the decision according to the program."""
    bound: float
    """No decision costs less. Equal to `cost`, up to the solver's tolerance, unless the time ran out."""


def least_latency(observation: OffloadObservation[Tensor], limit_s: float = 60.0) -> Solution:
    """Return the decision of least summed latency for one world's slot.

    Args:
        observation: without leading axes; true and not stale.
        limit_s: after this time HiGHS stops to prove optimality; the bound still holds.

    Raises:
        BoundError: if no decision was found in that time; one line.
    """
    return _solve(observation, limit_s, late=False)


def fewest_late(observation: OffloadObservation[Tensor], limit_s: float = 60.0) -> Solution:
    """Return the decision with the fewest tasks that miss their deadline, for one world's slot.

    Args:
        observation: without leading axes; true and not stale.
        limit_s: after this time HiGHS stops to prove optimality; the bound still holds.

    Raises:
        BoundError: if no decision was found in that time; one line.
    """
    return _solve(observation, limit_s, late=True)


class _Items(NamedTuple):
    """The allowed choices of the tasks that exist, I of them, by server, readiness and task; of one slot."""

    task: np.ndarray
    choice: np.ndarray
    server: np.ndarray
    """-1 on the device; these are the first."""
    ready_s: np.ndarray
    service_s: np.ndarray
    alone_s: np.ndarray
    """Latency if it were the only task."""


def _solve(observation: OffloadObservation[Tensor], limit_s: float, late: bool) -> Solution:
    candidates = candidates_of(observation)
    items = _items(observation, candidates)
    free_s, room, deadline_s = (
        np.asarray(field, dtype=float)
        for field in (observation.server_backlog_s, observation.server_room, observation.deadline_s)
    )
    rows = _Rows(items, deadline_s.shape[0])
    rows.one_choice_each()
    rows.room(room)
    rows.queues(free_s)
    rows.latencies(_horizon_s(items, free_s))
    if late:
        rows.deadlines(deadline_s, _horizon_s(items, free_s))
    solution = rows.solve(limit_s, late)
    chosen = np.flatnonzero(solution.x[: len(items.task)] > 0.5)
    choice = torch.zeros(deadline_s.shape[0], dtype=torch.long)
    choice[torch.from_numpy(items.task[chosen])] = torch.from_numpy(items.choice[chosen])
    return Solution(candidates.decision(choice), float(solution.fun), float(solution.mip_dual_bound))


def _items(observation: OffloadObservation[Tensor], candidates: Candidates) -> _Items:
    task, choice = np.nonzero((candidates.mask & observation.task_mask[:, None]).numpy())
    server = np.where(candidates.on_device.numpy()[task, choice], -1, choice % candidates.servers)
    alone_s = predicted_s(candidates, observation.server_backlog_s)
    ready_s, service_s, alone_s = (
        part.double().numpy()[task, choice] for part in (candidates.ready_s, candidates.service_s, alone_s)
    )
    order = np.lexsort((task, ready_s, server))
    return _Items(*(part[order] for part in (task, choice, server, ready_s, service_s, alone_s)))


def _horizon_s(items: _Items, free_s: np.ndarray) -> float:
    """Return a time by which everything is done, whatever is chosen."""
    longest_s = np.zeros(items.task.max(initial=-1) + 1)
    np.maximum.at(longest_s, items.task, items.service_s)
    return float(items.ready_s.max(initial=0) + longest_s.sum() + free_s.max(initial=0))


class _Rows:
    """The rows of the program. Columns: item i is chosen [I], W [I], latency of task k [K], task k is late [K]."""

    def __init__(self, items: _Items, tasks: int):
        self.items, self.tasks, self.count = items, tasks, len(items.task)
        self.latency, self.late = 2 * self.count, 2 * self.count + tasks
        self._entries: list[tuple[np.ndarray, np.ndarray, np.ndarray]] = []
        self._low: list[np.ndarray] = []

    def _add(self, low: np.ndarray, *terms: tuple[np.ndarray, np.ndarray, np.ndarray | float]) -> None:
        """Add as many rows as `low` is long: the sum of the terms (row, column, factor) is at least `low`."""
        begin = sum(map(len, self._low))
        for row, column, factor in terms:
            self._entries.append((begin + row, column, np.broadcast_to(factor, row.shape)))
        self._low.append(low)

    def one_choice_each(self) -> None:
        has_items = np.isin(np.arange(self.tasks), self.items.task).astype(float)
        item = np.arange(self.count)
        self._add(has_items, (self.items.task, item, 1.0))
        self._add(-has_items, (self.items.task, item, -1.0))

    def room(self, room: np.ndarray) -> None:
        item = np.flatnonzero(self.items.server >= 0)
        self._add(-np.minimum(room, self.tasks), (self.items.server[item], item, -1.0))

    def queues(self, free_s: np.ndarray) -> None:
        item = np.flatnonzero(self.items.server >= 0)
        row, busy, service_s = np.arange(len(item)), self.count + item, self.items.service_s[item]
        server, first = self.items.server[item], np.diff(self.items.server[item], prepend=-1) != 0
        before = np.where(first, free_s[server] if len(item) else 0.0, 0.0)
        later = ~first
        self._add(before, (row, busy, 1.0), (row[later], busy[later] - 1, -1.0), (row, item, -service_s))
        self._add(np.zeros(len(item)), (row, busy, 1.0), (row, item, -(self.items.ready_s[item] + service_s)))

    def latencies(self, horizon_s: float) -> None:
        """Add lower limits of the latency: that of the choice alone, and the time until the server has done it."""
        items, every = self.items, np.arange(self.tasks)
        self._add(
            np.zeros(self.tasks),
            (every, self.latency + every, 1.0),
            (items.task, np.arange(self.count), -items.alone_s),
        )
        item = np.flatnonzero(items.server >= 0)
        row = np.arange(len(item))
        self._add(
            np.full(len(item), -horizon_s),
            (row, self.latency + items.task[item], 1.0),
            (row, self.count + item, -1.0),
            (row, item, -horizon_s),
        )

    def deadlines(self, deadline_s: np.ndarray, horizon_s: float) -> None:
        every = np.flatnonzero(np.isfinite(deadline_s))
        row = np.arange(len(every))
        self._add(-deadline_s[every], (row, self.latency + every, -1.0), (row, self.late + every, horizon_s))

    def solve(self, limit_s: float, late: bool) -> OptimizeResult:
        columns, latencies = self.late + self.tasks, slice(self.latency, self.late)
        cost, integral, upper = np.zeros(columns), np.zeros(columns), np.full(columns, np.inf)
        cost[slice(self.late, None) if late else latencies] = 1
        integral[: self.count], integral[self.late :] = 1, 1
        upper[: self.count], upper[self.late :] = 1, 1
        row, column, factor = (np.concatenate(part) for part in zip(*self._entries, strict=True))
        low = np.concatenate(self._low)
        matrix = sparse.csr_array((factor, (row, column)), shape=(len(low), columns))
        limits: list[Any] = [low, upper]  # SciPy's annotations ask for single numbers
        program = {"integrality": integral, "bounds": Bounds(0, limits[1])}
        for presolve in (True, False):  # undoing presolve can break a row by rounding, which HiGHS then calls an error
            options = {"time_limit": limit_s, "mip_rel_gap": 1e-9, "presolve": presolve}
            solution = milp(cost, **program, constraints=LinearConstraint(matrix, limits[0]), options=options)
            if solution.x is not None:
                return solution
        raise BoundError(f"no optimum of this slot within {limit_s:g} s: {solution.message}")
