"""Measure how many task decisions per second pass through the adapters for trainers, and how fast the baselines decide.

    python benchmarks/adapters.py

The world is `offload` with 10 tasks in every slot and 5 servers (cdo-dsac, all options kept), 1,024 copies, one thread.
A call is four slots through Gymnasium's vector interface, stable-baselines3's or TorchRL's. Random actions are drawn
beforehand; observations and rewards are delivered as the library expects them. The baselines decide on one observation
of these worlds. For comparison, stable-baselines3's own environments make some thousand steps per second. Writes
benchmarks/results/adapters.json.
"""

from collections.abc import Callable
from typing import Any

import gymnasium
import harness
import numpy as np
import torch
from tensordict import TensorDict

from coinfer.envs import offload
from coinfer.envs.adapters import gymnasium_env
from coinfer.envs.adapters.sb3_env import Sb3Vector
from coinfer.envs.adapters.torchrl_env import EdgeEnv
from coinfer.policies.heuristics.offload import OFFLOAD
from coinfer.scenario.compile import open_world

TASKS, SLOTS, BAR = 10, 4, 300_000
CHANGES = {"arrivals": {"kind": "fixed", "tasks": TASKS}, "tasks_per_slot": TASKS, "keep": "all"}


def through_gymnasium(worlds: int) -> Callable[[], object]:
    envs = gymnasium.make_vec(gymnasium_env.ID, num_envs=worlds, scenario="cdo-dsac", changes=CHANGES)
    envs.reset(seed=0)
    action = envs.action_space.sample()
    return lambda: [envs.step(action) for _ in range(SLOTS)]


def through_stable_baselines3(worlds: int) -> Callable[[], object]:
    copies = Sb3Vector(gymnasium_env.EdgeVector(worlds, "cdo-dsac", CHANGES))
    copies.reset()
    action = np.zeros((worlds, TASKS), dtype=np.int64)
    return lambda: [copies.step(action) for _ in range(SLOTS)]


def through_torchrl(worlds: int) -> Callable[[], object]:
    env = EdgeEnv("cdo-dsac", batch_size=worlds, changes=CHANGES)
    seen = env.reset()
    action = torch.zeros(worlds, TASKS, dtype=torch.int64)

    def steps() -> None:
        current: TensorDict = seen
        for _ in range(SLOTS):
            current = env.step_and_maybe_reset(current.set("action", action))[1]

    return steps


def decides(name: str, seen: Any) -> Callable[[], object]:
    policy = OFFLOAD[name](0)
    return lambda: [policy(seen) for _ in range(SLOTS)]


def main() -> None:
    settings = harness.parser(__doc__, "adapters").parse_args()
    torch.set_num_threads(1)
    worlds, count = (32, 2) if settings.quick else (1024, 15)
    adapters = {
        "Gymnasium vector": through_gymnasium(worlds),
        "stable-baselines3 vector": through_stable_baselines3(worlds),
        "TorchRL": through_torchrl(worlds),
    }
    took_s = harness.take_turns(adapters, count, "adapters")
    decisions = worlds * TASKS * SLOTS
    bars = {"Gymnasium vector": BAR}
    figures = {
        f"{name}, decisions/s": harness.figure(decisions / seconds, at_least=bars.get(name))
        for name, seconds in took_s.items()
    }
    tables = offload.load(open_world("cdo-dsac", CHANGES).world)
    seen = offload.observe(tables, offload.reset(tables, torch.arange(worlds)))
    took_s = harness.take_turns({name: decides(name, seen) for name in OFFLOAD}, count, "baselines")
    figures |= {f"{name} decides, tasks/s": harness.figure(decisions / seconds) for name, seconds in took_s.items()}
    harness.save(settings, figures)


if __name__ == "__main__":
    main()
