"""The end of a training: export of the best learner's policy, and its comparison with baselines."""

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path

import torch

from coinfer.envs.batched_env import edge_world, environment_of, reward_of
from coinfer.evaluate import oracles, report, serving_slots
from coinfer.evaluate.policy_files import is_serving_policy, open_policy, open_serving_policy
from coinfer.evaluate.simulate import Run, run_policy
from coinfer.policies.learned.export import export
from coinfer.policies.learned.forecast.export import export_forecast
from coinfer.policies.learned.forecast.net import DemandForecast
from coinfer.policies.learned.pointer.export import export_pointer
from coinfer.policies.learned.pointer.net import PointerPolicy
from coinfer.progress import Progress
from coinfer.rl import frame_export
from coinfer.rl.core.training import TrainingResult
from coinfer.scenario.compile import Compiled
from coinfer.scenario.world import BlocksWorld, OffloadWorld, QueueWorld, WirelessPowerWorld

BASELINES = ("random", "device-only", "two-choices", "greedy", "sequential-greedy")
BLOCKS_BASELINES = ("rpdi", "apdi", "device-only", "greedy", "sequential-greedy", "cut-schedule")
OPTIMUM = "optimum of each slot"
"""Name of the decisions of greatest reward, found by exhaustive search if a slot has one task."""
COMPARED: dict[type, tuple[int, int]] = {OffloadWorld: (10, 2), BlocksWorld: (4, 1)}
"""Seeds, and episodes of each, on which policies are compared."""


def export_best(trained: TrainingResult, compiled: Compiled, path: Path) -> None:
    """Write the policy of the seed with the greatest reward on held-out worlds, with its side-car.

    Args:
        trained: a training in environment `offload` or `blocks`.
        compiled: the scenario of the training.
        path: path of the ONNX file to write; the side-car gets the same name with `.json`.
    """
    environment = environment_of(compiled.world)
    tables = environment.load(compiled.world)
    kinds = [options.sidecar_triples for row in compiled.options for options in row]
    export(
        path,
        trained.modules[trained.best],
        environment.observe(tables, environment.reset(tables, torch.arange(2))),
        **trained.origin,
        options=kinds[0] if trained.options_by_index and len(kinds) == 1 else None,
        dynamic_axes=trained.dynamic_axes,
    )


def _export(trained: TrainingResult, compiled: Compiled, path: Path) -> None:
    policy = trained.modules[trained.best]
    if isinstance(policy, PointerPolicy):
        export_pointer(path, policy, **trained.origin)
    elif isinstance(policy, DemandForecast):
        export_forecast(path, policy, **trained.origin)
    else:
        export_best(trained, compiled, path)


def compare_with_baselines(
    path: Path, name: str, compiled: Compiled, *, seeds: int, episodes: int, progress: Progress = lambda *_: None
) -> list[Run]:
    """Return the runs of an exported policy and of baselines on the same held-out episodes.

    Args:
        path: path of the ONNX file, which decides by ONNX Runtime as it will in use.
        name: name of the policy's run.
        compiled: the scenario to play, in environment `offload` or `blocks`.
        seeds: number of seeds.
        episodes: episodes of each seed.
        progress: called as each policy plays.

    Raises:
        UserError: if the file is no policy for this scenario.
    """
    world = edge_world(compiled.world)
    reward, maker, oracle, baselines = reward_of(compiled.reward), None, None, BLOCKS_BASELINES
    if isinstance(world, OffloadWorld):
        baselines = BASELINES if world.serving is None else (*BASELINES, *serving_slots.rules(world))
    if isinstance(world, OffloadWorld) and is_serving_policy(path):
        oracle, _ = open_serving_policy(path, world)
    else:
        maker, _ = open_policy(path, compiled)
    runs = [run_policy(world, name, seeds, episodes, maker, reward=reward, progress=progress, oracle=oracle)]
    for baseline in baselines:
        runs.append(run_policy(world, baseline, seeds, episodes, reward=reward, progress=progress))
    if isinstance(world, OffloadWorld) and world.edge.tasks == 1:
        oracle = oracles.reward_optimum(reward)
        runs.append(run_policy(world, OPTIMUM, seeds, episodes, reward=reward, progress=progress, oracle=oracle))
    return runs


def export_and_compare(
    trained: TrainingResult,
    compiled: Compiled,
    folder: Path,
    *,
    status: Callable[[str], AbstractContextManager[object]] = nullcontext,
) -> list[Run]:
    """Export the best policy of a training, compare it with baselines, and save the records of both.

    Args:
        trained: a training in any environment.
        compiled: the scenario of the training.
        folder: gets `policy.onnx` with its side-car, and the records as `evaluation`.
        status: entered with the name of each step, to show it.

    Returns:
        The runs of the policy and of the baselines, the policy's first.
    """
    if isinstance(compiled.world, WirelessPowerWorld | QueueWorld):
        with status("exporting the policy and comparing it with baselines"):
            return frame_export.save_comparison(trained, compiled.world, folder)
    path = folder / "policy.onnx"
    with status("exporting the policy"):
        _export(trained, compiled, path)
    with status("comparing with baselines"):
        seeds, episodes = COMPARED[type(compiled.world)]
        runs = compare_with_baselines(path, trained.scheme, compiled, seeds=seeds, episodes=episodes)
    report.save(folder / "evaluation", trained.record, runs)
    return runs
