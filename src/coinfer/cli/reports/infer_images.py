"""Answer pictures and print a row for each: `coinfer infer`."""

import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path

import numpy as np
from rich.console import Console, JustifyMethod
from rich.progress import track
from rich.table import Table

from coinfer.cli.reports.cut_name import cut_name
from coinfer.errors import UserError
from coinfer.graph.ir import ModelGraph
from coinfer.graph.open_model import open_model
from coinfer.progress import progress_bar
from coinfer.records import RunLog
from coinfer.runtime.device.config import DeviceConfig
from coinfer.runtime.device.device import Device
from coinfer.runtime.device.result import Result
from coinfer.runtime.images import image_files
from coinfer.runtime.profiling import profile_for, shapes_of
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
PLANNER = "planner"
"""Scheme of records if no policy is given."""
EXIT_HEADINGS: tuple[tuple[str, JustifyMethod], ...] = (("exit", "right"), ("accuracy", "right"), ("missed", "left"))


def infer_images(
    console: Console, model: str, images: Sequence[Path], config: DeviceConfig, output: Path | None
) -> None:
    """Answer every picture, print a row for each, and write a record of each.

    A picture that cannot be answered does not stop the others.

    Args:
        console: prints table and progress.
        model: an ONNX file, or a network of the zoo.
        images: files and folders of pictures.
        config: of the device; its profile is a path or None.
        output: file of the records (JSON lines); None writes none.

    Raises:
        UserError: for what a user can mend, in one line; for pictures that were not answered, at the end.
    """
    graph = open_model(model, config.shapes or shapes_of(config.profile))
    files = list(_picture_files(images))
    with ExitStack() as stack:
        log = stack.enter_context(RunLog(output)) if output else None
        with progress_bar(console, f"measuring {graph.name}") as progress:
            table = profile_for(graph, config.profile, config.threads, progress)
        device = Device(graph, replace(config, profile=table))
        with console.status("connecting and preparing"):
            stack.enter_context(device)
        problems = _answer_all(console, device, files, log)
    if problems:
        raise UserError(f"{len(problems)} of {len(files)} pictures were not answered; the first: {problems[0]}")


def _answer_all(console: Console, device: Device, files: Sequence[Path], log: RunLog | None) -> list[UserError]:
    """Print the table of answers, and return why the missing ones are missing."""
    has_exits = len(device.planner.exits) > 1
    table = Table(title=f"{device.graph.name}, times in ms")
    for heading, justify in (*INFER_HEADINGS, *(EXIT_HEADINGS if has_exits else ())):
        table.add_column(heading, justify=justify, overflow="fold")
    scheme = PLANNER if device.config.policy is None else Path(str(device.config.policy)).stem
    problems = list[UserError]()
    began_s = time.monotonic()
    for i, file in enumerate(track(files, "inferring", console=console, transient=True)):
        at_s = time.monotonic() - began_s
        try:
            result = device.infer(file)
        except UserError as error:
            problems.append(error)
            continue
        _add_row(table, device.graph, file, result, has_exits)
        if log:
            rates_bps = dict(zip(device.servers, device.links_bps(), strict=True))
            log.append(result.record(scheme, i, at_s, rates_bps.get(result.route.hops[-1].node, 0.0)))
    if table.row_count:
        console.print(table)
    for problem in problems:
        console.print(f"not answered: {problem}", style="red", soft_wrap=True)
    return problems


def _picture_files(images: Sequence[Path]) -> Iterator[Path]:
    for path in images:
        if path.is_dir():
            yield from image_files(path)
        elif path.exists():
            yield path
        else:
            raise UserError(f"{path}: no such picture or folder")


def _add_row(table: Table, graph: ModelGraph, file: Path, result: Result, has_exits: bool) -> None:
    outcome, head = result.outcome, result.route.hops[0]
    sent = len(result.route.hops) > 1
    parts = (outcome.device_s, outcome.upload_s + outcome.download_s, outcome.queue_s, outcome.server_s)
    early = result.exit != result.route.exit
    table.add_row(
        file.name,
        str(int(np.argmax(result.output))),
        "(sure)" if early else cut_name(graph, head.cut),
        str(head.bits) if sent and not early else "-",
        result.executed_on + (f" ({result.fallback})" if result.fallback else ""),
        *(f"{part / MILLI:.0f}" for part in (*parts, outcome.latency_s)),
        *((str(result.exit + 1), f"{outcome.accuracy:.1%}", ", ".join(result.unmet)) if has_exits else ()),
        style="" if outcome.in_time else "red",
    )
