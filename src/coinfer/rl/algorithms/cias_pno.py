"""CIAS-PnO (IJSEKE 2023): CDLP cuts the networks, DSACO's agents choose the servers.

DSACO's agents are those of CDO-DSAC (`rl.algorithms.cdo_dsac`), with its settings, presets and departures; CDLP's cuts
are `policies.learned.placement.placements.fixed_cut`. The joint variant is ours: the agents choose among CDLP's
surviving options and the servers together.
"""

from typing_extensions import Unpack

from coinfer.rl.algorithms import cdo_dsac
from coinfer.rl.algorithms.cdo_dsac import MakePlayer
from coinfer.rl.core.training import RunOptions, TrainingResult, TrainSettings


def train(
    settings: TrainSettings, *, make_player: MakePlayer | None = None, **options: Unpack[RunOptions]
) -> TrainingResult:
    """Train agents that choose servers for the cuts that CDLP has fixed.

    Args:
        settings: scenario, seeds, length and preset of `cdo_dsac`.
        make_player: as in `cdo_dsac.train`.
        options: as in `RunOptions`.

    Returns:
        One policy for each seed.

    Raises:
        UserError: if scenario, preset or folder is not valid.
    """
    return cdo_dsac.train(settings, scheme="cias-pno", make_player=make_player, **options)


def train_joint(
    settings: TrainSettings, *, make_player: MakePlayer | None = None, **options: Unpack[RunOptions]
) -> TrainingResult:
    """Train agents that choose option and server together.

    Args:
        settings: scenario, seeds, length and preset of `cdo_dsac`.
        make_player: as in `cdo_dsac.train`.
        options: as in `RunOptions`.

    Returns:
        One policy for each seed.

    Raises:
        UserError: if scenario, preset or folder is not valid.
    """
    return cdo_dsac.train(settings, scheme="cias-pno-joint", cuts="joint", make_player=make_player, **options)
