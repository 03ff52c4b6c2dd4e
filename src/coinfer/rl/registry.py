"""The learning schemes by the names of the command line."""

import difflib
from collections.abc import Callable
from importlib import import_module
from typing import NamedTuple

from coinfer.errors import UserError
from coinfer.rl.core.training import TrainingResult


class Scheme(NamedTuple):
    """Where a scheme is found, and what it is."""

    module: str
    """Of `coinfer.rl.algorithms`."""
    scenario: str
    """What it is trained in if nobody says."""
    description: str
    function: str = "train"
    """`(settings, *, progress, folder, resume) -> TrainingResult`"""
    distributable: bool = False
    """Whether it has several agents, which a cluster can hold: the function takes `make_player`, too."""


SCHEMES = {
    "sac-d": Scheme("sac_d", "sacd", "discrete soft actor-critic over exit, cut and bits (WCNC 2022)"),
    "dqn": Scheme("dqn", "sacd", "double DQN with the same inputs and depth, SAC-d's baseline"),
    "cdo-dsac": Scheme(
        "cdo_dsac", "cdo-dsac", "soft actor-critic agents that share a memory (SEKE 2023)", distributable=True
    ),
    "cias-pno": Scheme(
        "cias_pno", "cdo-dsac", "CDLP cuts, the agents choose servers (IJSEKE 2023)", distributable=True
    ),
    "cias-pno-joint": Scheme(
        "cias_pno", "cdo-dsac", "the agents choose cut and server", "train_joint", distributable=True
    ),
    "ddpg": Scheme("ddpg", "cdo-dsac", "central DDPG (after TII 2020), CDO-DSAC's baseline"),
    "online-rl": Scheme("online_rl", "cdo-dsac", "tabular Q-learning, CDO-DSAC's baseline"),
}


def scheme(name: str) -> Scheme:
    """Return the scheme of this name.

    Raises:
        UserError: if there is none.
    """
    if name in SCHEMES:
        return SCHEMES[name]
    near = difflib.get_close_matches(name, SCHEMES, 1)
    hint = f"did you mean {near[0]}?" if near else f"there are {', '.join(SCHEMES)}"
    raise UserError(f"no scheme {name!r} to train; {hint}")


def trainer(name: str) -> Callable[..., TrainingResult]:
    """Return the scheme's function; imports what it needs.

    Raises:
        UserError: if there is no scheme of this name.
    """
    found = scheme(name)
    return getattr(import_module(f"coinfer.rl.algorithms.{found.module}"), found.function)
