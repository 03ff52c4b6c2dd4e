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
from coinfer.demo.settings import MODEL, POWER_W, TRANSMIT_POWER_W
from coinfer.runtime.device.config import DEFAULTS
from coinfer.runtime.device.objective import Goal


def demo(
    model: Annotated[str, typer.Option(help="An ONNX file that takes pictures, or a network of the zoo.")] = MODEL,
    images: Annotated[
        Path | None,
        typer.Option(help="Folder of pictures, or of one folder for each class; shipped ones without."),
    ] = None,
    trace: Annotated[
        str | None,
        typer.Option(
            help="Let links follow this instead of the phases: CSV of trace_id,time_s,throughput_bytes_per_s, or "
            "FILE:TRACE_ID."
        ),
    ] = None,
    link_scale: Annotated[
        float | None, typer.Option(min=1e-6, help="Rates of the links, times those of --trace; fitted without.")
    ] = None,
    deadline_ms: Annotated[
        float | None, typer.Option(min=1, help="Deadline of a request, milliseconds; fitted without.")
    ] = None,
    device_slowdown: Annotated[
        float | None, typer.Option(min=1.0, help="How many times slower than this machine; fitted without.")
    ] = None,
    edge_slowdowns: Annotated[
        str | None, typer.Option(help="One edge server for each factor, such as 2.5,1.5,1; three fitted ones without.")
    ] = None,
    bits: Annotated[
        str | None,
        typer.Option(help="Allowed bits per element. What is exact or measured, codes of a bottleneck included."),
    ] = None,
    jpeg: Jpeg = None,
    provider: Provider = DEFAULTS.provider,
    shape: Shape = None,
    limit: Limit = None,
    rounds: Annotated[int, typer.Option(min=2, help="Rounds of each phase; 24 seconds end one, too.")] = 10,
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
    power_w: PowerW = POWER_W,
    transmit_power_w: TransmitPowerW = TRANSMIT_POWER_W,
    accuracy: Accuracy = None,
    confidence: Confidence = "",
    confidence_loss: ConfidenceLoss = None,
    policy: PolicyFile = None,
) -> None:
    """Run a device and three edge servers on this machine, and compare how pictures are answered.

    Links are good, fade in turn and are bad, a server dies, a crowd comes. In each round the planner, device only,
    server only, a fixed best cut and the best fixed choice in hindsight answer the same picture. Speeds, links and
    deadline fit this machine.

    Example: [bold]coinfer demo --rounds 10[/bold]
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
        device_slowdown=device_slowdown,
        edge_slowdowns=parse_factors(edge_slowdowns) if edge_slowdowns else None,
        rounds=rounds,
        runs=str(runs),
    )
    for name in ("SIGTERM", "SIGHUP"):  # a closed terminal or a supervisor must not leave the edge servers running
        number = getattr(signal, name, None)
        if number and signal.getsignal(number) == signal.SIG_DFL:
            signal.signal(number, lambda number, _: sys.exit(128 + number))
    run_demo(settings, console)
