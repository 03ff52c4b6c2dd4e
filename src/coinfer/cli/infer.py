"""`coinfer infer`: answer pictures from this device."""

import math
from pathlib import Path
from typing import Annotated

import typer

from coinfer.addresses import parse_addresses
from coinfer.cli.console import console
from coinfer.cli.options import (
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
    Slowdown,
    Threads,
    TransmitPowerW,
    parse_bits,
    parse_confidence,
)


def infer(
    model: Model,
    images: Annotated[list[Path], typer.Argument(help="Pictures, or folders of them.")],
    servers: Annotated[str, typer.Option(help="Edge servers, host:port, separated by commas.")] = "",
    deadline_ms: Annotated[float, typer.Option(min=0, help="Milliseconds for each request; 0 is none.")] = 0.0,
    bits: Bits = "32,16,8",
    jpeg: Annotated[int | None, typer.Option(min=1, max=95, help="Send pictures as JPEG of this quality.")] = None,
    slowdown: Slowdown = 1.0,
    threads: Threads = 1,
    engine: Engine = "onnxruntime",
    table: ProfileFile = None,
    output: Annotated[Path | None, typer.Option("-o", help="Also write a record per picture (JSON lines).")] = None,
    goal: Goal = "latency",
    min_accuracy: MinAccuracy = 0.0,
    energy_mj: EnergyMj = 0.0,
    power_w: PowerW = 0.0,
    transmit_power_w: TransmitPowerW = 0.0,
    accuracy: Accuracy = None,
    confidence: Confidence = "",
    confidence_loss: ConfidenceLoss = None,
    policy: PolicyFile = None,
) -> None:
    """Answer pictures from this device, with edge servers where that is faster.

    Times are in milliseconds. Without servers, or when they fail, this device answers.

    Example: [bold]coinfer infer resnet50 photos/ --servers 127.0.0.1:8001,127.0.0.1:8002 --deadline-ms 500[/bold]
    """
    from coinfer.cli.infer_images import infer_images
    from coinfer.runtime.device.config import WishSettings

    sure = parse_confidence(confidence)
    limits = (goal, min_accuracy, energy_mj / 1e3 or math.inf, power_w, transmit_power_w)
    infer_images(
        console,
        model,
        images,
        parse_addresses(servers, "--servers"),
        deadline_ms / 1e3,
        parse_bits(bits),
        jpeg,
        slowdown,
        threads,
        engine,
        table,
        output,
        WishSettings(*limits, accuracy, sure, confidence_loss, policy),
    )
