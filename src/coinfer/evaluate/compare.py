"""Several policies in one scenario, from names to results in a folder."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, NamedTuple

import torch

from coinfer.envs.worlds import environment_of, reward_of
from coinfer.evaluate import limits, report
from coinfer.evaluate.simulate import Progress, Run, check_policies, known_policies, run
from coinfer.scenario.compile import Compiled, fingerprint, open_world
from coinfer.scenario.load import parse_changes
from coinfer.scenario.world import BlocksWorld, OffloadWorld
from coinfer.types import UserError


@dataclass(frozen=True)
class Settings:
    """What a comparison was asked for."""

    scenario: str
    policies: tuple[str, ...] = ()
    """All baselines of the environment where there are none."""
    seeds: int = 10
    episodes: int = 4
    """Of each seed."""
    bound: bool = False
    changes: tuple[str, ...] = ()
    """`KEY=VALUE`, as on the command line."""
    device: str = "cpu"


class Comparison(NamedTuple):
    settings: Settings
    compiled: Compiled
    world: OffloadWorld | BlocksWorld
    runs: list[Run]

    @property
    def title(self) -> str:
        edge = self.world.edge
        return (
            f"{self.world.name}: {self.settings.seeds} seeds of {self.settings.episodes} episodes of "
            f"{edge.slots} slots, {self.runs[0].tasks:,} tasks"
        )

    @property
    def notes(self) -> tuple[str, ...]:
        return self.compiled.notes

    @property
    def reference(self) -> Run:
        """What the others are compared with: the first that was named, else the papers' Greedy."""
        named = self.settings.policies[0] if self.settings.policies else "greedy"
        return next(run for run in self.runs if run.policy == named)

    def save(self, runs: Path) -> Path:
        """Records and a plot in a new folder of `runs`."""
        folder = _new_folder(runs, f"simulate-{self.world.name}")
        record: Mapping[str, Any] = {**asdict(self.settings), "fingerprint": fingerprint(self.world)}
        report.save(folder, record, self.runs)
        try:
            report.plot(folder / "plot.png", self.title, self.runs)
        except ModuleNotFoundError:
            (folder / "plot.txt").write_text("no plot: pip install 'coinfer[plot]'\n", encoding="utf-8")
        return folder


def compare(settings: Settings, progress: Progress = lambda *_: None) -> Comparison:
    """Runs every policy on the same episodes.

    Raises:
        UserError: where scenario, policy or device is not there; one line.
    """
    compiled = open_world(settings.scenario, parse_changes(settings.changes))
    world: Any = compiled.world
    environment_of(world)
    check_policies(world, settings.policies)
    _check_device(settings.device)
    if settings.bound and not isinstance(world, OffloadWorld):
        raise UserError(f"{world.name}: --bound is for scenarios of environment offload")
    reward = reward_of(compiled.reward)
    runs = [
        run(world, name, settings.seeds, settings.episodes, None, reward, settings.device, progress)
        for name in settings.policies or known_policies(world)
    ]
    if settings.bound:
        runs.append(limits.lower_bound(world, settings.seeds, settings.episodes, progress=progress))
    return Comparison(settings, compiled, world, runs)


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
