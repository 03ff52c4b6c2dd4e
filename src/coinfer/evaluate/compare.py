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
from coinfer.evaluate.simulate import Maker, Run, known_policies, run
from coinfer.policies.heuristics.wireless_power import MODES
from coinfer.progress import Progress, quiet
from coinfer.scenario.compile import fingerprint, open_world
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

    def save(self, runs: Path) -> Path:
        """Records and a plot in a new folder of `runs`."""
        folder = _new_folder(runs, f"simulate-{Path(self.world.name).name}")
        report.save(folder, {**asdict(self.settings), "fingerprint": fingerprint(self.world)}, self.runs)
        try:
            report.plot(folder / "plot.png", self.title, self.runs)
        except ModuleNotFoundError:
            (folder / "plot.txt").write_text("no plot: pip install 'coinfer[plot]'\n", encoding="utf-8")
        return folder


def compare(settings: Settings, progress: Progress = quiet) -> Comparison:
    """Runs every policy on the same episodes.

    Raises:
        UserError: where scenario, policy or device is not there; one line.
    """
    compiled = open_world(settings.scenario, parse_changes(settings.changes))
    world = compiled.world
    check_policies(world, settings.policies)
    _check_device(settings.device)
    if settings.bound and not isinstance(world, OffloadWorld):
        raise UserError(f"{world.name}: --bound is for scenarios of environment offload")
    reward, runs, notes = reward_of(compiled.reward), [], compiled.notes
    makers: dict[str, Maker] = {}
    for name in filter(is_file, settings.policies):
        makers[name], more = policy_files.open_policy(name, compiled)
        notes += more
    for name in settings.policies or unasked(world):
        if isinstance(world, WirelessPowerWorld):
            runs.append(frames.run(world, name, settings.seeds, settings.episodes, settings.device, progress))
        elif name == limits.OPTION and isinstance(world, OffloadWorld):
            runs.append(limits.lower_bound(world, settings.seeds, settings.episodes, progress=progress))
        else:
            count = (settings.seeds, settings.episodes)
            maker = makers.get(name)
            runs.append(run(world, called(name), *count, maker, reward, settings.device, progress))
    if settings.bound and isinstance(world, OffloadWorld) and limits.OPTION not in settings.policies:
        runs.append(limits.lower_bound(world, settings.seeds, settings.episodes, progress=progress))
    return Comparison(settings, world, runs, notes)


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
