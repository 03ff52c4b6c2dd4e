"""The learning schemes by their names on the command line."""

import difflib
from collections.abc import Callable, Mapping
from functools import partial
from importlib import import_module
from typing import NamedTuple

from coinfer.errors import UserError
from coinfer.rl.core.training import TrainingResult


class Scheme(NamedTuple):
    """A learning scheme: its training function, default scenario and description."""

    module: str
    """Name of its module in `coinfer.rl.algorithms`."""
    scenario: str
    """Preset scenario to train in by default."""
    description: str
    """One line for `coinfer train list`."""
    arguments: Mapping[str, str] = {}
    """Arguments by name of its module's training function `train(settings, *, progress, folder, resume)`."""
    distributable: bool = False
    """Whether its agents or workers can train on a cluster; the function then takes `make_player`, too."""


SCHEMES = {
    "sac-d": Scheme("sac_d", "sacd", "discrete soft actor-critic over exit, cut and bits (WCNC 2022)"),
    "dqn": Scheme("dqn", "sacd", "double DQN with the same inputs and depth, SAC-d's baseline"),
    "ppo": Scheme("ppo", "mtl-a3c", "proximal policy optimisation with masks, for offload and blocks"),
    "mtl-a3c": Scheme(
        "mtl_a3c", "mtl-a3c", "multi-task A3C: a head for each block (IEEE TMC 2024)", distributable=True
    ),
    "a3c": Scheme("a3c", "mtl-a3c", "A3C with one joint head, multi-task A3C's baseline", distributable=True),
    "distributed-dqn": Scheme("distributed_dqn", "mtl-a3c", "DQN with a head for each block, another baseline"),
    "cdo-dsac": Scheme(
        "cdo_dsac", "cdo-dsac", "soft actor-critic agents that share a memory (SEKE 2023)", distributable=True
    ),
    "cias-pno": Scheme(
        "cias_pno", "cdo-dsac", "CDLP cuts, the agents choose servers (IJSEKE 2023)", distributable=True
    ),
    "cias-pno-joint": Scheme(
        "cias_pno", "cdo-dsac", "the agents choose cut and server", {"cuts": "joint"}, distributable=True
    ),
    "ddpg": Scheme("ddpg", "cdo-dsac", "central DDPG (after TII 2020), CDO-DSAC's baseline"),
    "grle": Scheme("grle", "grle-s2", "graph network, early exits, imitation of the best of several decisions (2022)"),
    "grl": Scheme("grle", "grle-s2", "GRLE with the last exit only", {"scheme": "grl"}),
    "drooe": Scheme("grle", "grle-s2", "GRLE with DROO's fully connected network", {"scheme": "drooe"}),
    "droo": Scheme("droo", "droo", "imitation of the best of a few candidates, online (DROO, TMC 2020)"),
    "lydroo": Scheme("lydroo", "droo-queues", "DROO with queues that stay stable (after LyDROO, TWC 2021)"),
    "pointer": Scheme("pointer", "many-models", "our own for servers that batch and load: a rule, corrected by PPO"),
    "forecast": Scheme("forecast", "tight-memory", "our own for servers that load: a forecast of demand for a rule"),
    "online-rl": Scheme("online_rl", "cdo-dsac", "tabular Q-learning, CDO-DSAC's baseline"),
}


def scheme(name: str) -> Scheme:
    """Return a scheme.

    Args:
        name: its name on the command line.

    Raises:
        UserError: if no scheme has this name; the message suggests the nearest one.
    """
    if name in SCHEMES:
        return SCHEMES[name]
    near = difflib.get_close_matches(name, SCHEMES, 1)
    hint = f"did you mean {near[0]}?" if near else f"there are {', '.join(SCHEMES)}"
    raise UserError(f"no scheme {name!r} to train; {hint}")


def trainer(name: str) -> Callable[..., TrainingResult]:
    """Return a scheme's training function, and import PyTorch and the scheme's module for it.

    Args:
        name: its name on the command line.

    Raises:
        UserError: if no scheme has this name.
    """
    known = scheme(name)
    return partial(import_module(f"coinfer.rl.algorithms.{known.module}").train, **known.arguments)
