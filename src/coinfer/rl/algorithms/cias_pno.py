"""CIAS-PnO (IJSEKE 2023): CDLP cuts the networks, DSACO's agents choose the servers.

DSACO's agents are those of CDO-DSAC (`rl.algorithms.cdo_dsac`), with its settings, presets and departures; CDLP's cuts
are `policies.learned.placement.placements.fixed_cut`. The joint variant is ours: the agents choose among CDLP's
surviving options and the servers together.
"""

from typing import Literal

from typing_extensions import Unpack

from coinfer.rl.algorithms import cdo_dsac
from coinfer.rl.algorithms.cdo_dsac import MakePlayer
from coinfer.rl.core.training import RunOptions, TrainingResult, TrainSettings


def train(
    settings: TrainSettings,
    *,
    cuts: Literal["fixed", "joint"] = "fixed",
    make_player: MakePlayer | None = None,
    **options: Unpack[RunOptions],
) -> TrainingResult:
    """Train agents that choose servers, for the cuts that CDLP has fixed or together with the cut.

    Args:
        settings: scenario, seeds, length and preset of `cdo_dsac`.
        cuts: as in `cdo_dsac.CdoSettings`.
        make_player: as in `cdo_dsac.train`.
        options: as in `RunOptions`.

    Returns:
        One policy for each seed.

    Raises:
        UserError: if scenario, preset or folder is not valid.
    """
    scheme = "cias-pno" if cuts == "fixed" else "cias-pno-joint"
    return cdo_dsac.train(settings, scheme=scheme, cuts=cuts, make_player=make_player, **options)
