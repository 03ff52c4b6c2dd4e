"""The part that all trainings share: settings, folder (checkpoints, curves, logs), and resuming.

A run's folder holds `checkpoints/`, `curves.json`, TensorBoard's events (if it is installed) and the exported policy. A
scheme is a module with `train(settings, *, progress, folder, resume) -> TrainingResult`; see `registry`. It makes a
`Loop` and leaves the rest to `train_loop`.
"""

import json
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple, TypedDict, TypeVar, cast

import torch
from torch import Tensor
from typing_extensions import Unpack

from coinfer import checkpoint
from coinfer.checkpoint import CheckpointError
from coinfer.errors import TrainingError
from coinfer.files import write_atomic
from coinfer.physics import random
from coinfer.rl.core import logs
from coinfer.rl.core.loop import AnyLearner, Loop, Point
from coinfer.scenario.compile import Compiled, fingerprint, open_world
from coinfer.scenario.load import parse_changes
from coinfer.scenario.world import BlocksWorld, OffloadWorld, QueueWorld, WirelessPowerWorld, World
from coinfer.types import Policy

if TYPE_CHECKING:
    from _typeshed import DataclassInstance

CURVES = "curves.json"
"""File of a training's folder."""
SAVE_EVERY_S = 30.0
"""Seconds from one checkpoint to the next, up to the end of a round."""
Record = Mapping[str, object]
"""JSON object that says what a training is: scheme, scenario and all settings."""
Preset = TypeVar("Preset")
AnyWorld = TypeVar("AnyWorld", OffloadWorld, BlocksWorld, WirelessPowerWorld, QueueWorld)


@dataclass(frozen=True)
class TrainSettings:
    """What to train, and for how long: the arguments of `coinfer train`."""

    scenario: str
    """Name of a preset scenario, or path of a file."""
    changes: tuple[str, ...] = ()
    """Changes to the scenario, `KEY=VALUE` as on the command line."""
    seeds: int = 1
    """Number of learners, trained side by side."""
    seed: int = 0
    """Seed of the first learner; the others have the seeds that follow."""
    steps: int | None = None
    """Slots that each learner decides; None for the number of the preset."""
    preset: str = "quick"
    """Name of the learner's settings, see `PRESETS` of each scheme."""
    device: str = "cpu"
    """PyTorch device of learners and worlds."""

    def learner_seeds(self) -> Tensor:
        """Return the learners' seeds [L] int64; a learner's seed does not depend on how many others there are."""
        first = torch.zeros(self.seeds, dtype=torch.int64, device=self.device)
        return random.key(first, self.seed + torch.arange(self.seeds, device=self.device))

    def open(self) -> tuple[Compiled, OffloadWorld]:
        """Return the scenario, compiled with the changes, and its world, of environment `offload`.

        Raises:
            UserError: if the scenario or a change is not valid.
            TrainingError: if its environment is another.
        """
        return self._open(OffloadWorld, "offload")

    def open_blocks(self) -> tuple[Compiled, BlocksWorld]:
        """Return the same for environment `blocks`; raises as `open` does."""
        return self._open(BlocksWorld, "blocks")

    def open_frames(self) -> tuple[Compiled, WirelessPowerWorld]:
        """Return the same for environment `wireless-power`; raises as `open` does."""
        return self._open(WirelessPowerWorld, "wireless-power")

    def open_queues(self) -> tuple[Compiled, QueueWorld]:
        """Return the same for environment `wireless-power` with queues; raises as `open` does."""
        return self._open(QueueWorld, "wireless-power with queues")

    def _open(self, kind: type[AnyWorld], environment: str) -> tuple[Compiled, AnyWorld]:
        compiled = open_world(self.scenario, parse_changes(self.changes))
        if not isinstance(compiled.world, kind):
            raise TrainingError(f"scenario {compiled.world.name}: this scheme learns in environment {environment} only")
        return compiled, compiled.world

    def find_preset(self, presets: Mapping[str, Preset]) -> Preset:
        """Return the preset that `preset` names.

        Args:
            presets: a scheme's presets by name.

        Raises:
            TrainingError: if none has this name.
        """
        if self.preset not in presets:
            raise TrainingError(f"no preset {self.preset!r}; there are {', '.join(presets)}")
        return presets[self.preset]


class Report(NamedTuple):
    """Progress of a training after a round."""

    round: int
    """Rounds done, counted from the beginning of the training."""
    rounds: int
    """Rounds of the whole training."""
    decisions: int
    """Slots decided by all learners since this process began or resumed."""
    took_s: float
    """Seconds since this process began or resumed."""
    figures: Mapping[str, float]
    """Means over the learners at the last point of the curves; empty before the first."""


Progress = Callable[[Report], None]


class RunOptions(TypedDict, total=False):
    """Arguments that every scheme's `train` takes beside its settings."""

    progress: Progress
    """Called after every round."""
    folder: Path | None
    """Folder for checkpoints, curves and logs; None to write nothing."""
    resume: bool
    """Whether to continue from the folder's last checkpoint, if there is one."""


class Origin(TypedDict):
    """Where an exported policy comes from; see `policies.onnx.write_sidecar`."""

    scheme: str
    scenario: str
    scenario_fingerprint: str
    training: dict[str, object]


class TrainingResult(NamedTuple):
    """Policies and learning curves of a finished training."""

    scheme: str
    """Name of the scheme."""
    policies: tuple[Policy[Tensor], ...]
    """One policy for each seed, from observations as tensors to decisions; none of them explores."""
    modules: tuple[torch.nn.Module, ...]
    """The same policies as modules that `policies.learned.export` takes; empty if the scheme cannot be exported."""
    points: tuple[Point, ...]
    """Learning curves, one value for each learner."""
    assessed: tuple[Point, ...]
    """Results on held-out worlds, one value for each seed: the mean of its learners."""
    record: dict[str, object]
    """JSON object that says what the training is, for side-cars."""
    digest: str
    """SHA-256 of weights, optimisers, replay memory and states; equal for equal trainings, however often resumed."""
    options_by_index: bool = True
    """Whether the policies know options by their number only, instead of reading them from the observation."""
    dynamic_axes: str = "B"
    """Letters of the axes (B, K, O, N) that may have any length in an exported policy."""

    @property
    def best(self) -> int:
        """Return the index of the seed with the greatest reward on held-out worlds; 0 if there was no assessment."""
        rewards = self.assessed[-1].figures["reward"] if self.assessed else [0.0]
        return max(range(len(rewards)), key=rewards.__getitem__)

    @property
    def origin(self) -> Origin:
        """Return what the side-car of the best policy says about where it comes from."""
        return {
            "scheme": self.scheme,
            "scenario": str(self.record["scenario"]),
            "scenario_fingerprint": str(self.record["scenario_fingerprint"]),
            "training": {**self.record, "seed_of_best": self.best, "digest": self.digest},
        }


class _Point(TypedDict):
    round: int
    figures: dict[str, list[float]]


class _Curves(TypedDict):
    points: list[_Point]
    assessed: list[_Point]


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
    """Run a loop to its end: the last step of every scheme's `train`.

    Args:
        scheme: name that the result carries.
        loop: the training, at its beginning.
        make_policies: returns the policy of each seed from the trained learner.
        record: what `settings_record` returned.
        options_by_index: as in `TrainingResult`.
        play: plays one or several rounds of the loop.
        options: as in `RunOptions`.

    Returns:
        The policies of all seeds, with their curves.

    Raises:
        UserError: as in `run_training`.
    """
    digest = run_training(loop, record, play=play, **options)
    policies = make_policies(loop.learner)
    assessed = tuple(_mean_by_seed(point, len(policies)) for point in loop.assessed)
    points = tuple(loop.points)
    return TrainingResult(scheme, policies, policies, points, assessed, dict(record), digest, options_by_index)


def run_training(
    loop: Loop[AnyLearner],
    record: Record,
    *,
    progress: Progress = lambda _: None,
    folder: Path | None = None,
    resume: bool = False,
    play: Callable[[Loop[AnyLearner]], None] = Loop.play,
) -> str:
    """Run a loop to its end, with checkpoints, curves and logs in a folder.

    Args:
        loop: the training, at its beginning; changed.
        record: what the training is; a checkpoint with another record is refused.
        progress: called after every call of `play`, and once at first if the training is resumed.
        folder: the run's folder; None to write nothing.
        resume: whether to continue from the folder's last checkpoint, if there is one.
        play: plays one or several rounds of the loop.

    Returns:
        The digest of the final state, as in `TrainingResult`.

    Raises:
        CheckpointError: if the checkpoint is damaged or of another training, or cannot be written.
        TrainingError: if the folder holds a training and `resume` is false.
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
        write_atomic(folder / CURVES, json.dumps(curves, indent=1) + "\n")
    return checkpoint.digest(loop.tensors())


def restore_latest(loop: Loop, record: Record, folder: Path, resume: bool) -> None:
    """Restore a loop and its curves from the folder's last checkpoint; without a checkpoint nothing changes.

    Args:
        loop: a loop with the settings of the checkpoint's training.
        record: what the training is.
        folder: the run's folder, which may not exist yet.
        resume: whether a checkpoint may be there.

    Raises:
        CheckpointError: if the checkpoint is damaged or of another training.
        TrainingError: if there is a checkpoint and `resume` is false.
    """
    latest = checkpoint.load_latest(folder / "checkpoints")
    if latest is None:
        return
    if not resume:
        raise TrainingError(f"{folder}: holds a training already; --resume goes on with it, or choose another folder")
    differs = _first_difference(latest.record["training"], json.loads(json.dumps(dict(record))))
    if differs:
        raise CheckpointError(f"{latest.path}: of a training with {differs}; give the same settings or another folder")
    loop.restore(latest.tensors)
    curves = cast(_Curves, latest.record)
    loop.points, loop.assessed = ([Point(**point) for point in curves[kind]] for kind in ("points", "assessed"))


def save_checkpoint(loop: Loop, record: Record, folder: Path) -> None:
    """Write a checkpoint of the loop and its curves.

    Args:
        loop: the training, between two rounds.
        record: what the training is, as a JSON object.
        folder: the run's folder; the file goes into `checkpoints/` there.

    Raises:
        CheckpointError: if the folder cannot be written.
    """
    checkpoint.save(folder / "checkpoints", loop.round, loop.tensors(), {"training": dict(record), **_curves(loop)})


def settings_record(
    settings: TrainSettings, scheme: str, world: World, preset: "DataclassInstance"
) -> dict[str, object]:
    """Return what a training is as a JSON object: scheme, fingerprint of the scenario, and all settings.

    Args:
        settings: what was asked for.
        scheme: name of the scheme.
        world: the compiled scenario.
        preset: the scheme's own settings.
    """
    record = {"scheme": scheme, "scenario_fingerprint": fingerprint(world), **asdict(settings)}
    return json.loads(json.dumps({**record, "preset": asdict(preset)}))


def _mean_by_seed(point: Point, seeds: int) -> Point:
    """Return a point with one value for each seed: the mean of its learners."""
    means = {
        name: torch.tensor(values, dtype=torch.float64).unflatten(0, (seeds, -1)).mean(1).tolist()
        for name, values in point.figures.items()
    }
    return point._replace(figures=means)


def _log(events: logs.EventWriter, loop: Loop, points: int, assessed: int) -> None:
    """Log the points of both curves from these indices on."""
    for point in loop.points[points:]:
        events.add(point)
    for point in loop.assessed[assessed:]:
        events.add(point, "held_out")


def _first_difference(theirs: object, expected: object, name: str = "") -> str | None:
    """Return `name.of.key theirs, expected ours` for the first difference of JSON values, None if they are equal."""
    if theirs == expected:
        return None
    if not (isinstance(theirs, dict) and isinstance(expected, dict)):
        return f"{name} {theirs!r}, expected {expected!r}"
    keys = (key for key in {**expected, **theirs} if theirs.get(key) != expected.get(key))
    key = next(keys)
    return _first_difference(theirs.get(key), expected.get(key), f"{name}.{key}" if name else key)


def _curves(loop: Loop) -> dict[str, list[dict[str, object]]]:
    """Return both curves as JSON objects; `_Curves` is their form when they are read."""
    return {"points": [point._asdict() for point in loop.points], "assessed": [p._asdict() for p in loop.assessed]}


def _last(points: list[Point]) -> dict[str, float]:
    figures = points[-1].figures if points else {}
    return {name: sum(values) / len(values) for name, values in figures.items()}
