"""`coinfer watch`: answer the frames of a video from this device."""

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
def watch(
    pictures: "PictureSettings",
    device: DeviceConfig,
    source: Annotated[
        str,
        typer.Argument(
            help="A video file, a camera's number, a URL such as rtsp://HOST/PATH, a GIF or a folder of pictures."
        ),
    ],
    model: Model,
    out: Annotated[Path | None, typer.Option(help="Write a line of JSON for each answered frame; - prints it.")] = None,
    page: Annotated[
        int | None, typer.Option(min=0, max=65535, metavar="PORT", help="Show the frames in a browser; 0 any port.")
    ] = None,
    fast: Annotated[
        bool, typer.Option("--fast", help="Answer every frame of a file, as fast as possible; none is skipped.")
    ] = False,
    concurrency: Annotated[int, typer.Option(min=1, max=64, help="Frames under way at the same time.")] = 2,
    top: Annotated[int, typer.Option(min=1, max=100, help="Likeliest classes in each answer.")] = 1,
    labels: Annotated[
        Path | None, typer.Option(help="Names of the classes, one on a line; those in the file's metadata without.")
    ] = None,
) -> None:
    """Answer the frames of a video from this device, with edge servers where that is faster.

    The newest frame wins: frames that would be answered too late are skipped and counted. Without --deadline-ms an
    answer is late once the second frame after it has come. Ctrl-C ends with the summary. Video needs the extra `video`.

    Example: [bold]coinfer watch rtsp://192.168.1.7/stream mobilenetv2 --servers 192.168.1.20:8001 --page 8080[/bold]
    """
    from coinfer.cli.reports.watch_video import Watch, watch_video

    watch_video(console, Watch(source, model, pictures, out, page, fast, concurrency, top, labels), device)
