"""Comparison of several policies in one scenario, from their names to results in a folder."""

import difflib
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, NamedTuple

import torch

from coinfer.envs.batched_env import reward_of
from coinfer.errors import UserError
from coinfer.evaluate import frames, limits, policy_files, queues, report
from coinfer.evaluate.oracles import Oracle
from coinfer.evaluate.simulate import Maker, Run, known_oracles, known_policies, run_policy
from coinfer.policies.heuristics.wireless_power import MODES, ModesPolicy
from coinfer.progress import Progress, quiet
from coinfer.scenario.compile import Compiled, fingerprint, open_world
from coinfer.scenario.load import parse_changes
from coinfer.scenario.world import OffloadWorld, QueueWorld, WirelessPowerWorld, World

FRAMES = (WirelessPowerWorld, QueueWorld)
"""Worlds of environment `wireless-power`."""
REFERENCES = ("greedy", "coordinate-descent")


@dataclass(frozen=True)
class Settings:
    """The settings of a comparison."""

    scenario: str
    policies: tuple[str, ...] = ()
    """Names, or ONNX files of trained policies; if empty, all baselines of the environment."""
    seeds: int = 10
    episodes: int = 4
    """Number of episodes of each seed."""
    bound: bool = False
    changes: tuple[str, ...] = ()
    """`KEY=VALUE`, as on the command line."""
    device: str = "cpu"


class Comparison(NamedTuple):
    """The results of a comparison, policy after policy."""

    settings: Settings
    world: World
    runs: list[Run]
    notes: tuple[str, ...]
    """Differences between the world and what the scenario's file asks for."""
    folder: Path | None = None
    """Holds records, summary and plot, if they were asked for."""

    @property
    def title(self) -> str:
        """Return one line with scenario, seeds, episodes and number of tasks."""
        slots = self.world.slots if isinstance(self.world, FRAMES) else self.world.edge.slots
        counted = "frames" if isinstance(self.world, FRAMES) else "tasks"
        counts = {"seed": self.settings.seeds, "episode": self.settings.episodes, "slot": slots}
        seeds, episodes, length = (f"{count} {name}{'s' * (count > 1)}" for name, count in counts.items())
        return f"{self.world.name}: {seeds} of {episodes} of {length}, {self.runs[0].tasks:,} {counted}"

    @property
    def reference(self) -> Run:
        """Return the run that the others are compared with: the first policy named, else the papers' Greedy or DROO's
        CD."""
        if self.settings.policies:
            return self.runs[0]
        return next(run for run in self.runs if run.policy in REFERENCES)

    def save(self) -> None:
        """Write records and summary of all finished runs into the folder, if there is one.

        Raises:
            OSError: if a file cannot be written.
        """
        if self.folder is not None:
            about = {**asdict(self.settings), "fingerprint": fingerprint(self.world)}
            report.save(self.folder, about, self.runs)

    def plot(self) -> None:
        """Draw a plot into the folder, if there is one; without matplotlib, write a note instead."""
        if self.folder is None:
            return
        try:
            report.plot(self.folder / "plot.png", self.title, self.runs)
        except ModuleNotFoundError:
            (self.folder / "plot.txt").write_text(
                "no plot: pip install '.[plot]' in coinfer's folder\n", encoding="utf-8"
            )


def compare(settings: Settings, progress: Progress = quiet, results: Path | None = None) -> Comparison:
    """Run every policy on the same episodes.

    Args:
        settings: scenario, policies and numbers of seeds and episodes.
        progress: called with slots done, slots to do, and the policy's name.
        results: parent of a new folder, made before anything runs. It holds the records of each policy as soon as the
            policy is done, and a plot at the end. None writes nothing.

    Returns:
        The results of all policies.

    Raises:
        UserError: if scenario, policy or device does not exist, or the new folder cannot be made; one line.
        OSError: if a file in it cannot be written.
    """
    compiled = open_world(settings.scenario, parse_changes(settings.changes))
    world = compiled.world
    check_policies(world, settings.policies)
    _check_device(settings.device)
    if settings.bound and isinstance(world, FRAMES):
        raise UserError(f"{world.name}: --bound is for scenarios of environment offload or blocks")
    notes = compiled.notes
    makers: dict[str, Maker | ModesPolicy] = {}
    oracles: dict[str, Oracle] = {}
    for name in filter(is_policy_file, settings.policies):
        if isinstance(world, FRAMES):
            makers[name], more = policy_files.open_frame_policy(name, world)
        elif isinstance(world, OffloadWorld) and policy_files.is_serving_policy(name):
            oracles[name], more = policy_files.open_serving_policy(name, world)
        else:
            makers[name], more = policy_files.open_policy(name, compiled)
        notes += more
    names = [*(settings.policies or default_policies(world))]
    if settings.bound and limits.OPTION not in names:
        names.append(limits.OPTION)
    folder = None if results is None else _new_folder(results, f"simulate-{Path(world.name).name}")
    comparison = Comparison(settings, world, [], notes, folder)
    try:
        for name in names:
            comparison.runs.append(_run_one(name, settings, compiled, makers.get(name), progress, oracles.get(name)))
            comparison.save()
    finally:
        if folder is not None and not comparison.runs:
            folder.rmdir()
    comparison.plot()
    return comparison


def _run_one(
    name: str, settings: Settings, compiled: Compiled, maker: Any, progress: Progress, oracle: Oracle | None
) -> Run:
    """Run one policy; `maker` (for frames, a policy) or `oracle` is what its file gave, None for a known name."""
    world, count = compiled.world, (settings.seeds, settings.episodes)
    if isinstance(world, QueueWorld):
        return queues.run(world, display_name(name), *count, settings.device, progress, maker)
    if isinstance(world, WirelessPowerWorld):
        return frames.run(world, display_name(name), *count, settings.device, progress, maker)
    if name == limits.OPTION:
        bound = limits.lower_bound if isinstance(world, OffloadWorld) else limits.lower_bound_of_blocks
        return bound(world, *count, progress=progress)  # pyright: ignore[reportArgumentType]
    return run_policy(
        world,
        display_name(name),
        *count,
        maker,
        reward=reward_of(compiled.reward),
        device=settings.device,
        progress=progress,
        oracle=oracle,
    )


def default_policies(world: World) -> tuple[str, ...]:
    """Return the names of the baselines that run if no policy is named.

    Args:
        world: a compiled scenario.
    """
    if isinstance(world, QueueWorld):
        return queues.DEFAULT_POLICIES
    return frames.DEFAULT_POLICIES if isinstance(world, WirelessPowerWorld) else tuple(known_policies(world))


def check_policies(world: World, names: Sequence[str]) -> None:
    """Check that a world has policies of these names; names of files are not checked.

    Args:
        world: a compiled scenario.
        names: as on the command line.

    Raises:
        UserError: if a name is unknown or belongs to another environment; one line.
    """
    if isinstance(world, FRAMES):
        known = queues.POLICIES if isinstance(world, QueueWorld) else tuple(MODES)
    else:
        known = (*known_policies(world), *known_oracles(world), limits.OPTION)
    for name in names:
        if name not in known and not is_policy_file(name):
            near = difflib.get_close_matches(name, known, 1)
            hint = f"; did you mean {near[0]}?" if near else f"; there are {', '.join(known)}"
            raise UserError(f"no policy {name!r} for {world.name}{hint}")


def is_policy_file(name: str) -> bool:
    """Whether a policy is a file rather than a name.

    Args:
        name: as on the command line.
    """
    return name.endswith(policy_files.SUFFIX)


def display_name(name: str) -> str:
    """Return a policy's name for tables: for a file, the name of its folder and its own.

    Args:
        name: as on the command line.
    """
    return "/".join(Path(name).parts[-2:]) if is_policy_file(name) else name


def _check_device(name: str) -> None:
    try:
        torch.zeros(1, device=name)
    except (RuntimeError, AssertionError):
        raise UserError(f"--device {name!r}: PyTorch has no such device here") from None


def _new_folder(parent: Path, name: str) -> Path:
    """Return a new folder `name`, or `name-2` and so on if that exists."""
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
