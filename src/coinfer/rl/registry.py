"""The schemes by the names of the command line; a name is the only thing that crosses a process."""

import difflib
from collections.abc import Callable
from importlib import import_module
from typing import NamedTuple

from coinfer.errors import UserError
from coinfer.rl.core.training import TrainingResult


class Scheme(NamedTuple):
    module: str
    """Of `coinfer.rl.algorithms`."""
    function: str
    """`(settings, *, progress, folder, resume) -> TrainingResult`"""
    scenario: str
    """What it is trained in where nobody says."""
    about: str
    agents: bool = False
    """Whether it has several agents, which a cluster can hold: the function takes `spread`, too."""


SCHEMES = {
    "sac-d": Scheme("sac_d", "train", "sacd", "discrete soft actor-critic over exit, cut and bits (WCNC 2022)"),
    "dqn": Scheme("sac_d", "train_dqn", "sacd", "double DQN with the same inputs and depth, SAC-d's baseline"),
    "cdo-dsac": Scheme(
        "placement_schemes",
        "train_cdo_dsac",
        "cdo-dsac",
        "soft actor-critic agents that share a memory (SEKE 2023)",
        True,
    ),
    "cias-pno": Scheme(
        "placement_schemes", "train_cias_pno", "cdo-dsac", "CDLP cuts, the agents choose servers (IJSEKE 2023)", True
    ),
    "cias-pno-joint": Scheme(
        "placement_schemes", "train_cias_pno_joint", "cdo-dsac", "the agents choose cut and server", True
    ),
    "ddpg": Scheme("placement_schemes", "train_ddpg", "cdo-dsac", "central DDPG (after TII 2020), CDO-DSAC's baseline"),
    "online-rl": Scheme("placement_schemes", "train_online_rl", "cdo-dsac", "tabular Q-learning, CDO-DSAC's baseline"),
}


def scheme(name: str) -> Scheme:
    """Raises:
    UserError: where there is none of this name.
    """
    if name in SCHEMES:
        return SCHEMES[name]
    near = difflib.get_close_matches(name, SCHEMES, 1)
    hint = f"did you mean {near[0]}?" if near else f"there are {', '.join(SCHEMES)}"
    raise UserError(f"no scheme {name!r} to train; {hint}")


def trainer(name: str) -> Callable[..., TrainingResult]:
    """The scheme's function; brings what it imports."""
    found = scheme(name)
    return getattr(import_module(f"coinfer.rl.algorithms.{found.module}"), found.function)
