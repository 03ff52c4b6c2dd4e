"""Which of several places is best for a bottleneck: each is trained for a short while, and its codes are compared."""

import json
from collections.abc import Callable, Sequence
from dataclasses import asdict, replace
from functools import partial
from pathlib import Path
from typing import NamedTuple

from coinfer.exit_training.bottleneck.places import candidates
from coinfer.exit_training.bottleneck.settings import BottleneckEpoch, BottleneckSettings, Place
from coinfer.exit_training.bottleneck.trainer import BottleneckTrainer
from coinfer.files import write_atomic
from coinfer.graph.ir import ModelGraph
from coinfer.profile.dataset import ImageDataset

POINTS = 0.01
"""Share of right answers that a code may lose against the most accurate one of all places."""
Report = Callable[[int, int, str], None]
"""Called with steps done, steps in all, and the place that is tried."""


class Tried(NamedTuple):
    """A place, and the figures of its last epoch on the held-out pictures."""

    place: Place
    figures: BottleneckEpoch


def try_places(
    graph: ModelGraph,
    data: ImageDataset,
    settings: BottleneckSettings,
    epochs: int,
    *,
    source: str = "",
    report: Report = lambda done, total, what: None,
) -> tuple[Tried, ...]:
    """Return what a short training makes of each place, the best first.

    The best place has the smallest code among those that are within a point of the most accurate code of all places.

    Args:
        graph: the network; it is not changed.
        data: pictures of the network's size; the same ones are held out for every place.
        settings: of the training to come.
        epochs: times that all pictures are seen for each place.
        source: tensor that the encoder reads; empty for several.
        report: called after each step.

    Raises:
        GraphError: if the network cannot be trained.
        TrainingError: if it has no place for a bottleneck, or pictures or settings do not fit it.
    """
    places, short = candidates(graph, settings, source), replace(settings, epochs=epochs)
    tried = [_try(graph, place, data, short, partial(_part, report, i, len(places))) for i, place in enumerate(places)]
    enough = max(max(one.figures.holdout) for one in tried) - POINTS
    return tuple(sorted(tried, key=lambda one: _rank(one.figures, enough)))


def _part(report: Report, number: int, places: int, done: int, total: int, what: str) -> None:
    """Report a part of the trainings of all places."""
    report(number * total + done, places * total, what)


def _try(graph: ModelGraph, place: Place, data: ImageDataset, settings: BottleneckSettings, report: Report) -> Tried:
    trainer, name = BottleneckTrainer(graph, place, data, settings), f"{place.source} to {place.target}"
    total = trainer.steps * settings.epochs
    while not trainer.finished:
        done = len(trainer.epochs) * trainer.steps
        trainer.run_epoch(lambda step, _, loss, done=done: report(done + step, total, name))
    return Tried(place, trainer.epochs[-1])


def _rank(figures: BottleneckEpoch, enough: float) -> tuple[float, float]:
    """Return the size of the smallest code that is accurate enough, and how wrong the best code is."""
    sizes = [size for right, size in zip(figures.holdout, figures.size_bits, strict=True) if right >= enough]
    return min(sizes, default=float("inf")), -max(figures.holdout)


def save_places(path: Path, tried: Sequence[Tried], settings: BottleneckSettings, epochs: int) -> None:
    """Write what was tried, so that a training that goes on keeps its place.

    Args:
        path: the file.
        tried: what `try_places` returned.
        settings: of the training.
        epochs: of each place.
    """
    rows = [{"place": one.place._asdict(), "figures": one.figures._asdict()} for one in tried]
    path.parent.mkdir(parents=True, exist_ok=True)
    write_atomic(path, json.dumps({"settings": _key(settings, epochs), "tried": rows}, indent=1) + "\n")


def load_places(path: Path, settings: BottleneckSettings, epochs: int) -> tuple[Tried, ...] | None:
    """Return what was tried with the same settings; None if nothing was.

    Args:
        path: a file of `save_places`, which need not exist.
        settings: of the training.
        epochs: of each place.
    """
    if not path.exists():
        return None
    found = json.loads(path.read_text(encoding="utf-8"))
    if found["settings"] != _key(settings, epochs):
        return None
    return tuple(Tried(Place(**row["place"]), BottleneckEpoch(**row["figures"])) for row in found["tried"])


def _key(settings: BottleneckSettings, epochs: int) -> dict[str, object]:
    """Return the settings that count for a search, as JSON holds them."""
    kept = {name: value for name, value in asdict(settings).items() if name not in ("device", "epochs")}
    return json.loads(json.dumps(kept | {"epochs_of_each": epochs}))
