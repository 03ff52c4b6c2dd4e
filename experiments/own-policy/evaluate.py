"""Plays our own policy beside what a user would really pick, on the same chance.

    python experiments/own-policy/evaluate.py [--minutes 9] [--only GROUP] [--first 100] [--output FOLDER]

Reads what train.py and prune.py wrote to FOLDER, and writes FOLDER/evaluated.jsonl: for every world and policy the
measures of each of 10 seeds, mostly one episode each. What is there already is not played again. Nothing of this chance
was met in training, and seeds from 100 on were looked at once, when all was chosen: that was done by the seeds from 50
on, in a folder of their own. `learned` is what is shipped (the training `all`, by prune.py) with memory
(`coinfer.policies.heuristics.memory`). `learned-1` to `learned-3` are the same from other seeds of the training,
where there is one in FOLDER/seed-1 to seed-3; `untrained-0` to `untrained-3` are what these four trainings begin with.

Groups of worlds:
    main: `cdo-dsac` at three rates, `campus` and `city`, with knowledge 0, 1 and 3 slots old; long episodes; training
          seeds and untrained weights with fresh knowledge
    slot: the same with fresh knowledge and short episodes, beside the best of each slot: `slot-descent`, which knows
          the truth, `seen-descent`, which knows what policies know, and `slot-optimum`, exact, for slots of few tasks
    more: the part of main on `cdo-dsac` with six episodes a seed, as hardly any task is late there
    servers: `cdo-dsac` with 2 to 20 servers, with the policies that were trained on 5 and those trained on the spot; of
          the seeds from 200 on (--only servers --first 200), as `wide` came about when those from 100 on had been seen
"""

import argparse
import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import torch
from rich.console import Console
from rich.progress import Progress
from train import SETS, cdo

from coinfer.evaluate.simulate import run_policy
from coinfer.policies.bounds import slot
from coinfer.policies.heuristics.insertion import insertion
from coinfer.policies.heuristics.memory import memory_policy
from coinfer.policies.heuristics.offload import OFFLOAD
from coinfer.policies.learned.scorer import policy as scorer
from coinfer.policies.learned.scorer import weights as scorer_weights
from coinfer.scenario.compile import open_world
from coinfer.types import OffloadDecision, OffloadObservation, Policy

HERE = Path(__file__).resolve().parent
CONSOLE = Console(highlight=False)
SEEDS = 10
KEPT = ("mean_s", "p95_s", "p99_s", "in_time")
WORLDS = (*(("cdo-dsac", rate) for rate in (1.2, 1.6, 2.0)), ("campus", 0.0), ("city", 0.0))
AGES = (0, 1, 3)
FORGETFUL = ("two-choices", "sequential-greedy", "insertion", "learned-forgetful")
TOLD = ("sequential-greedy-memory", "insertion-memory", "learned")
TRAININGS = ("learned", "learned-1", "learned-2", "learned-3")
BEGINNINGS = ("untrained-0", "untrained-1", "untrained-2", "untrained-3")
"""Before training, of the same seeds."""
LONG = {"cdo-dsac": 100, "campus": 200, "city": 100}
SHORT = {"cdo-dsac": 40, "campus": 50, "city": 12}
"""Slots of an episode; the whole one of `city` has 300."""
EPISODES = {"more": 6}
"""Of each seed, where not one."""
SERVERS = (2, 3, 5, 8, 10, 14, 20)
ON_THE_SPOT = {2: "two", 5: "five", 10: "ten", 20: "twenty"}
FEW = {"slot_s": 0.025, "tasks_per_slot": 12}
"""Changes that leave few enough ways to decide a slot to try them all."""


class Job(NamedTuple):
    group: str
    scenario: str
    rate: float
    """Of `cdo-dsac`; 0 for other scenarios."""
    age: int
    servers: int
    """Of `cdo-dsac`; 0 for other scenarios."""
    slots: int
    policy: str


def jobs() -> list[Job]:
    found: list[Job] = []
    for scenario, rate in WORLDS:
        servers = 5 if rate else 0
        for policy in ("sequential-greedy", "insertion", "untrained-0", "learned", "seen-descent", "slot-descent"):
            found.append(Job("slot", scenario, rate, 0, servers, SHORT[scenario], policy))
    for rate in (1.2, 2.0):
        for policy in ("sequential-greedy", "insertion", "untrained-0", "learned", "slot-descent", "slot-optimum"):
            found.append(Job("few", "cdo-dsac", rate, 0, 2, 100, policy))
    for servers in SERVERS:
        spot = [ON_THE_SPOT[servers]] if servers in ON_THE_SPOT else []
        for policy in dict.fromkeys(
            ("sequential-greedy", "insertion", "untrained-0", "five", "wide", "learned", *spot)
        ):
            found.append(Job("servers", "cdo-dsac", 2.0, 0, servers, LONG["cdo-dsac"], policy))
    for scenario, rate in WORLDS:
        for age in AGES:
            of_training = (*TRAININGS[1:], *BEGINNINGS) if age == 0 else ()
            for policy in (*FORGETFUL, *TOLD, *of_training):
                found.append(Job("main", scenario, rate, age, 5 if rate else 0, LONG[scenario], policy))
    for rate in (1.2, 1.6, 2.0):
        for age in AGES:
            for policy in ("two-choices", "sequential-greedy", "learned"):
                found.append(Job("more", "cdo-dsac", rate, age, 5, LONG["cdo-dsac"], policy))
    return found


def maker_of(name: str, folder: Path, slot_s: float) -> Callable[[int], Policy] | None:
    """Nothing for those that `simulate` itself knows by name as knowing the truth."""

    def trained(which: str) -> Policy:
        return scored(torch.tensor(json.loads((folder / f"{which}.json").read_text())["weights"]))

    def scored(flat: torch.Tensor) -> Policy:
        return scorer.scorer(scorer_weights.unpack(flat[None]))

    def best_of_what_is_seen(seen: OffloadObservation) -> OffloadDecision:
        return slot.coordinate_descent(seen, start=insertion()(seen)).decision

    makers: dict[str, Callable[[], Policy]] = {
        "insertion": insertion,
        "sequential-greedy-memory": lambda: memory_policy(OFFLOAD["sequential-greedy"](0), slot_s),
        "insertion-memory": lambda: memory_policy(insertion(), slot_s),
        "learned-forgetful": lambda: trained("learned"),
        "learned": lambda: memory_policy(trained("learned"), slot_s),
        **{
            f"learned-{n}": lambda n=n: memory_policy(trained(f"seed-{n}/learned"), slot_s)
            for n in range(1, len(TRAININGS))
        },
        **{
            f"untrained-{n}": lambda n=n: memory_policy(scored(scorer_weights.initial_weights(n)), slot_s)
            for n in range(len(BEGINNINGS))
        },
        "seen-descent": lambda: best_of_what_is_seen,
        **{which: lambda which=which: trained(which) for which in SETS},
    }
    if name in OFFLOAD:
        return OFFLOAD[name]
    return (lambda seed: makers[name]()) if name in makers else None


def trained(policy: str, folder: Path) -> bool:
    """Whether its weights are there; the trainings of further seeds may be left out."""
    seed = TRAININGS.index(policy) if policy in TRAININGS else 0
    return not seed or (folder / f"seed-{seed}" / "learned.json").exists()


def played(job: Job, folder: Path, first: int) -> dict[str, Any]:
    """What the policy came to."""
    changes: dict[str, Any] = cdo(job.rate, job.age, job.servers) if job.rate else {"staleness_slots": job.age}
    changes["slots"] = job.slots
    if job.group == "few":
        changes |= FEW
    world: Any = open_world(job.scenario, changes).world
    began_s = time.process_time()
    maker = maker_of(job.policy, folder, world.edge.slot_s)
    found = run_policy(world, job.policy, SEEDS, EPISODES.get(job.group, 1), maker=maker, first=first)
    measures = {key: [round(float(value), 6) for value in found.measures[key]] for key in KEPT}
    took_s = round(time.process_time() - began_s, 1)
    return {**job._asdict(), "first": first, "tasks": found.tasks, "took_s": took_s, "measures": measures}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=float, default=1e9)
    parser.add_argument("--only", default="", help="one group")
    parser.add_argument("--policies", default="", help="some policies, by commas")
    parser.add_argument("--first", type=int, default=100, help="first of the seeds")
    parser.add_argument("--output", type=Path, default=HERE / "results")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    ends_s = time.perf_counter() + 60 * arguments.minutes
    path = arguments.output / "evaluated.jsonl"
    lines = path.read_text().splitlines() if path.exists() else []
    done = {tuple(one[key] for key in Job._fields) for one in map(json.loads, lines)}
    asked = set(filter(None, arguments.policies.split(",")))
    wanted = [job for job in jobs() if arguments.only in ("", job.group) and (not asked or job.policy in asked)]
    wanted = [job for job in wanted if trained(job.policy, arguments.output)]
    left = [job for job in wanted if tuple(job) not in done]
    with Progress(console=CONSOLE, transient=True) as bars:
        bar = bars.add_task("worlds and policies", total=len(wanted), completed=len(wanted) - len(left))
        for job in left:
            if time.perf_counter() > ends_s:
                break
            found = played(job, arguments.output, arguments.first)
            with path.open("a", encoding="utf-8") as file:
                file.write(json.dumps(found) + "\n")
            done.add(tuple(job))
            bars.advance(bar)
    missing = sum(tuple(job) not in done for job in wanted)
    CONSOLE.print("all played" if not missing else f"{missing} of {len(wanted)} left; the same command goes on")


if __name__ == "__main__":
    main()
