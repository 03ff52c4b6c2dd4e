"""How long an exported policy takes to decide on one core, and whether it decides as the trained one does.

    python benchmarks/policy_latency.py [--decisions 20000] [--observations 100000]

SAC-d's policy (72 options), and a policy of CDO-DSAC's size (256-512-256, 50 tasks, 10 servers, every task by itself in
all 50 x 10 x 2 choices), untrained: the figures do not depend on the weights. One observation at a time, as on a node;
processor time of the one thread that decides.
Agreement is counted over random observations of the scenario. Writes benchmarks/results/policy_latency.json.
"""

import tempfile
import time
from pathlib import Path

import harness
import numpy as np
import torch

from coinfer.envs import offload
from coinfer.policies.export import export
from coinfer.policies.exported import ExportedPolicy
from coinfer.policies.features import Features, rate_features, whole_features
from coinfer.policies.net_policy import NetPolicy
from coinfer.policies.nets import Mlp
from coinfer.scenario.compile import open_world
from coinfer.types import OffloadObservation
from coinfer.units import MILLI

BAR_MS = 1.0
SERVERS, TASKS = 10, 50
CASES = {
    "sac-d": ("sacd", {}, rate_features, (64, 64, 64, 64)),
    "50 tasks, 10 servers": (
        "cdo-dsac",
        {"tasks_per_slot": TASKS, "servers.0.count": SERVERS},
        whole_features,
        (256, 512, 256),
    ),
}
BATCH = 1000


def observed(tables: offload.Tables, first: int, count: int) -> OffloadObservation:
    """Episodes' first slots, the servers' backlog drawn so that it matters."""
    seen = offload.observe(tables, offload.reset(tables, torch.arange(first, first + count)))
    drawn = torch.rand(seen.server_backlog_s.shape, generator=torch.Generator().manual_seed(first))
    return seen._replace(server_backlog_s=drawn)


def as_numpy(seen: OffloadObservation) -> OffloadObservation:
    return OffloadObservation(*(np.asarray(field) for field in seen))


def made(tables: offload.Tables, features: Features, hidden: tuple[int, ...]) -> NetPolicy:
    seen = observed(tables, 0, 2)
    tasks, choices = seen.deadline_s.shape[-1], seen.option_mask.shape[-1] * seen.server_room.shape[-1]
    net = Mlp(features(seen).shape[-1], hidden, tasks, choices)
    return NetPolicy(net, net.initial(torch.tensor([1]))[0], features)


def took_ms(policy: ExportedPolicy, seen: OffloadObservation, count: int) -> np.ndarray:
    """Milliseconds [count] of one decision each."""
    worlds = len(seen.deadline_s)
    alone = [OffloadObservation(*(field[i] for field in seen)) for i in range(worlds)]
    took = []
    for number in range(count + 100):
        began_s = time.thread_time()
        policy(alone[number % worlds])
        took.append((time.thread_time() - began_s) / MILLI)
    return np.array(took[100:])


def unlike(policy: NetPolicy, exported: ExportedPolicy, tables: offload.Tables, count: int) -> int:
    """Observations in which any task is decided otherwise."""
    found = 0
    for first in range(0, count, BATCH):
        seen = observed(tables, first, min(BATCH, count - first))
        wanted, got = policy(seen), exported(as_numpy(seen))
        differs = (wanted.option.numpy() != got.option) | (wanted.server.numpy() != got.server)
        found += int((differs & seen.task_mask.numpy()).any(-1).sum())
    return found


def main() -> None:
    parser = harness.parser(__doc__, "policy_latency")
    parser.add_argument("--decisions", type=int, default=20_000)
    parser.add_argument("--observations", type=int, default=100_000)
    settings = parser.parse_args()
    decisions, observations = (200, 200) if settings.quick else (settings.decisions, settings.observations)
    torch.set_num_threads(1)
    figures, agreement = dict[str, harness.Figure](), dict[str, dict[str, int]]()
    for name, (scenario, changes, features, hidden) in CASES.items():
        tables = offload.load(open_world(scenario, changes).world)
        policy = made(tables, features, hidden)
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "policy.onnx"
            about = {"scheme": "benchmark", "scenario": scenario, "scenario_fingerprint": ""}
            export(path, policy, observed(tables, 0, 2), **about)
            exported = ExportedPolicy.load(path)
        took = took_ms(exported, as_numpy(observed(tables, 0, 64)), decisions)
        figures[f"{name}: decision, ms"] = harness.figure(took)
        p99 = float(np.quantile(took, 0.99))
        figures[f"{name}: 99th percentile, ms"] = harness.figure([p99], at_most=BAR_MS)
        agreement[name] = {
            "observations": observations,
            "decided otherwise": unlike(policy, exported, tables, observations),
        }
    harness.CONSOLE.print(agreement)
    harness.save(settings, figures, agreement=agreement)


if __name__ == "__main__":
    main()
