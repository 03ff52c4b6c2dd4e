"""The optimal policy updater of CDO-DSAC (SEKE 2023, section IV.A and equation 4): now and then the best agent's
parameters become everybody's.

The paper takes the agent with the largest average return that it reports. A report can be luck, a fault or a lie, and a
wrong one overwrites every agent; so here reports decide nothing. All candidates play the same worlds (common random
numbers), and the updater measures their returns itself; what was reported is only compared, and told.
"""

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor


class Selection(NamedTuple):
    best: Tensor
    """[S] the agent of each group that is to be broadcast."""
    returns: Tensor
    """[S, k] measured."""
    doubtful: Tensor
    """[S, k] true where an agent reported more than was measured, by more than the tolerance."""


def select_best(
    measure: Callable[[], Tensor], agents: int, reported: Tensor | None = None, tolerance: float = 0.1
) -> Selection:
    """Measures the candidates of S groups of k agents and takes each group's best.

    Args:
        measure: plays all S * k candidates on worlds that are the same within a group and gives their returns [S * k].
        agents: k.
        reported: [S * k] what the agents say of themselves.
        tolerance: how far above its measured return a report may lie, as a share of that.
    """
    returns = measure().unflatten(0, (-1, agents))
    finite = torch.where(returns.isfinite(), returns, -torch.inf)
    said = returns if reported is None else reported.unflatten(0, (-1, agents))
    doubtful = ~returns.isfinite() | (said - returns > tolerance * returns.abs())
    return Selection(finite.argmax(-1), returns, doubtful)


def broadcast(selection: Selection) -> tuple[Tensor, Tensor]:
    """Which learner [n] is copied to which [n]: the best of each group to the others; learners lie group by group."""
    groups, agents = selection.returns.shape
    everyone = torch.arange(groups * agents, device=selection.best.device)
    source = (selection.best + torch.arange(groups, device=selection.best.device) * agents).repeat_interleave(agents)
    to = everyone[source != everyone]
    return source[to], to
