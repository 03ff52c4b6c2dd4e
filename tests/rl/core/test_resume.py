"""Trainings that are killed and resumed end as if they had not been; damaged and foreign checkpoints are refused."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from tests.paths import ROOT
from tests.patience import one_round_right
from tests.rl.core.probes import MatchReward

from coinfer import checkpoint
from coinfer.checkpoint import CheckpointError
from coinfer.errors import TrainingError
from coinfer.physics import random
from coinfer.policies.learned.nets import Mlp
from coinfer.rl.algorithms.sac import Sac, SacSettings
from coinfer.rl.core.loop import Loop, LoopSettings
from coinfer.rl.core.training import run_training

RECORD = {"scheme": "probe"}


def loop(rounds: int, seeds: int = 2) -> Loop:
    keys = random.key(torch.zeros(seeds, dtype=torch.int64), torch.arange(seeds))
    learner = Sac(SacSettings(), Mlp(2, (8,), 1, 2), Mlp(2, (8,), 1, 2), keys)
    return Loop(LoopSettings(rounds, 5, 50, 16, log_every=7, assess_every=20, assess_rounds=2), MatchReward(), learner)


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_killed_and_resumed_is_the_same(tmp_path: Path):
    output = tmp_path / "resume.json"
    command = [sys.executable, "benchmarks/resume.py", "--quick", "--scheme", "cdo-dsac", "--output", str(output)]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}

    def play() -> list[str]:
        done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
        record = json.loads(output.read_text())
        assert record["same"], record
        kills = record["schemes"]["cdo-dsac"]["kills"]
        return [] if kills >= 2 else [f"done before it could be killed more than {kills} times"]

    one_round_right(play)


def test_resumed_at_any_round_it_has_the_same_state_and_curves(tmp_path: Path):
    whole = loop(60)
    digest = run_training(whole, RECORD)
    for stop in (3, 21, 40, 59):
        part = loop(stop)
        run_training(part, RECORD, folder=tmp_path / str(stop))
        rest = loop(60)
        assert run_training(rest, RECORD, folder=tmp_path / str(stop), resume=True) == digest
        assert rest.points == whole.points
        assert rest.assessed[-1] == whole.assessed[-1]


def test_the_last_two_are_kept_and_a_damaged_one_is_passed_over(tmp_path: Path):
    for number in (1, 9, 10):
        checkpoint.save(tmp_path, number, {"value": torch.tensor(number)}, {})
    assert sorted(path.name for path in tmp_path.iterdir()) == ["round-10.safetensors", "round-9.safetensors"]
    newest = tmp_path / "round-10.safetensors"
    newest.write_bytes(newest.read_bytes()[:40])
    latest = checkpoint.load_latest(tmp_path)
    assert latest is not None
    assert int(latest.tensors["value"]) == 9
    (tmp_path / "round-9.safetensors").write_bytes(b"")
    with pytest.raises(CheckpointError, match="not a readable checkpoint"):
        checkpoint.load_latest(tmp_path)


def test_half_written_files_are_no_checkpoints(tmp_path: Path):
    (tmp_path / "round-3.writing").write_bytes(b"half")
    assert checkpoint.load_latest(tmp_path) is None


FULL_DISK = """
import resource, sys
from pathlib import Path
import torch
from coinfer.checkpoint import write_atomically

resource.setrlimit(resource.RLIMIT_FSIZE, (4096, 4096))
try:
    write_atomically(Path(sys.argv[1]), {"weights": torch.zeros(10_000)}, {})
except OSError as error:
    print(error.filename)
"""


def test_a_full_disk_is_an_error_of_the_file_and_leaves_nothing(tmp_path: Path):
    path = tmp_path / "round-1.safetensors"
    done = subprocess.run([sys.executable, "-c", FULL_DISK, str(path)], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == str(path)
    assert list(tmp_path.iterdir()) == []


def test_tensors_that_share_memory_are_kept_apart(tmp_path: Path):
    base = torch.arange(6.0)
    checkpoint.save(tmp_path, 0, {"a": base, "b": base, "c": base[2:], "d": base.reshape(2, 3).T}, {"word": "x"})
    latest = checkpoint.load_latest(tmp_path)
    assert latest is not None
    assert latest.record["word"] == "x"
    torch.testing.assert_close(latest.tensors["c"], base[2:])
    torch.testing.assert_close(latest.tensors["d"], base.reshape(2, 3).T)
    assert checkpoint.digest(latest.tensors) == checkpoint.digest({"a": base, "b": base, "c": base[2:],
                                                                  "d": base.reshape(2, 3).T})  # fmt: skip


def test_a_digest_tells_names_types_shapes_and_values_apart():
    state = {"a": torch.tensor([1.0, 2.0]), "b": torch.tensor([1.0, 2.0])}
    others = [
        {"a": state["a"], "c": state["b"]},
        {"a": state["a"], "b": state["b"].view(torch.int32)},
        {"a": state["a"], "b": state["b"][None]},
        {"a": state["a"], "b": state["b"] + 1e-6},
        {"a": state["a"]},
    ]
    assert len({checkpoint.digest(tensors) for tensors in (state, *others)}) == 6
    assert checkpoint.digest(dict(reversed(state.items()))) == checkpoint.digest(state)


def test_a_folder_with_a_training_is_not_overwritten(tmp_path: Path):
    run_training(loop(10), RECORD, folder=tmp_path)
    with pytest.raises(TrainingError, match="holds a training already; --resume"):
        run_training(loop(10), RECORD, folder=tmp_path)


def test_another_training_is_not_gone_on_with(tmp_path: Path):
    run_training(loop(10), RECORD, folder=tmp_path)
    with pytest.raises(CheckpointError, match="of a training with scheme 'probe', expected 'other'"):
        run_training(loop(10), {"scheme": "other"}, folder=tmp_path, resume=True)
