"""Run the same benchmarks in two checkouts, in turns, and print each figure of the second relative to the first.

    git worktree add ../before COMMIT
    python benchmarks/before_after.py ../before --only simulator planning --turns 3

Both run with this interpreter and its installed packages, each with its own `src` first on the path. Only ratios within
a turn are compared, so a machine whose speed drifts does not matter. `--options` goes to the benchmarks, which write
their records into a temporary folder. Writes benchmarks/results/before_after.json.
"""

import json
import os
import subprocess
import sys
import tempfile
from argparse import Namespace
from collections.abc import Iterator
from pathlib import Path

import harness

HERE = Path(__file__).resolve().parent.parent
NAMES = ("simulator", "planning", "partition", "split_latency")
SPEEDS = ("_ms", "_s", "per_s")
"""Endings of names that are times or speeds in the record of a benchmark without `figures`."""


def main() -> None:
    parser = harness.parser(__doc__, "before_after")
    parser.add_argument("before", type=Path, help="folder of the other checkout")
    parser.add_argument("--only", nargs="+", default=NAMES, help="benchmarks to run")
    parser.add_argument("--turns", type=int, default=3, help="runs of each checkout")
    parser.add_argument("--options", default="", help="options for the benchmarks, such as '--rounds 20'")
    settings = parser.parse_args()
    ratios: dict[str, list[float]] = {}
    for turn in range(1 if settings.quick else settings.turns):
        for name in settings.only:
            order = (settings.before, HERE) if turn % 2 else (HERE, settings.before)
            found = {folder: figures_of(folder, name, settings) for folder in order}
            for figure, before in found[settings.before].items():
                after = found[HERE].get(figure)
                if before and after:
                    ratios.setdefault(f"{name}: {figure}: after / before", []).append(after / before)
    harness.save(settings, {name: harness.figure(values) for name, values in ratios.items()})


def figures_of(folder: Path, name: str, settings: Namespace) -> dict[str, float]:
    """Run one benchmark in a checkout and return its medians by name."""
    with tempfile.TemporaryDirectory() as into:
        output = Path(into) / f"{name}.json"
        command = [sys.executable, f"benchmarks/{name}.py", "--output", str(output), *settings.options.split()]
        command += ["--quick"] * settings.quick
        environment = {**os.environ, "PYTHONPATH": str(folder.resolve() / "src")}
        subprocess.run(command, cwd=folder, env=environment, check=True)
        record = json.loads(output.read_text())
    if "figures" in record:
        return {key: found["median"] for key, found in record["figures"].items()}
    return dict(_speeds(record))


def _speeds(record: object, path: str = "") -> Iterator[tuple[str, float]]:
    """Yield the numbers of a nested record whose names end like a time or a speed."""
    if isinstance(record, dict):
        for key, value in record.items():
            yield from _speeds(value, f"{path} {key}".strip())
    elif isinstance(record, float | int) and not isinstance(record, bool) and path.endswith(SPEEDS):
        yield path, float(record)


if __name__ == "__main__":
    main()
