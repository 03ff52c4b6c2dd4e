"""The tables of `coinfer accuracy` and `coinfer exits measure`."""

from collections.abc import Collection, Mapping, Sequence
from contextlib import suppress
from pathlib import Path

from rich.console import Console
from rich.table import Table

from coinfer.errors import UserError
from coinfer.files import check_writable
from coinfer.graph.ir import ModelGraph
from coinfer.graph.onnx.axes import Shapes
from coinfer.graph.pictures import PictureSettings
from coinfer.options.compile import compile_options
from coinfer.options.prune import SPEED_RATIOS, prune
from coinfer.options.table import Names
from coinfer.profile.accuracy import MAX_LOSS, MIN_SAMPLES, TOLERANCE, AccuracyTable
from coinfer.profile.dataset import load_dataset
from coinfer.profile.table import ProfileTable
from coinfer.progress import progress_bar
from coinfer.runtime.accuracy_samples import SampleSet, batch_size, dataset_samples, folder_samples
from coinfer.runtime.classes import is_classifier, labels_of, read_labels
from coinfer.runtime.device.input_files import read_inputs
from coinfer.runtime.device.planning.accuracy_table import kept_accuracy_file
from coinfer.runtime.measure_accuracy import measure_accuracy, measurement_plan
from coinfer.runtime.profiling import open_profiled, profile_for
from coinfer.units import FLOAT32_BITS

MEASURES = {
    "labels": "percent right of",
    "same class": "percent of the same class as without loss, of",
    "tolerance": f"percent within {TOLERANCE:.0%} of the answer without loss, of",
}


def measure_and_show(
    console: Console,
    model: str,
    data: Path,
    *,
    inputs: Sequence[str],
    labels: Path | None,
    output: Path | None,
    bits: Sequence[int],
    first: int,
    every_cut: bool,
    jobs: int,
    profile: Path | None,
    shapes: Shapes,
    limits: Mapping[str, str],
    pictures: PictureSettings,
) -> None:
    """Measure what fewer bits cost, print it, write the table, and keep it for this network.

    Args:
        console: prints table and progress.
        model: an ONNX file, or a network of the zoo.
        data: folder of the samples.
        inputs: that all samples share, as `read_inputs` takes them.
        labels: file with the names of the classes.
        output: file of the table; None takes MODEL.accuracy.json.
        bits: per element.
        first: so many samples only; 0 takes all.
        every_cut: measure cuts too that can never be best.
        jobs: processes that share the work.
        profile: file of the network's profile; None measures.
        shapes: sizes of free axes.
        limits: of our own on what a file may hold, by name.
        pictures: how the network takes pictures.

    Raises:
        UserError: for what a user can mend, in one line.
    """
    graph = open_profiled(model, shapes, profile, pictures, limits)
    path = output or Path(f"{graph.name}.accuracy.json")
    check_writable(path)
    names = read_labels(labels) if labels else labels_of(graph)
    with progress_bar(console, f"measuring {graph.name}") as progress:
        table = profile_for(graph, profile, progress=progress, provider=None)
    cuts = None if every_cut else _cuts_that_matter(graph, table, bits)
    plan = measurement_plan(graph, bits, (graph.outputs,), cuts)
    held = {name for cut in plan.cuts for name in cut}
    samples = _samples(graph, data, read_inputs(graph, inputs), first, names, batch_size(graph, held))
    if not plan.cuts:
        every = measurement_plan(graph, bits).cuts
        which, more = (" that may be best", "; --every-cut measures the others") if every else ("", "")
        raise UserError(f"{graph.name}: no cut{which} sends what could be rounded, so fewer bits cost nothing{more}")
    if samples.labelled and (len(graph.outputs) > 1 or not is_classifier(graph, graph.outputs)):
        raise UserError(
            f"{graph.name} has no single output of classes for the labels of {data}; give a folder of pictures without "
            "sub-folders, or measure its exits with `coinfer exits measure`"
        )
    with progress_bar(console, f"measuring {graph.name}") as progress:
        found = measure_accuracy(graph, samples, plan, jobs, progress)
    widths = sorted({*plan.bits}, reverse=True)
    console.print(accuracy_rows(graph, found, widths, (graph.outputs,)))
    _say_what_is_offered(console, found, plan.cuts, widths)
    found.save(path)
    with suppress(OSError):  # without a home, or a read-only one, the table must be named
        kept = kept_accuracy_file(graph)
        kept.parent.mkdir(parents=True, exist_ok=True)
        found.save(kept)
    console.print(f"saved {path}", soft_wrap=True)


def _cuts_that_matter(graph: ModelGraph, table: ProfileTable, bits: Sequence[int]) -> list[Names]:
    """Return the cuts that can be best for some link, with these numbers of bits."""
    options = prune(compile_options(graph, table, (FLOAT32_BITS, *bits)), "near-best", speed_ratios=SPEED_RATIOS)
    return list(dict.fromkeys(options.cuts))


def _samples(
    graph: ModelGraph, data: Path, given: dict, limit: int, labels: Sequence[str], batch: int
) -> SampleSet:  # fmt: skip
    packed = data.is_file() or any(
        True for pattern in ("*_batch*.bin", "*test*.npz", "*_batch") for _ in data.glob(pattern)
    )
    if not packed:
        return folder_samples(graph, data, given, limit, labels)
    found = load_dataset(data, "test")
    return dataset_samples(graph, found.take(limit) if limit else found, batch)


def _say_what_is_offered(
    console: Console, accuracy: AccuracyTable, cuts: Collection[Names], widths: Sequence[int]
) -> None:
    if accuracy.samples < MIN_SAMPLES:
        console.print(
            f"{accuracy.samples} samples are too few to offer lossy widths; at least {MIN_SAMPLES} are needed"
        )
        return
    for width in widths:
        earned = sum(accuracy.is_earned(0, cut, width) for cut in cuts)
        loss = f"lose at most {MAX_LOSS:.0%}"
        console.print(f"{width} bits: {earned} of {len(cuts)} cuts {loss} and are offered without --bits")


def accuracy_rows(graph: ModelGraph, accuracy: AccuracyTable, widths: Sequence[int], exits: Sequence[Names]) -> Table:
    """Return the accuracy in percent: a row for each exit by itself, then one for each of its cuts.

    Args:
        graph: the measured network.
        accuracy: holds every cut with every one of the widths.
        widths: bits per element, one column each.
        exits: outputs of each exit.
    """
    table = Table(title=f"{graph.name}, {MEASURES[accuracy.measure]} {accuracy.dataset} (95 % interval)")
    for heading in ("exit", "cut after", "32 bit, exact", *(f"{width} bit" for width in widths)):
        table.add_column(heading, justify="left" if heading == "cut after" else "right", overflow="fold")
    for exit_, outputs in enumerate(exits):
        table.add_row(str(exit_ + 1), f"none: {', '.join(outputs)}", _cell(accuracy, exit_), style="bold")
        cuts = dict.fromkeys(row.cut for row in accuracy.rows if row.exit == exit_ and row.cut != graph.inputs)
        for cut in cuts:
            table.add_row("", ", ".join(cut), "", *(_cell(accuracy, exit_, cut, width) for width in widths))
    return table


def _cell(accuracy: AccuracyTable, exit_: int, cut: Names = (), width: int = FLOAT32_BITS) -> str:
    low, high = accuracy.interval(exit_, cut, width)
    return f"{100 * accuracy.accuracy(exit_, cut, width):.2f} ({100 * low:.1f} to {100 * high:.1f})"
