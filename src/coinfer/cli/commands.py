"""What `coinfer profile`, `plan` and `infer` do and print."""

import math
import time
from collections.abc import Iterator, Sequence
from contextlib import closing
from pathlib import Path

import numpy as np
from rich.console import Console, JustifyMethod
from rich.progress import track
from rich.table import Table

from coinfer.errors import UserError
from coinfer.graph.ir import ModelGraph
from coinfer.graph.zoo.networks import open_model
from coinfer.options.compile import compile_options
from coinfer.profile import devices
from coinfer.progress import progress_bar
from coinfer.records import RunLog
from coinfer.runtime.device.config import WishSettings, accuracy_of
from coinfer.runtime.device.device import Device, Result
from coinfer.runtime.device.preview import Preview
from coinfer.runtime.executor import Engine
from coinfer.runtime.images import PHOTO_SUFFIXES, load_images
from coinfer.runtime.profiling import measure_with_codec, profile_for, samples_for
from coinfer.units import MEGA, MILLI, bytes_of_bits

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


def profile_model(
    console: Console, model: str, threads: int, bits: Sequence[int], images: Path | None, output: Path | None
) -> None:
    """Measures, prints a row for each cut and the block before it (time and inter-quartile range), saves the table."""
    graph = open_model(model)
    samples = samples_for(graph, load_images(images))
    with progress_bar(console, f"measuring {graph.name}") as progress:
        table = measure_with_codec(graph, threads, samples, progress)
    options = compile_options(graph, table, bits)
    shown = Table(title=f"{graph.name}: whole network {table.whole_s / MILLI:.1f} ms on {threads} thread(s)")
    shown.add_column("cut after", min_width=16, overflow="fold")
    for heading in ("block ms", "±", "head ms", "tail ms", *(f"{width} bit kB" for width in bits)):
        shown.add_column(heading, justify="right")
    found = graph.useful_cuts()
    cuts = [cut.tensors for cut in found]
    blocks = [sorted(cut.head - before.head) for before, cut in zip((found[0], *found), found, strict=False)]
    sizes = {
        (cut, int(width)): size
        for cut, width, size in zip(options.cuts, options.bits, options.upload_bits, strict=True)
    }
    head_s, tail_s = table.head_s(graph, cuts), table.tail_s(graph, cuts)
    for i, (cut, block) in enumerate(zip(cuts, blocks, strict=True)):
        kilobytes = [bytes_of_bits(sizes[cut, width]) / 1e3 if sizes.get((cut, width)) else None for width in bits]
        cells = ["" if size is None else f"{size:.1f}" for size in kilobytes]
        times_s = (
            sum(table.op_s[op] for op in block),
            sum(table.op_spread_s[op] for op in block),
            head_s[i],
            tail_s[i],
        )
        shown.add_row(_cut_name(graph, cut), *(f"{seconds / MILLI:.2f}" for seconds in times_s), *cells)
    console.print(shown)
    path = output or Path(f"{graph.name}.profile.json")
    table.save(path)
    console.print(f"saved {path}")


def show_plan(
    console: Console,
    model: str,
    uplink_bps: float,
    device: str | None,
    device_slowdown: float,
    server_slowdown: float,
    wait_s: float,
    bits: Sequence[int],
    threads: int,
    table_file: Path | None,
    deadline_s: float = math.inf,
    wishes: WishSettings = NO_WISH,
) -> None:
    """The best option at this rate, and which is best at every other."""
    if device == "list":
        for name in devices.names():
            console.print(f"[bold]{name}[/bold]  {devices.device_class(name).description}", highlight=False)
        return
    if not (uplink_bps > 0 and math.isfinite(uplink_bps)):
        raise UserError(f"--uplink-mbit-s {uplink_bps / MEGA:g}: expected a rate above 0")
    graph = open_model(model)
    with progress_bar(console, f"measuring {graph.name}") as progress:
        table = profile_for(graph, table_file, threads, progress)
    wish = wishes.wish
    options = compile_options(graph, table, bits, accuracy_of(graph, wishes.accuracy, wish))
    if device is not None:
        device_slowdown *= devices.slowdown(device, table)
    options = options._replace(
        device_s=options.device_s * device_slowdown,
        server_s=options.server_s * server_slowdown + wait_s * (options.upload_bits > 0),
    )
    here = f"{device or 'this machine'}, {device_slowdown:.3g} times the measured time"
    console.print(f"{graph.name} on {here}; server {server_slowdown:g} times; fingerprint {graph.fingerprint[:12]}")
    preview = Preview(options, wish, deadline_s)
    console.print(_options_table(graph, preview, wait_s, uplink_bps))
    console.print(_ranges_table(graph, preview))


def _options_table(graph: ModelGraph, preview: Preview, wait_s: float, uplink_bps: float) -> Table:
    """Each exit and cut with the number of bits that is best for it at this rate."""
    options = preview.options
    best = preview.best(uplink_bps)
    shown = Table(title=f"latency at {uplink_bps / MEGA:g} Mbit/s, ms; the best is marked")
    for heading in _cells_of_option(graph, preview, wait_s, uplink_bps, best):
        shown.add_column(heading, justify="left" if heading == "cut after" else "right")
    for exit_, cut in dict.fromkeys((exit_, cut) for exit_, cut, _ in options.triples):
        among = [e == exit_ and names == cut for e, names, _ in options.triples]
        i = preview.best(uplink_bps, np.array(among))
        cells = _cells_of_option(graph, preview, wait_s, uplink_bps, i)
        shown.add_row(*cells.values(), style="bold green" if i == best else "")
    if unmet := preview.unmet(best, uplink_bps):
        shown.caption = f"nothing meets every limit at this rate; the best misses: {', '.join(unmet)}"
    return shown


def _cells_of_option(
    graph: ModelGraph, preview: Preview, wait_s: float, uplink_bps: float, option: int
) -> dict[str, str]:
    """One row by heading."""
    options, sent = preview.options, float(preview.options.upload_bits[option])
    wait_s = wait_s if sent else 0.0
    times_s = {
        "device": options.device_s[option],
        "upload": sent / uplink_bps,
        "wait": wait_s,
        "server": options.server_s[option] - wait_s,
    }
    times_s["total"] = sum(times_s.values())
    cells = {"exit": str(options.exit[option] + 1)} if preview.has_exits else {}
    cells |= {"cut after": _cut_name(graph, options.cuts[option])}
    cells |= {"bits": str(options.bits[option]) if sent else "-"}
    cells |= {"kB sent": f"{bytes_of_bits(sent) / 1e3:.1f}" if sent else "-"}
    cells |= {name: f"{seconds / MILLI:.1f}" for name, seconds in times_s.items()}
    if preview.has_exits:
        cells |= {"right": f"{options.accuracy[option]:.1%}"}
    if preview.wish.counts_energy:
        cells |= {"mJ": f"{preview.energy_j(option, uplink_bps) / MILLI:.1f}"}
    return cells


def _ranges_table(graph: ModelGraph, preview: Preview) -> Table:
    shown = Table(title="best for every link rate")
    options = preview.options
    extra = ("exit", "right") if preview.has_exits else ()
    for heading in ("from Mbit/s", "to Mbit/s", *extra[:1], "cut after", "bits", *extra[1:]):
        shown.add_column(heading, justify="left" if heading == "cut after" else "right")
    for low_bps, high_bps, option in preview.ranges():
        to = "any" if math.isinf(high_bps) else f"{high_bps / MEGA:.3g}"
        cells = [f"{low_bps / MEGA:.3g}", to, *([str(options.exit[option] + 1)] if preview.has_exits else [])]
        cells += [_cut_name(graph, options.cuts[option]), str(options.bits[option])]
        if not options.upload_bits[option]:
            cells[-1] = "-"
        shown.add_row(*cells, *([f"{options.accuracy[option]:.1%}"] if preview.has_exits else []))
    return shown


def _cut_name(graph: ModelGraph, cut: tuple[str, ...]) -> str:
    if cut == graph.inputs:
        return "(input)"
    return "(all here)" if set(cut) <= set(graph.outputs) else " + ".join(cut)


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
        "(sure)" if early else _cut_name(graph, head.cut),
        str(head.bits) if sent and not early else "-",
        result.executed_on + (f" ({result.fallback})" if result.fallback else ""),
        *(f"{part / MILLI:.0f}" for part in (*parts, outcome.latency_s)),
        *((str(result.exit + 1), f"{outcome.accuracy:.1%}", ", ".join(result.unmet)) if has_exits else ()),
        style="" if outcome.in_time else "red",
    )
