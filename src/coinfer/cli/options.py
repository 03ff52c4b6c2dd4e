"""Options that several commands share, and how their texts are read."""

import math
from pathlib import Path
from typing import Annotated

import typer

from coinfer.errors import UserError
from coinfer.runtime import engines
from coinfer.runtime.device import objective
from coinfer.runtime.device.config import DEFAULTS
from coinfer.units import WIRE_BITS, WIRE_BITS_TEXT

DEFAULT_BITS = ",".join(map(str, DEFAULTS.bits))

Model = Annotated[str, typer.Argument(help="An ONNX file, or a network of the zoo such as resnet50.")]
Threads = Annotated[int, typer.Option(min=1, help="Threads of ONNX Runtime.")]
Bits = Annotated[str, typer.Option(help=f"Allowed bits per element sent, from {WIRE_BITS_TEXT}. 32 is exact.")]
Slowdown = Annotated[float, typer.Option(min=1.0, help="Emulates a processor so many times slower than this one.")]
Engine = Annotated[engines.Engine, typer.Option(help="onnxruntime or openvino (float32).")]
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
ProfileFile = Annotated[
    Path | None, typer.Option("--profile", help="Table of `coinfer profile`; measured now without.")
]
Changes = Annotated[
    list[str] | None,
    typer.Option("--set", metavar="KEY=VALUE", help="Another value for a key, such as servers.0.capacity=20; repeat."),
]
TorchDevice = Annotated[str, typer.Option("--device", help="PyTorch device: cpu, cuda.")]
TorchThreads = Annotated[int, typer.Option("--threads", min=1, help="Threads of PyTorch.")]
PolicyFile = Annotated[Path | None, typer.Option("--policy", help="Trained policy (.onnx) that decides.")]


def limit_or_inf(value: float) -> float:
    """Return a limit in which 0 says that there is none."""
    return value or math.inf


def parse_bits(text: str) -> tuple[int, ...]:
    """`32,16,8` as numbers."""
    found = tuple(int(part) if part.strip().isdecimal() else -1 for part in text.split(","))
    if not set(found) <= set(WIRE_BITS):
        raise UserError(f"--bits {text!r}: expected some of {WIRE_BITS_TEXT}, separated by commas")
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
