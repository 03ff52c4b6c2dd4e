"""The run log: append-only records of what was decided and what came out, one JSON object a line."""

import json
import math
import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from coinfer.errors import UserError
from coinfer.types import Outcome, Route


class RecordError(UserError):
    """A run log that cannot be read; the message is one line for a person."""


class Record(NamedTuple):
    """One request."""

    scheme: str
    """Who decided: `planner`, `device only`, the name of a policy ..."""
    request: int
    at_s: float
    """When it was made, from the start of the run."""
    link_bps: float
    """Rate of the chosen server's link then, true on a shaped link, else as believed; 0 on the device."""
    route: Route
    executed_on: str
    """`device` or the address of the server that answered."""
    fallback: str
    """What went wrong with the servers that were asked in vain, whoever answered in the end; empty if nothing did."""
    predicted_s: float
    """Latency that the planner expected."""
    sent_bits: float
    outcome: Outcome
    exit: int = 0
    """Index of the exit that answered; it may be earlier than the route's."""
    unmet: tuple[str, ...] = ()
    """Limits of the user's objective that were missed: deadline, accuracy, energy."""


class RunLog:
    """Appends records to a file; each line is written whole and flushed, so a killed run keeps all that it reported."""

    def __init__(self, path: Path):
        path.parent.mkdir(parents=True, exist_ok=True)
        self.path = path
        self._file = path.open("a", encoding="utf-8")

    def append(self, record: Record) -> None:
        self._file.write(json.dumps(as_json(record)) + "\n")
        self._file.flush()

    def close(self) -> None:
        self._file.flush()
        os.fsync(self._file.fileno())
        self._file.close()

    def __enter__(self) -> "RunLog":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def as_json(value: Any) -> Any:
    """Return named tuples as objects, and null for what is not finite, which JSON does not have."""
    if isinstance(value, Mapping):
        return {key: as_json(item) for key, item in value.items()}
    if hasattr(value, "_asdict"):
        return {key: as_json(item) for key, item in value._asdict().items()}
    if isinstance(value, tuple | list):
        return [as_json(item) for item in value]
    plain = value.item() if hasattr(value, "item") else value
    return None if isinstance(plain, float) and not math.isfinite(plain) else plain


def read(path: Path) -> Iterator[dict[str, Any]]:
    """The records of a log as plain objects. A torn last line (the writer was killed) is left out.

    Raises:
        RecordError: where another line is not a JSON object.
    """
    lines = path.read_text(encoding="utf-8").split("\n")
    for number, line in enumerate(lines[:-1], start=1):
        try:
            record = json.loads(line)
        except ValueError:
            record = None
        if not isinstance(record, dict):
            raise RecordError(f"{path}:{number}: not a JSON object; expected one record a line as coinfer writes them")
        yield record
