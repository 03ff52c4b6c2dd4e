"""Rules, bounds and optima over the paper's sweeps: what any learner has to be seen against.

    python experiments/mtl-a3c/world.py [--seeds 2] [--slots 60] [--descent 4]

Every baseline plays the same episodes of preset mtl-a3c at each point; `later` is the mean delay of the second half of
an episode over that of the first, about 1 if nothing piles up. `slot-descent`, which knows the truth, plays fewer
slots.
Writes results/world.json and prints the table.
"""

import argparse
import json
from pathlib import Path

from sweeps import POINTS, world_at

from coinfer.evaluate.limits import lower_bound_of_blocks
from coinfer.evaluate.simulate import run_policy
from coinfer.policies.heuristics.block_rules import BLOCKS
from coinfer.scenario.world import BlocksWorld

RESULTS = Path(__file__).resolve().parent / "results"


def shortened(world: BlocksWorld, slots: int) -> BlocksWorld:
    return world._replace(edge=world.edge._replace(slots=slots))


def row(world: BlocksWorld, seeds: int, descent: int) -> dict[str, dict[str, float]]:
    """Mean delay and the growth of it of every rule in one world, its bound, and what a search finds."""
    slots, found = world.edge.slots, {}
    for name in BLOCKS:
        whole = run_policy(world, name, seeds, 1).measures
        half = run_policy(shortened(world, slots // 2), name, seeds, 1).measures["mean_s"].mean()
        mean_s = whole["mean_s"].mean()
        figures = {measure: float(whole[measure].mean()) for measure in ("mean_s", "local_s", "edge_s", "energy_j")}
        found[name] = {**figures, "later": float((2 * mean_s - half) / half)}
    short = shortened(world, min(slots, 20))
    found["lower-bound"] = {"mean_s": float(lower_bound_of_blocks(short, seeds, 1).measures["mean_s"].mean())}
    if descent:
        few = shortened(world, descent)
        found["slot-descent"] = {"mean_s": float(run_policy(few, "slot-descent", 1, 1).measures["mean_s"].mean())}
    return found


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--seeds", type=int, default=2)
    parser.add_argument("--slots", type=int, default=60)
    parser.add_argument("--descent", type=int, default=0, help="slots of slot-descent; 0 leaves it out")
    wanted, rows = parser.parse_args(), {}
    for name, changes in POINTS.items():
        rows[name] = row(shortened(world_at(**changes), wanted.slots), wanted.seeds, wanted.descent)
        cells = [f"{rule} {figures['mean_s'] * 1e3:.0f}" for rule, figures in rows[name].items()]
        print(f"{name:16s}", ", ".join(cells), flush=True)
    RESULTS.mkdir(exist_ok=True)
    (RESULTS / "world.json").write_text(json.dumps({**vars(wanted), "points": rows}, indent=1) + "\n")


if __name__ == "__main__":
    main()
