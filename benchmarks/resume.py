"""Whether a training that is killed at random moments and resumed ends as if it had not been.

    python benchmarks/resume.py [--kills 20]

A small SAC-d training in a process of its own writes a checkpoint after every round, so that many of the kills
(SIGKILL) fall into the writing of one. The hash is over all weights, optimisers, replay memory, worlds and counters.
Writes benchmarks/results/resume.json.
"""

import random
import subprocess
import sys
import tempfile
import time
from dataclasses import replace
from pathlib import Path

import harness
import torch

from coinfer.learners import sac_d, training
from coinfer.learners.training import TrainSettings

ROUNDS_A_KILL, SEEDS = 70, 2
FIRST_S, LONGEST_S = 0.05, 0.6
"""A process is killed so long after its first checkpoint."""


def train(folder: Path, rounds: int) -> str:
    """The training; its hash."""
    preset = sac_d.with_rounds(sac_d.PRESETS["quick"], rounds)
    loop = replace(preset.loop, warmup=10, capacity=500, batch=32, tell_every=7, assess_every=50, assess_rounds=3)
    small = replace(preset, loop=loop, worlds=4, hidden=(16, 16))
    settings = TrainSettings("sacd", seeds=SEEDS)
    return sac_d.train(settings, folder=folder, resume=True, preset=small).digest


def worker(folder: str, rounds: str) -> None:
    """What the killed process runs."""
    torch.set_num_threads(1)
    training.SAVE_EVERY_S = 0.0
    print(train(Path(folder), int(rounds)), flush=True)


def start(folder: Path, rounds: int) -> subprocess.Popen[str]:
    command = [sys.executable, str(Path(__file__).resolve()), "--worker", str(folder), str(rounds)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, text=True)


def checkpoints(folder: Path) -> set[str]:
    return {path.name for path in (folder / "checkpoints").glob("round-*.safetensors")}


def killed(folder: Path, rounds: int, wait_s: float) -> bool:
    """Starts the training and kills it so long after its first new checkpoint; False where it was done before."""
    before, process = checkpoints(folder), start(folder, rounds)
    while process.poll() is None and checkpoints(folder) <= before:
        time.sleep(0.005)
    time.sleep(wait_s)
    done = process.poll() is not None
    process.kill()
    process.communicate()
    return not done


def finished(folder: Path, rounds: int) -> str:
    """The hash of the training, run to its end."""
    output, _ = start(folder, rounds).communicate()
    return output.split()[-1]


def compare(kills: int, rounds: int, seed: int = 0) -> dict[str, object]:
    """Hashes with and without kills."""
    drawn = random.Random(seed)
    with tempfile.TemporaryDirectory() as parent:
        whole = finished(Path(parent) / "whole", rounds)
        folder, died, at = Path(parent) / "killed", 0, []
        for _ in harness.rounds(kills, "killing"):
            died += killed(folder, rounds, drawn.uniform(FIRST_S, LONGEST_S))
            at.append(max(int(name.split("-")[1].split(".")[0]) for name in checkpoints(folder)))
        again = finished(folder, rounds)
    return {"kills": died, "at_rounds": at, "rounds": rounds, "whole": whole, "killed": again, "same": whole == again}


def main() -> None:
    if sys.argv[1:2] == ["--worker"]:
        return worker(*sys.argv[2:])
    parser = harness.parser(__doc__, "resume")
    parser.add_argument("--kills", type=int, default=20)
    settings = parser.parse_args()
    kills, rounds = (3, 150) if settings.quick else (settings.kills, ROUNDS_A_KILL * settings.kills)
    found = compare(kills, rounds)
    harness.CONSOLE.print(found)
    harness.write(settings, **found)
    return None


if __name__ == "__main__":
    main()
