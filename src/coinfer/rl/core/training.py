"""What every training has in common: its settings, its folder (checkpoints, curves, logs), going on after a kill.

A run's folder holds `checkpoints/`, `curves.json`, TensorBoard's events (where it is installed) and what the scheme
exports. A scheme is a module with `train(settings, *, progress, folder, resume) -> TrainingResult`; see `registry`.
"""

import json
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from coinfer import checkpoint
from coinfer.checkpoint import CheckpointError
from coinfer.errors import TrainingError
from coinfer.physics import random
from coinfer.rl.core import logs
from coinfer.rl.core.loop import Loop, Point
from coinfer.types import Policy

SAVE_EVERY_S = 30.0
"""A checkpoint at least so often."""


@dataclass(frozen=True)
class TrainSettings:
    """What a training was asked for."""

    scenario: str
    changes: tuple[str, ...] = ()
    """`KEY=VALUE`, as on the command line."""
    seeds: int = 1
    """Learners, trained side by side."""
    seed: int = 0
    """Of the first; the others follow."""
    steps: int | None = None
    """Decided slots of each learner; the preset's where it is not given."""
    preset: str = "quick"
    device: str = "cpu"

    def learner_seeds(self) -> Tensor:
        """[L] int64; those of a seed are the same however many there are beside it."""
        first = torch.zeros(self.seeds, dtype=torch.int64, device=self.device)
        return random.key(first, self.seed + torch.arange(self.seeds, device=self.device))


class Report(NamedTuple):
    """What progress is told."""

    round: int
    rounds: int
    decisions: int
    """Slots decided by all learners in this call."""
    took_s: float
    figures: Mapping[str, float]
    """Means over the learners at the last point of the curves."""


Progress = Callable[[Report], None]


class TrainingResult(NamedTuple):
    """What came of a training."""

    scheme: str
    policies: tuple[Policy, ...]
    """By seed: from observations as tensors to decisions, each its best guess, nothing drawn."""
    modules: tuple[torch.nn.Module, ...]
    """The same by seed, as modules that `policies.learned.export` takes; empty where the scheme cannot be exported."""
    points: tuple[Point, ...]
    """Of the learning curves."""
    assessed: tuple[Point, ...]
    """On held-out worlds."""
    record: dict[str, Any]
    """Of the training, for side-cars."""
    digest: str
    """SHA-256 of weights, optimisers, replay memory and states; equal for equal trainings, however often resumed."""
    options_by_index: bool = True
    """Whether the policies know options by their number only, rather than by what the observation says of them."""
    dynamic_axes: str = "B"
    """Letters of the axes (B, K, O, N) that may have any length."""

    @property
    def best(self) -> int:
        """The seed of the greatest reward on held-out worlds, 0 where none was assessed."""
        rewards = self.assessed[-1].figures["reward"] if self.assessed else [0.0]
        return max(range(len(rewards)), key=rewards.__getitem__)


def run_training(
    loop: Loop,
    record: Mapping[str, Any],
    *,
    progress: Progress = lambda _: None,
    folder: Path | None = None,
    resume: bool = False,
    play: Callable[[Loop], None] = Loop.play,
) -> str:
    """Runs a loop to its end, with checkpoints, curves and logs in the folder.

    Args:
        record: what the training is; a checkpoint of another one is not gone on from.
        resume: go on from the folder's last checkpoint, if there is one.
        play: brings the loop one or several rounds on.

    Returns:
        The digest of the final state.

    Raises:
        CheckpointError: where the checkpoint is damaged or of another training.
        TrainingError: where the folder holds a training already and `resume` is not asked for.
    """
    if folder is not None:
        restore_latest(loop, record, folder, resume)
    first, began_s, saved_s = loop.round, time.monotonic(), time.monotonic()
    with logs.EventWriter(folder) as events:
        _log(events, loop, 0, 0)
        if first:
            progress(Report(first, loop.settings.rounds, 0, 0.0, _last(loop.points)))
        while loop.round < loop.settings.rounds:
            points, assessed = len(loop.points), len(loop.assessed)
            play(loop)
            now_s = time.monotonic()
            _log(events, loop, points, assessed)
            decisions = (loop.round - first) * loop.observation.task_mask[..., 0].numel()
            progress(Report(loop.round, loop.settings.rounds, decisions, now_s - began_s, _last(loop.points)))
            if folder is not None and now_s - saved_s >= SAVE_EVERY_S:
                save_checkpoint(loop, record, folder)
                saved_s = time.monotonic()
    if folder is not None:
        save_checkpoint(loop, record, folder)
        curves = {"record": dict(record), **_curves(loop)}
        (folder / "curves.json").write_text(json.dumps(curves, indent=1) + "\n", encoding="utf-8")
    return checkpoint.digest(loop.tensors())


def _log(events: logs.EventWriter, loop: Loop, points: int, assessed: int) -> None:
    """Logs the curves from so many points on: what was met while exploring, and what held-out worlds say."""
    for point in loop.points[points:]:
        events.add(point)
    for point in loop.assessed[assessed:]:
        events.add(point, "held_out")


def restore_latest(loop: Loop, record: Mapping[str, Any], folder: Path, resume: bool) -> None:
    """Restores the loop from the folder's last checkpoint where `resume` asks for it; errors as `run_training`."""
    found = checkpoint.latest(folder / "checkpoints")
    if found is None:
        return
    if not resume:
        raise TrainingError(f"{folder}: holds a training already; --resume goes on with it, or choose another folder")
    differs = _first_difference(found.record["training"], json.loads(json.dumps(dict(record))))
    if differs:
        raise CheckpointError(f"{found.path}: of a training with {differs}; give the same settings or another folder")
    loop.restore(found.tensors)
    loop.points, loop.assessed = (
        [Point(point["round"], point["figures"]) for point in found.record[kind]] for kind in ("points", "assessed")
    )


def save_checkpoint(loop: Loop, record: Mapping[str, Any], folder: Path) -> None:
    """Writes a checkpoint of the loop."""
    checkpoint.save(folder / "checkpoints", loop.round, loop.tensors(), {"training": dict(record), **_curves(loop)})


def settings_record(settings: TrainSettings, scheme: str, fingerprint: str, **parts: Any) -> dict[str, Any]:
    """What a training is: the settings of all its parts (dataclasses), as JSON has them."""
    record = {"scheme": scheme, "scenario_fingerprint": fingerprint, **asdict(settings)}
    record |= {name: asdict(part) for name, part in parts.items()}
    return json.loads(json.dumps(record))


def _first_difference(theirs: Any, expected: Any, name: str = "") -> str | None:
    """`name.of.key theirs, expected expected`, or None where they are equal."""
    if theirs == expected:
        return None
    if not (isinstance(theirs, dict) and isinstance(expected, dict)):
        return f"{name} {theirs!r}, expected {expected!r}"
    keys = (key for key in {**expected, **theirs} if theirs.get(key) != expected.get(key))
    key = next(keys)
    return _first_difference(theirs.get(key), expected.get(key), f"{name}.{key}" if name else key)


def _curves(loop: Loop) -> dict[str, Any]:
    return {kind: [point._asdict() for point in getattr(loop, kind)] for kind in ("points", "assessed")}


def _last(points: list[Point]) -> dict[str, float]:
    figures = points[-1].figures if points else {}
    return {name: sum(values) / len(values) for name, values in figures.items()}
