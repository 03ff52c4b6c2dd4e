"""The schemes that decide all tasks of a slot at once, as `coinfer train` runs them: CDO-DSAC, CIAS-PnO (the same
agents under its name, and the joint variant that also chooses the cuts), DDPG and Online RL.

They learn from each task's latency, whatever the scenario's reward is. A step is a decided slot; a seed's worlds decide
side by side, and so do its agents.
"""

from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from coinfer.errors import TrainingError
from coinfer.policies.learned.placement_policy import PlacementNet, PlacementPolicy
from coinfer.rl.algorithms import cdo_dsac, ddpg, online_rl
from coinfer.rl.core.loop import Loop
from coinfer.rl.core.training import Progress, TrainingResult, TrainSettings, run_training, settings_record
from coinfer.rl.distributed.coordinator import TrainingJob
from coinfer.scenario.compile import fingerprint, open_world
from coinfer.scenario.load import parse_changes
from coinfer.scenario.world import OffloadWorld

Modules = tuple[nn.Module, ...]
Spread = Callable[[TrainingJob], AbstractContextManager[Callable[[Loop], None]]]


def train_cdo_dsac(
    settings: TrainSettings,
    *,
    progress: Progress = lambda _: None,
    folder: Path | None = None,
    resume: bool = False,
    scheme: str = "cdo-dsac",
    cuts: str = "fixed",
    spread: Spread | None = None,
) -> TrainingResult:
    """CDO-DSAC: as many agents as `CdoSettings` has; a seed ships the one that does best on common worlds.

    Args:
        spread: plays elsewhere, with the loop kept here: `rl.distributed.ray_workers.cluster_player`, given what all
            must know.

    Raises:
        UserError: where scenario, preset or folder are not as they must be; one line.
    """
    world = _world(settings)
    made = replace(_preset(cdo_dsac.PRESETS, settings), cuts=cuts)
    if settings.steps is not None:
        made = cdo_dsac.with_rounds(made, settings.steps // (made.agents * made.worlds))

    def finish(loop: Loop) -> Modules:
        learner: Any = loop.learner
        rows = learner.sac.actor_flat.detach()[cdo_dsac.best_agents(learner)].cpu()
        features = cdo_dsac.features_of(made, world.edge.tasks)
        return _modules(learner.sac.actor, rows, features, cdo_dsac.placements_of(made))

    seeds = settings.learner_seeds()
    if spread is None:
        loop = cdo_dsac.make_loop(made, world, seeds, settings.device)
        return _train(scheme, loop, finish, world, made, settings, progress, folder, resume)
    loop = cdo_dsac.make_loop(made, world, seeds.cpu())
    with spread(TrainingJob(made, world, seeds.tolist(), settings.device, torch.get_num_threads())) as play:
        return _train(scheme, loop, finish, world, made, settings, progress, folder, resume, play)


def train_cias_pno(settings: TrainSettings, **how: Any) -> TrainingResult:
    """CIAS-PnO: CDLP has fixed the cuts, DSACO's agents, which are CDO-DSAC's, choose the servers."""
    return train_cdo_dsac(settings, scheme="cias-pno", **how)


def train_cias_pno_joint(settings: TrainSettings, **how: Any) -> TrainingResult:
    """Our variant: the agents choose among CDLP's surviving options and servers together."""
    return train_cdo_dsac(settings, scheme="cias-pno-joint", cuts="joint", **how)


def train_ddpg(
    settings: TrainSettings,
    *,
    progress: Progress = lambda _: None,
    folder: Path | None = None,
    resume: bool = False,
) -> TrainingResult:
    """DDPG; errors as `train_cdo_dsac`."""
    world = _world(settings)
    made = _preset(ddpg.PRESETS, settings)
    if settings.steps is not None:
        made = ddpg.with_rounds(made, settings.steps // made.worlds)

    def finish(loop: Loop) -> Modules:
        learner: Any = loop.learner
        features = ddpg.features_of(made, world.edge.tasks)
        return _modules(learner.actor, learner.actor_flat.detach().cpu(), features, ddpg.placements_of(made))

    loop = ddpg.make_loop(made, world, settings.learner_seeds(), settings.device)
    return _train("ddpg", loop, finish, world, made, settings, progress, folder, resume)


def train_online_rl(
    settings: TrainSettings,
    *,
    progress: Progress = lambda _: None,
    folder: Path | None = None,
    resume: bool = False,
) -> TrainingResult:
    """Online RL; errors as `train_cdo_dsac`."""
    world = _world(settings)
    made = _preset(online_rl.PRESETS, settings)
    if settings.steps is not None:
        made = online_rl.with_rounds(made, settings.steps // made.worlds)

    def finish(loop: Loop) -> Modules:
        learner: Any = loop.learner
        return tuple(online_rl.TablePolicy(learner.grid, row[None]) for row in learner.values.cpu())

    loop = online_rl.make_loop(made, world, settings.learner_seeds(), settings.device)
    return _train("online-rl", loop, finish, world, made, settings, progress, folder, resume)


def _train(
    scheme: str,
    loop: Loop,
    finish: Callable[[Loop], Modules],
    world: OffloadWorld,
    made: Any,
    settings: TrainSettings,
    progress: Progress,
    folder: Path | None,
    resume: bool,
    play: Callable[[Loop], None] = Loop.play,
) -> TrainingResult:
    record = settings_record(settings, scheme, fingerprint(world), preset=made)
    digest = run_training(loop, record, progress=progress, folder=folder, resume=resume, play=play)
    modules = finish(loop)
    assessed = tuple(_by_seed(point, settings.seeds) for point in loop.assessed)
    return TrainingResult(
        scheme, modules, modules, tuple(loop.points), assessed, record, digest, options_by_index=False
    )


def _by_seed(point: Any, seeds: int) -> Any:
    """A point with the agents of each seed by their mean."""
    figures = {n: torch.tensor(v).unflatten(0, (seeds, -1)).mean(1).tolist() for n, v in point.figures.items()}
    return point._replace(figures=figures)


def _modules(net: Any, rows: Tensor, features: Any, placements: Any) -> Modules:
    plain = replace(net, packed=False) if isinstance(net, PlacementNet) else net
    return tuple(PlacementPolicy(plain, row[None], features, placements) for row in rows)


def _world(settings: TrainSettings) -> OffloadWorld:
    world = open_world(settings.scenario, parse_changes(settings.changes)).world
    if not isinstance(world, OffloadWorld):
        raise TrainingError(f"scenario {world.name}: this scheme learns in environment offload only")
    return world


def _preset(presets: dict[str, Any], settings: TrainSettings) -> Any:
    if settings.preset not in presets:
        raise TrainingError(f"no preset {settings.preset!r}; there are {', '.join(presets)}")
    return presets[settings.preset]
