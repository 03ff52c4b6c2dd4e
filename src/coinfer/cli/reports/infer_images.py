"""Answer pictures or other inputs and print a row for each: `coinfer infer`."""

import math
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import replace
from io import BytesIO
from pathlib import Path
from typing import NamedTuple

import numpy as np
from rich.console import Console, JustifyMethod
from rich.progress import track
from rich.table import Table

from coinfer.cli.reports.cut_name import cut_name
from coinfer.errors import UserError
from coinfer.files import check_writable, write_atomic
from coinfer.graph.ir import ModelGraph
from coinfer.graph.pictures import PictureSettings
from coinfer.options.earned import unmeasured_note
from coinfer.progress import progress_bar
from coinfer.records import RunLog
from coinfer.runtime.classes import is_classifier, labels_of, likeliest, read_labels
from coinfer.runtime.device.config import DeviceConfig
from coinfer.runtime.device.device import Device, Item
from coinfer.runtime.device.input_files import SUFFIXES, read_inputs, read_item_file
from coinfer.runtime.device.inputs import without_pictures
from coinfer.runtime.device.result import Result
from coinfer.runtime.images import image_files
from coinfer.runtime.profiling import open_profiled, profile_for
from coinfer.units import MILLI

TIME_HEADINGS: tuple[tuple[str, JustifyMethod], ...] = (
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


class Asked(NamedTuple):
    """What is to be answered, and what is to be made of the answers."""

    model: str
    """An ONNX file, or a network of the zoo."""
    pictures: PictureSettings
    items: tuple[Path, ...]
    """Files and folders; a request for each picture and each file of inputs."""
    inputs: tuple[str, ...]
    """Inputs that every request gets, as `read_inputs` takes them."""
    top: int | None
    """Likeliest classes to show; None shows the best one alone."""
    labels: Path | None
    out: Path | None
    """File of all outputs."""
    records: Path | None
    """File of a record for each request."""


class Answers(NamedTuple):
    """What is shown of an answer."""

    labels: tuple[str, ...]
    top: int | None
    classes: bool
    """Whether answers are classes."""
    has_exits: bool


def infer_images(console: Console, asked: Asked, config: DeviceConfig) -> None:
    """Answer every request, print a row for each, and write outputs and records if asked to.

    A request that cannot be answered does not stop the others; Ctrl-C shows and keeps what was answered by then.

    Args:
        console: prints table and progress.
        asked: what to answer.
        config: of the device; its profile is a path or None.

    Raises:
        UserError: for what a user can mend, in one line; for requests that were not answered, at the end.
    """
    graph = open_profiled(asked.model, config.shapes, config.profile, asked.pictures, config.limits)
    named = read_labels(asked.labels) if asked.labels else labels_of(graph)
    classes = is_classifier(graph, graph.outputs)
    for option, value in (("--top", asked.top), ("--labels", asked.labels)):
        if value and not classes:
            raise UserError(f"{option} {value}: {graph.name} names no classes; its outputs are {_outputs(graph)}")
    numbers = [math.prod(graph.tensors[name].shape) for name in graph.outputs]
    if asked.labels and len(named) not in numbers:
        expected = f"{graph.name} has {numbers[0]} classes, expected one for each"
        raise UserError(f"{asked.labels}: {len(named)} labels; {expected}")
    requests = list(_requests(graph, asked))
    first = requests[0][1] if requests else None
    arrays = first.items() if isinstance(first, Mapping) else ()
    known = [{name: value for name, value in arrays if isinstance(value, np.ndarray)}]
    if asked.out:
        check_writable(asked.out)
    with ExitStack() as stack:
        log = stack.enter_context(RunLog(asked.records)) if asked.records else None
        with progress_bar(console, f"measuring {graph.name}") as progress:
            table = profile_for(graph, config.profile, config.threads, progress, known=known, provider=config.provider)
        device = Device(graph, replace(config, profile=table))
        stack.callback(device.close)
        with progress_bar(console, f"connecting, and preparing {graph.name}") as progress:
            device.open(progress)
        if note := unmeasured_note(device.options, device.planner.accuracy, graph):
            console.print(f"note: {note}", soft_wrap=True)
        shown = Answers(named, asked.top, classes, len(device.planner.exits) > 1)
        problems = _answer_all(console, device, requests, shown, log, asked.out)
    if problems:
        count = f"{len(problems)} of {len(requests)} {_kind(requests)}"
        raise UserError(f"{count} were not answered; the first: {problems[0]}")


def _answer_all(
    console: Console,
    device: Device,
    requests: Sequence[tuple[str, Item]],
    shown: Answers,
    log: RunLog | None,
    out: Path | None,
) -> list[UserError]:
    """Print the table of answers, write their outputs, and return why the missing ones are missing."""
    table = _table(device.graph, _kind(requests).removesuffix("s"), shown)
    scheme = PLANNER if device.config.policy is None else Path(str(device.config.policy)).stem
    problems, outputs = list[UserError](), dict[str, np.ndarray]()
    began_s, quiet = time.monotonic(), not console.is_terminal
    try:
        for i, (name, item) in enumerate(track(requests, "inferring", console=console, transient=True, disable=quiet)):
            at_s = time.monotonic() - began_s
            try:
                result = device.infer(item)
            except UserError as error:
                problems.append(error)
                continue
            _add_row(table, device.graph, name, result, shown)
            if out:
                outputs |= {_unused(name, output, outputs): value for output, value in result.outputs.items()}
            if log:
                rates_bps = dict(zip(device.servers, device.links_bps(), strict=True))
                log.append(result.record(scheme, i, at_s, rates_bps.get(result.route.hops[:2][-1].node, 0.0)))
    finally:
        if table.row_count:
            console.print(table)
        if out and outputs:
            _save(out, outputs)
            console.print(f"saved {len(outputs)} outputs of {table.row_count} requests in {out}", soft_wrap=True)
    for problem in problems if len(requests) > 1 else ():  # the error at the end tells of a single one
        console.print(f"not answered: {problem}", style="red", soft_wrap=True)
    return problems


def _requests(graph: ModelGraph, asked: Asked) -> Iterator[tuple[str, Item]]:
    """Yield name and inputs of each request."""
    given = read_inputs(graph, asked.inputs)
    if not asked.items:
        if missing := [name for name in graph.inputs if name not in given]:
            tensor = graph.tensors[missing[0]]
            expected = f"{tensor.dtype} {list(tensor.shape)}"
            raise UserError(
                f"{graph.name}: nothing is given for its input {missing[0]!r} ({expected}); give a picture, or --input "
                f"{missing[0]}=FILE"
            )
        yield "inputs", given
    for path in asked.items:
        if path.suffix.lower() in SUFFIXES and path.is_file():
            yield path.name, read_item_file(graph, path, given)
            continue
        for picture in _picture_files(path):
            yield picture.name, _with_picture(graph, given, picture)


def _with_picture(graph: ModelGraph, given: Mapping[str, np.ndarray], picture: Path) -> Item:
    """Return a request with a picture, and the other inputs if there are any."""
    if not given and len(graph.inputs) == 1:
        if graph.image is None:
            raise UserError(without_pictures(graph))
        return picture
    name = graph.picture_input
    if name is None or {*given, name} != {*graph.inputs} or name in given:
        missing = [one for one in graph.inputs if one not in given and one != name]
        problem = f"give --input {missing[0]}=VALUE too" if missing else f"{picture} and --input both give {name!r}"
        if name is None and not missing:
            problem = f"--input gives all of them, and {picture} is one too many"
        raise UserError(f"{graph.name} takes {', '.join(graph.inputs)}; {problem}")
    return {**given, name: picture}


def _picture_files(path: Path) -> Iterator[Path]:
    if path.is_dir():
        yield from image_files(path)
    elif path.exists():
        yield path
    else:
        raise UserError(f"{path}: no such picture or folder")


def _kind(requests: Sequence[tuple[str, Item]]) -> str:
    """Return what the requests are, in the plural."""
    return "pictures" if all(isinstance(item, Path) for _, item in requests) else "requests"


def _table(graph: ModelGraph, kind: str, shown: Answers) -> Table:
    table = Table(title=f"{graph.name}, times in ms")
    table.add_column(kind, overflow="fold")
    plain = shown.classes and not shown.labels
    table.add_column("class" if plain else "answer", justify="right" if plain else "left", overflow="fold")
    for heading, justify in (*TIME_HEADINGS, *(EXIT_HEADINGS if shown.has_exits else ())):
        table.add_column(heading, justify=justify, overflow="fold")
    return table


def _add_row(table: Table, graph: ModelGraph, name: str, result: Result, shown: Answers) -> None:
    outcome, head = result.outcome, result.route.hops[0]
    sent = len(result.route.hops) > 1
    parts = (outcome.device_s, outcome.upload_s + outcome.download_s, outcome.queue_s, outcome.server_s)
    early = result.exit != result.route.exit
    table.add_row(
        name,
        _answer(result, shown),
        "(sure)" if early else cut_name(graph, head.cut),
        str(head.bits) if sent and not early else "-",
        _nodes(result) + (f" ({result.fallback})" if result.fallback else ""),
        *(f"{part / MILLI:.0f}" for part in (*parts, outcome.latency_s)),
        *((str(result.exit + 1), f"{outcome.accuracy:.1%}", ", ".join(result.unmet)) if shown.has_exits else ()),
        style="" if outcome.in_time else "red",
    )


def _nodes(result: Result) -> str:
    """Return who computed the rest: all servers of a route that was followed to its end, or the one that answered."""
    servers = [hop.node for hop in result.route.hops[1:]]
    return result.executed_on if result.fallback or len(servers) < 2 else " > ".join(servers)


def _answer(result: Result, shown: Answers) -> str:
    """Return the likeliest classes of each output; or, of a network that names none, what its outputs are."""
    if not shown.classes:
        return "\n".join(f"{name} {value.dtype} {_shape(value)}" for name, value in result.outputs.items())
    lines = []
    for name, value in result.outputs.items():
        best = likeliest(value[:1], shown.labels, shown.top or 1)
        prefix = f"{name}: " if len(result.outputs) > 1 else ""
        lines += [prefix + (f"{one.label} {one.share:.1%}" if shown.top else one.label) for one in best]
    return "\n".join(lines)


def _outputs(graph: ModelGraph) -> str:
    return ", ".join(f"{name} {graph.tensors[name].dtype} {list(graph.tensors[name].shape)}" for name in graph.outputs)


def _shape(value: np.ndarray) -> str:
    return "x".join(map(str, value.shape)) or "number"


def _unused(name: str, output: str, taken: Mapping[str, np.ndarray]) -> str:
    """Return the name of an array in the file of outputs; a request of the same name gets a number."""
    names = (f"{name}{f'#{i}' if i > 1 else ''}/{output}" for i in range(1, len(taken) + 2))
    return next(key for key in names if key not in taken)


def _save(path: Path, outputs: Mapping[str, np.ndarray]) -> None:
    content = BytesIO()
    np.savez(content, allow_pickle=False, **outputs)
    write_atomic(path, content.getvalue())
