"""Print the best option at one link rate, and the best one at every other: `coinfer plan`."""

import math
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType

import numpy as np
from rich.console import Console
from rich.table import Table

from coinfer.cli.reports.cut_name import cut_name
from coinfer.cli.reports.profile_notes import profile_notes
from coinfer.errors import UserError
from coinfer.graph.ir import ModelGraph
from coinfer.graph.pictures import PictureSettings
from coinfer.options.earned import offered_options, unmeasured_note
from coinfer.options.prune import useful_mask
from coinfer.profile import devices
from coinfer.profile.sizing import at_sizes
from coinfer.profile.table import ProfileTable
from coinfer.progress import progress_bar
from coinfer.runtime.device.config import DeviceConfig
from coinfer.runtime.device.planning.accuracy_table import accuracy_for
from coinfer.runtime.device.planning.message_size import with_messages
from coinfer.runtime.device.planning.preview import Preview
from coinfer.runtime.profiling import open_profiled, profile_for, with_jpeg
from coinfer.units import FLOAT32_BITS, MEGA, MILLI, bytes_of_bits


def show_plan(
    console: Console,
    model: str,
    pictures: PictureSettings,
    config: DeviceConfig,
    *,
    uplink_bps: float,
    device: str | None,
    server_slowdown: float,
    wait_s: float,
    sizes: Mapping[str, int] = MappingProxyType({}),
    samples: Path | None = None,
    show_all: bool = False,
) -> None:
    """Print the best option at one link rate, and the best one at every other.

    Args:
        console: prints tables and progress.
        model: an ONNX file, or a network of the zoo.
        pictures: how it takes pictures.
        config: of the device; its profile is a path or None.
        uplink_bps: rate of the link to the server.
        device: class of devices; None for this machine, slowed as `config` says; `list` prints all classes instead.
        server_slowdown: how many times slower than this machine the server is.
        wait_s: queue and round trip of the server.
        sizes: of the planned request, by free axis; the smallest of those that are not there.
        samples: file of inputs to measure on, if the network is measured now.
        show_all: show every cut, not only those that may be best.

    Raises:
        UserError: for what a user can mend, in one line.
    """
    if device == "list":
        for name in devices.names():
            console.print(f"[bold]{name}[/bold]  {devices.device_class(name).description}", highlight=False)
        return
    if not (uplink_bps > 0 and math.isfinite(uplink_bps)):
        raise UserError(f"--uplink-mbit-s {uplink_bps / MEGA:g}: expected a rate above 0")
    graph = open_profiled(model, config.shapes, config.profile, pictures, config.limits)
    with progress_bar(console, f"measuring {graph.name}") as progress:
        table = profile_for(graph, config.profile, config.threads, progress, samples=samples, provider=None)
    if config.jpeg_quality is not None:
        table = with_jpeg(graph, table, config.jpeg_quality)
    notes = list(profile_notes(graph, table))
    graph, table = at_sizes(graph, table, sizes)
    accuracy = accuracy_for(graph, config.accuracy, config.objective)
    all_codes = config.objective.counts_accuracy
    options = with_messages(offered_options(graph, table, config.bits, accuracy, all_codes=all_codes), graph)
    device_slowdown = config.slowdown * (1.0 if device is None else devices.device_slowdown(device, table))
    options = options._replace(
        device_s=options.device_s * device_slowdown,
        server_s=options.server_s * server_slowdown + wait_s * ~options.is_local[:, None],
    )
    machine = f"{device or 'this machine'}, {device_slowdown:.3g} times the measured time"
    console.print(f"{graph.name} on {machine}; server {server_slowdown:g} times; fingerprint {graph.fingerprint[:12]}")
    preview = Preview(options, config.objective, config.deadline_s, as_jpeg=config.jpeg_quality is not None)
    print_plan(console, graph, preview, table, wait_s=wait_s, uplink_bps=uplink_bps, show_all=show_all)
    if note := unmeasured_note(options, accuracy, graph):
        notes.append(f"note: {note}")
    for note in notes:
        console.print(note, soft_wrap=True, highlight=False)


def print_plan(
    console: Console,
    graph: ModelGraph,
    preview: Preview,
    profile: ProfileTable,
    *,
    wait_s: float,
    uplink_bps: float,
    show_all: bool = False,
) -> None:
    """Print the table of cuts at one link rate, and that of the best one at every rate.

    Args:
        console: prints them.
        graph: the network.
        preview: its options.
        profile: says which cuts are exact.
        wait_s: queue and round trip of the server, as it is in the options.
        uplink_bps: rate of the link to the server.
        show_all: show every cut, not only those that may be best.
    """
    shown = np.ones(len(preview.options.bits), bool) if show_all else _that_matter(preview, uplink_bps)
    console.print(_options_table(graph, preview, wait_s, uplink_bps, profile, shown))
    console.print(_ranges_table(graph, preview))


def _that_matter(preview: Preview, uplink_bps: float) -> np.ndarray:
    """Return [O] true for the options of cuts that may be best: at some link rate, at this one, behind a queue; and for
    all there and all here."""
    options = preview.options
    best = {option for _, _, option in preview.ranges()} | {preview.best(uplink_bps)}
    best |= set(np.flatnonzero(useful_mask(options, "near-best") | options.is_local).tolist())
    first = {exit_: cut for (exit_, cut, _) in reversed(options.triples)}
    cuts = {(exit_, cut) for i, (exit_, cut, _) in enumerate(options.triples) if i in best} | set(first.items())
    return np.array([(exit_, cut) in cuts for exit_, cut, _ in options.triples])


def _options_table(
    graph: ModelGraph, preview: Preview, wait_s: float, uplink_bps: float, profile: ProfileTable, shown: np.ndarray
) -> Table:
    """Return a row for each exit and cut that is shown, with the number of bits that is best for it at this rate."""
    options = preview.options
    best = preview.best(uplink_bps)
    table = Table(title=f"latency at {uplink_bps / MEGA:g} Mbit/s, ms; * is the best")
    for heading in [*_cells_of_option(graph, preview, wait_s, uplink_bps, best), "answers"]:
        table.add_column(heading, justify="left" if heading == "cut after" else "right")
    every = dict.fromkeys((exit_, cut) for exit_, cut, _ in options.triples)
    few = dict.fromkeys(pair[:2] for pair, is_shown in zip(options.triples, shown, strict=True) if is_shown)
    if len(few) < len(every):
        table.title = f"{table.title}; {len(few)} of {len(every)} cuts, --all shows the others"
    for exit_, cut in few:
        among = [e == exit_ and names == cut for e, names, _ in options.triples]
        i = preview.best(uplink_bps, np.array(among))
        cells = _cells_of_option(graph, preview, wait_s, uplink_bps, i)
        if i == best:
            cells["cut after"] += " *"
        answers = _answers(graph, preview, profile, i)
        table.add_row(*cells.values(), answers, style="bold green" if i == best else "")
    if unmet := preview.unmet(best, uplink_bps):
        table.caption = f"nothing meets every limit at this rate; the best misses: {', '.join(unmet)}"
    return table


def _answers(graph: ModelGraph, preview: Preview, profile: ProfileTable, option: int) -> str:
    """Return how the answers of an option relate to those of the whole network."""
    options = preview.options
    cut = options.cuts[option]
    if graph.part(cut) is not graph:
        return "by a bottleneck"
    computed = [name for name in cut if name not in graph.inputs and graph.tensors[name].dtype.kind == "f"]
    if options.is_local[option] or set(cut) <= set(graph.inputs):
        return "of a JPEG" if preview.as_jpeg and graph.picture_input in cut else "exact"
    if computed and options.bits[option] < FLOAT32_BITS:
        return "rounded"
    difference = profile.difference(cut, options.outputs[option])
    return "not compared" if difference is None else f"±{difference:.0e}" if difference else "exact"


def _cells_of_option(
    graph: ModelGraph, preview: Preview, wait_s: float, uplink_bps: float, option: int
) -> dict[str, str]:
    """Return the cells of one row by heading."""
    options, sent = preview.options, float(preview.options.upload_bits[option])
    wait_s = wait_s if sent else 0.0
    times_s = {
        "device": options.device_s[option],
        "upload": sent / uplink_bps,
        "wait": wait_s,
        "server": options.server_s[option, 0] - wait_s,
    }
    times_s["total"] = sum(times_s.values())
    cells = {"exit": str(options.exit[option] + 1)} if preview.has_exits else {}
    cells |= {"cut after": cut_name(graph, options.cuts[option])}
    cells |= {"bits": str(options.bits[option]) if sent else "-"}
    cells |= {"kB sent": f"{bytes_of_bits(sent) / 1e3:.1f}" if sent else "-"}
    cells |= {name: f"{seconds / MILLI:.1f}" for name, seconds in times_s.items()}
    if preview.has_exits:
        cells |= {"right": f"{options.accuracy[option]:.1%}"}
    if preview.objective.counts_energy:
        cells |= {"mJ": f"{preview.energy_j(option, uplink_bps) / MILLI:.1f}"}
    return cells


def _ranges_table(graph: ModelGraph, preview: Preview) -> Table:
    """Return a row for each range of link rates, with the option that is best in it."""
    table = Table(title="best for every link rate")
    options = preview.options
    extra = ("exit", "right") if preview.has_exits else ()
    for heading in ("from Mbit/s", "to Mbit/s", *extra[:1], "cut after", "bits", *extra[1:]):
        table.add_column(heading, justify="left" if heading == "cut after" else "right")
    for low_bps, high_bps, option in preview.ranges():
        upper = "any" if math.isinf(high_bps) else f"{high_bps / MEGA:.3g}"
        cells = [f"{low_bps / MEGA:.3g}", upper, *([str(options.exit[option] + 1)] if preview.has_exits else [])]
        cells += [cut_name(graph, options.cuts[option]), str(options.bits[option])]
        if not options.upload_bits[option]:
            cells[-1] = "-"
        table.add_row(*cells, *([f"{options.accuracy[option]:.1%}"] if preview.has_exits else []))
    return table
