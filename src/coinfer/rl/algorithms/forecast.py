"""A forecast of demand (`policies.learned.forecast`), learned from what is asked for in simulated worlds.

It is supervised: what is asked for does not depend on what anybody decides, so the demand that came is the answer to
learn. It minimises the mean square error between forecast and demand, for which the mean of what may come is best.
"""

import json
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import NamedTuple

import torch
from torch import Tensor, nn
from typing_extensions import Unpack

from coinfer import checkpoint
from coinfer.envs import offload
from coinfer.errors import TrainingError
from coinfer.evaluate.serving_slots import coming_demand, saved_by_slot
from coinfer.files import write_atomic
from coinfer.physics import random
from coinfer.policies.heuristics.demand import FADING_S, DemandWeights
from coinfer.policies.learned.forecast.net import DemandForecast
from coinfer.rl.core.loop import Point
from coinfer.rl.core.training import CURVES, Report, RunOptions, TrainingResult, TrainSettings, settings_record

EVERY = 100
"""Updates from one point of the curve to the next."""
WEIGHTS = DemandWeights(4.0, 3.5, 3.4, 0.02, 0.018)
"""Of the rule with a forecast, found in `tight-memory` (experiments/gpu-edge/forecast.py)."""
_AT_FIRST = 5
"""Slots at the beginning of an episode that are left out, as nothing is known yet."""
_TRAINING, _HELD_OUT = range(2)


@dataclass(frozen=True)
class ForecastSettings:
    """Settings of a training."""

    updates: int = 3000
    episodes: int = 1500
    """From which each learner learns; a tenth as many are held out."""
    batch: int = 1024
    """Slots of an update."""
    learning_rate: float = 2e-3
    """At first; it falls to 0 with half a cosine."""
    hidden: tuple[int, ...] = (128, 128)
    """Widths of the hidden layers."""
    weights: DemandWeights = WEIGHTS
    """Of the rule; `memory_s` is the time in which what comes counts 1 / e, too."""


PRESETS = {"quick": ForecastSettings(800, 300), "paper": ForecastSettings()}
"""Settings by name; there is no paper, `paper` is the full training."""


class Examples(NamedTuple):
    """Slots, with what a decider remembers and what came."""

    faded: Tensor
    """[n, S, X]"""
    coming: Tensor
    """[n, X]"""


def train(
    settings: TrainSettings, *, forecast_settings: ForecastSettings | None = None, **options: Unpack[RunOptions]
) -> TrainingResult:
    """Train a forecast for every seed, one after the other.

    Args:
        settings: scenario, seeds, length and preset.
        forecast_settings: settings to use instead of the preset that `settings` names.
        options: as in `RunOptions`; it takes a minute, so that nothing is kept to resume from.

    Returns:
        One forecast for each seed.

    Raises:
        UserError: if scenario, preset or folder is not valid.
    """
    _, world = settings.open()
    chosen = forecast_settings or settings.find_preset(PRESETS)
    if world.serving is None or not world.serving.loads:
        raise TrainingError(f"scenario {world.name}: its servers load nothing, which is what a forecast is for")
    if settings.device != "cpu":
        raise TrainingError("forecast is a small network: train it with --device cpu")
    least = _AT_FIRST + 2 * chosen.weights.memory_s / world.edge.slot_s + 1
    if world.edge.slots < least:
        raise TrainingError(f"scenario {world.name}: {world.edge.slots} slots, expected {least:.0f} or more to learn")
    chosen = replace(chosen, updates=settings.steps or chosen.updates)
    tables, report, folder = offload.load(world), options.get("progress", lambda _: None), options.get("folder")
    if folder is not None and (folder / CURVES).exists():
        raise TrainingError(f"{folder}: holds a training already; choose another folder")
    began_s, rounds, trained = time.monotonic(), settings.seeds * chosen.updates, list[_Trained]()
    for seed in settings.learner_seeds():
        first = len(trained) * chosen.updates

        def progress(update: int, loss: float, first: int = first) -> None:
            made = first + update
            report(Report(made, rounds, made * chosen.batch, time.monotonic() - began_s, {"loss": loss}))

        trained.append(_learn(tables, seed, chosen, progress))
    nets, errors = tuple(one.net for one in trained), [one.error for one in trained]
    curves = zip(*(one.losses for one in trained), strict=True)
    points = tuple(Point(each[0][0], {"loss": [loss for _, loss in each]}) for each in curves)
    assessed = (Point(chosen.updates, {"reward": [-error for error in errors], "error": errors}),)
    record = settings_record(settings, "forecast", world, chosen)
    if folder is not None:
        kinds = {"points": points, "assessed": assessed}
        curves_of = {kind: [point._asdict() for point in some] for kind, some in kinds.items()}
        folder.mkdir(parents=True, exist_ok=True)
        write_atomic(folder / CURVES, json.dumps({"record": record, **curves_of}, indent=1) + "\n")
    digest = checkpoint.digest(nn.ModuleList(nets).state_dict())
    return TrainingResult("forecast", (), nets, points, assessed, record, digest, options_by_index=False)


class _Trained(NamedTuple):
    net: DemandForecast
    losses: list[tuple[int, float]]
    """Updates and their mean loss."""
    error: float
    """Mean square of the forecast's error in episodes that are held out, in units of its scale."""


def _learn(
    tables: offload.Tables, seed: Tensor, settings: ForecastSettings, progress: Callable[[int, float], None]
) -> _Trained:
    examples = examples_of(tables, random.key(random.key(seed, _TRAINING), torch.arange(settings.episodes)), settings)
    fewer = torch.arange(max(1, settings.episodes // 10))
    checked = examples_of(tables, random.key(random.key(seed, _HELD_OUT), fewer), settings)
    number, losses = int(seed) % 2**63, list[tuple[int, float]]()
    with torch.random.fork_rng():
        torch.manual_seed(number)
        networks, scale = examples.coming.shape[-1], float(examples.coming.mean()) or 1.0
        net = DemandForecast(networks, settings.hidden, settings.weights, scale)
    for update, loss in fit(net, examples, settings, torch.Generator().manual_seed(number)):
        losses.append((update, loss))
        progress(update, loss)
    with torch.no_grad():
        error = float((net(checked.faded) - checked.coming / net.scale).square().mean())
    return _Trained(net, losses, error)


def examples_of(tables: offload.Tables, seeds: Tensor, settings: ForecastSettings) -> Examples:
    """Return what deciders remember of demand in some episodes, and what came then.

    Args:
        tables: of worlds whose servers load.
        seeds: of the episodes.
        settings: of the training.
    """
    edge = tables.edge.edge
    faded, found = torch.zeros(()), list[Tensor]()
    keeps = torch.exp(-edge.slot_s / torch.tensor(FADING_S))[:, None]
    saved_s = saved_by_slot(tables, seeds)
    for now_s in saved_s:
        faded = keeps * faded + (1 - keeps) * now_s[:, None].float() / edge.slot_s
        found.append(faded)
    coming = coming_demand(saved_s, edge.slot_s, settings.weights.memory_s).float()
    known = slice(_AT_FIRST, edge.slots - int(2 * settings.weights.memory_s / edge.slot_s))
    return Examples(torch.cat(found[known]), coming[known].flatten(0, 1))


def fit(
    net: DemandForecast, examples: Examples, settings: ForecastSettings, draws: torch.Generator
) -> Iterator[tuple[int, float]]:
    """Make all updates, and yield how many were made and the mean loss of the last ones, now and then.

    Args:
        net: changed.
        examples: to learn from.
        settings: of the training.
        draws: chooses the examples of each update.
    """
    optimiser = torch.optim.Adam(net.parameters(), settings.learning_rate)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimiser, settings.updates)
    losses = list[float]()
    for update in range(1, settings.updates + 1):
        rows = torch.randint(len(examples.coming), (settings.batch,), generator=draws)
        loss = (net(examples.faded[rows]) - examples.coming[rows] / net.scale).square().mean()
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        schedule.step()
        losses.append(loss.item())
        if update % EVERY == 0 or update == settings.updates:
            yield update, sum(losses) / len(losses)
            losses.clear()
