"""What every training has in common: its settings, its folder (checkpoints, curves, logs), and how it is resumed.

A run's folder holds `checkpoints/`, `curves.json`, TensorBoard's events (if it is installed) and what the scheme
exports. A scheme is a module with `train(settings, *, progress, folder, resume) -> TrainingResult`; see `registry`. It
makes a `Loop` and leaves the rest to `train_loop`.
"""

import json
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, NamedTuple, TypedDict, TypeVar, Unpack

import torch
from torch import Tensor

from coinfer import checkpoint
from coinfer.checkpoint import CheckpointError
from coinfer.errors import TrainingError
from coinfer.physics import random
from coinfer.rl.core import logs
from coinfer.rl.core.loop import AnyLearner, Loop, Point
from coinfer.scenario.compile import Compiled, fingerprint, open_world
from coinfer.scenario.load import parse_changes
from coinfer.scenario.world import OffloadWorld
from coinfer.types import Policy

SAVE_EVERY_S = 30.0
"""A checkpoint at least so often."""
Record = Mapping[str, Any]
"""JSON: what a training is."""
Preset = TypeVar("Preset")


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
    """Decided slots of each learner; None for the preset's."""
    preset: str = "quick"
    device: str = "cpu"

    def learner_seeds(self) -> Tensor:
        """Return [L] int64; those of a seed are the same however many there are beside it."""
        first = torch.zeros(self.seeds, dtype=torch.int64, device=self.device)
        return random.key(first, self.seed + torch.arange(self.seeds, device=self.device))

    def open(self) -> tuple[Compiled, OffloadWorld]:
        """Return the scenario, compiled with the changes, and its world.

        Raises:
            UserError: if the scenario or a change is not valid; one line.
            TrainingError: if its environment is not `offload`.
        """
        compiled = open_world(self.scenario, parse_changes(self.changes))
        if not isinstance(compiled.world, OffloadWorld):
            raise TrainingError(f"scenario {compiled.world.name}: this scheme learns in environment offload only")
        return compiled, compiled.world

    def named_preset(self, presets: Mapping[str, Preset]) -> Preset:
        """Return the preset of this name.

        Raises:
            TrainingError: if there is none.
        """
        if self.preset not in presets:
            raise TrainingError(f"no preset {self.preset!r}; there are {', '.join(presets)}")
        return presets[self.preset]


class Report(NamedTuple):
    """How far a training is."""

    round: int
    rounds: int
    decisions: int
    """Slots decided by all learners in this call."""
    took_s: float
    figures: Mapping[str, float]
    """Means over the learners at the last point of the curves."""


Progress = Callable[[Report], None]


class RunOptions(TypedDict, total=False):
    """What every scheme's `train` takes beside its settings."""

    progress: Progress
    """Called after every round."""
    folder: Path | None
    """For checkpoints, curves and logs; None writes nothing."""
    resume: bool
    """Whether to go on from the folder's last checkpoint, if there is one."""


class TrainingResult(NamedTuple):
    """What came of a training."""

    scheme: str
    policies: tuple[Policy, ...]
    """By seed: from observations as tensors to decisions, each its best guess, nothing drawn."""
    modules: tuple[torch.nn.Module, ...]
    """The same by seed, as modules that `policies.learned.export` takes; empty if the scheme cannot be exported."""
    points: tuple[Point, ...]
    """Of the learning curves, one value for each learner."""
    assessed: tuple[Point, ...]
    """On held-out worlds, one value for each seed: the mean of its learners."""
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
        """The seed of the greatest reward on held-out worlds, 0 if none was assessed."""
        rewards = self.assessed[-1].figures["reward"] if self.assessed else [0.0]
        return max(range(len(rewards)), key=rewards.__getitem__)


def train_loop(
    scheme: str,
    loop: Loop[AnyLearner],
    make_policies: Callable[[AnyLearner], tuple[torch.nn.Module, ...]],
    record: Record,
    *,
    options_by_index: bool = False,
    play: Callable[[Loop[AnyLearner]], None] = Loop.play,
    **options: Unpack[RunOptions],
) -> TrainingResult:
    """Run a loop to its end and return what came of it: the last step of every scheme's `train`.

    Args:
        make_policies: returns the policy of each seed once training is over.
        record: of `settings_record`.
        options_by_index: as in `TrainingResult`.
        play: brings the loop one or several rounds forward.

    Raises:
        UserError: as `run_training`.
    """
    digest = run_training(loop, record, play=play, **options)
    policies = make_policies(loop.learner)
    assessed = tuple(_mean_by_seed(point, len(policies)) for point in loop.assessed)
    found = dict(record)
    return TrainingResult(scheme, policies, policies, tuple(loop.points), assessed, found, digest, options_by_index)


def run_training(
    loop: Loop[AnyLearner],
    record: Record,
    *,
    progress: Progress = lambda _: None,
    folder: Path | None = None,
    resume: bool = False,
    play: Callable[[Loop[AnyLearner]], None] = Loop.play,
) -> str:
    """Run a loop to its end, with checkpoints, curves and logs in the folder.

    Args:
        record: what the training is; a checkpoint of another one is refused.
        resume: whether to go on from the folder's last checkpoint, if there is one.
        play: brings the loop one or several rounds forward.

    Returns:
        The digest of the final state.

    Raises:
        CheckpointError: if the checkpoint is damaged or of another training.
        TrainingError: if the folder holds a training already and `resume` is not asked for.
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


def restore_latest(loop: Loop, record: Record, folder: Path, resume: bool) -> None:
    """Restore the loop from the folder's last checkpoint if `resume` asks for it.

    Raises:
        CheckpointError: if the checkpoint is damaged or of another training.
        TrainingError: if there is a checkpoint and `resume` is not asked for.
    """
    found = checkpoint.load_latest(folder / "checkpoints")
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


def save_checkpoint(loop: Loop, record: Record, folder: Path) -> None:
    """Write a checkpoint of the loop.

    Raises:
        CheckpointError: if the folder cannot be written.
    """
    checkpoint.save(folder / "checkpoints", loop.round, loop.tensors(), {"training": dict(record), **_curves(loop)})


def settings_record(settings: TrainSettings, scheme: str, world: OffloadWorld, preset: Any) -> dict[str, Any]:
    """Return what a training is, as JSON has it.

    Args:
        preset: a dataclass with the scheme's own settings.
    """
    record = {"scheme": scheme, "scenario_fingerprint": fingerprint(world), **asdict(settings)}
    return json.loads(json.dumps({**record, "preset": asdict(preset)}))


def _mean_by_seed(point: Point, seeds: int) -> Point:
    """A point with the learners of each seed by their mean."""
    means = {
        name: torch.tensor(values, dtype=torch.float64).unflatten(0, (seeds, -1)).mean(1).tolist()
        for name, values in point.figures.items()
    }
    return point._replace(figures=means)


def _log(events: logs.EventWriter, loop: Loop, points: int, assessed: int) -> None:
    """Log the curves from so many points on: what was seen while exploring, and what held-out worlds say."""
    for point in loop.points[points:]:
        events.add(point)
    for point in loop.assessed[assessed:]:
        events.add(point, "held_out")


def _first_difference(theirs: Any, expected: Any, name: str = "") -> str | None:
    """`name.of.key theirs, expected ours`, or None if they are equal."""
    if theirs == expected:
        return None
    if not (isinstance(theirs, dict) and isinstance(expected, dict)):
        return f"{name} {theirs!r}, expected {expected!r}"
    keys = (key for key in {**expected, **theirs} if theirs.get(key) != expected.get(key))
    key = next(keys)
    return _first_difference(theirs.get(key), expected.get(key), f"{name}.{key}" if name else key)


def _curves(loop: Loop) -> dict[str, Any]:
    return {"points": [point._asdict() for point in loop.points], "assessed": [p._asdict() for p in loop.assessed]}


def _last(points: list[Point]) -> dict[str, float]:
    figures = points[-1].figures if points else {}
    return {name: sum(values) / len(values) for name, values in figures.items()}
