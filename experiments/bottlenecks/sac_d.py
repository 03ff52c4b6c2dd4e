"""SAC-d with the codes of a bottleneck among its actions, beside SAC-d without them: reward and latency, ten seeds.

    coinfer scenario profile runs/resnet12/resnet12.onnx -o runs/resnet12/table.json
    nice -n 10 python experiments/bottlenecks/sac_d.py --table runs/resnet12/table.json --picture-bytes 2500

One device, one server, links from 0.005 to 0.2 MB/s that are drawn anew for each request; both learners have the same
slots, settings and held-out episodes. Without codes the picture goes as JPEG if its size is given. Greedy and the
reward's optimum are beside both. The world is a file under runs/; results go to results/sac-d-NETWORK.json.
"""

import argparse
import json
from pathlib import Path
from typing import Any

import numpy as np
import torch

from coinfer.cli.train import training_progress
from coinfer.envs.batched_env import reward_of
from coinfer.evaluate.oracles import reward_optimum
from coinfer.evaluate.simulate import run_policy
from coinfer.evaluate.statistics import interval, paired_difference
from coinfer.options.network import NetworkTable, load
from coinfer.profile.measure import this_machine
from coinfer.rl.core.training import TrainSettings
from coinfer.rl.registry import trainer
from coinfer.scenario.compile import open_world
from coinfer.units import BITS_PER_BYTE

RESULTS = Path(__file__).resolve().parent / "results"
FIRST = 1000
"""Seed of the first held-out episode."""
MEASURES = ("reward", "mean_s", "accuracy", "energy_j")
WORLD = """\
base: sacd
name: {name}
about: SAC-d's choice of cut, bits and codes of a bottleneck
reward: {{kind: weighted, best_bps: 1.6e+6, sensitivity: 10.0, scale_s: 0.1}}
models:
  - network: {table}
    accuracy: [{accuracy}]
    bits: [4, 8]
    sizes: measured
    bottleneck: {codes}
    deadline_s: 3.0
devices:
  - slowdown: 40
    compute_power_w: 3.0
    transmit_power_w: 0.5
    task_energy_j: 3.0
servers:
  - slowdown: 2
links: {{kind: uniform, low_bps: 4.0e+4, high_bps: 1.6e+6, hold_slots: 1}}
"""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--table", type=Path, required=True, help="what `coinfer scenario profile` wrote")
    parser.add_argument("--accuracy", type=float, default=0.84, help="of the network itself, 0 to 1")
    parser.add_argument("--picture-bytes", type=float, help="size of the coded picture; its pixels' without it")
    parser.add_argument("--seeds", type=int, default=10)
    parser.add_argument("--steps", type=int, help="of each learner; the preset's without it")
    parser.add_argument("--runs", type=Path, default=Path("runs/bottlenecks-sac-d"), help="worlds and checkpoints")
    parsed = parser.parse_args()
    torch.set_num_threads(1)
    table = load(parsed.table)
    found: dict[str, Any] = {"machine": this_machine().model_dump(), "network": table.network}
    for name, codes in (("with", True), ("without", False)):
        found[name] = in_world(world_file(table, parsed, name, codes=codes), parsed)
    (RESULTS / f"sac-d-{table.network}.json").write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")
    show(found)


def world_file(table: NetworkTable, parsed: argparse.Namespace, name: str, *, codes: bool) -> Path:
    """Write the scenario, with a copy of the network's table in which the picture has its coded size."""
    folder = parsed.runs / table.network
    folder.mkdir(parents=True, exist_ok=True)
    content = json.loads(table.model_dump_json())
    if parsed.picture_bytes:
        for chain in content["exits"]:
            chain[0]["payload_bits"] = {"8": BITS_PER_BYTE * parsed.picture_bytes}
    (folder / "table.json").write_text(json.dumps(content), encoding="utf-8")
    path = folder / f"{name}.yaml"
    text = WORLD.format(name=path.stem, table="table.json", accuracy=parsed.accuracy, codes=str(codes).lower())
    path.write_text(text, encoding="utf-8")
    return path


def in_world(path: Path, parsed: argparse.Namespace) -> dict[str, Any]:
    """Return the measures of SAC-d's learners, trained and not, of greedy and of the optimum, one value a seed."""
    compiled = open_world(path)
    reward = reward_of(compiled.reward)
    settings = TrainSettings(str(path), seeds=parsed.seeds, steps=parsed.steps)
    with training_progress(f"SAC-d {path.stem}") as progress:
        trained = trainer("sac-d")(settings, progress=progress, folder=path.parent / f"{path.stem}-run", resume=True)
    untrained = trainer("sac-d")(TrainSettings(str(path), seeds=parsed.seeds, steps=1))

    def play(name: str, first: int, seeds: int, **how: Any) -> dict[str, np.ndarray]:
        measures = run_policy(compiled.world, name, seeds, 1, reward=reward, first=first, **how).measures
        return {measure: measures[measure] for measure in MEASURES}

    def each(policies: Any) -> dict[str, list[float]]:
        runs = [play("sac-d", FIRST + i, 1, maker=lambda _, own=own: own) for i, own in enumerate(policies)]
        return {measure: [float(run[measure][0]) for run in runs] for measure in MEASURES}

    rules = {"greedy": play("greedy", FIRST, parsed.seeds), "device-only": play("device-only", FIRST, parsed.seeds)}
    rules["optimum"] = play("optimum", FIRST, parsed.seeds, oracle=reward_optimum(reward))
    listed = {name: {measure: values.tolist() for measure, values in one.items()} for name, one in rules.items()}
    return {"sac-d": each(trained.policies), "sac-d, untrained": each(untrained.policies), **listed}


def show(found: dict[str, Any]) -> None:
    print("| | reward with codes | without | difference | latency with codes, ms | without | difference |")
    print("|---|---:|---:|---:|---:|---:|---:|")
    for name in found["with"]:
        cells = []
        for measure, scale in (("reward", 1.0), ("mean_s", 1e3)):
            own, other = (scale * np.array(found[side][name][measure]) for side in ("with", "without"))
            for mean, half in (interval(own), interval(other), paired_difference(own, other)):
                cells.append(f"{mean:.3g} ± {half:.2g}")
        print(f"| {name} | {' | '.join(cells)} |")


if __name__ == "__main__":
    main()
