"""Trains our own policy for the site of run.py alone, in the simulator: site.yaml.

    python experiments/real-nodes/train.py [--generations 120] [--from src/coinfer/data/policies/learned.json]

Goes on from the shipped policy's weights where a side-car is given, else from sequential greedy. Writes
results/site.onnx with its side-car.
"""

import argparse
import json
from dataclasses import asdict
from pathlib import Path

import torch
from rich.console import Console
from rich.progress import Progress

from coinfer.learners import scorer as learner
from coinfer.learners.scorer import Case, Settings, Training
from coinfer.policies import scorer_export
from coinfer.scenario.compile import fingerprint

HERE = Path(__file__).resolve().parent
SITE = HERE / "site.yaml"
SLOTS = 200


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--generations", type=int, default=120)
    parser.add_argument("--pairs", type=int, default=16)
    parser.add_argument("--worlds", type=int, default=4)
    parser.add_argument("--spread", type=float, default=0.1)
    parser.add_argument("--from", dest="first", type=Path, default=None, help="side-car with weights")
    parser.add_argument("--output", type=Path, default=HERE / "results" / "site.onnx")
    parsed = parser.parse_args()
    torch.set_num_threads(1)
    start = json.loads(parsed.first.read_text())["training"]["weights"] if parsed.first else ()
    case = Case(str(SITE), {"slots": SLOTS}, parsed.worlds)
    settings = Settings((case,), parsed.pairs, SLOTS, 1, parsed.generations, spread=parsed.spread, start=tuple(start))
    history = []
    with Progress(console=Console(), transient=True) as bars:
        bar = bars.add_task("training", total=settings.generations)

        def told(training: Training, seen: dict[str, float]) -> None:
            history.append((round(seen["latency"], 4), round(seen["late"], 4)))
            if training.generation % 10 == 0:
                means = torch.tensor(history[-10:]).mean(0).tolist()
                Console().print(
                    f"{training.generation}: latency {means[0]:.4f} of sequential greedy's, late {means[1]:+.4f}"
                )
            bars.update(bar, completed=training.generation)

        trained = learner.train(settings, progress=told)
    record = {
        **asdict(settings),
        "start": str(parsed.first or "sequential greedy"),
        "weights": trained.weights.tolist(),
    }
    world = case.world()
    parsed.output.parent.mkdir(parents=True, exist_ok=True)
    scorer_export.export(
        parsed.output, trained.weights, scenario="experiments/real-nodes/site.yaml", fingerprint=fingerprint(world),
        training={**record, "history": history},
    )  # fmt: skip


if __name__ == "__main__":
    main()
