"""What imitation, PPO and inputs give the pointer policy, in several trainings, beside the rule that it starts from.

    python experiments/gpu-edge/pointer.py train [VARIANT ..] [--world many-models] [--learners 3] [--rounds 1600]
    python experiments/gpu-edge/pointer.py judge [--world many-models] [--seeds 10]

`train` goes on where it was stopped, in runs/pointer/WORLD/VARIANT; a training of three learners takes about half an
hour of one core. `judge` plays every finished training's policies, by their ONNX files, in the episodes of `gaps.py`,
writes results/pointer.json and prints each variant beside the rule, seed by seed.
"""

import argparse
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from gaps import CONSOLE, FIRST, TIGHT, WORLDS
from rich.table import Table

from coinfer.evaluate.deciders import apart
from coinfer.evaluate.policy_files import open_serving_policy
from coinfer.evaluate.serving_slots import LOADS_AT_HOME, demand_greedy, rule_weights
from coinfer.evaluate.simulate import run_policy
from coinfer.evaluate.statistics import interval
from coinfer.policies.heuristics.demand import LOADS, DemandWeights
from coinfer.policies.learned.pointer.export import export_pointer
from coinfer.policies.learned.pointer.features import BATCHES, WARM
from coinfer.policies.learned.pointer.net import PointerPolicy
from coinfer.rl.algorithms import pointer
from coinfer.rl.algorithms.pointer import PointerSettings
from coinfer.rl.core.training import Report, TrainSettings
from coinfer.scenario.compile import open_world

HERE = Path(__file__).resolve().parent
RUNS = Path("runs") / "pointer"
TEACHER = {"many-models": "forecast", "gpu-edge": "slot"}
"""The search that has the same knowledge, of each world."""
APART = {
    "many-models, 5 slots late, 16 deciders": replace(LOADS, at_home=True),
    f"{TIGHT}, 5 slots late, 4 deciders": LOADS_AT_HOME,
}
"""Worlds of several deciders who do not know what the others send, and the weights of the rule to begin with."""
WORTHLESS = DemandWeights(1.0, 0.0, 0.0)
"""Of the plain rule, `serving-greedy`."""
RULE = "the rule (the untrained policy)"


def variants(world: str, rounds: int) -> dict[str, PointerSettings]:
    """Return the settings of each variant; all play as many slots, but for imitation alone."""
    ppo = PointerSettings(rounds=rounds)
    if world in APART:
        away = replace(ppo, deciders=WORLDS[world].apart)
        ppo = replace(away, weights=APART[world])
        return {
            "ppo": ppo,
            "ppo, blind for batches": replace(ppo, without=BATCHES),
            "ppo, blind for what is warm": replace(ppo, without=WARM),
            "ppo without homes": away,  # starts from `demand-greedy`, of gaps.py
        }
    slots = WORLDS[world].changes["slots"]
    taught = replace(ppo, teacher=TEACHER[world], imitated=2)
    return {
        "ppo": ppo,
        "imitation": replace(taught, rounds=2 * slots),
        "imitation, then ppo": taught,
        "ppo, blind for batches": replace(ppo, without=BATCHES),
        "ppo, blind for what is warm": replace(ppo, without=WARM),
        "ppo from the plain rule": replace(ppo, weights=WORTHLESS),
        "imitation of the rule, then ppo from the plain one": replace(
            ppo, weights=WORTHLESS, teacher="demand", imitated=2
        ),
    }


def train(world: str, name: str, settings: PointerSettings, learners: int) -> None:
    """Train a variant to its end and write its policies."""
    folder = folder_of(world) / name.replace(" ", "-")
    changes = tuple(f"{key}={value}" for key, value in WORLDS[world].changes.items())

    def progress(report: Report) -> None:
        figures = ", ".join(f"{key} {value:.4g}" for key, value in report.figures.items())
        CONSOLE.print(f"{world}, {name}: {report.round} of {report.rounds}, {report.took_s:.0f} s: {figures}")

    asked = TrainSettings(WORLDS[world].preset, changes, learners)
    trained = pointer.train(asked, pointer_settings=settings, progress=progress, folder=folder, resume=True)
    for number, policy in enumerate(trained.modules):
        assert isinstance(policy, PointerPolicy)
        about = {key: str(trained.record[key]) for key in ("scheme", "scenario", "scenario_fingerprint")}
        export_pointer(folder / f"{number}.onnx", policy, **about, training=trained.record)


def folder_of(world: str) -> Path:
    return RUNS / world.replace(", ", "-").replace(" ", "-")


def judge(name: str, seeds: int) -> list[dict[str, Any]]:
    """Return the measures of the rule, with the weights that trainings begin with, and of every policy that was trained
    in a world."""
    deciders, warm_up = WORLDS[name].apart, WORLDS[name].warm_up
    world: Any = open_world(WORLDS[name].preset, WORLDS[name].changes).world
    weights = APART.get(name, rule_weights(world))
    runs = [(RULE, 0, None, demand_greedy(weights))]
    for path in sorted(folder_of(name).glob("*/*.onnx")):
        training = json.loads(path.with_suffix(".json").read_text())["training"]
        runs.append((path.parent.name, int(path.stem), training, open_serving_policy(path, world)[0]))
    found = []
    for who, learner, training, oracle in runs:
        oracle = apart(oracle, deciders)
        measures = run_policy(world, who, seeds, 1, oracle=oracle, first=FIRST, warm_up=warm_up).measures
        values = {key: measures[key].tolist() for key in ("mean_s", "p95_s", "in_time")}
        found.append({"who": who, "learner": learner, "training": training, **values})
    return found


def table(name: str, found: list[dict[str, Any]]) -> Table:
    """Return means over learners, and the difference to the rule seed by seed."""
    shown = Table("policy", "learners", "mean, ms", "beside the rule", "each learner", "late", title=name)
    rule = np.array(found[0]["mean_s"])
    for who in dict.fromkeys(row["who"] for row in found):
        rows = [row for row in found if row["who"] == who]
        each = np.array([row["mean_s"] for row in rows])
        mean, gap = interval(each.mean(0)), interval(each.mean(0) / rule - 1)
        late = 100 * (1 - np.mean([row["in_time"] for row in rows]))
        alone = ", ".join(f"{100 * (row / rule - 1).mean():+.1f}" for row in each)
        cells = (f"{1e3 * mean.mean:.2f} ± {1e3 * mean.half:.2f}", f"{100 * gap.mean:+.1f} ± {100 * gap.half:.1f} %")
        shown.add_row(who, str(len(rows)), *cells, alone, f"{late:.2f} %")
    return shown


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=("train", "judge"))
    parser.add_argument("variants", nargs="*", help="all without it")
    parser.add_argument("--world", choices=(*TEACHER, *APART), default="many-models")
    parser.add_argument("--learners", type=int, default=3)
    parser.add_argument("--rounds", type=int, default=1600, help="slots that each of a learner's 32 worlds plays")
    parser.add_argument("--seeds", type=int, default=10)
    parser.add_argument("--output", type=Path, default=HERE / "results" / "pointer.json")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    if arguments.what == "train":
        known = variants(arguments.world, arguments.rounds)
        unknown = [name for name in arguments.variants if name not in known]
        if unknown:
            parser.error(f"no variant {unknown[0]!r}; there are {', '.join(known)}")
        for name in arguments.variants or known:
            train(arguments.world, name, known[name], arguments.learners)
        return
    output: Path = arguments.output
    record = json.loads(output.read_text()) if output.exists() else {}
    record[arguments.world] = judge(arguments.world, arguments.seeds)
    output.write_text(json.dumps(record, indent=1) + "\n")
    for name, found in record.items():
        CONSOLE.print(table(name, found))


if __name__ == "__main__":
    main()
