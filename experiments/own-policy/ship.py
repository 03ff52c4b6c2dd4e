"""Turns what prune.py left into the policy that is shipped, and checks that file.

    python experiments/own-policy/ship.py [--only export | latency | agreement] [--observations 100000]

export: writes INTO/learned.onnx with its side-car. latency: how long a decision takes on one core, the machine being
quiet. agreement: on how many tasks of how many observations ONNX and PyTorch decide otherwise. Both go to
FOLDER/shipped.json.
"""

import argparse
import json
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from rich.console import Console
from rich.progress import track
from train import SETS

from coinfer.envs import offload, rewards
from coinfer.evaluate.simulate import episode_seeds
from coinfer.policies.learned.scorer import export as scorer_export
from coinfer.policies.learned.scorer import policy as scorer
from coinfer.policies.learned.scorer import weights as scorer_weights
from coinfer.policies.onnx import ExportedPolicy, load_policy
from coinfer.profile.measure import this_machine
from coinfer.resources import POLICIES
from coinfer.scenario.compile import fingerprint
from coinfer.types import OffloadObservation

HERE = Path(__file__).resolve().parent
NAME = "all"
CONSOLE = Console(highlight=False)
SIZES = ((1, 3, 5), (16, 5, 2), (50, 10, 2), (50, 10, 5))
"""Tasks, servers, options."""


def as_arrays(seen: OffloadObservation) -> OffloadObservation:
    return OffloadObservation(*(field.numpy() for field in seen))


def export(weights: torch.Tensor, trained: dict[str, Any], path: Path) -> None:
    record = {
        **{key: trained[key] for key in ("settings", "cases", "minutes", "late_s", "orders", "weights")},
        "by": "experiments/own-policy/train.py",
    }
    world = SETS[NAME][0][0].world()
    scenarios = ", ".join(dict.fromkeys(case.scenario for case in SETS[NAME][0]))
    scorer_export.export(path, weights, scenario=scenarios, fingerprint=fingerprint(world), training=record)


def differences(weights: scorer_weights.Weights, policy: ExportedPolicy, observations: int) -> dict[str, int]:
    """Tasks decided otherwise, over the observations of running episodes of every case of the training."""
    found = {"observations": 0, "tasks": 0, "otherwise": 0, "observations_otherwise": 0}
    cases = SETS[NAME][0]
    each, worlds = -(-observations // len(cases)), 250
    for number, case in enumerate(track(cases, "as PyTorch decides", console=CONSOLE)):
        tables = offload.load(case.world())
        state = offload.reset(tables, episode_seeds(worlds, 1) + number)
        for _ in range(-(-each // worlds)):
            seen = offload.observe(tables, state)
            decision, other = scorer.decide(weights, seen), policy(as_arrays(seen))
            task_mask = seen.task_mask
            same = (decision.option == torch.as_tensor(other.option)) & (
                decision.server == torch.as_tensor(other.server)
            )
            wrong = ~same & task_mask
            found["observations"] += worlds
            found["tasks"] += int(task_mask.sum())
            found["otherwise"] += int(wrong.sum())
            found["observations_otherwise"] += int(wrong.any(-1).sum())
            state = offload.step(tables, state, decision, rewards.latency).state
            if state.slot[0] >= tables.edge.edge.slots:
                state = offload.reset(tables, state.seed + 1)
    return found


def random_slot(tasks: int, servers: int, options: int, generator: torch.Generator) -> OffloadObservation:
    """A slot full of tasks; the last option stays on the device."""

    def drawn(low: float, high: float, *shape: int) -> torch.Tensor:
        return low + (high - low) * torch.rand(shape, generator=generator)

    sends = torch.arange(options) < options - 1
    seen = OffloadObservation(
        option_device_s=drawn(0.0, 0.1, tasks, options) + ~sends * 0.3,
        option_upload_bits=drawn(1e5, 1e6, tasks, options) * sends,
        option_server_s=drawn(0.0, 0.1, tasks, options, servers) * sends[:, None],
        option_accuracy=torch.ones(tasks, options),
        option_device_j=torch.zeros(tasks, options),
        option_mask=torch.ones(tasks, options, dtype=torch.bool),
        task_mask=torch.ones(tasks, dtype=torch.bool),
        deadline_s=drawn(0.1, 1.0, tasks),
        uplink_bps=drawn(1e6, 1e8, tasks, servers),
        device_backlog_s=torch.zeros(tasks),
        server_backlog_s=drawn(0.0, 0.3, servers),
        server_room=torch.full((servers,), 30.0),
        energy_left_j=torch.full((tasks,), torch.inf),
        observation_age_s=torch.zeros(servers),
        uplink_backlog_s=torch.zeros(tasks, servers),
    )
    return as_arrays(seen)


def decision_ms(policy: ExportedPolicy, tasks: int, servers: int, options: int, calls: int) -> dict[str, float]:
    """Percentiles of the time from call to decision, on the clock on the wall."""
    generator = torch.Generator().manual_seed(0)
    slots = [random_slot(tasks, servers, options, generator) for _ in range(50)]
    took = []
    for number in range(calls + 200):
        began_s = time.perf_counter()
        policy(slots[number % len(slots)])
        took.append(time.perf_counter() - began_s)
    kept = np.array(took[200:]) * 1e3
    return {name: round(float(np.percentile(kept, at)), 4) for name, at in (("p50", 50), ("p99", 99), ("p999", 99.9))}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--folder", type=Path, default=HERE / "results")
    parser.add_argument("--into", type=Path, default=POLICIES)
    parser.add_argument("--only", default="", choices=("", "export", "latency", "agreement"))
    parser.add_argument("--observations", type=int, default=100_000)
    parser.add_argument("--calls", type=int, default=10_000, help="timed decisions of each size")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    trained: dict[str, Any] = json.loads((arguments.folder / "learned.json").read_text())
    weights, path = torch.tensor(trained["weights"]), arguments.into / "learned.onnx"
    if arguments.only in ("", "export"):
        export(weights, trained, path)
    policy = load_policy(path)
    record = arguments.folder / "shipped.json"
    found: dict[str, Any] = json.loads(record.read_text()) if record.exists() else {}
    found["bytes"] = path.stat().st_size
    if arguments.only in ("", "latency"):
        found["machine"] = this_machine().model_dump()
        found["decision_ms"] = {
            f"{tasks} tasks, {servers} servers, {options} options": decision_ms(
                policy, tasks, servers, options, arguments.calls
            )
            for tasks, servers, options in SIZES
        }
    if arguments.only in ("", "agreement"):
        found["agreement"] = differences(scorer_weights.unpack(weights[None]), policy, arguments.observations)
    CONSOLE.print(found)
    record.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
