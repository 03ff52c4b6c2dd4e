"""The `coinfer` command."""

import math
import os
import sys
from pathlib import Path
from typing import Annotated, Any, Literal

import typer
from rich.console import Console
from rich.text import Text

from coinfer.cli import exits, scenario
from coinfer.cli.console import console
from coinfer.cli.simulate import simulate
from coinfer.cli.train import train
from coinfer.errors import UserError
from coinfer.version import __version__

app = typer.Typer(
    name="coinfer",
    help="Collaborative DNN inference: where to cut a network, how many bits to send, which server does the rest.",
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode="rich",
)
UsageError: Any = typer.BadParameter.__bases__[0]  # its home differs between versions of typer

Model = Annotated[str, typer.Argument(help="An ONNX file, or a network of the zoo such as resnet50.")]
Threads = Annotated[int, typer.Option(min=1, help="Threads of ONNX Runtime.")]
Bits = Annotated[str, typer.Option(help="Allowed bits per element sent, from 32, 16, 12, 8, 4. 32 is exact.")]
Slowdown = Annotated[float, typer.Option(min=1.0, help="Emulates a processor so many times slower than this one.")]
Engine = Annotated[Literal["onnxruntime", "openvino"], typer.Option(help="onnxruntime or openvino (float32).")]
Goal = Annotated[
    Literal["latency", "accuracy", "energy"], typer.Option(help="What is best within the limits; see docs/wishes.md.")
]
MinAccuracy = Annotated[float, typer.Option(min=0, max=1, help="Limit: share of right answers, such as 0.75.")]
EnergyMj = Annotated[float, typer.Option(min=0, help="Limit: millijoules of this device for a request; 0 is none.")]
PowerW = Annotated[float, typer.Option(min=0, help="Watts of this device while it computes.")]
TransmitPowerW = Annotated[float, typer.Option(min=0, help="Watts of this device while it sends.")]
Accuracy = Annotated[
    Path | None, typer.Option(help="Table of `coinfer exits measure`; makes each output an exit. Shipped ones without.")
]
Confidence = Annotated[
    str, typer.Option(help="Leave at an exit whose entropy, 0 to 1, is below this: one for all, or A,B,...")
]
ConfidenceLoss = Annotated[
    float | None, typer.Option(help="Choose these entropies so that so much accuracy is lost at most, such as 0.005.")
]
PolicyFile = Annotated[Path | None, typer.Option("--policy", help="Trained policy (.onnx) that decides.")]


def _print_version(asked: bool) -> None:
    if asked:
        print(f"coinfer {__version__}")
        raise typer.Exit


@app.callback()
def root(
    version: Annotated[
        bool, typer.Option("--version", help="Print the version and exit.", callback=_print_version, is_eager=True)
    ] = False,
) -> None: ...


app.command()(simulate)
app.command()(train)
app.add_typer(scenario.app, name="scenario")
app.add_typer(exits.app, name="exits")


@app.command()
def profile(
    model: Model,
    threads: Threads = 1,
    bits: Bits = "32,16,12,8,4",
    images: Annotated[Path | None, typer.Option(help="Folder of sample pictures; shipped ones without it.")] = None,
    output: Annotated[Path | None, typer.Option("-o", help="Table to write; MODEL.profile.json without it.")] = None,
) -> None:
    """Measure a network on this machine: seconds per block, bits per cut.

    Times are in milliseconds, sizes in kilobytes (1000 bytes). The saved table holds seconds and bits.

    Example: [bold]coinfer profile resnet50 -o resnet50.profile.json[/bold]
    """
    from coinfer.cli.commands import profile_model

    profile_model(console, model, threads, parse_bits(bits), images, output)


@app.command()
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
    table: Annotated[
        Path | None, typer.Option("--profile", help="Table of `coinfer profile`; measured now without.")
    ] = None,
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
    from coinfer.cli.commands import show_plan
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


@app.command()
def edge(
    models: Annotated[list[str], typer.Argument(help="ONNX files or zoo networks to serve.")],
    host: Annotated[str, typer.Option(help="Address to listen on.")] = "127.0.0.1",
    grpc_port: Annotated[int, typer.Option(min=0, max=65535, help="0 takes any free port.")] = 8001,
    http_port: Annotated[int, typer.Option(min=-1, max=65535, help="REST and /metrics; 0 any, -1 none.")] = 8000,
    threads: Threads = 1,
    workers: Annotated[int, typer.Option(min=1, help="Requests computed at the same time.")] = 1,
    queue: Annotated[int, typer.Option(min=0, help="Requests that may wait; more are refused.")] = 16,
    slowdown: Slowdown = 1.0,
    engine: Engine = "onnxruntime",
    peers: Annotated[
        str, typer.Option(help="Edge servers that a route may go on to, host:port,...; `any` allows all.")
    ] = "",
    echo: Annotated[bool, typer.Option("--echo", help="Also serve `echo`, which returns its input.")] = False,
) -> None:
    """Serve networks, whole or any part of them, over gRPC and REST (Open Inference Protocol v2).

    SIGTERM drains: what was admitted is finished first.

    Example: [bold]coinfer edge resnet50 mymodel.onnx --grpc-port 8001[/bold]
    """
    os.environ.setdefault("GRPC_VERBOSITY", "NONE")  # our own message says which port is taken
    from coinfer.runtime.edge.server import EdgeSettings, run_edge

    settings = EdgeSettings(
        models=tuple(models),
        host=host,
        grpc_port=grpc_port,
        http_port=None if http_port < 0 else http_port,
        threads=threads,
        workers=workers,
        queue=queue,
        slowdown=slowdown,
        engine=engine,
        peers=None if peers == "any" else tuple(peer for peer in peers.split(",") if peer),
        echo=echo,
    )
    raise typer.Exit(run_edge(settings))


@app.command()
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
    table: Annotated[
        Path | None, typer.Option("--profile", help="Table of `coinfer profile`; measured now without.")
    ] = None,
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
    from coinfer.cli.commands import infer_images
    from coinfer.runtime.device.config import WishSettings

    sure = parse_confidence(confidence)
    limits = (goal, min_accuracy, energy_mj / 1e3 or math.inf, power_w, transmit_power_w)
    infer_images(
        console,
        model,
        images,
        [server for server in servers.split(",") if server],
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


@app.command()
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
        str | None, typer.Option(help="Allowed bits per element. 32,16,8; 16,8,4 for alexnet-exits.")
    ] = None,
    jpeg: Annotated[int | None, typer.Option(min=1, max=95, help="Send pictures as JPEG of this quality.")] = None,
    scheme_s: Annotated[float, typer.Option(min=1, help="Seconds that each scheme runs.")] = 25.0,
    runs: Annotated[Path, typer.Option(help="Folder for records and plots.")] = Path("runs"),
    goal: Annotated[
        Literal["latency", "accuracy", "energy"] | None,
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

    wishes = {
        "goal": goal,
        "min_accuracy": min_accuracy,
        "energy_j": energy_mj / 1e3 or math.inf,
        "power_w": power_w,
        "transmit_power_w": transmit_power_w,
        "accuracy": accuracy,
        "confidence": parse_confidence(confidence),
        "confidence_loss": confidence_loss,
        "policy": policy,
    }
    settings = demo_settings(
        model,
        wishes,
        images=str(images) if images else None,
        trace=trace,
        link_scale=link_scale,
        deadline_s=deadline_ms / 1e3 if deadline_ms else None,
        device_slowdown=device_slowdown,
        edge_slowdowns=parse_factors(edge_slowdowns),
        bits=parse_bits(bits) if bits else None,
        jpeg_quality=jpeg,
        scheme_s=scheme_s,
        runs=str(runs),
    )
    run_demo(settings, console)


def parse_bits(text: str) -> tuple[int, ...]:
    """`32,16,8` as numbers."""
    found = tuple(int(part) if part.strip().isdigit() else -1 for part in text.split(","))
    if not set(found) <= {32, 16, 12, 8, 4}:
        raise UserError(f"--bits {text!r}: expected some of 32, 16, 12, 8, 4, separated by commas")
    return tuple(dict.fromkeys(found))


def parse_confidence(text: str) -> tuple[float, ...] | float | None:
    """`0.2` for all exits, `0.1,0.3` for one after the other; nothing where nothing is said."""
    if not text:
        return None
    try:
        found = tuple(float(part) for part in text.split(","))
    except ValueError:
        raise UserError(f"--confidence {text!r}: expected entropies from 0 to 1, separated by commas") from None
    return found[0] if len(found) == 1 else found


def parse_factors(text: str) -> tuple[float, ...]:
    """`3,2,1` as slow-down factors."""
    try:
        found = tuple(float(part) for part in text.split(","))
    except ValueError:
        found = ()
    if not found or any(not 1 <= factor < 1e6 for factor in found):
        raise UserError(f"--edge-slowdowns {text!r}: expected numbers of at least 1, separated by commas")
    return found


def main() -> None:
    """Runs the command; a user's mistake is one line on standard error and exit code 2."""
    try:
        sys.exit(app(sys.argv[1:] or ["--help"], standalone_mode=False))
    except (UserError, OSError, UsageError) as error:
        Console(stderr=True).print(Text.assemble(("error: ", "bold red"), _line(error)), soft_wrap=True)
        sys.exit(2)
    except KeyboardInterrupt:
        sys.exit(130)


def _line(error: Any) -> str:
    """What went wrong, for a person."""
    if isinstance(error, UsageError):
        context = getattr(error, "ctx", None)
        command = context.command_path if context else "coinfer"
        return f"{error.format_message().removesuffix('.')}; see `{command} --help`"
    if isinstance(error, OSError) and error.strerror:
        return f"{error.filename}: {error.strerror}" if error.filename else error.strerror
    return str(error)
