"""Check that a training that is killed at random moments and resumed ends as an undisturbed one.

    python benchmarks/resume.py [--kills 20]

Small trainings, SAC-d's and CDO-DSAC's (two seeds of five agents with a shared memory and broadcasts), run in processes
of their own that write a checkpoint after every round, so that many of the kills (SIGKILL) hit the writing of one. The
hash is over all weights, optimisers, replay memories, worlds (with their random states) and counters. Writes
benchmarks/results/resume.json.
"""

import multiprocessing
import random
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import harness
import torch

from coinfer.rl.algorithms import cdo_dsac, sac_d
from coinfer.rl.core import training
from coinfer.rl.core.training import TrainSettings

PROCESSES = multiprocessing.get_context("forkserver")
"""Starts processes from one that has imported everything and done nothing else."""
PROCESSES.set_forkserver_preload(["coinfer.rl.algorithms.cdo_dsac", "coinfer.rl.algorithms.sac_d"])
SEEDS = 2
LATEST, LONGEST_S = 0.5, 0.05
"""Largest share of its rounds that a process plays before it is killed, and longest time after a checkpoint."""
SMALL_EDGE = ("slots=20", "tasks_per_slot=12", "arrivals.mean=0.6", "arrivals.variance=0.06", "links.placements=4")


def train_sac_d(folder: Path, rounds: int) -> str:
    """Train SAC-d and return the hash."""
    preset = sac_d.with_rounds(sac_d.PRESETS["quick"], rounds)
    loop = replace(preset.loop, warmup=10, capacity=500, batch=32, log_every=7, assess_every=50, assess_rounds=3)
    small = replace(preset, loop=loop, worlds=4, hidden=(16, 16))
    settings = TrainSettings("sacd", seeds=SEEDS)
    return sac_d.train(settings, folder=folder, resume=True, option_settings=small).digest


def train_cdo_dsac(folder: Path, rounds: int) -> str:
    """Train CDO-DSAC and return the hash."""
    cdo_dsac.PRESETS["quick"] = replace(
        cdo_dsac.PRESETS["quick"], rounds=rounds, warmup=6, memory=300, hidden=(16, 16), assess_every=rounds // 2,
        broadcast_every=5, judge_rounds=5,
    )  # fmt: skip
    settings = TrainSettings("cdo-dsac", SMALL_EDGE, seeds=SEEDS)
    return cdo_dsac.train(settings, folder=folder, resume=True).digest


ROUNDS_A_KILL: dict[str, tuple[Callable[[Path, int], str], int]] = {
    "sac-d": (train_sac_d, 70),
    "cdo-dsac": (train_cdo_dsac, 25),
}
"""Each scheme's training, and its rounds per kill, so that it does not end before the last kill."""


def work(scheme: str, folder: Path, rounds: int) -> None:
    """Do the work of the process that is killed."""
    torch.set_num_threads(1)
    training.SAVE_EVERY_S = 0.0
    (folder / "hash").write_text(ROUNDS_A_KILL[scheme][0](folder, rounds))


def start(scheme: str, folder: Path, rounds: int) -> Any:
    process = PROCESSES.Process(target=work, args=(scheme, folder, rounds))
    process.start()
    return process


def reached(folder: Path) -> int:
    """Return the round of the newest checkpoint."""
    found = (folder / "checkpoints").glob("round-*.safetensors")
    return max((int(path.stem.removeprefix("round-")) for path in found), default=0)


def killed(scheme: str, folder: Path, rounds: int, after: int, wait_s: float) -> bool:
    """Start the training and kill it soon after a checkpoint some rounds after the last; return false if it ended
    before."""
    first, process = reached(folder), start(scheme, folder, rounds)
    while process.is_alive() and reached(folder) < first + after:
        time.sleep(0.005)
    time.sleep(wait_s)
    done = not process.is_alive()
    process.kill()
    process.join()
    return not done


def finished(scheme: str, folder: Path, rounds: int) -> str:
    """Return the hash of the training, run to its end."""
    start(scheme, folder, rounds).join()
    return (folder / "hash").read_text()


def compare(scheme: str, kills: int, rounds: int, seed: int = 0) -> dict[str, object]:
    """Return hashes with and without kills."""
    drawn = random.Random(seed)
    with tempfile.TemporaryDirectory() as parent:
        alone, folder = Path(parent) / "whole", Path(parent) / "killed"
        alone.mkdir()
        folder.mkdir()
        whole, died, at = finished(scheme, alone, rounds), 0, list[int]()
        for _ in harness.rounds(kills, f"killing {scheme}"):
            after = drawn.randint(1, int(LATEST * ROUNDS_A_KILL[scheme][1]))
            died += killed(scheme, folder, rounds, after, drawn.uniform(0.0, LONGEST_S))
            at.append(reached(folder))
        again = finished(scheme, folder, rounds)
    return {"kills": died, "at_rounds": at, "rounds": rounds, "whole": whole, "killed": again, "same": whole == again}


def main() -> None:
    parser = harness.parser(__doc__, "resume")
    parser.add_argument("--kills", type=int, default=20, help="kills of each training")
    parser.add_argument("--scheme", choices=list(ROUNDS_A_KILL), help="train only this one")
    settings = parser.parse_args()
    parts = {}
    for scheme in [settings.scheme] if settings.scheme else ROUNDS_A_KILL:
        _, rounds_a_kill = ROUNDS_A_KILL[scheme]
        kills = 2 if settings.quick else settings.kills
        parts[scheme] = compare(scheme, kills, rounds_a_kill * max(3, kills))
        harness.CONSOLE.print(scheme, parts[scheme])
    if not all(part["same"] for part in parts.values()):
        sys.exit("resumed to another hash")
    harness.write(settings, same=True, schemes=parts)


if __name__ == "__main__":
    main()
