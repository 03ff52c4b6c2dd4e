"""Training of the pointer policy: it learns from a teacher and by itself, resumes exactly, and its file plays."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from coinfer.cli.main import app
from coinfer.errors import TrainingError
from coinfer.policies.heuristics.demand import DemandWeights
from coinfer.rl.algorithms import pointer
from coinfer.rl.algorithms.ppo import PpoSettings
from coinfer.rl.core.training import Report, TrainingResult, TrainSettings

NEVER = DemandWeights(1.0, 0.0, 0.0)
"""Of a rule that has nothing loaded."""
WORLD = (
    "slots=10", "staleness_slots=1", "arrivals.rates_per_s=[40]", "arrivals.shift=0", "tasks_per_slot=16",
    "models=[{network: resnet50, share: 1.0, bits: 8, size_bytes: 1.0e+8, deadline_s: 1.0}]",
    "servers=[{count: 2, catalogue: jetson-orin-nano, capacity: 48, memory_bytes: 7.0e+8, "
    "load_bytes_per_s: 4.0e+9, load_s: 0.3}]",
)  # fmt: skip
"""One network; loading it takes a little longer than the device takes. Servers are seen a slot late."""
LEARNER = PpoSettings(1e-2, 0.9, 10, 0.95, epochs=4, minibatches=2, max_grad_norm=None)
SETTINGS = pointer.PointerSettings(LEARNER, rounds=10, worlds=8, weights=NEVER, hidden=(16,))


def train(settings: pointer.PointerSettings, seeds: int = 2, **options: Any) -> TrainingResult:
    return pointer.train(TrainSettings("many-models", WORLD, seeds), pointer_settings=settings, **options)


def test_a_policy_that_never_loads_learns_to_load_from_a_teacher():
    taught = train(replace(SETTINGS, teacher="demand", imitated=1, epochs=40))
    untaught = train(replace(SETTINGS, rounds=5, learner=replace(LEARNER, learning_rate=0.0)))
    assert min(untaught.assessed[-1].figures["latency_s"]) > 0.25
    assert max(taught.assessed[-1].figures["latency_s"]) < 0.1


@pytest.mark.slow
def test_what_it_plays_gets_better_by_ppo():
    points = train(replace(SETTINGS, rounds=70), seeds=1).points
    first, last = (points[n].figures["latency_s"][0] for n in (0, -1))
    assert last < 0.9 * first


def test_a_training_that_is_resumed_ends_as_one_that_was_not(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    learner = replace(LEARNER, horizon=5)
    settings = replace(
        SETTINGS, learner=learner, rounds=20, worlds=2, teacher="demand", imitated=1, epochs=2, deciders=2
    )
    monkeypatch.setattr("coinfer.rl.core.training.SAVE_EVERY_S", 0.0)

    def kill(report: Report) -> None:
        if report.round == 15:
            raise KeyboardInterrupt

    whole = train(settings)
    with pytest.raises(KeyboardInterrupt):
        train(settings, folder=tmp_path, progress=kill)
    resumed = train(settings, folder=tmp_path, resume=True)
    assert resumed.digest == whole.digest
    assert resumed.assessed == whole.assessed


def test_a_learner_plays_as_it_would_alone_and_not_as_another():
    settings = replace(SETTINGS, worlds=2, rounds=5, learner=replace(LEARNER, horizon=5))
    together, alone = (train(settings, seeds).points[0].figures["latency_s"] for seeds in (2, 1))
    assert together[0] == alone[0]
    assert together[0] != together[1]


def test_the_command_trains_and_its_file_plays(tmp_path):
    changes = [part for one in WORLD for part in ("--set", one)]
    out = tmp_path / "out"
    command = ["train", "pointer", *changes, "--steps", "16", "--out", str(out)]
    trained = CliRunner().invoke(app, command)
    assert trained.exit_code == 0, trained.output
    policy = str(out / "policy.onnx")
    played = CliRunner().invoke(
        app,
        ["simulate", "many-models", *changes, "--policy", policy, "--policy", "demand-greedy",
         "--seeds", "2", "--episodes", "1", "--runs", str(tmp_path)],
    )  # fmt: skip
    assert played.exit_code == 0, played.output
    assert "out/policy.onnx" in played.output
    assert "demand-greedy" in played.output


def test_other_worlds_are_refused():
    with pytest.raises(TrainingError, match="neither batch nor load"):
        pointer.train(TrainSettings("campus"))
    with pytest.raises(TrainingError, match="--device cpu"):
        pointer.train(TrainSettings("many-models", device="cuda"))
