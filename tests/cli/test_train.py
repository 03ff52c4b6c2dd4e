"""`coinfer train` from a name to a policy that `coinfer simulate` takes, and the mistakes that people make."""

import json
from pathlib import Path

import numpy as np
import pytest
import typer
from scipy.io import savemat
from typer.testing import CliRunner

from coinfer.cli.simulate import simulate
from coinfer.cli.train import train
from coinfer.errors import UserError

APP = typer.Typer()
APP.command()(train)
APP.command()(simulate)
QUICK = ["--steps", "1600", "--seeds", "2", "--set", "slots=10"]


def run(*words: str) -> str:
    done = CliRunner().invoke(APP, list(words), env={"COLUMNS": "200"}, catch_exceptions=False)
    assert done.exit_code == 0, done.output
    return done.output


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    folder = tmp_path_factory.mktemp("run") / "sac-d"
    return folder, run("train", "sac-d", *QUICK, "--out", str(folder))


def test_training_ends_with_a_table_and_a_policy(trained: tuple[Path, str]):
    folder, output = trained
    for part in ("sac-d (best of 2", "reward", "sequential-greedy", "optimum of each slot", "policy.onnx"):
        assert part in output
    curves = json.loads((folder / "curves.json").read_text())
    assert [point["round"] for point in curves["assessed"]][-1] == 100
    assert len(curves["points"][-1]["figures"]["temperature"]) == 2
    assert any((folder / "events").iterdir())
    sidecar = json.loads((folder / "policy.json").read_text())
    assert sidecar["scheme"] == "sac-d"
    assert sidecar["sizes"] == {"K": 1, "O": 94, "N": 1}
    assert sidecar["training"]["seeds"] == 2


def test_the_policy_is_a_policy_of_the_simulator(trained: tuple[Path, str], tmp_path: Path):
    policy = str(trained[0] / "policy.onnx")
    words = ["--policy", policy, "--policy", "greedy", "--seeds", "2", "--episodes", "1", "--runs", str(tmp_path)]
    output = run("simulate", "sacd", "--set", "slots=10", *words)
    assert "sac-d/policy.onnx" in output
    assert "trained in" not in output
    assert "trained in sacd with other figures" in run("simulate", "sacd", "--set", "slots=11", *words)
    with pytest.raises(UserError, match="made for one network on one class of devices, campus has"):
        run("simulate", "campus", "--set", "slots=2", *words)
    with pytest.raises(UserError, match="expected format 1 and kind 'blocks', got format 1 and kind 'offload'"):
        run("simulate", "mtl-a3c", "--set", "slots=2", *words)


def test_a_finished_training_is_not_repeated_unless_asked(trained: tuple[Path, str]):
    folder, _ = trained
    with pytest.raises(UserError, match="holds a training already; --resume goes on with it"):
        run("train", "sac-d", *QUICK, "--out", str(folder))
    assert "sac-d ━━━━━━━━━━━━━━━━━━━━ 100 %" in run("train", "sac-d", *QUICK, "--resume", "--out", str(folder))
    with pytest.raises(UserError, match="of a training with seed 0, expected 5; give the same settings"):
        run("train", "sac-d", *QUICK, "--seed", "5", "--resume", "--out", str(folder))


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["sacd"], "no scheme 'sacd' to train; did you mean sac-d"),
        (["sac-d", "--preset", "slow"], "no preset 'slow'; there are quick, paper"),
        (["ddpg", "--device", "gpu"], "--device 'gpu': PyTorch cannot compute there; use cpu"),
        (["sac-d", "--scenario", "campus"], "this scheme decides one kind of request"),
        (["dqn", "--scenario", "mtl-a3c"], "this scheme learns in environment offload only"),
        (["sac-d", "--resume"], "no checkpoint to resume from; leave out --resume to begin a training there"),
    ],
)
def test_mistakes_are_one_line(words: list[str], told: str, tmp_path: Path):
    with pytest.raises(UserError, match=told) as caught:
        run("train", *words, "--out", str(tmp_path))
    assert "\n" not in str(caught.value)


def test_a_folder_that_cannot_be_written_is_found_before_the_training():
    with pytest.raises(UserError, match="--out /dev/null/x: cannot write in /dev/null"):
        run("train", "sac-d", "--out", "/dev/null/x")


def test_recorded_frames_train_and_judge(tmp_path: Path):
    """The authors' form of file: four devices whose best modes are the two of the greatest gains, at made-up rates."""
    rng = np.random.default_rng(0)
    gain = rng.exponential(1e-5, (40, 4))
    modes = (gain.argsort(1).argsort(1) >= 2).astype(np.uint8)
    file, out = tmp_path / "data_4.mat", tmp_path / "run"
    savemat(file, {"input_h": gain, "output_mode": modes, "output_obj": np.full((40, 1), 1e6)})
    words = ["--set", "devices=4", "--set", "slots=8", "--data", str(file)]
    run("train", "droo", *words, "--steps", "200", "--seeds", "1", "--out", str(out))
    judge = ["--policy", str(out / "policy.onnx"), "--policy", "optimum", "--seeds", "2", "--episodes", "1"]
    output = run("simulate", "droo", *words, *judge)
    for part in ("of recorded best", "policy.onnx", "optimum"):
        assert part in output
    with pytest.raises(UserError, match="frames of 4 devices, the scenario has 10; set devices=4"):
        run("simulate", "droo", "--data", str(file), *judge)


def test_the_schemes_are_listed():
    assert "double DQN" in run("train", "list")
