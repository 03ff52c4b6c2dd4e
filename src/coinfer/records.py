"""The run log: append-only records of what was decided and what came out, one JSON object a line."""

import json
import math
import os
from collections.abc import Iterator, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any, NamedTuple

from coinfer.errors import UserError
from coinfer.types import Outcome, Route


class RecordError(UserError):
    """A run log that cannot be read or written; the message is one line for a person."""


class Record(NamedTuple):
    """One request."""

    scheme: str
    """Who was to decide: `planner`, `device only`, the name of a policy. If a policy fails, the planner stands in."""
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
    """Appends records to a file. A line is written whole or not at all, so a killed run keeps all that it reported.

    Raises:
        OSError: if the file cannot be opened.
    """

    def __init__(self, path: Path):
        path.parent.mkdir(parents=True, exist_ok=True)
        self.path = path
        self._file = path.open("ab", buffering=0)

    def append(self, record: Record) -> None:
        """Write a record.

        Raises:
            RecordError: if it cannot be written whole; nothing of it stays in the file.
        """
        line = (json.dumps(as_json(record)) + "\n").encode()
        begin = self._file.tell()
        problem = "only a part was written; is the disk full?"
        try:
            if self._file.write(line) == len(line):
                return
        except OSError as error:
            problem = str(error.strerror)
        with suppress(OSError):
            self._file.truncate(begin)
        raise RecordError(f"{self.path}: cannot write this record: {problem}")

    def close(self) -> None:
        """Wait until all is on the disk."""
        with self._file:
            os.fsync(self._file.fileno())

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
    """Yield the records of a log as plain objects, without a torn last line (the writer was killed).

    Raises:
        RecordError: if another line is not a JSON object.
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
