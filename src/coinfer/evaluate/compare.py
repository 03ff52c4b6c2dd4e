"""Several policies in one scenario, from names to results in a folder."""

import difflib
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import NamedTuple

import torch

from coinfer.envs.batched_env import reward_of
from coinfer.errors import UserError
from coinfer.evaluate import frames, limits, policy_files, report
from coinfer.evaluate.oracles import ORACLES
from coinfer.evaluate.simulate import Maker, Run, known_policies, run_policy
from coinfer.policies.heuristics.wireless_power import MODES
from coinfer.progress import Progress, quiet
from coinfer.scenario.compile import Compiled, fingerprint, open_world
from coinfer.scenario.load import parse_changes
from coinfer.scenario.world import OffloadWorld, WirelessPowerWorld, World

REFERENCES = ("greedy", "coordinate-descent")


@dataclass(frozen=True)
class Settings:
    """What a comparison was asked for."""

    scenario: str
    policies: tuple[str, ...] = ()
    """Names, or ONNX files of trained policies; all baselines of the environment where there are none."""
    seeds: int = 10
    episodes: int = 4
    """Of each seed."""
    bound: bool = False
    changes: tuple[str, ...] = ()
    """`KEY=VALUE`, as on the command line."""
    device: str = "cpu"


class Comparison(NamedTuple):
    settings: Settings
    world: World
    runs: list[Run]
    notes: tuple[str, ...]
    """Where the world departs from what the scenario asks for."""
    folder: Path | None = None
    """Holds records, summary and plot, if they were asked for."""

    @property
    def title(self) -> str:
        slots = self.world.slots if isinstance(self.world, WirelessPowerWorld) else self.world.edge.slots
        counted = "frames" if isinstance(self.world, WirelessPowerWorld) else "tasks"
        return (
            f"{self.world.name}: {self.settings.seeds} seeds of {self.settings.episodes} episodes of {slots} slots, "
            f"{self.runs[0].tasks:,} {counted}"
        )

    @property
    def reference(self) -> Run:
        """What the others are compared with: the first that was named, else the papers' Greedy, or DROO's CD."""
        if self.settings.policies:
            return self.runs[0]
        return next(run for run in self.runs if run.policy in REFERENCES)

    def save(self) -> None:
        """Write records and summary of what has run so far into the folder, if there is one."""
        if self.folder is not None:
            about = {**asdict(self.settings), "fingerprint": fingerprint(self.world)}
            report.save(self.folder, about, self.runs)

    def plot(self) -> None:
        """Draw a plot into the folder, if there is one."""
        if self.folder is None:
            return
        try:
            report.plot(self.folder / "plot.png", self.title, self.runs)
        except ModuleNotFoundError:
            (self.folder / "plot.txt").write_text("no plot: pip install 'coinfer[plot]'\n", encoding="utf-8")


def compare(settings: Settings, progress: Progress = quiet, results: Path | None = None) -> Comparison:
    """Run every policy on the same episodes.

    Args:
        results: a new folder is made in this one before anything runs; the records of each policy are in it as soon as
            the policy is done, a plot at the end. None keeps nothing.

    Raises:
        UserError: if scenario, policy or device does not exist, or the folder cannot be written; one line.
    """
    compiled = open_world(settings.scenario, parse_changes(settings.changes))
    world = compiled.world
    check_policies(world, settings.policies)
    _check_device(settings.device)
    if settings.bound and not isinstance(world, OffloadWorld):
        raise UserError(f"{world.name}: --bound is for scenarios of environment offload")
    notes = compiled.notes
    makers: dict[str, Maker] = {}
    for name in filter(is_file, settings.policies):
        makers[name], more = policy_files.open_policy(name, compiled)
        notes += more
    names = [*(settings.policies or unasked(world))]
    if settings.bound and limits.OPTION not in names:
        names.append(limits.OPTION)
    folder = None if results is None else _new_folder(results, f"simulate-{Path(world.name).name}")
    found = Comparison(settings, world, [], notes, folder)
    try:
        for name in names:
            found.runs.append(_run_one(name, settings, compiled, makers.get(name), progress))
            found.save()
    finally:
        if folder is not None and not found.runs:
            folder.rmdir()
    found.plot()
    return found


def _run_one(name: str, settings: Settings, compiled: Compiled, maker: Maker | None, progress: Progress) -> Run:
    world, count = compiled.world, (settings.seeds, settings.episodes)
    if isinstance(world, WirelessPowerWorld):
        return frames.run(world, name, *count, settings.device, progress)
    if name == limits.OPTION and isinstance(world, OffloadWorld):
        return limits.lower_bound(world, *count, progress=progress)
    return run_policy(world, called(name), *count, maker, reward_of(compiled.reward), settings.device, progress)


def unasked(world: World) -> tuple[str, ...]:
    """The baselines that run where nobody names any."""
    return frames.UNASKED if isinstance(world, WirelessPowerWorld) else tuple(known_policies(world))


def check_policies(world: World, names: Sequence[str]) -> None:
    """Files are left to `policy_files`.

    Raises:
        UserError: where a name is unknown, or no policy of this world.
    """
    if isinstance(world, WirelessPowerWorld):
        known = tuple(MODES)
    else:
        known = (*known_policies(world), *((*ORACLES, limits.OPTION) if isinstance(world, OffloadWorld) else ()))
    for name in names:
        if name not in known and not is_file(name):
            near = difflib.get_close_matches(name, known, 1)
            hint = f"; did you mean {near[0]}?" if near else f"; there are {', '.join(known)}"
            raise UserError(f"no policy {name!r} for {world.name}{hint}")


def is_file(name: str) -> bool:
    """Whether this is a trained policy rather than a name."""
    return name.endswith(policy_files.SUFFIX)


def called(name: str) -> str:
    """A policy's name in tables: of a file, its folder and name."""
    return "/".join(Path(name).parts[-2:]) if is_file(name) else name


def _check_device(name: str) -> None:
    try:
        torch.zeros(1, device=name)
    except (RuntimeError, AssertionError):
        raise UserError(f"--device {name!r}: PyTorch has no such device here") from None


def _new_folder(parent: Path, name: str) -> Path:
    """`name`, or `name-2` and so on where there is one already."""
    for number in range(1, 10_000):
        folder = parent / (name if number == 1 else f"{name}-{number}")
        try:
            folder.mkdir(parents=True)
            return folder
        except FileExistsError:
            continue
        except OSError as error:
            raise UserError(f"{folder}: cannot write results here: {error.strerror}") from None
    raise UserError(f"{parent}: too many results of {name}")
