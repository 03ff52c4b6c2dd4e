"""The end of a training in environment `wireless-power`: export of the best learner's policy, and its comparison."""

from pathlib import Path

from coinfer.evaluate import frames, queues, report
from coinfer.evaluate.policy_files import open_frame_policy
from coinfer.evaluate.simulate import Run
from coinfer.policies.heuristics.wireless_power import MODES
from coinfer.policies.learned.imitation.frame_export import export_frame_policy
from coinfer.policies.learned.imitation.frame_policy import FramePolicy
from coinfer.rl.core.training import TrainingResult
from coinfer.scenario.world import QueueWorld, WirelessPowerWorld

SEEDS, EPISODES, FRAMES = 10, 1, 500
"""Of the comparison; FRAMES of each episode at most, so that the optimum is done in seconds."""
OPTIMUM = "optimum"
MAX_OPTIMUM_DEVICES = 10


def export_best(trained: TrainingResult, path: Path) -> None:
    """Write the policy of the seed with the greatest rate on held-out frames, with its side-car.

    Args:
        trained: a training in environment `wireless-power`.
        path: path of the ONNX file to write; the side-car gets the same name with `.json`.
    """
    policy = trained.modules[trained.best]
    assert isinstance(policy, FramePolicy)
    export_frame_policy(path, policy, **trained.origin)


def compare_with_baselines(path: Path, name: str, world: WirelessPowerWorld | QueueWorld) -> list[Run]:
    """Return the runs of an exported policy and of baselines on the same held-out frames.

    Args:
        path: path of the ONNX file, which decides by ONNX Runtime as it will in use.
        name: name of the policy's run.
        world: the compiled scenario to play.

    Raises:
        UserError: if the file is no policy for this scenario.
    """
    policy, _ = open_frame_policy(path, world)
    if isinstance(world, QueueWorld):
        short = world._replace(frames=world.frames._replace(slots=min(world.slots, FRAMES)))
        runs = [queues.run(short, name, SEEDS, EPISODES, policy=policy)]
        return runs + [queues.run(short, known, SEEDS, EPISODES) for known in queues.DEFAULT_POLICIES]
    short = world._replace(slots=min(world.slots, FRAMES))
    names = [known for known in MODES if known != OPTIMUM or len(world.mean_gain) <= MAX_OPTIMUM_DEVICES]
    runs = [frames.run(short, name, SEEDS, EPISODES, policy=policy)]
    return runs + [frames.run(short, known, SEEDS, EPISODES) for known in names]


def save_comparison(trained: TrainingResult, world: WirelessPowerWorld | QueueWorld, folder: Path) -> list[Run]:
    """Export the best policy of a training, compare it with baselines, and save the records of both.

    Args:
        trained: a training in environment `wireless-power`.
        world: the compiled scenario of the training.
        folder: gets `policy.onnx` with its side-car, and the records as `evaluation`.

    Returns:
        The runs of the policy and of the baselines, the policy's first.
    """
    path = folder / "policy.onnx"
    export_best(trained, path)
    runs = compare_with_baselines(path, trained.scheme, world)
    report.save(folder / "evaluation", trained.record, runs)
    return runs
