"""Our own policies, by the names of the command line: the one that was trained, and what it is made from.

`learned` comes with the package (`data/policies`, trained by `experiments/own-policy`); its weights lie in the side-car
of its ONNX file. Those that are told of what was sent since the servers were seen (`memory`) need to know how long a
slot is, so they are made for a world.
"""

import json
from collections.abc import Callable
from functools import cache

import torch
from torch import Tensor

from coinfer.policies.heuristics.insertion import insertion
from coinfer.policies.heuristics.memory import remembering
from coinfer.policies.heuristics.offload import sequential_greedy
from coinfer.policies.learned import scorer
from coinfer.resources import POLICIES
from coinfer.types import Policy

LEARNED = POLICIES / "learned.onnx"
"""The trained policy as a file that also nodes take; without memory, which is theirs to keep."""


def makers(slot_s: float) -> dict[str, Callable[[int], Policy]]:
    """From a name to a function from a seed to a policy, for one call every `slot_s`."""
    found: dict[str, Callable[[int], Policy]] = {
        "insertion": insertion,
        "sequential-greedy-memory": lambda seed: remembering(sequential_greedy(seed), slot_s),
        "insertion-memory": lambda seed: remembering(insertion(seed), slot_s),
    }
    if LEARNED.with_suffix(".json").is_file():
        found |= {"learned-forgetful": learned, "learned": lambda seed: remembering(learned(seed), slot_s)}
    return found


def learned(seed: int = 0) -> Policy:
    """The scorer with the weights that were learned."""
    return scorer.scorer(scorer.unpack(learned_weights()[None]))


@cache
def learned_weights() -> Tensor:
    """For `scorer.unpack`."""
    sidecar = json.loads(LEARNED.with_suffix(".json").read_text(encoding="utf-8"))
    return torch.tensor(sidecar["training"]["weights"])
