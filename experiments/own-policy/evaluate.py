"""Plays our own policy beside what a user would really pick, on the same chance.

    python experiments/own-policy/evaluate.py [--jobs 16] [--quick] [--output FOLDER]

Reads FOLDER/trained.json (of train.py) and writes FOLDER/evaluated.json: for every world and policy the measures of
each of 10 seeds, one episode each. Nothing of the chance met here was met in training.

Groups of worlds:
    main: `cdo-dsac` at three rates, `campus` and `city`, with knowledge 0, 1 and 3 slots old; whole episodes
    slot: the same with fresh knowledge and short episodes, also with slot-descent, which knows the truth of each slot
    servers: `cdo-dsac` with 2 to 20 servers, with the policy that was trained on 5 and those trained on the spot
"""

import argparse
import json
import os
from concurrent.futures import ProcessPoolExecutor, as_completed
from pathlib import Path
from typing import Any, NamedTuple

from rich.console import Console
from rich.progress import Progress

HERE = Path(__file__).resolve().parent
CONSOLE = Console(highlight=False)
SEEDS = 10
KEPT = ("mean_s", "p95_s", "p99_s", "in_time")
BASELINES = ("two-choices", "sequential-greedy", "insertion")
SERVERS = (2, 3, 5, 8, 10, 14, 20)
ON_THE_SPOT = {2: "two", 5: "five", 10: "ten", 20: "twenty"}


class Job(NamedTuple):
    group: str
    scenario: str
    rate: float
    """Of `cdo-dsac`; 0 for other scenarios."""
    age: int
    servers: int
    slots: int
    """0: as many as the scenario has."""
    policy: str
    """A baseline, or a training of train.py; with ` +memory`, told what it has sent since."""


def jobs(quick: bool) -> list[Job]:
    found: list[Job] = []
    worlds = [("cdo-dsac", rate) for rate in (1.2, 1.6, 2.0)] + [("campus", 0.0), ("city", 0.0)]
    slots = 6 if quick else 0
    short = {"cdo-dsac": 50, "campus": 40, "city": 15}
    for scenario, rate in worlds:
        own = ("all", *(("five",) if scenario == "cdo-dsac" else (scenario,)))
        for age in (0, 1, 3):
            told = [f"{name} +memory" for name in ("sequential-greedy", "insertion", "all")] if age else []
            for policy in (*BASELINES, *own, *told):
                found.append(Job("main", scenario, rate, age, 5, slots, policy))
        for policy in ("sequential-greedy", "insertion", "all", own[1], "slot-descent"):
            found.append(Job("slot", scenario, rate, 0, 5, slots or short[scenario], policy))
    for servers in SERVERS:
        spot = [ON_THE_SPOT[servers]] if servers in ON_THE_SPOT else []
        for policy in dict.fromkeys(("sequential-greedy", "insertion", "five", "all", *spot)):
            found.append(Job("servers", "cdo-dsac", 2.0, 0, servers, slots, policy))
    return found


def played(job: Job, weights: dict[str, list[float]]) -> dict[str, Any]:
    """What the policy came to."""
    import torch
    from train import cdo

    from coinfer.evaluate.simulate import run
    from coinfer.policies import scorer
    from coinfer.policies.heuristics import OFFLOAD
    from coinfer.policies.memory import remembering
    from coinfer.scenario.compile import open_world
    from coinfer.types import Policy

    torch.set_num_threads(1)
    changes: dict[str, Any] = cdo(job.rate, job.age, job.servers) if job.rate else {"staleness_slots": job.age}
    if job.slots:
        changes["slots"] = job.slots
    world: Any = open_world(job.scenario, changes).world
    name, _, told = job.policy.partition(" +")

    def maker(seed: int) -> Policy:
        if name in OFFLOAD:
            policy = OFFLOAD[name](seed)
        else:
            flat = torch.tensor(weights[name]) if name in weights else scorer.first_weights()
            policy = scorer.scorer(scorer.unpack(flat[None]))
        return remembering(policy, world.edge.slot_s) if told else policy

    found = run(world, name, SEEDS, 1, maker=None if name == "slot-descent" else maker)
    measures = {key: [round(float(value), 6) for value in found.measures[key]] for key in KEPT}
    return {**job._asdict(), "tasks": found.tasks, "measures": measures}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--jobs", type=int, default=1)
    parser.add_argument("--quick", action="store_true", help="episodes of 6 slots")
    parser.add_argument("--only", default="", help="one group")
    parser.add_argument("--output", type=Path, default=HERE / "results")
    arguments = parser.parse_args()
    os.environ["OMP_NUM_THREADS"] = "1"
    trained = json.loads((arguments.output / "trained.json").read_text())
    weights = {name: one["weights"] for name, one in trained.items()}
    partial = arguments.output / "evaluated.partial.jsonl"
    found = [json.loads(line) for line in partial.read_text().splitlines()] if partial.exists() else []
    done = {tuple(one[key] for key in Job._fields) for one in found}
    wanted = [job for job in jobs(arguments.quick) if arguments.only in ("", job.group)]
    wanted = [job for job in wanted if tuple(job) not in done and _known(job, weights)]
    wanted.sort(key=lambda job: (job.policy != "slot-descent", job.scenario != "city"))  # the longest first
    with (
        ProcessPoolExecutor(arguments.jobs) as pool,
        partial.open("a", encoding="utf-8") as file,
        Progress(console=CONSOLE) as bars,
    ):
        bar = bars.add_task("worlds and policies", total=len(wanted))
        for future in as_completed([pool.submit(played, job, weights) for job in wanted]):
            found.append(future.result())
            file.write(json.dumps(found[-1]) + "\n")
            file.flush()
            bars.advance(bar)
    found.sort(key=lambda one: [str(one[key]) for key in Job._fields])
    (arguments.output / "evaluated.json").write_text(json.dumps(found) + "\n", encoding="utf-8")


def _known(job: Job, weights: dict[str, list[float]]) -> bool:
    name = job.policy.partition(" +")[0]
    return name in (*BASELINES, "slot-descent") or name in weights


if __name__ == "__main__":
    main()
