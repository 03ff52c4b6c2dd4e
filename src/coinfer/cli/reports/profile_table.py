"""Measure a network and print a row for each cut: `coinfer profile`."""

from collections.abc import Mapping, Sequence
from pathlib import Path

from rich.console import Console
from rich.table import Table

from coinfer.cli.reports.cut_name import cut_name
from coinfer.cli.reports.profile_notes import profile_notes
from coinfer.files import check_writable
from coinfer.graph.ir import ModelGraph
from coinfer.graph.onnx.axes import Shapes
from coinfer.graph.open_model import open_model
from coinfer.graph.pictures import PictureSettings
from coinfer.options.compile import compile_options
from coinfer.profile.samples import read_samples
from coinfer.profile.table import ProfileTable
from coinfer.progress import progress_bar
from coinfer.runtime.images import load_images
from coinfer.runtime.profiling import measure_with_codec, samples_for
from coinfer.runtime.providers import CPU, check_provider
from coinfer.units import MILLI, bytes_of_bits


def profile_model(
    console: Console,
    model: str,
    shapes: Shapes,
    pictures: PictureSettings,
    limits: Mapping[str, str],
    threads: int,
    bits: Sequence[int],
    images: Path | None,
    output: Path | None,
    *,
    samples: Path | None = None,
    provider: str = CPU,
) -> None:
    """Measure a network, print a row for each cut and the block before it, and save the profile.

    Args:
        console: prints table and progress.
        model: an ONNX file, or a network of the zoo.
        shapes: sizes of its free axes.
        pictures: how it takes pictures.
        limits: other limits of what its file may take.
        threads: of ONNX Runtime.
        bits: per element, a column of sizes each.
        images: folder of sample pictures; None takes the shipped ones.
        output: file of the profile; None takes MODEL.profile.json.
        samples: file of inputs to measure on; None takes pictures, or what the network is found to take.
        provider: short name of what computes.

    Raises:
        UserError: for what a user can mend, in one line.
    """
    graph = open_model(model, shapes, pictures, limits)
    path = output or Path(f"{graph.name}.profile.json")
    check_writable(path)
    check_provider(provider, "--provider")
    arrays = read_samples(graph, samples) if samples else samples_for(graph, load_images(images))
    with progress_bar(console, f"measuring {graph.name}") as progress:
        profile = measure_with_codec(graph, threads, arrays, progress, provider)
    console.print(_cuts_table(graph, profile, bits))
    for note in profile_notes(graph, profile):
        console.print(note, soft_wrap=True, highlight=False)
    profile.save(path)
    console.print(f"saved {path}")


def _cuts_table(graph: ModelGraph, profile: ProfileTable, bits: Sequence[int]) -> Table:
    """Return a row for each cut: time and inter-quartile range of the block before it, head, tail, and sizes."""
    table = Table(title=f"{graph.name}: whole network {profile.whole_s / MILLI:.1f} ms on {profile.threads} thread(s)")
    table.add_column("cut after", min_width=16, overflow="fold")
    for heading in ("block ms", "±", "head ms", "tail ms", *(f"{width} bit kB" for width in bits)):
        table.add_column(heading, justify="right")
    useful = graph.useful_cuts()
    cuts = [cut.tensors for cut in useful]
    ends = [len(cut.head) for cut in useful]
    blocks = [range(first, last) for first, last in zip((0, *ends), ends, strict=False)]
    options = compile_options(graph, profile, bits)
    option_of = zip(options.cuts, options.bits.tolist(), strict=True)
    size_bits = dict(zip(option_of, options.upload_bits.tolist(), strict=True))
    head_s, tail_s = profile.chain_s(graph, graph.outputs)
    for i, (cut, block) in enumerate(zip(cuts, blocks, strict=True)):
        sizes = (size_bits.get((cut, width), 0.0) for width in bits)
        times_s = (
            sum(profile.op_s[op] for op in block),
            sum(profile.op_spread_s[op] for op in block),
            head_s[i],
            tail_s[i],
        )
        cells = (f"{bytes_of_bits(size) / 1e3:.1f}" if size else "" for size in sizes)
        table.add_row(cut_name(graph, cut), *(f"{seconds / MILLI:.2f}" for seconds in times_s), *cells)
    return table
