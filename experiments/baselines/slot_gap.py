"""How far coordinate descent is from the optimum of a slot, which HiGHS proves.

    python experiments/baselines/slot_gap.py

In the slots that one episode of `slot-descent` comes to, both decide under the model that the program has: uploads that
share no link, tasks of different devices. What HiGHS cannot prove within 20 s is left out, and counted. Writes
results/slot_gap.json. About ten minutes.
"""

import argparse
import json
from pathlib import Path
from typing import Any

import numpy as np
import torch
from rich.console import Console
from rich.progress import track

from coinfer.envs import offload, rewards
from coinfer.evaluate import oracles
from coinfer.evaluate.simulate import episode_seeds
from coinfer.policies.bounds import slot as bounds
from coinfer.policies.bounds import slot_program
from coinfer.policies.candidates import candidates_of
from coinfer.policies.heuristics.offload import sequential_greedy
from coinfer.profile.measure import this_machine
from coinfer.scenario.compile import open_world

HERE = Path(__file__).resolve().parent
LIMIT_S, PROVEN = 20.0, 1e-4
FIRST = 5
"""Slot from which on queues have built up."""
CONSOLE = Console(highlight=False)


def gaps(scenario: str, slots: int) -> list[dict[str, float]]:
    """Of each slot with tasks: summed latencies of descent, of sequential greedy and of the program, and its bound."""
    world: Any = open_world(scenario, {"slots": FIRST + slots}).world
    tables = offload.load(world, dtype=torch.float64)
    state, decide, found = offload.reset(tables, episode_seeds(1, 1)), oracles.slot_descent(tables), []
    for slot in track(range(world.edge.slots), scenario, console=CONSOLE):
        seen, true = offload.observe(tables, state), oracles.true_observation(tables, state)
        if slot >= FIRST and bool(seen.task_mask.any()):
            found.append(_one(true))
        state = offload.step(tables, state, decide(state, seen), rewards.latency).state
    return found


def _one(true: Any) -> dict[str, float]:
    try:
        solved = slot_program.least_latency(type(true)(*(field[0] for field in true)), LIMIT_S)
    except bounds.BoundError:
        return {"tasks": int(true.task_mask.sum()), "program_s": np.inf, "bound_s": 0.0}
    cost, sequential = bounds.latency_cost(true), sequential_greedy()(true)
    choice = candidates_of(true).choice(sequential)
    return {
        "tasks": int(true.task_mask.sum()),
        "program_s": solved.cost,
        "bound_s": solved.bound,
        "descent_s": float(bounds.coordinate_descent(true).cost),
        "sequential_s": float(cost(choice[..., None, :])[..., 0]),
    }


def summary(found: list[dict[str, float]]) -> dict[str, float]:
    proven = [one for one in found if one["bound_s"] >= one["program_s"] * (1 - PROVEN)]
    record: dict[str, float] = {"slots": len(found), "proven": len(proven)}
    for name in ("descent", "sequential"):
        above = np.array([one[f"{name}_s"] / one["program_s"] - 1 for one in proven])
        total = sum(one[f"{name}_s"] for one in proven) / sum(one["program_s"] for one in proven) - 1
        record |= {f"{name}_above": round(total, 5), f"{name}_above_at_most": round(float(above.max()), 5)}
    return record


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--slots", type=int, default=25)
    parser.add_argument("--output", type=Path, default=HERE / "results" / "slot_gap.json")
    settings = parser.parse_args()
    torch.set_num_threads(1)
    found = {name: gaps(name, settings.slots) for name in ("cdo-dsac", "campus")}
    record = {
        "command": "python experiments/baselines/slot_gap.py",
        "machine": this_machine().model_dump(),
        "summary": {name: summary(one) for name, one in found.items()},
        "slots": found,
    }
    settings.output.write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")
    CONSOLE.print(record["summary"])


if __name__ == "__main__":
    main()
