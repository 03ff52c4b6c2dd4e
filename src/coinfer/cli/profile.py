"""`coinfer profile`: measure a network on this machine."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from coinfer.cli.console import console
from coinfer.cli.options import (
    Bits,
    Limit,
    Model,
    Provider,
    Samples,
    Shape,
    Threads,
    parse_bits,
    parse_limits,
    parse_shapes,
)
from coinfer.cli.picture_options import with_picture_options

if TYPE_CHECKING:
    from coinfer.graph.pictures import PictureSettings


@with_picture_options
def profile(
    pictures: "PictureSettings",
    model: Model,
    shape: Shape = None,
    limit: Limit = None,
    threads: Threads = 1,
    provider: Provider = "cpu",
    bits: Bits = "32,16,12,8,4",
    images: Annotated[Path | None, typer.Option(help="Folder of sample pictures; shipped ones without it.")] = None,
    samples: Samples = None,
    output: Annotated[Path | None, typer.Option("-o", help="Table to write; MODEL.profile.json without it.")] = None,
) -> None:
    """Measure a network on this machine: seconds per block, bits per cut.

    Times are in milliseconds, sizes in kilobytes (1000 bytes). The saved table holds seconds and bits.

    Example: [bold]coinfer profile resnet50 -o resnet50.profile.json[/bold]
    """
    from coinfer.cli.reports.profile_table import profile_model

    given = parse_shapes(shape), pictures, parse_limits(limit)
    profile_model(console, model, *given, threads, parse_bits(bits), images, output, samples=samples, provider=provider)
