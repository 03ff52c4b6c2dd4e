"""Our own policies by their names on the command line: the trained one, and the rules that it is made from.

`learned` comes with the package (`data/policies`, trained by `experiments/own-policy`); its weights are in the side-car
of its ONNX file. Policies with memory (`heuristics.memory`) need to know the length of a slot, so they are made for a
world.
"""

import json
from collections.abc import Callable
from functools import cache

import torch
from torch import Tensor

from coinfer.policies.heuristics.insertion import insertion
from coinfer.policies.heuristics.memory import memory_policy
from coinfer.policies.heuristics.offload import sequential_greedy
from coinfer.policies.learned.scorer import policy as scorer
from coinfer.policies.learned.scorer import weights as scorer_weights
from coinfer.resources import POLICIES
from coinfer.types import Policy

LEARNED = POLICIES / "learned.onnx"
"""The trained policy as a file, which devices take too. It has no memory; a device keeps its own."""


def makers(slot_s: float) -> dict[str, Callable[[int], Policy[Tensor]]]:
    """Return functions from a seed to a policy, by name.

    Args:
        slot_s: time from one call of a policy to the next.
    """
    named: dict[str, Callable[[int], Policy[Tensor]]] = {
        "insertion": insertion,
        "sequential-greedy-memory": lambda seed: memory_policy(sequential_greedy(seed), slot_s),
        "insertion-memory": lambda seed: memory_policy(insertion(seed), slot_s),
    }
    if LEARNED.with_suffix(".json").is_file():
        named |= {
            "learned-forgetful": learned_policy,
            "learned": lambda seed: memory_policy(learned_policy(seed), slot_s),
        }
    return named


def learned_policy(seed: int = 0) -> Policy[Tensor]:
    """Return the scorer with the trained weights, without memory.

    Args:
        seed: ignored; the policy is deterministic.
    """
    return scorer.scorer(scorer_weights.unpack(learned_weights()[None]))


@cache
def learned_weights() -> Tensor:
    """Return the trained weights as one flat tensor, for `scorer_weights.unpack`; do not change it in place."""
    sidecar = json.loads(LEARNED.with_suffix(".json").read_text(encoding="utf-8"))
    return torch.tensor(sidecar["training"]["weights"])
