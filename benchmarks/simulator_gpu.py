"""Measure how many task decisions per second the simulated edge carries out on a GPU, and compare its results with the
processor's.

    python benchmarks/simulator_gpu.py [--device cuda]

A call is one whole episode of all worlds with its beginning: every slot is observed, decided (random decisions that lie
on the device), served and rewarded. `graph` replays a slot as one CUDA graph, so that the processor has nothing to do
(not for `blocks`, whose steps depend on values); `eager` launches every kernel from Python. `offload` is cdo-dsac with
10 tasks in every slot and 5 servers. Before anything is timed, an episode is played on the processor and on the device,
in float32 and in float64: the greatest relative difference of a latency, and the share of tasks whose difference is
above 1e-4 (if two tasks reach a server within rounding of each other, their order may differ). Writes
benchmarks/results/simulator_gpu.json; `--device cpu` tries the script out.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import harness
import simulator
import torch

from coinfer.envs import blocks, offload, rewards
from coinfer.scenario.compile import open_world
from coinfer.scenario.world import OffloadWorld

BAR, WORLDS = 5e7, simulator.GPU_WORLDS
PRESETS = {"city": 4096, "campus": 16384, "cdo-dsac": 16384, "grle": 65536, "mtl-a3c": 1024}
"""Number of worlds of each preset."""
SLOTS = 100
"""Largest number of slots of an episode."""


class Plan(NamedTuple):
    """What a case plays."""

    environment: Any
    tables: Any
    decision: Any
    worlds: int
    slots: int

    @property
    def seeds(self) -> torch.Tensor:
        return torch.arange(self.worlds, device=self.tables.edge.device)


def plan(world: Any, worlds: int, device: str, dtype: torch.dtype = torch.float32) -> Plan:
    environment: Any = offload if isinstance(world, OffloadWorld) else blocks
    tables = environment.load(world, device, dtype)
    return Plan(environment, tables, simulator.random_decision(world, worlds, device), worlds, world.edge.slots)


def eager(case: Plan) -> Callable[[], Any]:
    """Return a function that plays an episode, kernel after kernel."""

    def episode() -> Any:
        state = case.environment.reset(case.tables, case.seeds)
        for _ in range(case.slots):
            case.environment.observe(case.tables, state)
            state = case.environment.step(case.tables, state, case.decision, rewards.latency).state
        synchronise(case)
        return state

    return episode


def graphed(case: Plan) -> Callable[[], Any]:
    """Return a function that plays an episode with one CUDA graph per slot, which updates the state in place."""
    state = _each(torch.clone, case.environment.reset(case.tables, case.seeds))

    def slot() -> None:
        case.environment.observe(case.tables, state)
        after = case.environment.step(case.tables, state, case.decision, rewards.latency).state
        _each(torch.Tensor.copy_, state, after)

    aside = torch.cuda.Stream()
    aside.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(aside):
        for _ in range(3):
            slot()
    torch.cuda.current_stream().wait_stream(aside)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        slot()

    def episode() -> Any:
        _each(torch.Tensor.copy_, state, case.environment.reset(case.tables, case.seeds))
        for _ in range(case.slots):
            graph.replay()
        synchronise(case)
        return state

    return episode


def synchronise(case: Plan) -> None:
    if case.tables.edge.device.type == "cuda":
        torch.cuda.synchronize()


def decisions(case: Plan) -> float:
    """Return the tasks of an episode of all worlds."""
    state, found = case.environment.reset(case.tables, case.seeds), 0.0
    for _ in range(case.slots):
        found += float(state.draws.task_mask.sum())
        state = case.environment.step(case.tables, state, case.decision, rewards.latency).state
    return found


def difference(world: Any, device: str, dtype: torch.dtype, worlds: int = 64) -> dict[str, float]:
    """Return the relative differences of the tasks' latencies between processor and device."""
    here, there = plan(world, worlds, "cpu", dtype), plan(world, worlds, device, dtype)
    states = [case.environment.reset(case.tables, case.seeds) for case in (here, there)]
    found = []
    for _ in range(here.slots):
        steps = [
            case.environment.step(case.tables, state, case.decision, rewards.latency)
            for case, state in zip((here, there), states, strict=True)
        ]
        ours, theirs = (step.outcome.latency_s.cpu().double() for step in steps)
        relative = (ours - theirs).abs() / torch.maximum(ours, theirs).clamp(min=1e-9)
        found.append(relative[states[0].draws.task_mask])
        states = [step.state for step in steps]
    every = torch.cat(found)
    return {"greatest": float(every.max()), "share above 1e-4": float((every > 1e-4).double().mean())}


def _each(call: Callable[..., torch.Tensor], *trees: Any) -> Any:
    """Apply a function to the tensors of states, one by one."""
    if isinstance(trees[0], torch.Tensor):
        return call(*trees)
    return type(trees[0])(*(_each(call, *branches) for branches in zip(*trees, strict=True)))


def main() -> None:
    parser = harness.parser(__doc__, "simulator_gpu")
    parser.add_argument("--device", default="cuda", help="PyTorch device: cuda, cuda:1 or cpu")
    parser.add_argument("--eager-only", action="store_true", help="leave out CUDA graphs")
    settings = parser.parse_args()
    device, scale, count = settings.device, 64 if settings.quick else 1, 2 if settings.quick else 7
    graphs = device.startswith("cuda") and not settings.eager_only
    ways = {"eager": eager, **({"graph": graphed} if graphs else {})}
    base = simulator.fixed(10, 5)
    worlds = {name: open_world(name, {"slots": SLOTS}).world for name in PRESETS}
    differs = {
        f"{name}, {dtype}": difference(world, device, dtype)
        for name, world in {"offload K=10 N=5": base, **worlds}.items()
        for dtype in (torch.float32, torch.float64)
    }
    harness.CONSOLE.print(differs)

    sizes = {f"offload K=10 N=5, {n} worlds": (base, n // scale) for n in (1024, 16384, WORLDS, 4 * WORLDS)}
    presets = {f"{name}, {n} worlds": (worlds[name], n // scale) for name, n in PRESETS.items()}
    figures = {}
    for name, (world, many) in (sizes | presets).items():
        case = plan(world, many, device)
        tasks = decisions(case)
        possible = {way: make for way, make in ways.items() if way == "eager" or case.environment is offload}
        took_s = harness.take_turns({way: make(case) for way, make in possible.items()}, count, name)
        for way, seconds in took_s.items():
            bar = BAR if str(WORLDS) in name and "offload" in name else None
            figures[f"{name}, {way}, decisions/s"] = harness.figure(tasks / seconds, at_least=bar)
    gpu = torch.cuda.get_device_name(device) if device.startswith("cuda") else None
    harness.save(settings, figures, device=gpu, torch=torch.__version__, differences=differs)


if __name__ == "__main__":
    main()
