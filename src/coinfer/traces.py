"""Link rates over time, and the files with measured series that the runtime replays and the simulator plays.

A link trace is CSV or .csv.gz with the columns `trace_id, time_s, throughput_bytes_per_s`; other columns are ignored.
"""

import csv
import gzip
import math
import zlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import TextIO, cast

import numpy as np

from coinfer.errors import UserError, shown
from coinfer.resources import TRACES
from coinfer.units import BITS_PER_BYTE

COLUMNS = ("trace_id", "time_s", "throughput_bytes_per_s")


class TraceError(UserError):
    """A file of measured links or requests that cannot be used; the message is one line for a person."""


@dataclass(frozen=True, eq=False)
class Trace:
    """A link rate over time. A value holds until the next one, the last as long as the one before it; then the trace
    starts again."""

    times_s: np.ndarray
    """[rows] from 0, increasing."""
    rate_bps: np.ndarray
    """[rows] at least 0, not all 0."""
    start_s: float = 0.0
    """Where in the trace time 0 lies."""
    cumulative_bits: np.ndarray = field(init=False, repr=False)
    """[rows + 1] bits carried from the first row to the start of each, and to the end."""

    def __post_init__(self) -> None:
        times, rates = np.asarray(self.times_s, np.float64), np.asarray(self.rate_bps, np.float64)
        _check(times, rates)
        object.__setattr__(self, "times_s", times - times[0])
        object.__setattr__(self, "rate_bps", rates)
        object.__setattr__(self, "start_s", float(self.start_s) % self.period_s)
        durations = np.diff(self.times_s, append=self.period_s)
        object.__setattr__(self, "cumulative_bits", np.concatenate([[0.0], np.cumsum(rates * durations)]))

    @staticmethod
    def constant(rate_bps: float) -> "Trace":
        """The same rate for ever."""
        return Trace(np.zeros(1), np.array([rate_bps]))

    @staticmethod
    def load(path: str | Path = TRACES, trace_id: str | None = None) -> "Trace":
        """One trace of a file (`load_traces`), the first without an id."""
        traces = load_traces(path)
        if trace_id is None:
            return next(iter(traces.values()))
        if trace_id not in traces:
            raise TraceError(f"{path}: no trace {trace_id!r}; it holds {_listed(list(traces))}")
        return traces[trace_id]

    @cached_property
    def period_s(self) -> float:
        """How long until it starts again."""
        times = self.times_s
        return float(times[-1] + (times[-1] - times[-2])) if len(times) > 1 else 1.0

    @property
    def mean_bps(self) -> float:
        return float(self.cumulative_bits[-1] / self.period_s)

    def shifted(self, offset_s: float) -> "Trace":
        """The same trace, begun this much later in it."""
        return replace(self, start_s=self.start_s + offset_s)

    def scaled(self, factor: float) -> "Trace":
        """The same trace at so many times its rate."""
        return replace(self, rate_bps=self.rate_bps * factor)

    def rate_at(self, time_s: float) -> float:
        """Bits per second at a moment."""
        row = np.searchsorted(self.times_s, (time_s + self.start_s) % self.period_s, side="right") - 1
        return float(self.rate_bps[row])

    def bits_until(self, time_s: float) -> float:
        """Bits that the link carries from time 0 to this one; negative before it."""
        return self._bits_from_first_row(time_s + self.start_s) - self._bits_from_first_row(self.start_s)

    def time_of(self, bits: float) -> float:
        """The earliest moment by which the link has carried this much since time 0; the inverse of `bits_until`."""
        total = self.cumulative_bits[-1]
        bits = bits + self._bits_from_first_row(self.start_s)
        turns, rest = divmod(bits, total)
        if rest == 0:  # the end of a turn, not the start of the next: the trace may end at rate 0
            turns, rest = turns - 1, total
        row = int(np.searchsorted(self.cumulative_bits, rest)) - 1
        inside_s = self.times_s[row] + (rest - self.cumulative_bits[row]) / self.rate_bps[row]
        return float(turns * self.period_s + inside_s - self.start_s)

    def per_slot(self, slot_s: float) -> np.ndarray:
        """Mean rate of each whole slot [L] of one turn, from the first row on; a trace shorter than a slot is one."""
        slots = max(int(self.period_s / slot_s), 1)
        ends_s = np.minimum(np.arange(slots + 1) * slot_s, self.period_s)
        bits = np.interp(ends_s, np.append(self.times_s, self.period_s), self.cumulative_bits)
        return np.diff(bits) / np.diff(ends_s)

    def _bits_from_first_row(self, time_s: float) -> float:
        turns, rest_s = divmod(time_s, self.period_s)
        row = int(np.searchsorted(self.times_s, rest_s, side="right")) - 1
        inside = self.cumulative_bits[row] + self.rate_bps[row] * (rest_s - self.times_s[row])
        return float(turns * self.cumulative_bits[-1] + inside)


def load_traces(path: str | Path = TRACES) -> dict[str, Trace]:
    """All traces of a CSV file (also .csv.gz) with the columns trace_id, time_s, throughput_bytes_per_s.

    Raises:
        TraceError: naming file and line.
    """
    path = Path(path)
    columns_of(path, COLUMNS)
    series: dict[str, tuple[list[float], list[float]]] = {}
    for line, row in rows_of(path):
        times, rates = series.setdefault(row["trace_id"], ([], []))
        time_s = number_of(path, line, row, "time_s")
        if times and time_s <= times[-1]:
            name = shown(row["trace_id"])
            raise TraceError(f"{path}:{line}: time_s {time_s:g} of {name} does not come after {times[-1]:g}")
        times.append(time_s)
        rates.append(number_of(path, line, row, "throughput_bytes_per_s") * BITS_PER_BYTE)
    if not series:
        raise TraceError(f"{path}: holds no trace; expected rows of {','.join(COLUMNS)}")
    return {trace_id: _trace(path, trace_id, *values) for trace_id, values in series.items()}


def columns_of(path: Path, needed: Sequence[str]) -> list[str]:
    """The heading of a CSV or .csv.gz file, which must have the needed columns."""
    try:
        with _opened(path) as file:
            columns = next(csv.reader(file), [])
    except _UNREADABLE as error:
        raise _unreadable(path, error) from None
    if any(name not in columns for name in needed):
        raise TraceError(f"{path}:1: columns are {shown(','.join(columns))}, expected '{','.join(needed)}'")
    return columns


def rows_of(path: Path) -> Iterator[tuple[int, dict[str, str]]]:
    """(line, row) of such a file, after its heading."""
    try:
        with _opened(path) as file:
            reader = csv.reader(file)
            columns = next(reader)
            for row in reader:
                if len(row) != len(columns):
                    wanted = f"expected {len(columns)}: {','.join(columns)}"
                    raise TraceError(f"{path}:{reader.line_num}: {len(row)} values, {wanted}")
                yield reader.line_num, dict(zip(columns, row, strict=True))
    except _UNREADABLE as error:
        raise _unreadable(path, error) from None


def number_of(path: Path, line: int, row: Mapping[str, str], column: str) -> float:
    """A value of a row, at least 0 and finite."""
    try:
        value = float(row[column])
    except ValueError:
        value = math.nan
    if not 0 <= value < math.inf:
        raise TraceError(f"{path}:{line}: {column} is {shown(row[column])}, expected a number of at least 0")
    return value


def _opened(path: Path) -> TextIO:
    if path.suffix == ".gz":
        return cast(TextIO, gzip.open(path, "rt", encoding="utf-8", newline=""))
    return path.open(encoding="utf-8", newline="")


_UNREADABLE = (OSError, EOFError, UnicodeDecodeError, csv.Error, zlib.error)


def _unreadable(path: Path, error: Exception) -> TraceError:
    if isinstance(error, FileNotFoundError):
        return TraceError(f"{path}: no such file")
    return TraceError(f"{path}: not a readable trace file ({shown(str(error))}); expected .csv or .csv.gz")


def _trace(path: str | Path, trace_id: str, times_s: Sequence[float], rate_bps: Sequence[float]) -> Trace:
    try:
        return Trace(np.array(times_s), np.array(rate_bps))
    except TraceError as error:
        raise TraceError(f"{path}: trace {shown(trace_id)}: {error}") from None


def _check(times_s: np.ndarray, rate_bps: np.ndarray) -> None:
    if times_s.ndim != 1 or times_s.shape != rate_bps.shape or times_s.size == 0:
        raise TraceError(f"a trace is two equally long lists, not {times_s.shape} times and {rate_bps.shape} rates")
    if not (np.isfinite(times_s).all() and (np.diff(times_s) > 0).all()):
        raise TraceError("times must be finite and increase from row to row")
    if not (np.isfinite(rate_bps).all() and (rate_bps >= 0).all()):
        raise TraceError("rates must be finite and at least 0")
    if not rate_bps.any():
        raise TraceError("the rate is 0 all the time, so nothing would ever arrive")


def _listed(names: list[str], shown: int = 8) -> str:
    more = f" and {len(names) - shown} more" if len(names) > shown else ""
    return ", ".join(names[:shown]) + more
