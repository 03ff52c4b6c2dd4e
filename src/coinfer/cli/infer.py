"""`coinfer infer`: answer pictures from this device."""

from pathlib import Path
from typing import Annotated

import typer

from coinfer.addresses import parse_addresses
from coinfer.cli.console import console
from coinfer.cli.options import (
    DEFAULT_BITS,
    Accuracy,
    Bits,
    Confidence,
    ConfidenceLoss,
    EnergyMj,
    Engine,
    Goal,
    MinAccuracy,
    Model,
    PolicyFile,
    PowerW,
    ProfileFile,
    Shape,
    Slowdown,
    Threads,
    TransmitPowerW,
    limit_or_inf,
    parse_bits,
    parse_confidence,
    parse_shapes,
)
from coinfer.runtime.device.config import DEFAULTS, DeviceConfig
from coinfer.runtime.device.objective import Objective


def infer(
    model: Model,
    images: Annotated[list[Path], typer.Argument(help="Pictures, or folders of them.")],
    servers: Annotated[str, typer.Option(help="Edge servers, host:port, separated by commas.")] = "",
    deadline_ms: Annotated[float, typer.Option(min=0, help="Milliseconds for each request; 0 is none.")] = 0.0,
    bits: Bits = DEFAULT_BITS,
    jpeg: Annotated[int | None, typer.Option(min=1, max=95, help="Send pictures as JPEG of this quality.")] = None,
    slowdown: Slowdown = DEFAULTS.slowdown,
    threads: Threads = DEFAULTS.threads,
    engine: Engine = DEFAULTS.engine,
    table: ProfileFile = None,
    shape: Shape = None,
    output: Annotated[Path | None, typer.Option("-o", help="Also write a record per picture (JSON lines).")] = None,
    goal: Goal = DEFAULTS.objective.goal,
    min_accuracy: MinAccuracy = DEFAULTS.objective.min_accuracy,
    energy_mj: EnergyMj = 0.0,
    power_w: PowerW = DEFAULTS.objective.power_w,
    transmit_power_w: TransmitPowerW = DEFAULTS.objective.transmit_power_w,
    accuracy: Accuracy = None,
    confidence: Confidence = "",
    confidence_loss: ConfidenceLoss = None,
    policy: PolicyFile = None,
) -> None:
    """Answer pictures from this device, with edge servers where that is faster.

    Times are in milliseconds. Without servers, or when they fail, this device answers.

    Example: [bold]coinfer infer resnet50 photos/ --servers 127.0.0.1:8001,127.0.0.1:8002 --deadline-ms 500[/bold]
    """
    from coinfer.cli.reports.infer_images import infer_images

    infer_images(
        console,
        model,
        images,
        DeviceConfig(
            servers=parse_addresses(servers, "--servers"),
            deadline_s=limit_or_inf(deadline_ms / 1e3),
            objective=Objective(goal, min_accuracy, limit_or_inf(energy_mj / 1e3), power_w, transmit_power_w),
            policy=policy,
            bits=parse_bits(bits),
            jpeg_quality=jpeg,
            accuracy=accuracy,
            confidence=parse_confidence(confidence),
            confidence_loss=confidence_loss,
            profile=table,
            slowdown=slowdown,
            threads=threads,
            shapes=parse_shapes(shape),
            engine=engine,
        ),
        output,
    )
