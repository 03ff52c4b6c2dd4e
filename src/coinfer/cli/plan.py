"""`coinfer plan`: show the best cut for a link, before anything runs."""

from typing import TYPE_CHECKING, Annotated

import typer

from coinfer.cli.console import console
from coinfer.cli.options import (
    Accuracy,
    EnergyMj,
    Goal,
    Jpeg,
    Limit,
    MinAccuracy,
    Model,
    OfferedBits,
    PowerW,
    ProfileFile,
    Samples,
    Shape,
    Slowdown,
    Threads,
    TransmitPowerW,
    limit_or_inf,
    parse_bits,
    parse_limits,
    parse_shapes,
    parse_sizes,
)
from coinfer.cli.picture_options import with_picture_options
from coinfer.runtime.device.config import DEFAULTS, DeviceConfig
from coinfer.runtime.device.objective import Objective

if TYPE_CHECKING:
    from coinfer.graph.pictures import PictureSettings


@with_picture_options
def plan(
    pictures: "PictureSettings",
    model: Model,
    uplink_mbit_s: Annotated[float, typer.Option(help="Link rate to the server, 10^6 bits per second.")] = 10.0,
    device: Annotated[
        str | None,
        typer.Option(help="Device class, such as raspberry-pi-4; `list` shows all. This machine without it."),
    ] = None,
    device_slowdown: Slowdown = DEFAULTS.slowdown,
    server_slowdown: Slowdown = 1.0,
    wait_ms: Annotated[float, typer.Option(min=0, help="Queue and round trip of the server, milliseconds.")] = 0.0,
    bits: OfferedBits = None,
    jpeg: Jpeg = None,
    threads: Threads = DEFAULTS.threads,
    table: ProfileFile = None,
    shape: Shape = None,
    limit: Limit = None,
    goal: Goal = DEFAULTS.objective.goal,
    min_accuracy: MinAccuracy = DEFAULTS.objective.min_accuracy,
    deadline_ms: Annotated[float, typer.Option(min=0, help="Limit: milliseconds for a request; 0 is none.")] = 0.0,
    energy_mj: EnergyMj = 0.0,
    power_w: PowerW = DEFAULTS.objective.power_w,
    transmit_power_w: TransmitPowerW = DEFAULTS.objective.transmit_power_w,
    accuracy: Accuracy = None,
    size: Annotated[
        list[str] | None,
        typer.Option(metavar="AXIS=SIZE", help="Plan a request of this size of a free axis, such as N=32; repeat."),
    ] = None,
    samples: Samples = None,
    show_all: Annotated[bool, typer.Option("--all", help="Show every cut, not only those that may be best.")] = False,
) -> None:
    """Show the best cut for a link, and for every other link rate.

    A cut is exact if every answer on the measured inputs has the same bits with and without it. Link rates are in
    Mbit/s, times in milliseconds.

    Example: [bold]coinfer plan resnet50 --device raspberry-pi-4 --uplink-mbit-s 8[/bold]
    """
    from coinfer.cli.reports.plan_tables import show_plan

    show_plan(
        console,
        model,
        pictures,
        DeviceConfig(
            deadline_s=limit_or_inf(deadline_ms / 1e3),
            objective=Objective(goal, min_accuracy, limit_or_inf(energy_mj / 1e3), power_w, transmit_power_w),
            bits=None if bits is None else parse_bits(bits),
            jpeg_quality=jpeg,
            accuracy=accuracy,
            profile=table,
            slowdown=device_slowdown,
            threads=threads,
            shapes=parse_shapes(shape),
            limits=parse_limits(limit),
        ),
        uplink_bps=uplink_mbit_s * 1e6,
        device=device,
        server_slowdown=server_slowdown,
        wait_s=wait_ms / 1e3,
        sizes=parse_sizes(size),
        samples=samples,
        show_all=show_all,
    )
