"""Leaves out the orders that hardly ever bring the best decision: what a decision costs grows with their number.

    python experiments/own-policy/prune.py [--orders 5] [--late 0.2] [--folder FOLDER]

Reads FOLDER/all.json and writes FOLDER/learned.json. One order after another goes, always the one without which the
judged cost of the slots, in episodes of the training's cases, grows least. The price of a late task, in seconds, was
chosen by episodes of the seeds from 50 on: training left it at 0, from where it finds no slope.
"""

import argparse
import json
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from train import SETS

from coinfer.envs import offload, rewards
from coinfer.evaluate.simulate import episode_seeds
from coinfer.policies.learned.scorer import policy as scorer
from coinfer.policies.learned.scorer import weights as scorer_weights

HERE = Path(__file__).resolve().parent
SLOTS, WORLDS = 15, 8
CONSOLE = Console(highlight=False)


@torch.no_grad()
def costs(flat: torch.Tensor) -> torch.Tensor:
    """[slots, ORDERS] as judged."""
    weights, found = scorer_weights.unpack(flat[None]), []
    for number, case in enumerate(SETS["all"][0]):
        tables = offload.load(case.world())
        state = offload.reset(tables, episode_seeds(WORLDS, 1) + 1000 + number)
        for _ in range(SLOTS):
            seen = offload.observe(tables, state)
            made = scorer.prepare(weights, seen)
            cost = scorer.slot_cost(seen, made, scorer.sequence(seen, made))
            found.append(cost[seen.task_mask.any(-1)])
            state = offload.step(tables, state, scorer.decide(weights, seen), rewards.latency).state
    return torch.cat(found)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--orders", type=int, default=5)
    parser.add_argument("--late", type=float, default=0.2)
    parser.add_argument("--folder", type=Path, default=HERE / "results")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    trained: dict[str, Any] = json.loads((arguments.folder / "all.json").read_text())
    flat = torch.tensor(trained["weights"])
    flat[-1] = arguments.late / scorer.LATE_SCALE_S
    cost = costs(flat)
    best = cost.amin(-1)
    kept, grown = list(range(scorer_weights.ORDERS)), 0.0
    while len(kept) > arguments.orders:
        without = {order: cost[:, [other for other in kept if other != order]].amin(-1) for order in kept}
        growth = {order: ((left - best) / best.clamp(min=1e-3)).mean().item() for order, left in without.items()}
        least = min(growth, key=lambda order: growth[order])
        kept.remove(least)
        grown = growth[least]
    CONSOLE.print(f"orders {kept} are left; the judged cost of a slot grows by {100 * grown:.2f} %")
    weights = [round(value, 6) for value in scorer_weights.select_orders(flat, kept).tolist()]
    found = {key: trained[key] for key in ("settings", "cases", "minutes")}
    found |= {"late_s": arguments.late, "orders": kept, "cost_grown": round(grown, 6), "weights": weights}
    (arguments.folder / "learned.json").write_text(json.dumps(found) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
