"""How long an exported policy takes to decide on one core, and whether it decides as the trained one does.

    python benchmarks/policy_latency.py [--decisions 20000] [--observations 100000] [--only scorer] [--parts times]

SAC-d's policy (72 options); a policy of CDO-DSAC's size (256-512-256, every task by itself in all 50 x 10 x 2 choices);
the scorer that decides task after task, each 50 tasks on 10 servers. Untrained, with weights drawn: the time does not
depend on them. And the policy that comes with the package, if one does. One observation at a time, as on a node;
`processor` is the time of the one thread that decides, `wall` what a clock shows.

Agreement is counted over random observations of the scenario, backlogs drawn so that they matter. Where two choices are
as good as equal the last bit of a number decides, and PyTorch and ONNX Runtime may differ in it.
Times want a quiet machine and agreement does not, so `--only` and `--parts` do some and keep the rest of the record.
Writes benchmarks/results/policy_latency.json.
"""

import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import NamedTuple

import harness
import numpy as np
import torch

from coinfer.envs import offload
from coinfer.policies import scorer, scorer_export, shipped
from coinfer.policies.export import export
from coinfer.policies.exported import ExportedPolicy
from coinfer.policies.features import Features, rate_features, whole_features
from coinfer.policies.net_policy import NetPolicy
from coinfer.policies.nets import Mlp
from coinfer.scenario.compile import open_world
from coinfer.types import OffloadObservation, Policy
from coinfer.units import MILLI

BAR_MS = 1.0
SERVERS, TASKS = 10, 50
FULL = {"tasks_per_slot": TASKS, "servers.0.count": SERVERS, "arrivals": {"kind": "fixed", "tasks": TASKS}}
"""Every slot has all of its tasks."""
BATCH = 1000


class Made(NamedTuple):
    """A policy in both forms."""

    trained: Policy
    exported: ExportedPolicy


def observed(tables: offload.Tables, first: int, count: int) -> OffloadObservation:
    """Episodes' first slots, the servers' backlog drawn so that it matters."""
    seen = offload.observe(tables, offload.reset(tables, torch.arange(first, first + count)))
    drawn = torch.rand(seen.server_backlog_s.shape, generator=torch.Generator().manual_seed(first))
    return seen._replace(server_backlog_s=drawn)


def as_numpy(seen: OffloadObservation) -> OffloadObservation:
    return OffloadObservation(*(np.asarray(field) for field in seen))


def network(tables: offload.Tables, path: Path, features: Features, hidden: tuple[int, ...]) -> Made:
    seen = observed(tables, 0, 2)
    tasks, choices = seen.deadline_s.shape[-1], seen.option_mask.shape[-1] * seen.server_room.shape[-1]
    net = Mlp(features(seen).shape[-1], hidden, tasks, choices)
    policy = NetPolicy(net, net.initial(torch.tensor([1]))[0], features)
    export(path, policy, seen, scheme="benchmark", scenario="benchmark", scenario_fingerprint="")
    return Made(policy, ExportedPolicy.load(path))


def prices(tables: offload.Tables, path: Path) -> Made:
    """The scorer with prices drawn at random."""
    weights = scorer.first_weights()
    weights = weights + 0.1 * torch.randn(weights.shape, generator=torch.Generator().manual_seed(1))
    scorer_export.export(path, weights, scenario="benchmark", fingerprint="", training={})
    return Made(scorer.scorer(scorer.unpack(weights[None])), ExportedPolicy.load(path))


def packaged(tables: offload.Tables, path: Path) -> Made:
    return Made(shipped.learned(), ExportedPolicy.load(shipped.LEARNED))


Case = tuple[str, dict[str, object], Callable[[offload.Tables, Path], Made]]
CASES: dict[str, Case] = {
    "sac-d": ("sacd", {}, partial(network, features=rate_features, hidden=(64, 64, 64, 64))),
    "cdo-dsac's network": ("cdo-dsac", FULL, partial(network, features=whole_features, hidden=(256, 512, 256))),
    "scorer": ("cdo-dsac", FULL, prices),
    "shipped": ("cdo-dsac", FULL, packaged),
}


def took_ms(policy: ExportedPolicy, seen: OffloadObservation, count: int) -> tuple[np.ndarray, np.ndarray]:
    """Milliseconds [count] of one decision each, of the thread and by the clock."""
    worlds = len(seen.deadline_s)
    alone = [OffloadObservation(*(field[i] for field in seen)) for i in range(worlds)]
    took = []
    for number in range(count + 100):
        began_s = time.perf_counter(), time.thread_time()
        policy(alone[number % worlds])
        took.append((time.thread_time() - began_s[1], time.perf_counter() - began_s[0]))
    processor_s, wall_s = np.array(took[100:]).T
    return processor_s / MILLI, wall_s / MILLI


def agreement(made: Made, tables: offload.Tables, count: int) -> dict[str, int]:
    """Observations, their tasks, and tasks that are decided otherwise."""
    found = {"observations": 0, "tasks": 0, "decided otherwise": 0}
    for first in harness.rounds(-(-count // BATCH), "both forms"):
        seen = observed(tables, first * BATCH, min(BATCH, count - first * BATCH))
        wanted, got, there = made.trained(seen), made.exported(as_numpy(seen)), np.asarray(seen.task_mask)
        differs = (np.asarray(wanted.option) != got.option) | (np.asarray(wanted.server) != got.server)
        found["observations"] += len(there)
        found["tasks"] += int(there.sum())
        found["decided otherwise"] += int((differs & there).sum())
    return found


def main() -> None:
    parser = harness.parser(__doc__, "policy_latency")
    parser.add_argument("--decisions", type=int, default=20_000)
    parser.add_argument("--observations", type=int, default=100_000)
    parser.add_argument("--only", nargs="*", default=list(CASES), help="some of the policies")
    parser.add_argument("--parts", nargs="*", default=["times", "agreement"], choices=["times", "agreement"])
    settings = parser.parse_args()
    decisions, observations = (200, 200) if settings.quick else (settings.decisions, settings.observations)
    torch.set_num_threads(1)
    figures: dict[str, harness.Figure] = {}
    for name in settings.only:
        scenario, changes, make = CASES[name]
        if make is packaged and not shipped.LEARNED.is_file():
            continue
        tables = offload.load(open_world(scenario, changes).world)
        with tempfile.TemporaryDirectory() as folder:
            made = make(tables, Path(folder) / "policy.onnx")
        seen = as_numpy(observed(tables, 0, 64))
        label = f"{name}, tasks x servers {seen.task_mask.shape[-1]} x {seen.server_room.shape[-1]}"
        if "times" in settings.parts:
            for clock, took in zip(("processor", "wall"), took_ms(made.exported, seen, decisions), strict=True):
                figures[f"{label}: decision, ms, {clock}"] = harness.figure(took)
                p99 = float(np.quantile(took, 0.99))
                figures[f"{label}: 99th percentile, ms, {clock}"] = harness.figure([p99], at_most=BAR_MS)
        if "agreement" in settings.parts:
            found = agreement(made, tables, observations)
            harness.CONSOLE.print(name, found)
            told = f"{label}: tasks decided unlike PyTorch, {observations:,} observations"
            figures[told] = harness.figure([found["decided otherwise"]], at_most=0)
    harness.save(settings, figures, keep=True)


if __name__ == "__main__":
    main()
