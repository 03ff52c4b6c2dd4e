"""Measure a network and print a row for each cut."""

from collections.abc import Sequence
from pathlib import Path

from rich.console import Console
from rich.table import Table

from coinfer.cli.cut_name import cut_name
from coinfer.graph.open_model import open_model
from coinfer.options.compile import compile_options
from coinfer.progress import progress_bar
from coinfer.runtime.images import load_images
from coinfer.runtime.profiling import measure_with_codec, samples_for
from coinfer.units import MILLI, bytes_of_bits


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
        shown.add_row(cut_name(graph, cut), *(f"{seconds / MILLI:.2f}" for seconds in times_s), *cells)
    console.print(shown)
    path = output or Path(f"{graph.name}.profile.json")
    table.save(path)
    console.print(f"saved {path}")
