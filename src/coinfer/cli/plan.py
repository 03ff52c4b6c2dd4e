"""`coinfer plan`: what is best for a link, before anything runs."""

import math
from typing import Annotated

import typer

from coinfer.cli.console import console
from coinfer.cli.options import (
    Accuracy,
    Bits,
    EnergyMj,
    Goal,
    MinAccuracy,
    Model,
    PowerW,
    ProfileFile,
    Slowdown,
    Threads,
    TransmitPowerW,
    parse_bits,
)


def plan(
    model: Model,
    uplink_mbit_s: Annotated[float, typer.Option(help="Link rate to the server, 10^6 bits per second.")] = 10.0,
    device: Annotated[
        str | None,
        typer.Option(help="Device class, such as raspberry-pi-4; `list` shows all. This machine without it."),
    ] = None,
    device_slowdown: Slowdown = 1.0,
    server_slowdown: Slowdown = 1.0,
    wait_ms: Annotated[float, typer.Option(min=0, help="Queue and round trip of the server, milliseconds.")] = 0.0,
    bits: Bits = "32,16,8",
    threads: Threads = 1,
    table: ProfileFile = None,
    goal: Goal = "latency",
    min_accuracy: MinAccuracy = 0.0,
    deadline_ms: Annotated[float, typer.Option(min=0, help="Limit: milliseconds for a request; 0 is none.")] = 0.0,
    energy_mj: EnergyMj = 0.0,
    power_w: PowerW = 0.0,
    transmit_power_w: TransmitPowerW = 0.0,
    accuracy: Accuracy = None,
) -> None:
    """Show the best cut for a link, and for every other link rate.

    Link rates are in Mbit/s, times in milliseconds.

    Example: [bold]coinfer plan resnet50 --device raspberry-pi-4 --uplink-mbit-s 8[/bold]
    """
    from coinfer.cli.plan_tables import show_plan
    from coinfer.runtime.device.config import WishSettings

    show_plan(
        console,
        model,
        uplink_mbit_s * 1e6,
        device,
        device_slowdown,
        server_slowdown,
        wait_ms / 1e3,
        parse_bits(bits),
        threads,
        table,
        deadline_ms / 1e3 or math.inf,
        WishSettings(goal, min_accuracy, energy_mj / 1e3 or math.inf, power_w, transmit_power_w, accuracy),
    )
