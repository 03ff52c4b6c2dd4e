"""Types of the fields of measured tables, and what is said of a file whose fields do not fit."""

import math
from typing import Annotated

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError

from coinfer.units import WIRE_BITS, WIRE_BITS_TEXT


def finite(value: float) -> float:
    """Return a number that is neither infinite nor NaN.

    Args:
        value: any number.

    Raises:
        ValueError: if it is one of these.
    """
    if not math.isfinite(value):
        raise ValueError("must be finite")
    return value


def _known_bits(value: int) -> int:
    if value not in WIRE_BITS:
        raise ValueError(f"no encoding with {value} bits per element; there are {WIRE_BITS_TEXT}")
    return value


Seconds = Annotated[float, Field(ge=0), AfterValidator(finite)]
Positive = Annotated[float, Field(gt=0), AfterValidator(finite)]
Bits = Annotated[int, AfterValidator(_known_bits)]


class Record(BaseModel):
    """A part of a table: it cannot be changed, and has no other keys."""

    model_config = ConfigDict(frozen=True, extra="forbid")


class Machine(Record):
    """Where and when a profile was measured."""

    cpu: str
    cores: int
    os: str
    python: str
    onnxruntime: str
    date: str
    """UTC, ISO 8601."""

    def differences(self, here: "Machine", threads: int, threads_here: int) -> str:
        """Return in what a profile's machine differs from this one, as far as times depend on it; empty if in nothing.

        Args:
            here: this machine.
            threads: with which the profile was measured.
            threads_here: with which this machine computes.
        """
        pairs = (
            ("processor", self.cpu, here.cpu),
            ("threads", threads, threads_here),
            ("ONNX Runtime", self.onnxruntime, here.onnxruntime),
        )
        return ", ".join(f"{what} {there} (here {now})" for what, there, now in pairs if there != now)


def first_problem(error: ValidationError) -> str:
    """Return the first of pydantic's complaints in one line, with the number of the others.

    Args:
        error: of a file that does not fit its model.
    """
    problems = error.errors(include_url=False)
    place = ".".join(str(part) for part in problems[0]["loc"])
    more = f" (and {len(problems) - 1} more)" if len(problems) > 1 else ""
    message = " ".join(problems[0]["msg"].removeprefix("Value error, ").split())
    return f"{place + ': ' if place else ''}{message}{more}"
