"""Measure how far "servers serve a slot's tasks before the next slot's" departs from service in order of arrival.

    python benchmarks/service_order.py [--quick]

For every preset with queues, the event-driven reference carries out the decisions of two policies under both rules, and
the mean latencies are compared. Presets that depart by more than 2 % say so in their file. Writes
benchmarks/results/service_order.json.
"""

import numpy as np
import torch
from harness import CONSOLE, parser, rounds, write

from coinfer.envs import blocks, offload, rewards
from coinfer.envs.reference import blocks as reference_blocks
from coinfer.envs.reference import offload as reference
from coinfer.policies.heuristics import blocks as block_policies
from coinfer.policies.heuristics import offload as heuristics
from coinfer.scenario.compile import open_world
from coinfer.scenario.world import OffloadWorld

PRESETS = {
    "cdo-dsac": {},
    "mtl-a3c": {"slots": 60},
    "sacd": {},
    "sacd-cifar": {},
    "grle": {},
    "city": {"slots": 150},
    "campus": {},
}
POLICIES = ("greedy", "sequential_greedy")


def decisions(world, policy: str, seed: int) -> list:
    """Return what a policy decides in each slot of an episode, as plain numbers [K]."""
    environment, policies = (offload, heuristics) if isinstance(world, OffloadWorld) else (blocks, block_policies)
    tables = environment.load(world, dtype=torch.float64)
    state, decide, found = environment.reset(tables, torch.tensor([seed])), getattr(policies, policy)(seed), []
    for _ in range(world.edge.slots):
        decision = decide(environment.observe(tables, state))
        found.append(list(zip(*(field[0].tolist() for field in decision), strict=True)))
        state = environment.step(tables, state, decision, rewards.latency).state
    return found


def mean_latency_s(world, decided: list, seed: int, arrival_order: bool) -> float:
    """Return the mean latency of all tasks of an episode."""
    slots = reference.draw_episode(world, seed)
    if isinstance(world, OffloadWorld):
        outcomes = reference.run(world, slots, lambda t, k: decided[t][k], arrival_order).outcomes
    else:
        outcomes = reference_blocks.run(world, slots, lambda t, k: decided[t][k][0], arrival_order)
    return float(np.mean([outcome.latency_s for slot in outcomes for outcome in slot.values()]))


def main() -> None:
    settings = parser(__doc__, "service_order").parse_args()
    torch.set_num_threads(1)
    found = {}
    for name, changes in PRESETS.items():
        compiled = open_world(name, changes | ({"slots": 5} if settings.quick else {}))
        for policy in POLICIES:
            by_slot, by_arrival = [], []
            for seed in rounds(1 if settings.quick else 3, f"{name} {policy}"):
                decided = decisions(compiled.world, policy, seed)
                by_slot.append(mean_latency_s(compiled.world, decided, seed, arrival_order=False))
                by_arrival.append(mean_latency_s(compiled.world, decided, seed, arrival_order=True))
            slot_s, arrival_s = np.mean(by_slot), np.mean(by_arrival)
            found[f"{name} {policy}"] = {
                "slot_order_s": round(float(slot_s), 6),
                "arrival_order_s": round(float(arrival_s), 6),
                "departure": round(float(arrival_s / slot_s - 1), 4),
                "notes": list(compiled.notes),
            }
            CONSOLE.print(f"{name} {policy}: {slot_s:.4f} s, {arrival_s:.4f} s, {arrival_s / slot_s - 1:+.1%}")
    write(settings, figures=found)


if __name__ == "__main__":
    main()
