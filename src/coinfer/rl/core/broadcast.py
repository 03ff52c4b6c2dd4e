"""The optimal policy updater of CDO-DSAC (SEKE 2023, section IV.A and equation 4): from time to time the best agent's
parameters are copied to all agents.

The paper takes the agent that reports the largest average return. A report can be luck, a fault or a lie, and a wrong
one overwrites every agent; so here reports decide nothing. All agents play the same worlds (common random numbers), the
updater measures their returns itself, and a report is only compared with the measured return.
"""

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor


class Selection(NamedTuple):
    """The best of each group of agents."""

    best: Tensor
    """[S] number in 0 .. k - 1 of each group's best agent, whose parameters are to be broadcast."""
    returns: Tensor
    """[S, k] measured returns."""
    doubtful: Tensor
    """[S, k] true if an agent's return is not finite, or lies below what it reported by more than the tolerance."""


def select_best(
    measure: Callable[[], Tensor], agents: int, reported: Tensor | None = None, tolerance: float = 0.1
) -> Selection:
    """Measure the agents of S groups of k and select each group's best.

    Args:
        measure: plays all S * k agents on worlds that are the same within a group; returns their returns [S * k].
        agents: k.
        reported: [S * k] returns that the agents report of themselves; None if they report nothing.
        tolerance: how far a report may lie above the measured return, as a share of its size.

    Returns:
        The best of each group; an agent whose return is not finite is never chosen unless all are.
    """
    returns = measure().unflatten(0, (-1, agents))
    finite = torch.where(returns.isfinite(), returns, -torch.inf)
    reports = returns if reported is None else reported.unflatten(0, (-1, agents))
    doubtful = ~returns.isfinite() | (reports - returns > tolerance * returns.abs())
    return Selection(finite.argmax(-1), returns, doubtful)


def best_learners(selection: Selection) -> Tensor:
    """Return the index [S] of each group's best agent among all S * k learners, which are ordered by group.

    Args:
        selection: what `select_best` returned.
    """
    groups, agents = selection.returns.shape
    return selection.best + torch.arange(groups, device=selection.best.device) * agents


def broadcast(selection: Selection) -> tuple[Tensor, Tensor]:
    """Return the learners [n] to copy from and those [n] to copy to: each group's best, to the others of the group.

    Args:
        selection: what `select_best` returned.
    """
    agents = selection.returns.shape[1]
    everyone = torch.arange(selection.returns.numel(), device=selection.best.device)
    source = best_learners(selection).repeat_interleave(agents)
    target = everyone[source != everyone]
    return source[target], target
