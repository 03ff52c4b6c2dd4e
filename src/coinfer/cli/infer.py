"""`coinfer infer`: answer pictures or other inputs from this device."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from coinfer.addresses import parse_addresses
from coinfer.cli.console import console
from coinfer.cli.options import (
    Accuracy,
    Confidence,
    ConfidenceLoss,
    ControllerAddress,
    Dispatch,
    EnergyMj,
    Goal,
    Insecure,
    Jpeg,
    Limit,
    MinAccuracy,
    Model,
    NodeName,
    OfferedBits,
    PolicyFile,
    PowerW,
    ProfileFile,
    Provider,
    Servers,
    Shape,
    Site,
    Slowdown,
    Threads,
    TransmitPowerW,
    limit_or_inf,
    parse_bits,
    parse_confidence,
    parse_limits,
    parse_shapes,
)
from coinfer.cli.picture_options import with_picture_options
from coinfer.runtime.device.config import DEFAULTS, DeviceConfig
from coinfer.runtime.device.objective import Objective

if TYPE_CHECKING:
    from coinfer.graph.pictures import PictureSettings


@with_picture_options
def infer(
    pictures: "PictureSettings",
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
    servers: Servers = "",
    deadline_ms: Annotated[float, typer.Option(min=0, help="Milliseconds for each request; 0 is none.")] = 0.0,
    bits: OfferedBits = None,
    jpeg: Jpeg = None,
    slowdown: Slowdown = DEFAULTS.slowdown,
    threads: Threads = DEFAULTS.threads,
    provider: Provider = DEFAULTS.provider,
    table: ProfileFile = None,
    shape: Shape = None,
    limit: Limit = None,
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
    site: Site = None,
    controller: ControllerAddress = "",
    name: NodeName = "",
    dispatch: Dispatch = False,
    insecure: Insecure = False,
) -> None:
    """Answer pictures or other inputs from this device, with edge servers where that is faster.

    Times are in milliseconds. Without servers, or when they fail, this device answers. What the metadata of the file
    does not say about pictures is said by options, or once and for all in MODEL.input.yaml beside it.

    Example: [bold]coinfer infer resnet50 photos/ --servers 127.0.0.1:8001,127.0.0.1:8002 --deadline-ms 500[/bold]
    """
    from coinfer.cli.reports.infer_images import Asked, infer_images

    infer_images(
        console,
        Asked(model, pictures, tuple(items or ()), tuple(inputs or ()), top, labels, out, output),
        DeviceConfig(
            servers=parse_addresses(servers, "--servers"),
            deadline_s=limit_or_inf(deadline_ms / 1e3),
            objective=Objective(goal, min_accuracy, limit_or_inf(energy_mj / 1e3), power_w, transmit_power_w),
            policy=policy,
            bits=None if bits is None else parse_bits(bits),
            jpeg_quality=jpeg,
            accuracy=accuracy,
            confidence=parse_confidence(confidence),
            confidence_loss=confidence_loss,
            profile=table,
            slowdown=slowdown,
            threads=threads,
            shapes=parse_shapes(shape),
            limits=parse_limits(limit),
            provider=provider,
            controller=controller,
            site=site,
            dispatch=dispatch,
            name=name,
            insecure=insecure,
        ),
    )
