"""Measure how long an exported policy takes to decide on one core, and whether it decides as the trained one does.

    python benchmarks/policy_latency.py [--rounds 40] [--observations 100000] [--only scorer] [--parts times]

The policies are SAC-d's (94 options; 72 in the record), one of CDO-DSAC's size (256-512-256, every task by itself in
all 50 x 10 x 2 choices), the scorer that decides task after task (50 tasks on 10 servers, as is CDO-DSAC's), GRLE's
graph network with critic and 24 candidates (14 devices, 5 servers, 5 exits), multi-task A3C's that place every block
(30 tasks of 6 blocks on 6 servers, with the paper's state, ours, and place scores), and the shipped one, if there is
one. All but the last are untrained, because the time does not depend on the weights. They decide one observation at a
time, as on a node. `processor` is the time of the one thread that decides, `wall` that of a
clock. A round is 500 decisions of one policy after another; the figures are those of a round, so that a round in which
other work shares the core does not count alone.

Agreement is counted over random observations of the scenario, with backlogs drawn so that they matter. Networks decide
in float64 and the scorer sums whole numbers, so that rounding does not tell PyTorch and ONNX Runtime apart. Times need
a quiet machine and agreement does not, so `--only` and `--parts` measure some and keep the rest of the record. Writes
benchmarks/results/policy_latency.json.
"""

import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import harness
import numpy as np
import torch

from coinfer.envs import blocks, offload
from coinfer.envs.batched_env import edge_world, environment_of
from coinfer.policies import shipped
from coinfer.policies.learned.blocks.policy import BlocksNetPolicy
from coinfer.policies.learned.export import export
from coinfer.policies.learned.features import Features, rate_features, whole_features
from coinfer.policies.learned.net_policy import NetPolicy
from coinfer.policies.learned.nets import Mlp
from coinfer.policies.learned.scorer import export as scorer_export
from coinfer.policies.learned.scorer import policy as scorer
from coinfer.policies.learned.scorer import weights as scorer_weights
from coinfer.policies.onnx import ExportedPolicy, load_policy
from coinfer.rl.algorithms import grle, mtl_a3c
from coinfer.rl.core.blocks_training import network_of
from coinfer.scenario.compile import open_world
from coinfer.scenario.world import BlocksWorld
from coinfer.types import BlocksObservation, OffloadObservation
from coinfer.units import GIGA, MILLI

BAR_MS = 1.0
SERVERS, TASKS = 10, 50
FULL = {"tasks_per_slot": TASKS, "servers.0.count": SERVERS, "arrivals": {"kind": "fixed", "tasks": TASKS}}
"""All places for tasks are taken in every slot."""
GRAPH = {
    **{"devices.0.count": 14, "tasks_per_slot": 14, "arrivals.tasks": 14},
    "servers": [{"slowdown": 1.0 + 0.3 * n} for n in range(5)],
}
PLACES = {
    **{"tasks_per_slot": 30, "devices.0.count": 30, "arrivals.tasks": 30, "blocks": 6},
    "servers": [{"flop_per_s": speed * GIGA} for speed in (10, 15, 12, 18, 14, 10)],
}
BATCH, DECISIONS = 1000, 500
Figures = dict[str, harness.Figure]
Observation = OffloadObservation | BlocksObservation
Tables = offload.Tables | blocks.Tables


class Made(NamedTuple):
    """A policy in both forms."""

    trained: Callable[[Any], Any]
    exported: ExportedPolicy


def observed(tables: Tables, first: int, count: int) -> Any:
    """Return the first slots of episodes, with random backlogs of the servers."""
    environment: Any = offload if isinstance(tables, offload.Tables) else blocks
    seen = environment.observe(tables, environment.reset(tables, torch.arange(first, first + count)))
    drawn = torch.rand(seen.server_backlog_s.shape, generator=torch.Generator().manual_seed(first))
    return seen._replace(server_backlog_s=drawn)


def as_numpy(seen: Any) -> Any:
    return type(seen)(*(np.asarray(field) for field in seen))


def network(tables: offload.Tables, path: Path, features: Features, hidden: tuple[int, ...]) -> Made:
    seen = observed(tables, 0, 2)
    tasks, choices = seen.deadline_s.shape[-1], seen.option_mask.shape[-1] * seen.server_room.shape[-1]
    net = Mlp(features(seen).shape[-1], hidden, tasks, choices)
    policy = NetPolicy(net, net.initial(torch.tensor([1]))[0], features)
    export(path, policy, seen, scheme="benchmark", scenario="benchmark", scenario_fingerprint="")
    return Made(policy, load_policy(path))


def prices(tables: offload.Tables, path: Path) -> Made:
    """Return the scorer with random prices."""
    weights = scorer_weights.initial_weights()
    weights = weights + 0.1 * torch.randn(weights.shape, generator=torch.Generator().manual_seed(1))
    scorer_export.export(path, weights, scenario="benchmark", fingerprint="", training={})
    return Made(scorer.scorer(scorer_weights.unpack(weights[None])), load_policy(path))


def packaged(tables: offload.Tables, path: Path) -> Made:
    return Made(shipped.learned_policy(), load_policy(shipped.LEARNED))


def graph(tables: offload.Tables, path: Path) -> Made:
    """Return GRLE's policy with random weights; options on the device are useless there, and left out."""
    compiled = open_world("grle-s2", GRAPH)
    settings = grle.PRESETS["quick"]
    options = len(grle.useful_options(compiled.world, early_exits=True))
    policy = grle.make_policy(settings, compiled, settings.net(compiled.world, options).initial(torch.tensor([1])))
    export(
        path,
        policy,
        observed(tables, 0, 2),
        scheme="benchmark",
        scenario="benchmark",
        scenario_fingerprint="",
        dynamic_axes="BKN",
    )
    return Made(policy, load_policy(path))


def places(tables: blocks.Tables, path: Path, preset: str) -> Made:
    """Return the policy of a preset of multi-task A3C with random weights."""
    chosen, world = mtl_a3c.PRESETS[preset], open_world("mtl-a3c", PLACES).world
    assert isinstance(world, BlocksWorld)
    features, net, heads = network_of(world, chosen)
    policy = BlocksNetPolicy(net, net.initial(torch.tensor([1]))[0], features, heads, sampled=chosen.sampled)
    example = observed(tables, 0, 2)
    export(path, policy, example, scheme="benchmark", scenario="benchmark", scenario_fingerprint="")
    return Made(policy, load_policy(path, kind="blocks"))


Case = tuple[str, dict[str, object], Callable[[Any, Path], Made]]
CASES: dict[str, Case] = {
    "sac-d": ("sacd", {}, partial(network, features=rate_features, hidden=(64, 64, 64, 64))),
    "cdo-dsac's network": ("cdo-dsac", FULL, partial(network, features=whole_features, hidden=(256, 512, 256))),
    "scorer": ("cdo-dsac", FULL, prices),
    "grle": ("grle-s2", GRAPH, graph),
    "mtl-a3c": ("mtl-a3c", PLACES, partial(places, preset="quick")),
    "mtl-a3c's place scores": ("mtl-a3c", PLACES, partial(places, preset="predicted")),
    "mtl-a3c, the paper's": ("mtl-a3c", PLACES, partial(places, preset="paper")),
    "shipped": ("cdo-dsac", FULL, packaged),
}


def took_ms(policy: ExportedPolicy, alone: Sequence[Observation], count: int) -> np.ndarray:
    """Return milliseconds [2, count] of one decision each, of the thread and by the clock."""
    took = []
    for number in range(count):
        began_s = time.thread_time(), time.perf_counter()
        policy(alone[number % len(alone)])
        took.append((time.thread_time() - began_s[0], time.perf_counter() - began_s[1]))
    return np.array(took).T / MILLI


def times(policies: Mapping[str, ExportedPolicy], seen: Mapping[str, Observation], rounds: int) -> Figures:
    """Return median and 99th percentile of every round."""
    each = {
        name: [type(one)(*(field[i] for field in one)) for i in range(len(one.deadline_s))]
        for name, one in seen.items()
    }
    found: dict[str, list[np.ndarray]] = {name: [] for name in policies}
    for number in harness.rounds(rounds + 1, "decisions"):
        for name, policy in policies.items():
            took = np.quantile(took_ms(policy, each[name], DECISIONS), (0.5, 0.99), axis=1)
            if number:
                found[name].append(took)
    figures: Figures = {}
    for name, values in found.items():
        medians, tails = np.array(values).transpose(1, 2, 0)
        for i, clock in enumerate(("processor", "wall")):
            figures[f"{name}: decision, ms, {clock}"] = harness.figure(medians[i])
            figures[f"{name}: 99th percentile, ms, {clock}"] = harness.figure(tails[i], at_most=BAR_MS)
    return figures


def agreement(made: Made, tables: Tables, count: int) -> dict[str, int]:
    """Return the numbers of observations, of their tasks, and of tasks that are decided differently."""
    found = {"observations": 0, "tasks": 0, "decided otherwise": 0}
    for first in harness.rounds(-(-count // BATCH), "both forms"):
        seen = observed(tables, first * BATCH, min(BATCH, count - first * BATCH))
        wanted, got, task_mask = made.trained(seen), made.exported(as_numpy(seen)), np.asarray(seen.task_mask)
        differs = np.zeros_like(task_mask)
        for one, other in zip(wanted, got, strict=True):
            differs |= (np.asarray(one) != other).reshape(*task_mask.shape, -1).any(-1)
        found["observations"] += len(task_mask)
        found["tasks"] += int(task_mask.sum())
        found["decided otherwise"] += int((differs & task_mask).sum())
    return found


def main() -> None:
    parser = harness.parser(__doc__, "policy_latency")
    parser.add_argument("--rounds", type=int, default=40, help="rounds to measure")
    parser.add_argument("--observations", type=int, default=100_000, help="observations to compare")
    parser.add_argument("--only", nargs="*", default=list(CASES), help="policies to measure")
    parser.add_argument(
        "--parts", nargs="*", default=["times", "agreement"], choices=["times", "agreement"], help="what to measure"
    )
    settings = parser.parse_args()
    rounds, observations = (2, 200) if settings.quick else (settings.rounds, settings.observations)
    torch.set_num_threads(1)
    figures: Figures = {}
    policies, examples = dict[str, ExportedPolicy](), dict[str, Observation]()
    for name in settings.only:
        scenario, changes, make = CASES[name]
        if make is packaged and not shipped.LEARNED.is_file():
            continue
        world = edge_world(open_world(scenario, changes).world)
        tables = environment_of(world).load(world)
        with tempfile.TemporaryDirectory() as folder:
            made = make(tables, Path(folder) / "policy.onnx")
        seen = as_numpy(observed(tables, 0, 64))
        label = f"{name}, tasks x servers {seen.task_mask.shape[-1]} x {seen.server_room.shape[-1]}"
        policies[label], examples[label] = made.exported, seen
        if "agreement" in settings.parts:
            found = agreement(made, tables, observations)
            harness.CONSOLE.print(name, found)
            told = f"{label}: tasks decided unlike PyTorch, {observations:,} observations"
            figures[told] = harness.figure([found["decided otherwise"]], at_most=0)
    if "times" in settings.parts:
        figures = {**times(policies, examples, rounds), **figures}
    harness.save(settings, figures, keep=True)


if __name__ == "__main__":
    main()
