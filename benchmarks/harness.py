"""What the benchmarks share: calls that take turns, medians with quartiles, and one JSON record each that names the
machine.

Other work may run on the machine, so compared calls run in the same rounds, and ratios are those of a round.
"""

import argparse
import json
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console
from rich.progress import track

from coinfer.profile.measure import this_machine

RESULTS = Path(__file__).resolve().parent / "results"
CONSOLE = Console(highlight=False)
QUARTILES = (0.25, 0.5, 0.75)
Figure = dict[str, float | int | bool]


def parser(about: str | None, name: str) -> argparse.ArgumentParser:
    """Return a parser with the options that all benchmarks have."""
    made = argparse.ArgumentParser(description=about, formatter_class=argparse.RawDescriptionHelpFormatter)
    made.add_argument("--quick", action="store_true", help="few rounds and small cases: only shows that it runs")
    made.add_argument("--output", type=Path, default=RESULTS / f"{name}.json", help="file of the record")
    return made


def rounds(count: int, about: str) -> Any:
    """Yield the numbers of rounds, with a progress bar."""
    return track(range(count), description=f"{about:32s}", console=CONSOLE)


def take_turns(
    calls: Mapping[str, Callable[[], object]],
    count: int,
    about: str,
    warm_up: int = 2,
    clock: Callable[[], float] = time.perf_counter,
) -> dict[str, np.ndarray]:
    """Return the seconds [count] of each call. Every round calls each once, another one first each time."""
    names = list(calls)
    took_s: dict[str, list[float]] = {name: [] for name in names}
    for i in rounds(warm_up + count, about):
        for j in range(len(names)):
            name = names[(i + j) % len(names)]
            began_s = clock()
            calls[name]()
            if i >= warm_up:
                took_s[name].append(clock() - began_s)
    return {name: np.array(values) for name, values in took_s.items()}


def figure(values: np.ndarray | Sequence[float], at_most: float | None = None, at_least: float | None = None) -> Figure:
    """Return median and quartiles, and whether the median is on the right side of a bar."""
    low, median, high = (round(float(q), 6) for q in np.quantile(np.asarray(values, float), QUARTILES))
    found: Figure = {"median": median, "low": low, "high": high, "rounds": len(values)}
    if at_most is not None:
        found |= {"at_most": at_most, "reached": median <= at_most}
    if at_least is not None:
        found |= {"at_least": at_least, "reached": median >= at_least}
    return found


def show(figures: Mapping[str, Figure]) -> None:
    """Print one line for each figure."""
    width = max(map(len, figures))
    for name, found in figures.items():
        line = f"{name:{width}s}  {found['median']:10.4g}  ({found['low']:.4g} to {found['high']:.4g})"
        for bar in ("at_most", "at_least"):
            if bar in found:
                line += f"   {bar.replace('_', ' ')} {found[bar]:g}: {'reached' if found['reached'] else 'NOT REACHED'}"
        CONSOLE.print(line, soft_wrap=True)


def save(settings: argparse.Namespace, figures: Mapping[str, Figure], keep: bool = False, **more: Any) -> None:
    """Print the figures and write them.

    Args:
        keep: whether the record's other figures stay, with command and date, because this run measured only a part.
    """
    show(figures)
    before = json.loads(settings.output.read_text()) if keep and settings.output.exists() else {}
    if before and not {"command", "machine", "figures"} <= before.keys():
        raise SystemExit(f"{settings.output}: not the record of a benchmark, so nothing can be added to it; remove it")
    made = {"command": before["command"], "date": before["machine"]["date"]} if before else {}
    kept = {name: {**made, **found} for name, found in before.get("figures", {}).items()}
    write(settings, figures={**kept, **figures}, **more)


def write(settings: argparse.Namespace, **record: Any) -> None:
    """Write the record of a run, with the exact command and the machine."""
    command = ["python", f"benchmarks/{Path(sys.argv[0]).name}", *sys.argv[1:]]
    stamped = {"command": " ".join(command), "machine": this_machine().model_dump(), "quick": settings.quick, **record}
    settings.output.parent.mkdir(parents=True, exist_ok=True)
    settings.output.write_text(json.dumps(stamped, indent=2) + "\n")
