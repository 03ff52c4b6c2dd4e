"""Options that several commands share, and the parsers of their texts."""

import json
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import typer

from coinfer.errors import UserError, short_repr
from coinfer.runtime.device import objective
from coinfer.runtime.device.config import MAX_THREADS
from coinfer.units import MESSAGE_BYTES, MIB, WIRE_BITS, WIRE_BITS_TEXT

MAX_DIGITS = 9
"""Of a whole number that a person types; Python refuses to read thousands of digits."""
Model = Annotated[str, typer.Argument(help="An ONNX file, or a network of the zoo such as resnet50.")]
Threads = Annotated[int, typer.Option(min=1, max=MAX_THREADS, help="Threads of ONNX Runtime.")]
Bits = Annotated[str, typer.Option(help=f"Bits per element sent, from {WIRE_BITS_TEXT}. 32 is exact.")]
Servers = Annotated[
    str,
    typer.Option(help="Edge servers, separated by commas: host:port, dns:name:port for all of a name, or zeroconf."),
]
DeadlineMs = Annotated[
    float, typer.Option(min=0, help="Milliseconds for each request that brings no deadline of its own; 0 is none.")
]
Dispatch = Annotated[
    bool, typer.Option("--dispatch", help="Let the server that a request reaches choose which one computes it.")
]
DispatchCut = Annotated[
    bool, typer.Option("--dispatch-cut", help="Let that server choose, too, what the device computes before.")
]
Jpeg = Annotated[int | None, typer.Option(min=1, max=95, help="Send pictures as JPEG of this quality.")]
OfferedBits = Annotated[
    str | None,
    typer.Option(
        "--bits",
        help=f"Allowed bits per element sent, from {WIRE_BITS_TEXT}. Without: 32 (exact), 16, and fewer where `coinfer "
        "accuracy` found that little is lost.",
    ),
]
LimitMib = Annotated[int, typer.Option(min=1, help="Largest message in MiB, in either direction.")]
LIMIT_MIB = MESSAGE_BYTES // MIB
Slowdown = Annotated[float, typer.Option(min=1.0, help="Emulates a processor so many times slower than this one.")]
Provider = Annotated[
    str,
    typer.Option(help="What computes: cpu, or another that is installed, such as cuda, tensorrt, openvino, coreml."),
]
Goal = Annotated[objective.Goal, typer.Option(help="What is best within the limits; see docs/objectives.md.")]
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
Shape = Annotated[
    list[str] | None,
    typer.Option(
        "--shape",
        metavar="NAME=SIZES",
        help="Sizes that an ONNX file leaves free: height=320 of an axis, images=1,3,320,320 of an input, seq=16..512 "
        "of an axis that stays free; repeat.",
    ),
]
Limit = Annotated[
    list[str] | None,
    typer.Option(
        "--limit",
        metavar="NAME=NUMBER",
        help="Another limit of what an ONNX file that you trust may take, as a refusal names it; repeat.",
    ),
]
ProfileFile = Annotated[
    Path | None, typer.Option("--profile", help="Table of `coinfer profile`; measured now without.")
]
Samples = Annotated[
    Path | None,
    typer.Option(help="Inputs to measure on: .npz with an array for each input, or .npy for a single one."),
]
Changes = Annotated[
    list[str] | None,
    typer.Option("--set", metavar="KEY=VALUE", help="Another value for a key, such as servers.0.capacity=20; repeat."),
]
FrameFile = Annotated[
    Path | None,
    typer.Option("--data", metavar="FILE", help="Recorded frames (.mat) for environment wireless-power, as DROO's."),
]
TorchDevice = Annotated[str, typer.Option("--device", help="PyTorch device: cpu, cuda.")]
TorchThreads = Annotated[int, typer.Option("--threads", min=1, help="Threads of PyTorch.")]
Cluster = Annotated[
    bool, typer.Option("--cluster", help="Agents and controller, or A3C's workers, as processes on a Ray cluster.")
]
ClusterAddress = Annotated[
    str | None,
    typer.Option("--address", metavar="HOST:PORT", help="The cluster's head, or auto; this machine alone without it."),
]
Shift = Annotated[
    int | None,
    typer.Option(min=0, max=4096, help="Largest shift of a picture in pixels; an eighth of its side without it."),
]
Cutout = Annotated[
    int | None,
    typer.Option(min=0, max=4096, help="Side of a square in pixels that is cut out of each picture."),
]
Traces = Annotated[
    str, typer.Option(metavar="URL", help="Collector for traces (OTLP over gRPC), such as http://127.0.0.1:4317.")
]
Site = Annotated[
    Path | None, typer.Option("--site", help="Folder of the site (`coinfer ca`), or of this node's own certificate.")
]
ControllerAddress = Annotated[str, typer.Option("--controller", help="The site's controller, host:port.")]
NodeName = Annotated[
    str, typer.Option("--name", help="Name in a site without certificates; with one, its certificate's name counts.")
]
Insecure = Annotated[bool, typer.Option("--insecure", help="Allow plain text to and from other machines.")]
PolicyFile = Annotated[
    Path | None, typer.Option("--policy", help="Trained policy (.onnx) that decides, about options or blocks.")
]


def frame_file_changes(data: Path | None, changes: Sequence[str] | None) -> list[str]:
    """Return the changes to a scenario, with the one that `--data` asks for.

    Args:
        data: file of recorded frames, if there is one.
        changes: other changes, as `KEY=VALUE`.
    """
    return [*(changes or ()), *([] if data is None else [f"data={json.dumps(str(data.resolve()))}"])]


def limit_or_inf(value: float) -> float:
    """Return a limit as a number; infinity if there is none.

    Args:
        value: 0 means no limit.
    """
    return value or math.inf


def parse_sizes(texts: Sequence[str] | None) -> dict[str, int]:
    """Return the size of a request by free axis.

    Args:
        texts: each `AXIS=SIZE`; the last one of an axis counts.

    Raises:
        UserError: if a text has no name, or its size is no whole number above 0.
    """
    pairs = _parse_pairs(texts, "--size", "AXIS=SIZE such as N=32")
    for name, size in pairs.items():
        if not (size.isdecimal() and len(size) <= MAX_DIGITS and int(size) > 0):
            raise UserError(f"--size {name}={size:.40}: expected AXIS=SIZE such as N=32")
    return {name: int(size) for name, size in pairs.items()}


def parse_shapes(texts: Sequence[str] | None) -> dict[str, str]:
    """Return sizes of axes and inputs by name, as `coinfer.open_model` takes them.

    Args:
        texts: each `NAME=SIZES`; the last one of a name counts.

    Raises:
        UserError: if a text has no name or no sizes.
    """
    return _parse_pairs(texts, "--shape", "NAME=SIZES such as height=320 or images=1,3,320,320")


def parse_limits(texts: Sequence[str] | None) -> dict[str, str]:
    """Return limits by name, as `coinfer.open_model` takes them.

    Args:
        texts: each `NAME=NUMBER`; the last one of a name counts.

    Raises:
        UserError: if a text has no name or no number.
    """
    return _parse_pairs(texts, "--limit", "NAME=NUMBER such as memory-mib=16384")


def _parse_pairs(texts: Sequence[str] | None, option: str, expected: str) -> dict[str, str]:
    pairs = {text: text.rpartition("=") for text in texts or ()}
    for text, (name, _, value) in pairs.items():
        if not name or not value:
            raise UserError(f"{option} {short_repr(text, 60)}: expected {expected}")
    return {name: value for name, _, value in pairs.values()}


def parse_bits(text: str) -> tuple[int, ...]:
    """Return the numbers of bits per element in a text, each once.

    Args:
        text: such as `32,16,8`.

    Raises:
        UserError: if one of them is not allowed.
    """
    known = {str(width): width for width in WIRE_BITS}
    bits = tuple(known.get(part.strip(), -1) for part in text.split(","))
    if -1 in bits:
        raise UserError(f"--bits {short_repr(text, 60)}: expected some of {WIRE_BITS_TEXT}, separated by commas")
    return tuple(dict.fromkeys(bits))


def parse_confidence(text: str) -> tuple[float, ...] | float | None:
    """Return the entropies below which an answer leaves early: one for all exits, one for each, or None.

    Args:
        text: `0.2` for all exits, `0.1,0.3` for one after the other; empty for none.

    Raises:
        UserError: if one of them is no number.
    """
    if not text:
        return None
    try:
        entropies = tuple(float(part) for part in text.split(","))
    except ValueError:
        raise UserError(f"--confidence {text!r}: expected entropies from 0 to 1, separated by commas") from None
    return entropies[0] if len(entropies) == 1 else entropies


def parse_factors(text: str) -> tuple[float, ...]:
    """Return the slow-down factors in a text.

    Args:
        text: such as `3,2,1`.

    Raises:
        UserError: if one of them is no number, or not from 1 to a million.
    """
    try:
        factors = tuple(float(part) for part in text.split(","))
    except ValueError:
        factors = ()
    if not factors or any(not 1 <= factor < 1e6 for factor in factors):
        raise UserError(f"--edge-slowdowns {text!r}: expected numbers of at least 1, separated by commas")
    return factors


def parse_places(text: str) -> tuple[str | int, ...]:
    """Return places in a network: names of tensors, or numbers of blocks.

    Args:
        text: separated by commas; empty for none.
    """
    places = [part.strip() for part in text.split(",") if part.strip()]
    return tuple(int(place) if place.isdecimal() and len(place) <= MAX_DIGITS else place for place in places)


def parse_weights(text: str) -> tuple[float, ...]:
    """Return the weights in a text.

    Args:
        text: separated by commas; empty for none.

    Raises:
        UserError: if one of them is no number.
    """
    try:
        return tuple(float(part) for part in text.split(",") if part.strip())
    except ValueError:
        raise UserError(f"--weights {text!r}: expected numbers, separated by commas") from None


def start_traces(url: str, service: str) -> None:
    """Tell traces of all requests to a collector.

    Args:
        url: of the collector; empty for none.
        service: name of this process in the traces.

    Raises:
        UserError: if OpenTelemetry is not installed, or this is no such address.
    """
    if url:
        from coinfer.runtime.open_telemetry import start_tracing

        start_tracing(url, service=service)
