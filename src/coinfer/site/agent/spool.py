"""Decisions on their way to the controller: kept on disk, bounded, until the controller has stored them.

A file holds up to `SEGMENT_RECORDS` decisions of one epoch, one JSON object a line. Files of earlier epochs, from
before a restart, are sent first. When the limit is reached the oldest file goes, and its decisions count as dropped.
"""

import logging
import threading
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from pydantic import ValidationError

from coinfer.site.messages import MAX_RECORDS, MESSAGE_BYTES, Decision

LIMIT_BYTES = 64 << 20
SEGMENT_RECORDS = 500
MAX_PENDING = 10_000
"""Decisions that may wait in memory to be written."""
_BATCH_BYTES = MESSAGE_BYTES // 2
_log = logging.getLogger("coinfer.site")


@dataclass
class _Segment:
    path: Path
    epoch: int
    last_seq: int
    count: int
    size_bytes: int


class Spool:
    """Keeps decisions in order, for several threads.

    Args:
        folder: of this node alone; it is created.
        epoch: of this start of the node.
        limit_bytes: of all files together.
    """

    def __init__(self, folder: Path, epoch: int, limit_bytes: int = LIMIT_BYTES):
        self.epoch = epoch
        self.dropped = 0
        """Decisions that were lost since the start: the limit was reached, or the disk could not be written."""
        self._folder = folder
        self._limit_bytes = limit_bytes
        self._pending: deque[Callable[[], Decision]] = deque()
        self._next_seq = 0
        self._reported = ""
        folder.mkdir(parents=True, exist_ok=True)
        self._segments = [segment for path in sorted(folder.glob("*.jsonl")) if (segment := _read_segment(path))]
        self._sent: dict[Path, int] = {}
        """Bytes of each file that were sent."""
        self._lock = threading.RLock()

    @property
    def held(self) -> int:
        """Return how many decisions wait, on disk and in memory; while they are written they may count twice."""
        in_memory = len(self._pending)
        return in_memory + sum(segment.count for segment in tuple(self._segments))

    @property
    def has_unsent(self) -> bool:
        """Return true if decisions on disk were not sent yet."""
        return any(self._sent.get(segment.path, 0) < segment.size_bytes for segment in tuple(self._segments))

    def add(self, make: Callable[[], Decision]) -> None:
        """Keep a decision; its number is given here.

        Args:
            make: returns it; called later and on another thread, so that the request does not wait for it.
        """
        if len(self._pending) >= MAX_PENDING:
            self.dropped += 1
            return
        self._pending.append(make)

    def flush(self) -> None:
        """Write what waits in memory; what cannot be written is dropped and counted."""
        with self._lock:
            self._flush()

    def _flush(self) -> None:
        while self._pending:
            current = self._segments[-1] if self._segments else None
            if current is None or current.epoch != self.epoch or current.count >= SEGMENT_RECORDS:
                name = f"{self.epoch:020d}-{self._next_seq:020d}.jsonl"
                current = _Segment(self._folder / name, self.epoch, -1, 0, 0)
                self._segments.append(current)
            room = min(len(self._pending), SEGMENT_RECORDS - current.count)
            made = [self._pending[index] for index in range(room)]
            lines = [line for make in made if (line := self._line(make))]
            self._append(current, b"".join(lines), len(lines))
            for _ in made:  # only now: whoever asks meanwhile must not hear that nothing is held
                self._pending.popleft()
        self._trim()

    def _line(self, make: Callable[[], Decision]) -> bytes:
        """Return the next decision as a line of a file; empty if it cannot be told."""
        try:
            decision = make().model_copy(update={"seq": self._next_seq})
        except Exception as error:  # whatever it is, the decisions behind it must not wait for it for ever
            reason = error.errors()[0]["msg"] if isinstance(error, ValidationError) else repr(error)
            self._drop(1, f"a decision that cannot be told: {reason}")
            return b""
        self._next_seq += 1
        return decision.model_dump_json(exclude_defaults=True).encode() + b"\n"

    def take(self) -> tuple[int, list[bytes]] | None:
        """Return an epoch and the lines of its next decisions that were not sent yet; None if there is none."""
        with self._lock:
            for segment in self._segments:
                begin = self._sent.get(segment.path, 0)
                if begin < segment.size_bytes:
                    lines = _lines(segment.path, begin, _BATCH_BYTES)[:MAX_RECORDS]
                    self._sent[segment.path] = begin + sum(len(line) + 1 for line in lines)
                    if lines:
                        return segment.epoch, lines
        return None

    def rewind(self) -> None:
        """Send everything again that was not acknowledged: the connection was lost."""
        with self._lock:
            self._sent.clear()

    def acknowledge(self, epoch: int, seq: int) -> None:
        """Forget decisions that the controller has stored.

        Args:
            epoch: of the decisions.
            seq: number of the last one.
        """
        with self._lock:
            for segment in [one for one in self._segments if one.epoch == epoch and 0 <= one.last_seq <= seq]:
                self._remove(segment)

    def _append(self, segment: _Segment, data: bytes, count: int) -> None:
        try:
            with segment.path.open("ab", buffering=0) as file:
                begin = file.tell()
                if file.write(data) < len(data):
                    file.truncate(begin)
                    raise OSError("the disk is full")
        except OSError as error:
            self._drop(count, str(error))
            if not segment.count:
                self._segments.remove(segment)
            return
        segment.count += count
        segment.size_bytes += len(data)
        segment.last_seq = self._next_seq - 1

    def _drop(self, count: int, reason: str) -> None:
        self.dropped += count
        if reason != self._reported:
            _log.warning("decisions cannot be kept in %s: %s", self._folder, reason)
        self._reported = reason

    def _trim(self) -> None:
        while len(self._segments) > 1 and sum(one.size_bytes for one in self._segments) > self._limit_bytes:
            if not self.dropped:
                _log.warning("the spool in %s is full; the oldest decisions are dropped", self._folder)
            self.dropped += self._segments[0].count
            self._remove(self._segments[0])

    def _remove(self, segment: _Segment) -> None:
        self._segments.remove(segment)
        self._sent.pop(segment.path, None)
        segment.path.unlink(missing_ok=True)


def _read_segment(path: Path) -> _Segment | None:
    """Return a file of an earlier start; one without a whole line is deleted."""
    numbers = [seq for line in _lines(path) if (seq := _seq(line)) is not None]
    epoch = path.name.partition("-")[0]
    if not numbers or not epoch.isdigit():
        path.unlink(missing_ok=True)
        return None
    return _Segment(path, int(epoch), numbers[-1], len(numbers), sum(len(line) + 1 for line in _lines(path)))


def _lines(path: Path, begin: int = 0, limit: int = -1) -> list[bytes]:
    """Return whole lines of a file, from a place on; a killed node may have left a part of one."""
    try:
        with path.open("rb") as file:
            file.seek(begin)
            return file.read(limit).split(b"\n")[:-1]
    except OSError:
        return []


def _seq(line: bytes) -> int | None:
    """Return the number of a decision without reading the rest of it; it is the first key."""
    begin, _, _ = line.partition(b",")
    number = begin.removeprefix(b'{"seq":')
    return int(number) if number.isdigit() else None


def next_epoch(folder: Path, now_s: float) -> int:
    """Return the epoch of this start of a node: larger than all before, whatever the clock says.

    Args:
        folder: of the node; it is created.
        now_s: seconds since 1970.
    """
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / "epoch"
    try:
        last = int(path.read_text())
    except (OSError, ValueError):
        last = 0
    epoch = max(int(now_s * 1000), last + 1)
    path.write_text(str(epoch))
    return epoch
