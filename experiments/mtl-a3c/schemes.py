"""Schemes and baselines at the points of a sweep: equal budgets in slots, paired over seeds, beside the bound."""

import argparse
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from sweeps import DEFAULTS, changes_at, compiled_at

from coinfer.envs.batched_env import reward_of
from coinfer.evaluate.limits import lower_bound_of_blocks
from coinfer.evaluate.simulate import run_policy
from coinfer.evaluate.statistics import interval
from coinfer.rl import registry
from coinfer.rl.algorithms import a3c, distributed_dqn, mtl_a3c, ppo
from coinfer.rl.core.blocks_training import MAX_JOINT
from coinfer.rl.core.training import TrainingResult, TrainSettings
from coinfer.scenario.world import BlocksWorld

RESULTS = Path(__file__).resolve().parent / "results"
SCHEMES: dict[str, tuple[str, Any]] = {
    "multi-task A3C, paper's state": ("mtl-a3c", mtl_a3c.PRESETS["paper"]),
    "multi-task A3C": ("mtl-a3c", mtl_a3c.PRESETS["quick"]),
    "multi-task A3C, tied trunks": ("mtl-a3c", mtl_a3c.PRESETS["tied"]),
    "multi-task A3C, heads draw independently": ("mtl-a3c", replace(mtl_a3c.PRESETS["quick"], coherent=False)),
    "multi-task A3C, most probable places": ("mtl-a3c", replace(mtl_a3c.PRESETS["quick"], sampled=False)),
    "multi-task A3C, place scores": ("mtl-a3c", mtl_a3c.PRESETS["predicted"]),
    "PPO, place scores": ("ppo", ppo.BLOCKS_PRESETS["predicted"]),
    "A3C": ("a3c", a3c.PRESETS["quick"]),
    "distributed DQN": ("distributed-dqn", distributed_dqn.PRESETS["quick"]),
    "PPO": ("ppo", ppo.BLOCKS_PRESETS["quick"]),
}
"""Rows of every figure: scheme and settings. All see the same number of slots."""
MAIN = ("multi-task A3C", "A3C", "distributed DQN")
"""The paper's rows."""
OURS = ("multi-task A3C", "multi-task A3C, place scores")
"""Rows that stand beside the paper's percentages: its scheme, and our variant."""
BASELINES = (
    "greedy",
    "greedy-device",
    "apdi",
    "rpdi",
    "device-only",
    "sequential-greedy",
    "proportional",
    "list-schedule",
    "cut-schedule",
)
MEASURES = ("mean_s", "edge_s", "local_s", "energy_j", "reward")
UNTRAINED_STEPS = 1
JUDGED_SLOTS = 30
"""Slots of the episodes on which policies are compared; queues of a slot hardly reach the next one."""


def arguments(about: str, seeds: int = 10, steps: int = 4800) -> argparse.Namespace:
    """Return the arguments of every script of this folder."""
    parser = argparse.ArgumentParser(description=about)
    parser.add_argument("--seeds", type=int, default=seeds, help="learners of each scheme, and seeds of the episodes")
    parser.add_argument("--steps", type=int, default=steps, help="slots that each learner sees")
    parser.add_argument("--output", type=Path, default=RESULTS, help="folder of the records")
    parser.add_argument("--points", type=int, default=99, help="points of the sweep at most, for a quick look")
    parser.add_argument("--schemes", nargs="*", default=list(MAIN), help="rows to train, or `all`")
    wanted = parser.parse_args()
    wanted.schemes = list(SCHEMES) if wanted.schemes == ["all"] else wanted.schemes
    return wanted


def changes_of(point: Mapping[str, object]) -> tuple[str, ...]:
    """Return the changes of a point of a sweep as on the command line."""
    changes = changes_at(**point, slots=JUDGED_SLOTS)  # pyright: ignore[reportArgumentType]
    return tuple(f"{key}={json.dumps(value)}" for key, value in changes.items())


def trained(name: str, point: Mapping[str, object], seeds: int, steps: int) -> TrainingResult:
    """Return the policies of a row at a point."""
    scheme, chosen = SCHEMES[name]
    settings = TrainSettings("mtl-a3c", changes_of(point), seeds=seeds, steps=steps)
    return registry.trainer(scheme)(settings, blocks_settings=chosen)


def judged(
    name: str, world: BlocksWorld, policies: Sequence[Any], reward: Any, first: int = 100
) -> dict[str, list[float]]:
    """Return each measure of every policy, policy i on the episodes of seed i after the first."""
    runs = [
        run_policy(world, name, 1, 1, lambda seed, policy=policy: policy, reward=reward, first=first + number)
        for number, policy in enumerate(policies)
    ]
    return {measure: [float(run.measures[measure][0]) for run in runs] for measure in MEASURES}


def at_point(point: Mapping[str, object], wanted: argparse.Namespace) -> dict[str, dict[str, Any]]:
    """Return the measures of all rows at a point of a sweep, one value for each seed, and the rewards of learners over
    their training.

    Rows are kept in folder `points`, so figures share them and an interrupted script goes on; delete a file to measure
    its point anew.
    """
    path = path_of(point, wanted.output)
    path.parent.mkdir(parents=True, exist_ok=True)
    kept = json.loads(path.read_text()) if path.exists() else {}
    compiled = compiled_at(**point, slots=JUDGED_SLOTS)
    world, reward = compiled.world, reward_of(compiled.reward)
    assert isinstance(world, BlocksWorld)
    for label, steps, measure in rows_of(point, world, reward, wanted):
        key = label if steps in (None, UNTRAINED_STEPS) else f"{label} after {steps} slots"
        if key in kept and len(kept[key]["mean_s"]) != wanted.seeds:
            seeds = len(kept[key]["mean_s"])
            raise SystemExit(
                f"{path}: holds rows of {seeds} seeds, not {wanted.seeds}; name another folder by --output"
            )
        if key not in kept:
            measured = measure()
            kept = json.loads(path.read_text()) if path.exists() else {}  # another figure's script may have added rows
            kept[key] = measured
            path.write_text(json.dumps(kept, indent=1) + "\n")
            print(f"  {key} {np.mean(kept[key]['mean_s']) * 1e3:.0f} ms", flush=True)
    return with_steps(kept, wanted.steps)


def path_of(point: Mapping[str, object], folder: Path) -> Path:
    """Return the file of a point's rows."""
    return folder / "points" / f"{name_of(point)}.json"


def with_steps(kept: Mapping[str, Any], steps: int) -> dict[str, Any]:
    """Return the rows of a point's file, learners after so many slots under their plain names."""
    end = f" after {steps} slots"
    return {
        label.removesuffix(end): row for label, row in kept.items() if " after " not in label or label.endswith(end)
    }


def name_of(point: Mapping[str, object]) -> str:
    """Return a point's name, by what differs from the default point."""
    changes = {key: value for key, value in point.items() if DEFAULTS.get(key) != value}
    return ", ".join(f"{key} {value}" for key, value in sorted(changes.items())) or "default"


def rows_of(
    point: Mapping[str, object], world: BlocksWorld, reward: Any, wanted: argparse.Namespace
) -> Iterator[tuple[str, int | None, Callable[[], dict[str, Any]]]]:
    """Yield label, slots of the training (None for rules) and what measures the row, of all rows of a point."""

    def rule(name: str) -> dict[str, list[float]]:
        run = run_policy(world, name, wanted.seeds, 1, reward=reward, first=100)
        return {measure: run.measures[measure].tolist() for measure in MEASURES}

    def learner(name: str, steps: int) -> dict[str, Any]:
        result = trained(name, point, wanted.seeds, steps)
        curve = {
            "slots": [one.round * steps // result.assessed[-1].round for one in result.assessed],
            "rewards": [one.figures["reward"] for one in result.assessed],
        }
        return judged(name, world, result.policies, reward) | curve

    def bound() -> dict[str, list[float]]:
        return {"mean_s": lower_bound_of_blocks(world, wanted.seeds, 1).measures["mean_s"].tolist()}

    for name in BASELINES:
        yield name, None, partial(rule, name)
    yield "lower bound", None, bound
    joint = (world.edge.servers + 1) ** world.blocks <= MAX_JOINT
    for name in wanted.schemes:
        if SCHEMES[name][1].joint and not joint:
            continue  # one head cannot have so many choices: no row, as the table then says
        yield f"{name}, untrained", UNTRAINED_STEPS, partial(learner, name, UNTRAINED_STEPS)
        yield name, wanted.steps, partial(learner, name, wanted.steps)


def gains(
    rows: Mapping[str, Mapping[str, list[float]]], ours: str, other: str, measure: str
) -> dict[str, float] | None:
    """Return by how much a row lies below another, seed by seed, in percent with half of the 95 % interval."""
    if other not in rows or measure not in rows[other] or not np.mean(rows[other][measure]):
        return None
    estimate = interval((1 - np.array(rows[ours][measure]) / np.array(rows[other][measure])) * 100)
    return {"percent": estimate.mean, "half": estimate.half}


def sweep(
    figure: str, points: Mapping[str, Mapping[str, object]], expected: Sequence[tuple[str, str, str, float]]
) -> None:
    """Run the rows at all points, save them, and print the table beside the paper's percentages.

    Args:
        figure: name of the result's file.
        points: of the sweep, by name.
        expected: for some points the other row, the measure, and the paper's percentage below it.
    """
    wanted, found = arguments(figure), {}
    for name, point in list(points.items())[: wanted.points]:
        print(name, flush=True)
        at_point(point, wanted)
    for name, point in points.items():  # also those of earlier runs
        if (path := path_of(point, wanted.output)).exists():
            found[name] = with_steps(json.loads(path.read_text()), wanted.steps)
    table = []
    for name, other, measure, percent in expected:
        for ours in OURS:
            if ours in found.get(name, ()):
                table.append({"point": name, "row": ours, "below": other, "measure": measure, "paper": percent})
                table[-1]["found"] = gains(found[name], ours, other, measure)
    for line in table:
        print(line)
    settings = {"seeds": wanted.seeds, "steps": wanted.steps, "judged_slots": JUDGED_SLOTS}
    means = {
        name: {row: {key: float(np.mean(some[key])) for key in MEASURES if key in some} for row, some in rows.items()}
        for name, rows in found.items()
    }
    record = {"settings": settings, "means": means, "beside the paper": table}
    (wanted.output / f"{figure}.json").write_text(json.dumps(record, indent=1) + "\n")


def with_learner(name: str, **changes: object) -> Any:
    """Return a row's settings with other settings of the learner."""
    chosen = SCHEMES[name][1]
    return replace(chosen, learner=replace(chosen.learner, **changes))
