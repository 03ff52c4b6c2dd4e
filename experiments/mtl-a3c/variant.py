"""Our own variant, one network for any number of blocks, tasks and servers, beside optima and with stale knowledge.

    python experiments/mtl-a3c/variant.py [--seeds 10] [--steps 1600]

Four tables. The variant is trained at the default point only and judged as it is at all points of the sweeps, also
beside `slot-descent` where this takes seconds. The same policies are judged in worlds so small that the optimum of a
slot is known by trying all placements, with as much work for each server as in the preset. Last, in a world in which
other users' load on the servers changes and queues reach the next slot, it is trained with knowledge of servers that
is 0 to 4 slots old; the rule that it starts from may there believe only a part of the differences that it sees. Policy
i plays the episodes of seed i, and so do the rules and the untrained variant.
Writes results/variant.json and prints the tables.
"""

import argparse
import json
from collections.abc import Mapping, Sequence
from dataclasses import replace
from itertools import product
from typing import Any, cast

import numpy as np
from schemes import RESULTS, UNTRAINED_STEPS, trained
from sweeps import POINTS, SERVERS_GFLOP, changes_at, world_at
from torch import Tensor

from coinfer.evaluate.limits import lower_bound_of_blocks
from coinfer.evaluate.simulate import run_policy
from coinfer.evaluate.statistics import interval
from coinfer.policies.heuristics.block_rules import BLOCKS
from coinfer.policies.learned.blocks.policy import BlocksNetPolicy
from coinfer.scenario.compile import open_world
from coinfer.scenario.world import BlocksWorld
from coinfer.units import GIGA

ROW = "multi-task A3C, place scores"
RULES = ("sequential-greedy", "list-schedule", "cut-schedule")
FIRST = 100
"""Number of the first seed of the episodes."""
SWEEP_SLOTS, STALE_SLOTS = 10, 30
MAX_DESCENT = 30_000
"""Placements that a sweep of `slot-descent` over the tasks of a slot tries at most."""
DESCENTS = 2
"""Slots of `slot-descent`, of one seed each."""
SMALL = ((2, 3, 2), (2, 5, 2), (2, 4, 3), (3, 2, 4), (3, 3, 2), (3, 3, 3), (4, 2, 2), (5, 2, 2))
"""Tasks, blocks and servers of worlds with at most 262,144 placements of a slot."""
CHANGING: dict[str, object] = {
    "tasks": 30,
    "slot_s": 1.0,
    "server_share": {"low": 0.2, "high": 1.0, "hold_slots": 4},
}
"""Other users leave a fifth of a server to all of it, drawn anew every 4 slots; queues then reach the next slot."""
AGES = (0, 1, 2, 4)
TRUSTS = (0.2, 0.4, 0.6, 0.8, 1.0)
"""How much of the differences between servers' queues, and of those between their speeds, a rule may believe."""
CHOICE_FIRST, CHOICE_SEEDS = 500, 3
"""Seeds on which it is chosen how much."""


def means_ms(world: BlocksWorld, name: str, seeds: int, policies: Sequence[Any] | None = None) -> list[float]:
    """Return the mean delay of a rule, or of policy i on the episodes of seed i, for each seed."""
    if policies is None:
        return (run_policy(world, name, seeds, 1, first=FIRST).measures["mean_s"] * 1e3).tolist()
    runs = [
        run_policy(world, name, 1, 1, lambda seed, policy=policy: policy, first=FIRST + number)
        for number, policy in enumerate(fitted(policy, world) for policy in policies[:seeds])
    ]
    return [float(run.measures["mean_s"][0]) * 1e3 for run in runs]


def fitted(policy: BlocksNetPolicy, world: BlocksWorld) -> BlocksNetPolicy:
    """Return the same network for a world of another size."""
    heads = replace(policy.heads, blocks=world.blocks, servers=world.edge.servers)
    return BlocksNetPolicy(policy.net, policy.flat[0], policy.features, heads, sampled=policy.sampled)


def rows_of(world: BlocksWorld, policies: Mapping[str, Sequence[Any]], rules: Sequence[str]) -> dict[str, list[float]]:
    """Return the mean delays of rules and policies in a world, by seed."""
    seeds = len(next(iter(policies.values())))
    rows = {name: means_ms(world, name, seeds) for name in rules}
    return rows | {name: means_ms(world, name, seeds, some) for name, some in policies.items()}


def above(row: Sequence[float], reference: Sequence[float]) -> dict[str, float]:
    """Return by how many percent a row lies above another, seed by seed, with half of the 95 % interval."""
    estimate = interval((np.array(row) / np.array(reference) - 1) * 100)
    return {"percent": estimate.mean, "half": estimate.half}


def descent_of(point: Mapping[str, Any], policies: Sequence[Any]) -> dict[str, list[float]]:
    """Return the delays in a few slots that `slot-descent` plays too, or nothing if it would take long."""
    world = world_at(**point, slots=1)
    ways = (world.blocks + 1) * (world.blocks + 2) // 2 * world.edge.servers**2
    if ways * world.edge.tasks > MAX_DESCENT:
        return {}
    few = min(DESCENTS, len(policies))
    rows = {name: means_ms(world, name, few) for name in ("slot-descent", *RULES)}
    return rows | {"variant": means_ms(world, "variant", few, policies)}


def over_sweeps(policies: Mapping[str, Sequence[Any]]) -> dict[str, Any]:
    """Return the rows of every point of the sweeps, the bound of its slots, and those beside `slot-descent`."""
    found: dict[str, Any] = {}
    for name, point in POINTS.items():
        rows = rows_of(world_at(**point, slots=SWEEP_SLOTS), policies, RULES)
        bound = lower_bound_of_blocks(world_at(**point, slots=1), len(policies["variant"]), 1).measures["mean_s"]
        found[name] = {"rows": rows, "bound_ms": float(bound.mean()) * 1e3}
        found[name]["variant above"] = {rule: above(rows["variant"], rows[rule]) for rule in RULES}
        found[name]["beside descent"] = descent_of(point, policies["variant"])
        show(name, rows | {"bound": [found[name]["bound_ms"]]})
        show("  of these slots", found[name]["beside descent"])
    return found


def small_world(tasks: int, blocks: int, servers: int) -> BlocksWorld:
    """Return the preset with few tasks, blocks and servers, as much work for the servers as in the preset, one slot."""
    speeds = SERVERS_GFLOP[:servers]
    slower = tasks / 60 * sum(SERVERS_GFLOP[:4]) / sum(speeds)
    changes = changes_at(servers=servers, blocks=blocks, tasks=tasks, slots=1)
    changes["servers"] = [{"flop_per_s": speed * slower * GIGA} for speed in speeds]
    return cast(BlocksWorld, open_world("mtl-a3c", changes).world)


def beside_optimum(policies: Mapping[str, Sequence[Any]]) -> dict[str, Any]:
    """Return the rows of small worlds beside the optimum, and how far above it they are."""
    found: dict[str, Any] = {}
    for size in SMALL:
        name = "{} tasks, {} blocks, {} servers".format(*size)
        rows = rows_of(small_world(*size), policies, ("slot-optimum", "slot-descent", *RULES))
        gaps = {row: above(delays, rows["slot-optimum"]) for row, delays in rows.items() if row != "slot-optimum"}
        found[name] = {"rows": rows, "above the optimum": gaps}
        show(name, rows)
    return found


def with_stale_knowledge(seeds: int, steps: int) -> dict[str, Any]:
    """Return the rows with knowledge of each age, the variant trained with it, and differences by seed."""
    found: dict[str, Any] = {}
    for age in AGES:
        point = {**CHANGING, "staleness_slots": age}
        lengths = {"variant": steps, "untrained": UNTRAINED_STEPS}
        policies = {name: trained(ROW, point, seeds, length).policies for name, length in lengths.items()}
        rows = rows_of(world_at(**point, slots=STALE_SLOTS), policies, RULES)
        others = [name for name in rows if name != "variant"]
        found[f"{age} slots old"] = {
            "rows": rows,
            "variant above": {name: above(rows["variant"], rows[name]) for name in others},
        }
        show(f"{age} slots old", rows)
    return found


def trusting(queues: float, speeds: float) -> Any:
    """Return rule `cut-schedule` if it believes only a part of the differences between servers."""

    def towards_mean(value: Tensor, part: float) -> Tensor:
        return value.mean(-1, keepdim=True).lerp(value, part)

    def make(seed: int) -> Any:
        rule = BLOCKS["cut-schedule"](seed)
        return lambda o: rule(
            o._replace(
                server_backlog_s=towards_mean(o.server_backlog_s, queues),
                block_server_s=towards_mean(o.block_server_s.log(), speeds).exp(),
            )
        )

    return make


def best_trust(seeds: int) -> dict[str, Any]:
    """Return for knowledge of each age the best parts to believe, chosen on other episodes, and their delays."""
    found: dict[str, Any] = {}
    for age in AGES:
        world = world_at(**{**CHANGING, "staleness_slots": age}, slots=STALE_SLOTS)
        tried = {
            pair: run_policy(world, "trust", CHOICE_SEEDS, 1, trusting(*pair), first=CHOICE_FIRST).measures["mean_s"]
            for pair in product(TRUSTS, TRUSTS)
        }
        best = min(tried, key=lambda pair: tried[pair].mean())
        delays = run_policy(world, "trust", seeds, 1, trusting(*best), first=FIRST).measures["mean_s"] * 1e3
        found[f"{age} slots old"] = {"queues": best[0], "speeds": best[1], "delays": delays.tolist()}
        show(f"{age} slots old, believed {best}", {"cut-schedule": delays.tolist()})
    return found


def show(name: str, rows: Mapping[str, Sequence[float]]) -> None:
    """Print the means of rows."""
    print(f"{name:30s}", ", ".join(f"{row} {np.mean(delays):.1f}" for row, delays in rows.items()), flush=True)


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--seeds", type=int, default=10, help="learners, and seeds of the episodes")
    parser.add_argument("--steps", type=int, default=1600, help="slots that each learner sees")
    wanted = parser.parse_args()
    lengths = {"variant": wanted.steps, "untrained": UNTRAINED_STEPS}
    policies = {name: trained(ROW, {}, wanted.seeds, length).policies for name, length in lengths.items()}
    record: dict[str, Any] = {"settings": vars(wanted), "unit": "ms"}
    parts = {
        "small worlds": lambda: beside_optimum(policies),
        "part believed": lambda: best_trust(wanted.seeds),
        "stale knowledge": lambda: with_stale_knowledge(wanted.seeds, wanted.steps),
        "sweeps": lambda: over_sweeps(policies),
    }
    RESULTS.mkdir(exist_ok=True)
    for name, part in parts.items():
        record[name] = part()
        (RESULTS / "variant.json").write_text(json.dumps(record, indent=1) + "\n")


if __name__ == "__main__":
    main()
