"""Trains our own policy: one for all scenarios, and those that it is compared with, each for its own world.

    python experiments/own-policy/train.py [--device cuda] [--minutes 25] [--only all,five] [--output FOLDER]

Writes FOLDER/trained.json: weights, settings and what training saw. What is there already is not trained again. Every
training has a share of the time, and its learning rate goes down with it.
"""

import argparse
import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

from coinfer.learners import scorer as learner
from coinfer.learners.scorer import Case, Settings, Training

HERE = Path(__file__).resolve().parent
SLOTS = 40
RATES, AGES = (1.2, 1.6, 2.0), (0, 1, 3)
CONSOLE = Console(highlight=False)


def cdo(rate: float, age: int, servers: int = 5) -> dict[str, Any]:
    """`cdo-dsac` at a rate; with other numbers of servers it has as many requests for each of them, and above 5 the
    slots are shorter, so that a slot has no more requests."""
    changes: dict[str, Any] = {"arrivals.mean": rate, "arrivals.variance": 0.175 * rate**2, "staleness_slots": age}
    if servers != 5:
        changes |= {"servers.0.count": servers, "arrivals.per_s": 0.0125 * 5 / servers}
        changes["slot_s"] = 0.1 * min(1, 5 / servers)
    return changes


def cases(rates: tuple[float, ...], ages: tuple[int, ...], servers: int = 5, worlds: int = 12) -> list[Case]:
    changes = [cdo(rate, age, servers) for rate in rates for age in ages]
    return [Case("cdo-dsac", {**one, "slots": SLOTS}, worlds) for one in changes]


def aged(scenario: str, ages: tuple[int, ...], worlds: int) -> list[Case]:
    return [Case(scenario, {"staleness_slots": age, "slots": SLOTS}, worlds) for age in ages]


SETS: dict[str, tuple[list[Case], float]] = {
    "all": (
        cases(RATES, (0,), worlds=4)
        + cases((2.0,), (1, 3), worlds=4)
        + aged("campus", (0, 2), 4)
        + aged("campus", (0,), 4)
        + aged("city", (0,), 2),
        2.0,
    ),
    "five": (cases(RATES, (0,), worlds=4), 1.0),
    "two": (cases(RATES, (0,), 2, 8), 0.5),
    "twenty": (cases(RATES, (0,), 20, 2), 0.5),
}
"""Cases of each training and its share of the time. The shipped policy is `all`; `five` saw 5 servers only."""


def settings_of(name: str, arguments: argparse.Namespace) -> Settings:
    found, share = SETS[name]
    wanted = sum(SETS[other][1] for other in arguments.only)
    return Settings(
        cases=tuple(found),
        pairs=arguments.pairs,
        slots=SLOTS,
        cases_at_once=min(arguments.at_once, len(found)),
        generations=arguments.generations,
        most_s=arguments.minutes * 60 * share / wanted,
        spread=arguments.spread,
        rate=arguments.rate,
        device=arguments.device,
        seed=arguments.seed,
        processes=arguments.processes,
    )


def trained(name: str, settings: Settings, partial: Path) -> dict[str, Any]:
    history: list[dict[str, float]] = []
    columns = (TextColumn("{task.description:40s}"), BarColumn(), TimeRemainingColumn())
    with Progress(*columns, console=CONSOLE, transient=True) as bars:
        bar = bars.add_task(name, total=1.0)

        def told(training: Training, seen: dict[str, float]) -> None:
            history.append({key: round(value, 5) for key, value in seen.items()})
            last = history[-8:]
            latency, late = (sum(one[key] for one in last) / len(last) for key in ("latency", "late"))
            shown = f"{name} {training.generation}: latency {latency:.3f}, late {100 * late:+.2f} %"
            if training.generation % 5 == 0:
                kept = {"generation": training.generation, "weights": training.weights.tolist(), "history": history}
                partial.write_text(json.dumps(kept), encoding="utf-8")
            bars.update(bar, completed=training.part, description=shown)

        training = learner.train(settings, progress=told)
    last = history[-max(1, len(history) // 5) :]
    means = {key: sum(one[key] for one in last) / len(last) for key in ("latency", "late")}
    CONSOLE.print(
        f"{name}: {training.generation} generations in {history[-1]['took_s']:.0f} s, of the last fifth latency "
        f"{means['latency']:.4f} of sequential greedy's, late {100 * means['late']:+.2f} %"
    )
    plain = {key: value for key, value in asdict(settings).items() if key not in ("cases", "start")}
    return {
        "settings": plain,
        "generations": training.generation,
        "weights": [round(value, 6) for value in training.weights.tolist()],
        "history": history,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--minutes", type=float, default=25, help="for all trainings together")
    parser.add_argument("--generations", type=int, default=400)
    parser.add_argument("--pairs", type=int, default=10)
    parser.add_argument("--at-once", type=int, default=2)
    parser.add_argument("--spread", type=float, default=0.1)
    parser.add_argument("--rate", type=float, default=0.03)
    parser.add_argument("--processes", type=int, default=1)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--only", type=lambda text: text.split(","), default=list(SETS))
    parser.add_argument("--output", type=Path, default=HERE / "results")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    arguments.output.mkdir(parents=True, exist_ok=True)
    path = arguments.output / "trained.json"
    found: dict[str, Any] = json.loads(path.read_text()) if path.exists() else {}
    for name in arguments.only:
        if name not in found:
            found[name] = trained(name, settings_of(name, arguments), arguments.output / f"{name}.partial.json")
            path.write_text(json.dumps(found) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
