"""Write the table of benchmarks/README.md from the records in benchmarks/results.

python benchmarks/table.py
"""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
README, RESULTS = HERE / "README.md", HERE / "results"
START, END = "<!-- table -->", "<!-- end of table -->"
SINGLE = (
    (
        "partition",
        "hull decisions per second, ResNet-50, one call",
        "≥ 1,000,000",
        ("networks", "resnet50", "decisions_per_s"),
    ),
    ("partition", "building that hull, ms", "≤ 50", ("networks", "resnet50", "hull_build_ms")),
    ("partition", "minimum cut, ResNet-50, ms", "≤ 5", ("networks", "resnet50", "mincut_ms")),
    ("partition", "the same with NetworkX, ms", "", ("networks", "resnet50", "networkx_ms")),
    ("partition", "minimum cut, GoogLeNet, ms", "≤ 5", ("networks", "googlenet", "mincut_ms")),
    ("partition", "the same with NetworkX, ms", "", ("networks", "googlenet", "networkx_ms")),
    ("prediction", "error of a segment's predicted time, median over the zoo", "≤ 0.05", ("all", "median")),
    ("resume", "SAC-d: kills after which it was resumed to the same hash", "20", ("schemes", "sac-d", "kills")),
    ("resume", "CDO-DSAC, stacked: the same", "20", ("schemes", "cdo-dsac", "kills")),
    ("overload", "goodput under three times the load, of the calm rate", "≥ 0.95", ("3x", "goodput_ratio")),
)
"""Figures without quartiles: (record, what, bar, where in the record)."""


def rows(name: str, record: dict[str, Any]) -> Iterator[tuple[str, str, str, str]]:
    """Yield (figure, bar, measured, command) of a record."""
    command = f"`{record['command']}`"
    for figure, found in record.get("figures", {}).items():
        if "departure" in found:
            measured = f"{100 * found['departure']:+.1f} %"
            yield f"{figure}: mean latency in order of arrival over that in order of slots", "", measured, command
            continue
        bar = next(
            (f"{sign} {found[key]:g}" for key, sign in (("at_most", "≤"), ("at_least", "≥")) if key in found), ""
        )
        missed = "" if found.get("reached", True) else " **missed**"
        measured = f"{number(found['median'])} ({number(found['low'])} to {number(found['high'])}){missed}"
        yield figure, bar, measured, f"`{found['command']}`" if "command" in found else command
    for record_name, figure, bar, path in SINGLE:
        if record_name == name:
            value = record
            for key in path:
                value = value[key]
            yield figure, bar, number(value), command


def number(value: float) -> str:
    """Return a number with three significant digits."""
    return f"{value:,.0f}" if value >= 1000 else f"{value:.3g}"


def table() -> str:
    lines = ["| figure | bar | median (quartiles) | command |", "|---|---|---|---|"]
    for path in sorted(RESULTS.glob("*.json")):
        lines += ["| " + " | ".join(row) + " |" for row in rows(path.stem, json.loads(path.read_text()))]
    return "\n".join(lines)


def main() -> None:
    text = README.read_text()
    before, rest = text.split(START)
    README.write_text(f"{before}{START}\n{table()}\n{END}{rest.split(END)[1]}")


if __name__ == "__main__":
    main()
