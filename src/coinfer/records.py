"""The run log: append-only records of what was decided and what it came to, one JSON object per line."""

import json
import math
import os
from collections.abc import Iterator, Mapping
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple

from coinfer.errors import UserError
from coinfer.types import Outcome, Route


class RecordError(UserError):
    """A run log that cannot be read or written; the message is one line for a person."""


class Record(NamedTuple):
    """One request of a run."""

    scheme: str
    """What decided: `planner`, `device only`, or the name of a policy. If a policy fails, the planner decides."""
    request: int
    """Number of the request in its run."""
    at_s: float
    """Time of the request, from the start of the run."""
    link_bps: float
    """Rate of the chosen server's link at that time: true on an emulated link, else believed; 0 on the device."""
    route: Route
    executed_on: str
    """`device` or the address of the server that answered."""
    fallback: str
    """What went wrong with servers that were asked in vain, even if another answered in the end; else empty."""
    predicted_s: float
    """Latency that the planner predicted."""
    sent_bits: float
    outcome: Outcome
    exit: int = 0
    """Index of the exit that answered; it may be earlier than the route's."""
    unmet: tuple[str, ...] = ()
    """Limits of the user's objective that were missed: deadline, accuracy, energy."""


class RunLog:
    """Appends records to a file, as a context manager.

    A line is written whole or not at all, so that the file of a killed run holds every reported record.

    Args:
        path: is created with its folders if it does not exist, else appended to.

    Raises:
        OSError: if the file cannot be opened.
    """

    def __init__(self, path: Path):
        path.parent.mkdir(parents=True, exist_ok=True)
        self.path = path
        self._file = path.open("ab", buffering=0)

    def append(self, record: Record) -> None:
        """Write a record.

        Args:
            record: its outcome may hold NumPy numbers; what is not finite is written as null.

        Raises:
            RecordError: if it cannot be written whole; the file then holds nothing of it.
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
        """Wait until everything is on the disk, and close the file.

        Raises:
            OSError: if the disk fails.
        """
        with self._file:
            os.fsync(self._file.fileno())

    def __enter__(self) -> "RunLog":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def as_json(value: object) -> object:
    """Return a value in the types of JSON: named tuples as objects, and null for numbers that are not finite.

    Args:
        value: mappings, tuples and lists are converted with all that they hold; NumPy numbers become plain ones;
            anything else stays as it is.
    """
    if isinstance(value, Mapping):
        return {key: as_json(item) for key, item in value.items()}
    fields = getattr(value, "_fields", None)
    if isinstance(value, tuple) and fields is not None:
        return {name: as_json(item) for name, item in zip(fields, value, strict=True)}
    if isinstance(value, tuple | list):
        return [as_json(item) for item in value]
    item = getattr(value, "item", None)
    plain = item() if callable(item) else value
    return None if isinstance(plain, float) and not math.isfinite(plain) else plain


def read(path: Path) -> Iterator[dict[str, object]]:
    """Yield the records of a log as plain objects, without a torn last line of a writer that was killed.

    Args:
        path: of a log that a `RunLog` wrote.

    Raises:
        OSError: if the file cannot be read.
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
