"""`coinfer accuracy`: what fewer bits cost on samples of a user's own."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from coinfer.cli.console import console
from coinfer.cli.options import Bits, Limit, Model, ProfileFile, Shape, parse_bits, parse_limits, parse_shapes
from coinfer.cli.picture_options import with_picture_options

if TYPE_CHECKING:
    from coinfer.graph.pictures import PictureSettings


@with_picture_options
def accuracy(
    pictures: "PictureSettings",
    model: Model,
    data: Annotated[
        Path,
        typer.Option(help="Folder of pictures, of files .npz, .npy, .txt, .wav, of class sub-folders, or CIFAR-10's."),
    ],
    inputs: Annotated[
        list[str] | None, typer.Option("--input", metavar="NAME=VALUE", help="An input that all samples share; repeat.")
    ] = None,
    labels: Annotated[Path | None, typer.Option(help="Names of the classes, as the sub-folders are called.")] = None,
    output: Annotated[Path | None, typer.Option("-o", help="Table to write; MODEL.accuracy.json without it.")] = None,
    bits: Bits = "16,8,4",
    samples: Annotated[int, typer.Option(min=0, help="Only the first so many samples; 0 takes all.")] = 0,
    every_cut: Annotated[
        bool, typer.Option("--every-cut", help="Measure every cut, not only those that may be best.")
    ] = False,
    jobs: Annotated[int, typer.Option(min=1, max=256, help="Processes of one thread each.")] = 1,
    table: ProfileFile = None,
    shape: Shape = None,
    limit: Limit = None,
) -> None:
    """Measure what fewer bits per element cost on your samples, through the codec of the runtime.

    With labels (class sub-folders, CIFAR-10's files) the right answers are counted; without, those that stay as they
    are without loss. The table is written and kept for this network: later commands offer 12, 8 and 4 bits only where
    it says that at most 1 % of the answers change for the worse. `coinfer exits measure` is for early exits.

    Example: [bold]coinfer accuracy mymodel.onnx --data photos/ --image-size 224[/bold]
    """
    from coinfer.cli.reports.accuracy_rows import measure_and_show

    measure_and_show(
        console,
        model,
        data,
        inputs=tuple(inputs or ()),
        labels=labels,
        output=output,
        bits=parse_bits(bits),
        first=samples,
        every_cut=every_cut,
        jobs=jobs,
        profile=table,
        shapes=parse_shapes(shape),
        limits=parse_limits(limit),
        pictures=pictures,
    )
