"""Measure how many task decisions per second the simulated edge carries out, and its event-driven reference in the same
run.

    python benchmarks/simulator.py

A decision is one task that exists: observed, served and rewarded (latency reward). The policy costs nothing: its random
decisions are drawn beforehand. `offload` is the preset cdo-dsac with 10 tasks in every slot, 5 servers and all options
kept; the presets are as shipped. Worlds are divided among the threads of a case, each with PyTorch on one thread.
`flat` and `linear` are ratios of times of the same round: a decision among more worlds relative to one among fewer; a
step with more tasks or servers relative to that many times the step with fewer.

Speeds of others in tasks per second, as measured or claimed elsewhere (they do other work, so only orders of magnitude
compare): RayCloudSim 4,642 to 12,183, RL environments that people copy 5,500 to 8,600, PureEdgeSim (Java, its own
claim) 63,000. Writes benchmarks/results/simulator.json.
"""

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any, NamedTuple

import harness
import numpy as np
import torch

from coinfer.envs import blocks, exogenous, offload, rewards
from coinfer.envs.reference import blocks as reference_blocks
from coinfer.envs.reference import offload as reference
from coinfer.scenario.compile import open_world
from coinfer.scenario.world import BlocksWorld, OffloadWorld
from coinfer.types import BlocksDecision, OffloadDecision

BARS = {"RayCloudSim": [4642, 12183], "copied RL environments": [5500, 8600], "PureEdgeSim, its claim": [63000, 63000]}
SLOTS = 4
"""Slots of one timed call."""
GPU_WORLDS = 65_536
PRESETS = {"city": 512, "campus": 1024, "cdo-dsac": 1024, "grle": 4096, "sacd": 8192, "mtl-a3c": 512}
"""Number of worlds of each preset."""


class Case(NamedTuple):
    """Worlds that advance by some slots with every call."""

    advance: Callable[[], object]
    decisions: float
    """Expected tasks of one call."""


def fixed(tasks: int, servers: int) -> Any:
    """Return cdo-dsac with the same number of tasks in every slot."""
    arrivals = {"kind": "fixed", "tasks": tasks}
    changes = {"arrivals": arrivals, "tasks_per_slot": tasks, "servers.0.count": servers, "keep": "all"}
    return open_world("cdo-dsac", changes).world


def random_decision(world: Any, worlds: int, device: str) -> Any:
    shape, generator = (worlds, world.edge.tasks), torch.Generator().manual_seed(0)
    if isinstance(world, BlocksWorld):
        place = torch.randint(world.edge.servers + 1, (*shape, world.blocks), generator=generator)
        return BlocksDecision(place.to(device))
    option = torch.randint(world.options, shape, generator=generator)
    return OffloadDecision(option.to(device), torch.randint(world.edge.servers, shape, generator=generator).to(device))


def vectorised(world: Any, worlds: int, pool: ThreadPoolExecutor, threads: int = 1, device: str = "cpu") -> Case:
    """Return the case of `worlds` worlds, in as many parts as threads."""
    env: Any = offload if isinstance(world, OffloadWorld) else blocks
    tables, part = env.load(world, device), worlds // threads
    decision = random_decision(world, part, device)
    seeds = torch.arange(worlds).split(part)
    states = [env.reset(tables, some) for some in seeds]

    def advance_part(i: int) -> None:
        for _ in range(SLOTS):
            if int(states[i].slot[0]) >= world.edge.slots:
                states[i] = env.reset(tables, states[i].seed + worlds)
            env.observe(tables, states[i])
            states[i] = env.step(tables, states[i], decision, rewards.latency).state

    def advance() -> None:
        if threads == 1:
            advance_part(0)
        else:
            list(pool.map(advance_part, range(threads)))
        if device != "cpu":
            torch.cuda.synchronize()

    return Case(advance, worlds * SLOTS * tasks_a_slot(env, tables))


def tasks_a_slot(env: Any, tables: Any) -> float:
    """Return the mean number of tasks in a slot, over many worlds and the slots of an episode."""
    state, slots = env.reset(tables, torch.arange(256)), tables.edge.edge.slots
    picked = np.unique(np.linspace(0, slots - 1, 50).astype(int))
    masks = [exogenous.draw(tables.edge, state.seed, state.slot + int(slot)).task_mask for slot in picked]
    return float(np.mean([mask.sum(-1).float().mean().item() for mask in masks]))


def one_by_one(world: Any) -> Case:
    """Return the case of the event-driven reference in one episode; its draws are made before the clock starts."""
    slots = reference.draw_episode(world, 0)
    rng = np.random.default_rng(0)
    if isinstance(world, BlocksWorld):
        place = rng.integers(0, world.edge.servers + 1, (len(slots), world.edge.tasks, world.blocks)).tolist()
        run = lambda: reference_blocks.run(world, slots, lambda t, k: place[t][k])  # noqa: E731
    else:
        shape = (len(slots), world.edge.tasks)
        option, server = (
            rng.integers(0, world.options, shape).tolist(),
            rng.integers(0, world.edge.servers, shape).tolist(),
        )
        run = lambda: reference.run(world, slots, lambda t, k: (option[t][k], server[t][k]))  # noqa: E731
    return Case(run, sum(len(slot.tasks) for slot in slots))


def speeds(cases: dict[str, Case], count: int, about: str, at_least: dict[str, float]) -> tuple[dict, dict]:
    """Return the seconds of each case, and its figure in decisions per second."""
    took_s = harness.take_turns({name: case.advance for name, case in cases.items()}, count, about)
    figures = {
        f"{name}, decisions/s": harness.figure(cases[name].decisions / seconds, at_least=at_least.get(name))
        for name, seconds in took_s.items()
    }
    return took_s, figures


def main() -> None:
    settings = harness.parser(__doc__, "simulator").parse_args()
    torch.set_num_threads(1)
    count, scale = (2, 8) if settings.quick else (15, 1)
    many = 1024 // scale
    pool = ThreadPoolExecutor(2)
    base = fixed(10, 5)

    mains = {
        "offload K=10 N=5, 2 threads": vectorised(base, many, pool, 2),
        "offload K=10 N=5, 1 thread": vectorised(base, many, pool),
        "offload K=10 N=5, reference": one_by_one(base),
    }
    took_s, figures = speeds(mains, count, "offload", {"offload K=10 N=5, 2 threads": 1e6})
    rates = {name: mains[name].decisions / seconds for name, seconds in took_s.items()}
    two, one, events = rates.values()
    figures["times the reference"] = harness.figure(np.maximum(one, two) / events)

    presets = {
        f"{name}, 2 threads": vectorised(open_world(name).world, worlds // scale, pool, 2)
        for name, worlds in PRESETS.items()
    }
    presets["city, reference"] = one_by_one(open_world("city", {"slots": 50}).world)
    presets["mtl-a3c, reference"] = one_by_one(open_world("mtl-a3c", {"slots": 10}).world)
    figures |= speeds(presets, count, "presets", {"city, 2 threads": 2e5})[1]

    sizes = {worlds: vectorised(base, worlds // scale, pool) for worlds in (1024, 4096, 16384)}
    took_s, more = speeds({f"{size} worlds, 1 thread": case for size, case in sizes.items()}, count, "worlds", {})
    figures |= more
    first, *others = took_s.values()
    for size, seconds in zip((4096, 16384), others, strict=True):
        figures[f"flat: {size} worlds"] = harness.figure(seconds / first * 1024 / size, at_most=1.2)

    grown = {
        "K": {tasks: vectorised(fixed(tasks, 5), many, pool) for tasks in (10, 40)},
        "N": {servers: vectorised(fixed(10, servers), many, pool) for servers in (5, 50)},
    }
    for letter, cases in grown.items():
        took_s = harness.take_turns({str(n): case.advance for n, case in cases.items()}, count, f"growing {letter}")
        (few, few_s), (more_, more_s) = ((int(n), seconds) for n, seconds in took_s.items())
        figures[f"linear: {letter} {few} to {more_}"] = harness.figure(more_s / few_s / (more_ / few), at_most=1.2)

    harness.save(settings, figures, torch=torch.__version__, bars_tasks_per_s=BARS)


if __name__ == "__main__":
    main()
