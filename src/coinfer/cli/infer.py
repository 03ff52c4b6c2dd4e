"""`coinfer infer`: answer pictures or other inputs from this device."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from coinfer.cli.console import console
from coinfer.cli.device_options import with_device_options
from coinfer.cli.options import Model
from coinfer.cli.picture_options import with_picture_options
from coinfer.runtime.device.config import DeviceConfig

if TYPE_CHECKING:
    from coinfer.graph.pictures import PictureSettings


@with_picture_options
@with_device_options
def infer(
    pictures: "PictureSettings",
    device: DeviceConfig,
    model: Model,
    items: Annotated[
        list[Path] | None,
        typer.Argument(help="Pictures, folders of them, or files .npy, .npz, .txt, .wav: a request each."),
    ] = None,
    inputs: Annotated[
        list[str] | None,
        typer.Option(
            "--input",
            metavar="NAME=VALUE",
            help="An input of every request: a file (.npy, .txt, .wav), numbers with commas, one number to fill it, or "
            "FILE.npz with several; repeat.",
        ),
    ] = None,
    out: Annotated[Path | None, typer.Option(help="Also write all outputs (.npz).")] = None,
    top: Annotated[
        int | None, typer.Option(min=1, max=100, help="Show so many likeliest classes, and how likely.")
    ] = None,
    labels: Annotated[
        Path | None, typer.Option(help="Names of the classes, one on a line; those in the file's metadata without.")
    ] = None,
    output: Annotated[Path | None, typer.Option("-o", help="Also write a record per picture (JSON lines).")] = None,
) -> None:
    """Answer pictures or other inputs from this device, with edge servers where that is faster.

    Times are in milliseconds. Without servers, or when they fail, this device answers. What the metadata of the file
    does not say about pictures is said by options, or once and for all in MODEL.input.yaml beside it.

    Example: [bold]coinfer infer resnet50 photos/ --servers 127.0.0.1:8001,127.0.0.1:8002 --deadline-ms 500[/bold]
    """
    from coinfer.cli.reports.infer_images import Asked, infer_images

    asked = Asked(model, pictures, tuple(items or ()), tuple(inputs or ()), top, labels, out, output)
    infer_images(console, asked, device)
