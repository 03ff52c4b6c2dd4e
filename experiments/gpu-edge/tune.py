"""Weights for the rule that remembers demand (`policies.heuristics.demand`), by the cross-entropy method.

    python experiments/gpu-edge/tune.py [--world many-models] [--generations 14] [--output FILE]

`many-models, 16 deciders`: the rule at home (`policies.heuristics.homes`), by 16 deciders who see servers 5 slots late.
Each generation draws weights around the last best ones, all of which play the same worlds (common random numbers); the
mean and the spread of the best quarter make the next generation. Seeds from 10,000 on, new ones in each generation, so
they are not those of `gaps.py`. Writes FILE (by default results/weights.json) after each generation.
"""

import argparse
import json
import math
import time
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from coinfer.envs import offload, rewards
from coinfer.evaluate.deciders import apart
from coinfer.evaluate.serving_slots import demand_greedy
from coinfer.evaluate.simulate import OutcomeLog, episode_seeds
from coinfer.policies.heuristics.demand import LOADS, DemandWeights
from coinfer.scenario.compile import open_world

HERE = Path(__file__).resolve().parent


class Tuned(NamedTuple):
    """A world, and whose weights are tuned there."""

    preset: str
    changes: dict[str, int]
    start: dict[str, float]
    """Weights to begin with; those that are not named stay as they are."""
    at_home: bool = False
    deciders: int = 1


WORLDS = {
    "many-models": Tuned(
        "many-models",
        {"slots": 80},
        {"memory_s": 2.0, "gain_s": 4.0, "loss_s": 4.0, "spare": 0.1, "queue_s": 0.02},
    ),
    "gpu-edge": Tuned("gpu-edge", {"slots": 40}, {"memory_s": 0.05, "affinity_s": 0.01}),
    "many-models, 16 deciders": Tuned(
        "many-models",
        {"slots": 80, "staleness_slots": 5},
        {"memory_s": LOADS.memory_s, "gain_s": LOADS.gain_s, "loss_s": LOADS.loss_s, "queue_s": LOADS.queue_s},
        at_home=True,
        deciders=16,
    ),
}
FIRST = 10_000


def weights_of(tuned: Tuned, values: list[float]) -> DemandWeights:
    """Return weights whose tuned ones have these values."""
    return DemandWeights(**dict(zip(tuned.start, values, strict=True)), at_home=tuned.at_home)


def mean_s(tuned: Tuned, world: Any, weights: list[DemandWeights], seeds: Tensor) -> Tensor:
    """Return the mean latency [n] of each of n rules in the same worlds."""
    tables = offload.load(world)
    state = offload.reset(tables, seeds.repeat(len(weights)))
    decide = apart(demand_greedy(*weights), tuned.deciders)(tables)
    log = OutcomeLog(len(weights), world.edge.slot_s)
    for _ in range(world.edge.slots):
        observation = offload.observe(tables, state)
        stepped = offload.step(tables, state, decide(state, observation), rewards.latency)
        state = stepped.state
        log.add(observation.task_mask, stepped.outcome, stepped.reward, stepped.info)
    return torch.as_tensor(log.measures()["mean_s"])


def tune(name: str, generations: int, population: int, worlds: int) -> Iterator[dict[str, Any]]:
    """Yield the weights that each generation comes to, with the history."""
    tuned = WORLDS[name]
    world = open_world(tuned.preset, tuned.changes).world
    keys = list(tuned.start)
    centre = torch.tensor([math.log(value) for value in tuned.start.values()])
    spread, history = torch.full_like(centre, 0.7), []
    generator = torch.Generator().manual_seed(0)
    for generation in range(generations):
        began_s = time.monotonic()
        drawn = centre + spread * torch.randn((population, len(keys)), generator=generator)
        drawn[0] = centre
        rules = [weights_of(tuned, row.exp().tolist()) for row in drawn]
        found = mean_s(tuned, world, rules, episode_seeds(worlds, 1, FIRST + generation * worlds))
        elite = drawn[found.argsort()[: population // 4]]
        centre, spread = elite.mean(0), 0.5 * spread + 0.5 * elite.std(0)
        history.append({"centre_s": found[0].item(), "best_s": found.min().item(), "centre": centre.exp().tolist()})
        print(name, generation, history[-1], f"{time.monotonic() - began_s:.0f} s", flush=True)
        rounded = [round(value, 4) for value in centre.exp().tolist()]
        yield {"weights": asdict(weights_of(tuned, rounded)), "history": history}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--world", choices=(*WORLDS, "all"), default="all")
    parser.add_argument("--generations", type=int, default=14)
    parser.add_argument("--population", type=int, default=16)
    parser.add_argument("--worlds", type=int, default=16)
    parser.add_argument("--output", type=Path, default=HERE / "results" / "weights.json")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    output: Path = arguments.output
    record = json.loads(output.read_text()) if output.exists() else {}
    for name in WORLDS if arguments.world == "all" else (arguments.world,):
        for found in tune(name, arguments.generations, arguments.population, arguments.worlds):
            output.write_text(json.dumps({**record, name: found}, indent=1) + "\n")
            record[name] = found


if __name__ == "__main__":
    main()
