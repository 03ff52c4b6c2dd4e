"""The end of a training: the best learner's policy as a file, and how it does beside baselines."""

from pathlib import Path

import torch

from coinfer.envs import offload
from coinfer.envs.batched_env import reward_of
from coinfer.evaluate import oracles
from coinfer.evaluate.policy_files import open_policy
from coinfer.evaluate.simulate import Run, run_policy
from coinfer.policies.learned.export import export
from coinfer.progress import Progress
from coinfer.rl.core.training import TrainingResult
from coinfer.scenario.compile import Compiled
from coinfer.scenario.world import OffloadWorld

BASELINES = ("random", "device-only", "two-choices", "greedy", "sequential-greedy")
OPTIMUM = "optimum of each slot"
"""By exhaustive search for the greatest reward, if a slot has one task."""


def export_best(trained: TrainingResult, compiled: Compiled, path: Path) -> None:
    """Write the policy of the seed that did best on held-out worlds, with its side-car.

    Args:
        compiled: the scenario that it was trained in.
        path: of the ONNX file; the side-car stands beside it (.json).
    """
    world = compiled.world
    assert isinstance(world, OffloadWorld)
    tables = offload.load(world)
    kinds = [options.sent for row in compiled.options for options in row]
    best = {"seed_of_best": trained.best, "digest": trained.digest}
    export(
        path,
        trained.modules[trained.best],
        offload.observe(tables, offload.reset(tables, torch.arange(2))),
        scheme=trained.scheme,
        scenario=trained.record["scenario"],
        scenario_fingerprint=trained.record["scenario_fingerprint"],
        options=kinds[0] if trained.options_by_index and len(kinds) == 1 else None,
        dynamic_axes=trained.dynamic_axes,
        training={**trained.record, **best},
    )


def compare_with_baselines(
    path: Path, name: str, compiled: Compiled, *, seeds: int, episodes: int, progress: Progress = lambda *_: None
) -> list[Run]:
    """Return the runs of the exported policy, as it will be used, and of baselines on the same held-out episodes.

    Args:
        path: of the ONNX file.
        name: that the policy's run carries.
        compiled: the scenario to play.
        episodes: of each seed.
    """
    world = compiled.world
    assert isinstance(world, OffloadWorld)
    reward, (maker, _) = reward_of(compiled.reward), open_policy(path, compiled)
    runs = [run_policy(world, name, seeds, episodes, maker, reward, progress=progress)]
    for baseline in BASELINES:
        runs.append(run_policy(world, baseline, seeds, episodes, reward=reward, progress=progress))
    if world.edge.tasks == 1:
        oracle = oracles.reward_optimum(reward)
        runs.append(run_policy(world, OPTIMUM, seeds, episodes, reward=reward, progress=progress, oracle=oracle))
    return runs
