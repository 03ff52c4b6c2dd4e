"""`coinfer demo`: run a device and edge servers on this machine, and compare schemes."""

import signal
import sys
from pathlib import Path
from typing import Annotated

import typer

from coinfer.cli.console import console
from coinfer.cli.options import (
    Accuracy,
    Confidence,
    ConfidenceLoss,
    EnergyMj,
    Jpeg,
    Limit,
    PolicyFile,
    PowerW,
    Provider,
    Shape,
    TransmitPowerW,
    limit_or_inf,
    parse_bits,
    parse_confidence,
    parse_factors,
    parse_limits,
    parse_shapes,
)
from coinfer.runtime.device.config import DEFAULTS
from coinfer.runtime.device.objective import Goal


def demo(
    model: Annotated[str, typer.Option(help="An ONNX file that takes pictures, or a network of the zoo.")] = "resnet50",
    images: Annotated[
        Path | None,
        typer.Option(help="Folder of pictures, or of one folder for each class; shipped ones without."),
    ] = None,
    trace: Annotated[
        str | None,
        typer.Option(help="Bandwidth traces: CSV of trace_id,time_s,throughput_bytes_per_s, or FILE:TRACE_ID."),
    ] = None,
    link_scale: Annotated[
        float | None,
        typer.Option(min=1e-6, help="Rates of the links, times those of the trace. 1; fitted for alexnet-exits."),
    ] = None,
    deadline_ms: Annotated[
        float | None, typer.Option(min=1, help="Deadline of a request, milliseconds. 250; fitted for alexnet-exits.")
    ] = None,
    device_slowdown: Annotated[
        float | None, typer.Option(min=1.0, help="How many times slower than this one. 6; 200 for alexnet-exits.")
    ] = None,
    edge_slowdowns: Annotated[str, typer.Option(help="One edge server for each factor.")] = "2.5,1.5,1",
    bits: Annotated[
        str | None,
        typer.Option(help="Allowed bits per element. What is exact or measured; 16,8,4 for alexnet-exits."),
    ] = None,
    jpeg: Jpeg = None,
    provider: Provider = DEFAULTS.provider,
    shape: Shape = None,
    limit: Limit = None,
    scheme_s: Annotated[float, typer.Option(min=1, help="Seconds that each scheme runs.")] = 25.0,
    runs: Annotated[Path, typer.Option(help="Folder for records and plots.")] = Path("runs"),
    goal: Annotated[
        Goal | None,
        typer.Option(help="What the planner seeks within the limits."),
    ] = None,
    min_accuracy: Annotated[
        float | None,
        typer.Option(min=0, max=1, help="Limit: share of right answers. None; fitted for alexnet-exits."),
    ] = None,
    energy_mj: EnergyMj = 0.0,
    power_w: PowerW = 0.0,
    transmit_power_w: TransmitPowerW = 0.0,
    accuracy: Accuracy = None,
    confidence: Confidence = "",
    confidence_loss: ConfidenceLoss = None,
    policy: PolicyFile = None,
) -> None:
    """Run a device and three edge servers on this machine, on real pictures and a bandwidth trace, and compare.

    Four schemes answer the same requests on the same trace: the planner, device only, server only, fixed best cut; and
    a trained policy where one is given. `alexnet-exits` is a small trained network with three exits.

    Example: [bold]coinfer demo --model alexnet-exits[/bold]
    """
    from coinfer.demo.run import run_demo
    from coinfer.demo.settings import demo_settings

    device = {
        "policy": policy,
        "bits": parse_bits(bits) if bits else None,
        "jpeg_quality": jpeg,
        "accuracy": accuracy,
        "confidence": parse_confidence(confidence),
        "confidence_loss": confidence_loss,
        "slowdown": device_slowdown,
        "provider": provider,
        "shapes": parse_shapes(shape),
        "limits": parse_limits(limit),
    }
    objective = {
        "goal": goal,
        "min_accuracy": min_accuracy,
        "energy_j": limit_or_inf(energy_mj / 1e3),
        "power_w": power_w,
        "transmit_power_w": transmit_power_w,
    }
    settings = demo_settings(
        model,
        device,
        objective,
        images=str(images) if images else None,
        trace=trace,
        link_scale=link_scale,
        deadline_s=deadline_ms / 1e3 if deadline_ms else None,
        edge_slowdowns=parse_factors(edge_slowdowns),
        scheme_s=scheme_s,
        runs=str(runs),
    )
    for name in ("SIGTERM", "SIGHUP"):  # a closed terminal or a supervisor must not leave the edge servers running
        number = getattr(signal, name, None)
        if number and signal.getsignal(number) == signal.SIG_DFL:
            signal.signal(number, lambda number, _: sys.exit(128 + number))
    run_demo(settings, console)
