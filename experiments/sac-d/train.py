"""Trains SAC-d and DQN with ten seeds each, and judges them at every bandwidth.

    python experiments/sac-d/train.py                      # preset sacd
    python experiments/sac-d/train.py --scenario sacd-cifar

Ten learners are one batch. Writes results/SCENARIO/training.json (learning curves) and results/SCENARIO/judged.json:
for each scheme, seed and bandwidth what was decided and what came of it, beside the exhaustive optimum, the device
alone, and SAC-d's networks before training (`untrained`; nothing is learned in the first round). The figures are drawn
from these by the other scripts. Goes on where it was stopped.
"""

import argparse
import json
from dataclasses import replace
from pathlib import Path

import bandwidths
import torch

from coinfer.cli.train import training_progress
from coinfer.profile.measure import this_machine
from coinfer.rl.core.training import TrainingResult, TrainSettings
from coinfer.rl.registry import trainer

SCHEMES = ("sac-d", "dqn")


def train(name: str, settings: TrainSettings, folder: Path) -> TrainingResult:
    """The scheme's ten learners."""
    with training_progress(name) as progress:
        return trainer(name)(settings, progress=progress, folder=folder / name, resume=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--scenario", default="sacd")
    parser.add_argument("--preset", default="quick")
    parser.add_argument("--seeds", type=int, default=10)
    parser.add_argument("--schemes", default=",".join(SCHEMES))
    parser.add_argument("--steps", type=int, default=None)
    parser.add_argument("--runs", type=Path, default=Path("runs/experiment-sac-d"), help="checkpoints")
    parser.add_argument("--output", type=Path, default=None)
    asked = parser.parse_args()
    torch.set_num_threads(1)
    output = asked.output or bandwidths.results(asked.scenario)
    output.mkdir(parents=True, exist_ok=True)
    settings = TrainSettings(asked.scenario, seeds=asked.seeds, steps=asked.steps, preset=asked.preset)
    runs = asked.runs / f"{Path(asked.scenario).stem}-{asked.preset}"
    edge = bandwidths.open_edge(asked.scenario)
    told = {"machine": this_machine().model_dump(), "schemes": {}}
    judged = {name: [bandwidths.judge(edge, policy)] for name, policy in bandwidths.references(edge).items()}
    judged[bandwidths.WHOLE] = [bandwidths.whole(edge)]
    for name in asked.schemes.split(","):
        trained = train(name, settings, runs)
        judged[name] = [bandwidths.judge(edge, policy) for policy in trained.policies]
        curves = {"record": trained.record}
        curves["assessed"] = [[point.round, bandwidths.short(point.figures["reward"])] for point in trained.assessed]
        told["schemes"][name] = curves
    first = replace(settings, steps=1)
    judged["untrained"] = [bandwidths.judge(edge, policy) for policy in trainer("sac-d")(first).policies]
    (output / "training.json").write_text(json.dumps(told, indent=1) + "\n")
    bandwidths.save(output / "judged.json", edge, judged)
    print(bandwidths.summary(edge, judged))


if __name__ == "__main__":
    main()
