"""Answer pictures and print a row for each."""

import math
import time
from collections.abc import Iterator, Sequence
from contextlib import closing
from pathlib import Path

import numpy as np
from rich.console import Console, JustifyMethod
from rich.progress import track
from rich.table import Table

from coinfer.cli.cut_name import cut_name
from coinfer.errors import UserError
from coinfer.graph.ir import ModelGraph
from coinfer.graph.zoo.networks import open_model
from coinfer.progress import progress_bar
from coinfer.records import RunLog
from coinfer.runtime.device.config import WishSettings
from coinfer.runtime.device.device import Device, Result
from coinfer.runtime.executor import Engine
from coinfer.runtime.images import PHOTO_SUFFIXES
from coinfer.runtime.profiling import profile_for
from coinfer.units import MILLI

INFER_HEADINGS: tuple[tuple[str, JustifyMethod], ...] = (
    ("picture", "left"),
    ("class", "right"),
    ("cut after", "left"),
    ("bits", "right"),
    ("by", "left"),
    ("device", "right"),
    ("link", "right"),
    ("queue", "right"),
    ("server", "right"),
    ("total", "right"),
)
EXIT_HEADINGS: tuple[tuple[str, JustifyMethod], ...] = (("exit", "right"), ("accuracy", "right"), ("missed", "left"))
NO_WISH = WishSettings()


def infer_images(
    console: Console,
    model: str,
    images: Sequence[Path],
    servers: Sequence[str],
    deadline_s: float,
    bits: Sequence[int],
    jpeg_quality: int | None,
    slowdown: float,
    threads: int,
    engine: Engine,
    table_file: Path | None,
    output: Path | None,
    wishes: WishSettings = NO_WISH,
) -> None:
    """Answers every picture, prints a row for each."""
    graph = open_model(model)
    files = list(_picture_files(images))
    with progress_bar(console, f"measuring {graph.name}") as progress:
        table = profile_for(graph, table_file, threads, progress)
    device = Device(
        graph,
        servers,
        deadline_s or math.inf,
        profile=table,
        bits=bits,
        jpeg_quality=jpeg_quality,
        slowdown=slowdown,
        threads=threads,
        engine=engine,
        **wishes.for_device(),
    )
    log = RunLog(output) if output else None
    shown = Table(title=f"{graph.name}, times in ms")
    headings = INFER_HEADINGS if len(device.exits) == 1 else (*INFER_HEADINGS, *EXIT_HEADINGS)
    for heading, justify in headings:
        shown.add_column(heading, justify=justify, overflow="fold")
    with console.status("connecting and preparing"):
        device.open()
    began_s = time.monotonic()
    with closing(device):
        for i, file in enumerate(track(files, "inferring", console=console, transient=True)):
            at_s = time.monotonic() - began_s
            result = device.infer(file)
            _add_row(shown, graph, file, result, len(device.exits) > 1)
            if log:
                rates_bps = dict(zip(device.servers, device.links_bps(), strict=True))
                log.append(result.record("planner", i, at_s, rates_bps.get(result.route.hops[-1].node, 0.0)))
    console.print(shown)
    if log:
        log.close()


def _picture_files(images: Sequence[Path]) -> Iterator[Path]:
    for path in images:
        if path.is_dir():
            found = sorted(file for file in path.iterdir() if file.suffix.lower() in PHOTO_SUFFIXES)
            if not found:
                raise UserError(f"{path}: no picture in it; expected files that end in {', '.join(PHOTO_SUFFIXES)}")
            yield from found
        elif path.exists():
            yield path
        else:
            raise UserError(f"{path}: no such picture or folder")


def _add_row(shown: Table, graph: ModelGraph, file: Path, result: Result, has_exits: bool) -> None:
    outcome, head = result.outcome, result.route.hops[0]
    sent = len(result.route.hops) > 1
    parts = (outcome.device_s, outcome.upload_s + outcome.download_s, outcome.queue_s, outcome.server_s)
    early = result.exit != result.route.exit
    shown.add_row(
        file.name,
        str(int(np.argmax(result.output))),
        "(sure)" if early else cut_name(graph, head.cut),
        str(head.bits) if sent and not early else "-",
        result.executed_on + (f" ({result.fallback})" if result.fallback else ""),
        *(f"{part / MILLI:.0f}" for part in (*parts, outcome.latency_s)),
        *((str(result.exit + 1), f"{outcome.accuracy:.1%}", ", ".join(result.unmet)) if has_exits else ()),
        style="" if outcome.in_time else "red",
    )
