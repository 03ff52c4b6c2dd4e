"""Trains our own policy: one for all scenarios, and those that it is compared with.

    python experiments/own-policy/train.py NAME [--minutes 9] [--device cuda] [--output FOLDER]

NAME is one of
    all     what is shipped: `cdo-dsac` at three rates and with 2, 10 and 20 servers, `campus` and `city`
    five    `cdo-dsac` with its 5 servers only, for the question how it does with 2 to 20
    wide    the same, also with shorter slots
    two, ten, twenty    from `five` on, trained on the spot with so many servers

Stops after so many minutes; the same command goes on from there, and comes out the same. Writes FOLDER/NAME.json:
weights, settings and what training saw; while it is not done, FOLDER/NAME.partial.json.
"""

import argparse
import json
import time
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

from coinfer.rl.algorithms import scorer as learner
from coinfer.rl.algorithms.scorer import Case, Settings, TrainingState

HERE = Path(__file__).resolve().parent
SLOTS = 30
RATES = (1.2, 1.6, 2.0)
SHORT = ((1.6, 0.05), (2.0, 0.05), (1.6, 0.025), (2.0, 0.025))
"""Rates and slots in which each of 5 servers gets as few tasks as each of 10 or 20 does in theirs."""
CONSOLE = Console(highlight=False)


def cdo(rate: float, age: int, servers: int = 5) -> dict[str, Any]:
    """`cdo-dsac` at a rate; with other numbers of servers it has as many requests for each of them, and above 5 the
    slots are shorter, so that a slot has no more requests."""
    changes: dict[str, Any] = {"arrivals.mean": rate, "arrivals.variance": 0.175 * rate**2, "staleness_slots": age}
    if servers != 5:
        changes |= {"servers.0.count": servers, "arrivals.per_s": 0.0125 * 5 / servers}
        changes["slot_s"] = 0.1 * min(1, 5 / servers)
    return changes


def cases(rates: tuple[float, ...], servers: int = 5, worlds: int = 2) -> list[Case]:
    return [Case("cdo-dsac", {**cdo(rate, 0, servers), "slots": SLOTS}, worlds) for rate in rates]


def aged(scenario: str, age: int, worlds: int) -> Case:
    return Case(scenario, {"staleness_slots": age, "slots": SLOTS}, worlds)


SETS: dict[str, tuple[list[Case], int]] = {
    "all": (
        [
            *cases(RATES),
            Case("cdo-dsac", {**cdo(2.0, 3), "slots": SLOTS}, 2),
            *(aged("campus", age, 2) for age in (0, 0, 2)),
            aged("city", 0, 1),
            *cases((2.0,), 2, 4),
            *cases((2.0,), 10, 2),
            *cases((1.6,), 20, 1),
        ],
        200,
    ),
    "five": (cases(RATES), 80),
    "wide": (
        [
            *cases(RATES),
            *(Case("cdo-dsac", {**cdo(rate, 0), "slots": SLOTS, "slot_s": slot_s}, 4) for rate, slot_s in SHORT),
        ],
        100,
    ),
    "two": (cases(RATES, 2, 4), 60),
    "ten": (cases(RATES, 10, 2), 60),
    "twenty": (cases(RATES, 20, 1), 60),
}
"""Cases of each training and how many generations it has."""
AFTER = {"two": "five", "ten": "five", "twenty": "five"}


def settings_of(name: str, arguments: argparse.Namespace) -> Settings:
    found, generations = SETS[name]
    start: list[float] = []
    if name in AFTER:
        start = json.loads((arguments.output / f"{AFTER[name]}.json").read_text())["weights"]
    return Settings(
        cases=tuple(case._replace(worlds=arguments.times * case.worlds) for case in found),
        pairs=arguments.pairs,
        slots=SLOTS,
        cases_at_once=min(4, len(found)),
        generations=arguments.generations or generations,
        sigma=arguments.spread,
        learning_rate=arguments.rate,
        device=arguments.device,
        seed=arguments.seed,
        processes=arguments.processes,
        start=tuple(start),
    )


def read(path: Path) -> tuple[TrainingState | None, list[dict[str, float]]]:
    """Where training was, and what it saw; from the beginning if there is no such file."""
    if not path.exists():
        return None, []
    kept = json.loads(path.read_text())
    parts = (torch.tensor(kept[name]) for name in ("weights", "first", "second"))
    return TrainingState(*parts, kept["generation"]), kept["history"]


def write(path: Path, training: TrainingState, history: list[dict[str, float]]) -> None:
    kept = {name: value.tolist() for name, value in training._asdict().items() if name != "generation"}
    new = path.with_suffix(".new")
    new.write_text(json.dumps({**kept, "generation": training.generation, "history": history}), encoding="utf-8")
    new.replace(path)


def means(history: list[dict[str, float]]) -> dict[str, float]:
    return {key: sum(one[key] for one in history) / max(1, len(history)) for key in ("latency", "late", "took_s")}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("name", choices=SETS)
    parser.add_argument("--minutes", type=float, default=1e9)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--generations", type=int, default=0)
    parser.add_argument("--pairs", type=int, default=32)
    parser.add_argument("--times", type=int, default=1, help="so many times the episodes of each case")
    parser.add_argument("--spread", type=float, default=0.1)
    parser.add_argument("--rate", type=float, default=0.03)
    parser.add_argument("--processes", type=int, default=1)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--output", type=Path, default=HERE / "results")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    arguments.output.mkdir(parents=True, exist_ok=True)
    path, partial = (arguments.output / f"{arguments.name}{end}.json" for end in ("", ".partial"))
    if path.exists():
        CONSOLE.print(f"{path} is there already")
        return
    settings = settings_of(arguments.name, arguments)
    training, history = read(partial)
    ends_s = time.perf_counter() + 60 * arguments.minutes
    last_s = time.perf_counter()
    columns = (TextColumn("{task.description:40s}"), BarColumn(), TimeRemainingColumn())
    with Progress(*columns, console=CONSOLE, transient=True) as bars:
        bar = bars.add_task(arguments.name, total=settings.generations, completed=len(history))

        def report(training: TrainingState, seen: dict[str, float]) -> None:
            nonlocal last_s
            took_s, last_s = time.perf_counter() - last_s, time.perf_counter()
            history.append({key: round(value, 5) for key, value in {**seen, "took_s": took_s}.items()})
            write(partial, training, history)
            now = means(history[-8:])
            shown = f"{training.generation}: latency {now['latency']:.4f}, late {100 * now['late']:+.2f} %"
            bars.update(bar, completed=training.generation, description=f"{arguments.name} {shown}")
            if training.generation % 10 == 0 and not CONSOLE.is_terminal:
                now = means(history[-10:])
                CONSOLE.print(f"{arguments.name} {shown}, {now['took_s']:.1f} s a generation")

        training = learner.train(settings, training, report, lambda: time.perf_counter() > ends_s)
    if training.generation < settings.generations:
        CONSOLE.print(f"{arguments.name}: {training.generation} of {settings.generations}; the same command goes on")
        return
    plain = {key: value for key, value in asdict(settings).items() if key not in ("cases", "start", "sigma")}
    found = {
        "settings": {**plain, "spread": settings.sigma},
        "cases": [case._asdict() for case in settings.cases],
        "minutes": round(sum(one["took_s"] for one in history) / 60, 1),
        "weights": [round(value, 6) for value in training.weights.tolist()],
        "history": history,
    }
    path.write_text(json.dumps(found) + "\n", encoding="utf-8")
    partial.unlink()
    now = means(history[-len(history) // 5 :])
    CONSOLE.print(
        f"{arguments.name}: {training.generation} generations in {found['minutes']} min, of the last fifth latency "
        f"{now['latency']:.4f} of sequential greedy's, late {100 * now['late']:+.2f} %"
    )


if __name__ == "__main__":
    main()
