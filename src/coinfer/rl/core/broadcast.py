"""The optimal policy updater of CDO-DSAC (SEKE 2023, section IV.A and equation 4): now and then the best agent's
parameters become everybody's.

The paper takes the agent with the largest average return that it reports. A report can be luck, a fault or a lie, and a
wrong one overwrites every agent; so here reports decide nothing. All candidates play the same worlds (common random
numbers), and the updater measures their returns itself; a report is only compared with what was measured.
"""

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor


class Selection(NamedTuple):
    """The best of each group of agents."""

    best: Tensor
    """[S] the agent of each group whose parameters are to be broadcast."""
    returns: Tensor
    """[S, k] measured."""
    doubtful: Tensor
    """[S, k] true if an agent's return is not finite, or lies below what it reported by more than the tolerance."""


def select_best(
    measure: Callable[[], Tensor], agents: int, reported: Tensor | None = None, tolerance: float = 0.1
) -> Selection:
    """Measure the candidates of S groups of k agents and select each group's best.

    Args:
        measure: plays all S * k candidates on worlds that are the same within a group; returns their returns [S * k].
        agents: k.
        reported: [S * k] what the agents report of themselves.
        tolerance: how far above its measured return a report may lie, as a share of that.
    """
    returns = measure().unflatten(0, (-1, agents))
    finite = torch.where(returns.isfinite(), returns, -torch.inf)
    reports = returns if reported is None else reported.unflatten(0, (-1, agents))
    doubtful = ~returns.isfinite() | (reports - returns > tolerance * returns.abs())
    return Selection(finite.argmax(-1), returns, doubtful)


def best_learners(selection: Selection) -> Tensor:
    """Return the number [S] of each group's best among all learners, which lie group by group."""
    groups, agents = selection.returns.shape
    return selection.best + torch.arange(groups, device=selection.best.device) * agents


def broadcast(selection: Selection) -> tuple[Tensor, Tensor]:
    """Return which learners [n] are copied to which [n]: the best of each group to the others of it."""
    agents = selection.returns.shape[1]
    everyone = torch.arange(selection.returns.numel(), device=selection.best.device)
    source = best_learners(selection).repeat_interleave(agents)
    target = everyone[source != everyone]
    return source[target], target
