"""Draw docs/architecture.svg: the packages in the layers that import-linter enforces.

    python tools/draw_architecture.py

The layers are read from pyproject.toml, so that the picture tells what is enforced; what a package is for stands here.
"""

from pathlib import Path
from typing import NamedTuple
from xml.sax.saxutils import escape

try:
    import tomllib
except ModuleNotFoundError:  # Python 3.10
    import tomli as tomllib

ROOT = Path(__file__).resolve().parent.parent
TARGET = ROOT / "docs" / "architecture.svg"
WIDTH, MARGIN, GAP, ROW, TOP = 1000, 24, 12, 62, 56
RULE = "A package may import those in the rows below its own, and none beside or above."
RAIL = 116
"""Left of the boxes stand the arrows."""


class Part(NamedTuple):
    about: str
    group: str
    torch: bool = False
    """Whether it needs PyTorch."""


COLOURS = {
    "use": "#dbe9f6",
    "learn": "#e6def3",
    "run": "#d9efdf",
    "know": "#fdebc8",
    "base": "#ececec",
}
GROUPS = {
    "use": "for people",
    "learn": "simulate, decide, learn",
    "run": "real nodes",
    "know": "what can be chosen, and its cost",
    "base": "shared by all",
}
PARTS = {
    "cli": Part("the coinfer command, one file for each sub-command", "use"),
    "demo": Part("a device and edge servers on one machine, compared live", "use"),
    "site": Part("the live system: controller, agents, certificates", "run"),
    "video": Part("the newest frame of a file, camera or stream", "run"),
    "rl": Part("core loops, one file for each algorithm, Ray", "learn", torch=True),
    "exit_training": Part("networks with early exits, supervised", "learn", torch=True),
    "runtime": Part("device, edge server, protocol, codec, links", "run"),
    "evaluate": Part("policies in worlds, seeds, intervals, bounds", "learn", torch=True),
    "envs": Part("batched worlds, an event-driven twin, adapters", "learn", torch=True),
    "policies": Part("heuristics, exact bounds, learned nets, ONNX files", "learn", torch=True),
    "scenario": Part("a YAML file, checked, becomes a world of plain arrays", "know"),
    "options": Part("tables of what a task may choose: (exit, cut, code)", "know"),
    "profile": Part("seconds, bits and accuracy on a machine", "know"),
    "partition": Part("where to cut: hull, chain, minimum cut", "know"),
    "graph": Part("networks: ONNX in, cuts, runnable pieces, zoo", "know"),
    "physics": Part("radio, computing, queues, latency", "know"),
    "records": Part("the log of requests", "base"),
    "traces": Part("link rates in time", "base"),
    "checkpoint": Part("tensors in files", "base", torch=True),
    "addresses": Part("HOST:PORT, read once", "base"),
    "types": Part("the contract", "base"),
    "units": Part("SI", "base"),
    "resources": Part("shipped files", "base"),
    "files": Part("written whole or not", "base"),
    "progress": Part("how far it is", "base"),
    "errors": Part("one line for people", "base"),
    "version": Part("one home", "base"),
}


def layers() -> list[list[str]]:
    """Return the names of each layer, the highest first."""
    settings = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    rows = settings["tool"]["importlinter"]["contracts"][0]["layers"]
    return [[name.strip().removeprefix("coinfer.") for name in row.split("|")] for row in rows]


def box(x: float, y: float, width: float, name: str) -> list[str]:
    part = PARTS.get(name)
    if part is None:
        raise SystemExit(f"{name} is a layer in pyproject.toml; say in PARTS of {Path(__file__).name} what it is for")
    drawn = [
        f'<rect x="{x:.0f}" y="{y:.0f}" width="{width:.0f}" height="{ROW - GAP}" rx="6" fill="{COLOURS[part.group]}"/>',
        f'<text x="{x + 12:.0f}" y="{y + 21:.0f}" class="name">{escape(name)}</text>',
        f'<text x="{x + 12:.0f}" y="{y + 39:.0f}" class="about">{escape(part.about)}</text>',
    ]
    if part.torch:
        drawn.append(f'<text x="{x + width - 10:.0f}" y="{y + 21:.0f}" class="mark">PyTorch</text>')
    return drawn


def arrow(x: float, start: float, end: float, label: str) -> list[str]:
    """Return an arrow along the boxes with its label beside it, turned."""
    middle = (start + end) / 2
    return [
        f'<line x1="{x}" y1="{start}" x2="{x}" y2="{end}" stroke="#555" stroke-width="2" marker-end="url(#head)"/>',
        f'<text transform="translate({x - 10},{middle}) rotate(-90)" class="side">{escape(label)}</text>',
    ]


def svg() -> str:
    """Return the picture."""
    rows = layers()
    bottom = TOP + ROW * len(rows)
    height = bottom + 40
    drawn = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {height}" role="img">',
        "<title>The packages of coinfer and which may import which</title>",
        "<style>text{font-family:Helvetica,Arial,sans-serif;fill:#222}.name{font-size:15px;font-weight:bold}"
        ".about{font-size:12px}.mark{font-size:11px;fill:#7a3fb0;text-anchor:end}.side{font-size:13px;fill:#555;"
        "text-anchor:middle}.key{font-size:12px}</style>",
        '<defs><marker id="head" viewBox="0 0 10 10" refX="8" refY="5" markerWidth="7" markerHeight="7" orient="auto">'
        '<path d="M0,0L10,5L0,10z" fill="#555"/></marker></defs>',
        f'<rect width="{WIDTH}" height="{height}" fill="#fff"/>',
        f'<text x="{RAIL}" y="30" class="about">{RULE}</text>',
        *arrow(44, TOP, bottom - GAP, "imports"),
        *arrow(88, bottom - GAP, TOP, "data: graph → profile → options → scenario → environment → policy → nodes"),
    ]
    for index, names in enumerate(rows):
        width = (WIDTH - RAIL - MARGIN - GAP * (len(names) - 1)) / len(names)
        for place, name in enumerate(names):
            drawn += box(RAIL + place * (width + GAP), TOP + ROW * index, width, name)
    x = RAIL
    for group, label in GROUPS.items():
        drawn.append(f'<rect x="{x}" y="{bottom + 6}" width="14" height="14" rx="3" fill="{COLOURS[group]}"/>')
        drawn.append(f'<text x="{x + 20}" y="{bottom + 18}" class="key">{escape(label)}</text>')
        x += 44 + 7 * len(label)
    return "\n".join([*drawn, "</svg>", ""])


if __name__ == "__main__":
    TARGET.write_text(svg(), encoding="utf-8")
    print(f"wrote {TARGET}")
