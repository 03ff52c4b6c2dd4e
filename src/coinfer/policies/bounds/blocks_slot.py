"""Lower bound of the summed latency of a slot in which every block takes a place (environment `blocks`).

All servers together are taken as one that works on all tasks at once, in any order and in parts of any size, and a
device as one that works on its own task all the time until the task is done. In an order of their completion times
C_1 <= C_2 <= .., the first j tasks need the work of j tasks, and up to C_j they can have had `rate * C_j` of it from
the servers and C_i / D each from their devices. So

    rate C_j + sum over i <= j of C_i / D >= j,   C_j >= the j-th shortest latency of a task alone,   C_j <= D,

and the least sum of such C is a linear program, solved by HiGHS. Waiting at servers for other blocks, transfers and
earlier slots only make a real slot slower.
"""

import numpy as np
import torch
from scipy.optimize import linprog
from torch import Tensor

from coinfer.policies.bounds.slot import BoundError
from coinfer.policies.heuristics.blocks import least_latency_s
from coinfer.types import BlocksObservation


def least_latency(observation: BlocksObservation[Tensor], may_drop: bool = False) -> Tensor:
    """Return lower bounds [B] of the summed latency of the slots of B worlds.

    Args:
        observation: [B, ..] true and not stale; what waits is not read.
        may_drop: whether a task can be lost, which counts as waiting until its deadline.

    Raises:
        BoundError: if HiGHS finds no solution; one line.
    """
    o = _idle(observation)
    free_s = torch.where(o.server_room > 0, 0.0, torch.inf)
    alone_s = least_latency_s(o, torch.nn.functional.pad(free_s, (1, 0))[..., None, :].expand(*o.task_mask.shape, -1))
    longest_s = o.block_device_s.sum(-1)
    longest_s = torch.minimum(longest_s, o.deadline_s) if may_drop else longest_s
    rates = _rates(o)
    rows = (part.double().cpu().numpy() for part in (alone_s, longest_s, rates))
    masks = o.task_mask.cpu().numpy()
    return torch.tensor(
        [
            _sum_s(alone[mask], longest[mask], rate[mask])
            for mask, alone, longest, rate in zip(masks, *rows, strict=True)
        ],
        dtype=torch.float64,
    )


def _idle(o: BlocksObservation[Tensor]) -> BlocksObservation[Tensor]:
    """Return the observation if nothing waited."""
    waiting = ("device_backlog_s", "server_backlog_s", "uplink_backlog_s")
    return o._replace(**{name: torch.zeros_like(getattr(o, name)) for name in waiting})


def _rates(o: BlocksObservation[Tensor]) -> Tensor:
    """Return tasks per second that all servers together can do at most, [B, K], if all were of the task's kind.

    A task's work is measured by the time of its blocks on its device; a server does it at the rate of the block that it
    does fastest.
    """
    share = o.block_device_s / o.block_device_s.sum(-1, keepdim=True).clamp(min=1e-30)
    works = o.block_server_s > 0
    rate = torch.where(works, share[..., None] / torch.where(works, o.block_server_s, 1.0), 0.0)
    up = (o.server_room > 0)[..., None, :]
    return (rate.amax(-2) * up).sum(-1)


def _sum_s(alone_s: np.ndarray, longest_s: np.ndarray, rates: np.ndarray) -> float:
    """Return the least sum of completion times of the tasks of one slot."""
    if not len(alone_s):
        return 0.0
    count, device_s, rate = len(alone_s), float(longest_s.min()), float(rates.max())
    first = np.tril(np.full((count, count), -1.0 / device_s))
    first[np.diag_indices(count)] -= rate
    order = np.eye(count, k=0)[:-1] - np.eye(count, k=1)[:-1]
    limits = [(low, max(low, device)) for low, device in zip(np.sort(alone_s), np.sort(longest_s), strict=True)]
    solved = linprog(
        np.ones(count),
        A_ub=np.concatenate([first, order]),
        b_ub=np.concatenate([-np.arange(1.0, count + 1), np.zeros(count - 1)]),
        bounds=limits,
        method="highs",
    )
    if not solved.success:
        raise BoundError(f"no lower bound of a slot: {solved.message}")
    return float(solved.fun)
