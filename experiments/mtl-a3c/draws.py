"""Which part of the draws does it: one random number for all heads of a task, or numbers of a slot's tasks that are
spread evenly?

    python experiments/mtl-a3c/draws.py [--seeds 10] [--steps 4800]

A row in which every task has a number of its own, drawn apart from the others', beside the rows with both and with
neither (`schemes.py`), in training as well as when policies are judged. Adds it to the record of the default point.
"""

import json

import numpy as np
import torch
from schemes import JUDGED_SLOTS, arguments, judged, path_of, trained
from sweeps import compiled_at
from torch import Tensor

from coinfer.envs.batched_env import reward_of
from coinfer.physics import random
from coinfer.policies.learned.blocks import policy
from coinfer.rl.core import on_policy
from coinfer.scenario.world import BlocksWorld

BOTH, ROW = "multi-task A3C", "multi-task A3C, tasks draw independently"


def apart(first: Tensor, count: int) -> Tensor:
    """Return independent numbers in [0, 1) in place of `sampling.spread`, [.., count], given by the first one."""
    key = random.key(torch.zeros_like(first, dtype=torch.int64), ((first - first.floor()) * 2**24).long())
    return random.uniform(random.bits(key[..., None], torch.arange(count)), torch.float32).to(first.dtype)


if __name__ == "__main__":
    wanted = arguments("draws")
    on_policy.spread = policy.spread = apart
    compiled = compiled_at(slots=JUDGED_SLOTS)
    assert isinstance(compiled.world, BlocksWorld)
    policies = trained(BOTH, {}, wanted.seeds, wanted.steps).policies
    row = judged(ROW, compiled.world, policies, reward_of(compiled.reward))
    path = path_of({}, wanted.output)
    path.parent.mkdir(parents=True, exist_ok=True)
    kept = json.loads(path.read_text()) if path.exists() else {}
    kept[f"{ROW} after {wanted.steps} slots"] = row
    path.write_text(json.dumps(kept, indent=1) + "\n")
    print(f"{ROW} {np.mean(row['mean_s']) * 1e3:.1f} ms")
