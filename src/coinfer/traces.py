"""Link rates over time, and the files of measured series that the runtime replays and the simulator plays.

A link trace is a .csv or .csv.gz file with the columns `trace_id, time_s, throughput_bytes_per_s`; others are ignored.
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

from coinfer.errors import UserError, short_repr
from coinfer.resources import TRACES
from coinfer.units import BITS_PER_BYTE

COLUMNS = ("trace_id", "time_s", "throughput_bytes_per_s")


class TraceError(UserError):
    """A file of measured links or requests that cannot be used; the message is one line for a person."""


@dataclass(frozen=True, eq=False)
class Trace:
    """A link rate over time, as a step function that repeats.

    A rate holds until the next row; the last one holds as long as the one before it, then the trace starts again.

    Raises:
        TraceError: if times do not increase, a rate is negative or not finite, or all rates are 0.
    """

    times_s: np.ndarray
    """[rows], from 0 after construction, increasing."""
    rate_bps: np.ndarray
    """[rows], at least 0, not all 0."""
    start_s: float = 0.0
    """Moment of the first period that is time 0."""
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
        """Return a trace with the same rate at all times.

        Args:
            rate_bps: above 0.

        Raises:
            TraceError: if the rate is not above 0 and finite.
        """
        return Trace(np.zeros(1), np.array([rate_bps]))

    @staticmethod
    def load(path: str | Path = TRACES, trace_id: str | None = None) -> "Trace":
        """Return one trace of a file.

        Args:
            path: a .csv or .csv.gz file; the shipped traces by default.
            trace_id: None takes the file's first trace.

        Raises:
            TraceError: if the file cannot be used, or holds no such trace.
        """
        traces = load_traces(path)
        if trace_id is None:
            return next(iter(traces.values()))
        if trace_id not in traces:
            raise TraceError(f"{path}: no trace {trace_id!r}; it holds {_listed(list(traces))}")
        return traces[trace_id]

    @cached_property
    def period_s(self) -> float:
        """Return the time after which the trace starts again."""
        times = self.times_s
        return float(times[-1] + (times[-1] - times[-2])) if len(times) > 1 else 1.0

    @property
    def mean_bps(self) -> float:
        """Return the mean rate over one period."""
        return float(self.cumulative_bits[-1] / self.period_s)

    def shifted(self, offset_s: float) -> "Trace":
        """Return the trace with time 0 moved to a later moment.

        Args:
            offset_s: how much later; it wraps around at the period.
        """
        return replace(self, start_s=self.start_s + offset_s)

    def scaled(self, factor: float) -> "Trace":
        """Return the trace with all rates multiplied.

        Args:
            factor: above 0.

        Raises:
            TraceError: if the rates are no longer finite and above 0.
        """
        return replace(self, rate_bps=self.rate_bps * factor)

    def rate_at(self, time_s: float) -> float:
        """Return the rate at a moment, in bit/s.

        Args:
            time_s: from the trace's time 0; may be negative, or later than the period.
        """
        row = np.searchsorted(self.times_s, (time_s + self.start_s) % self.period_s, side="right") - 1
        return float(self.rate_bps[row])

    def bits_until(self, time_s: float) -> float:
        """Return the bits that the link carries from time 0 to a moment; negative for a moment before time 0.

        Args:
            time_s: from the trace's time 0; may be negative, or later than the period.
        """
        return self._bits_from_first_row(time_s + self.start_s) - self._bits_from_first_row(self.start_s)

    def time_of(self, bits: float) -> float:
        """Return the earliest moment by which the link has carried some bits since time 0; the inverse of `bits_until`.

        Args:
            bits: may be negative.
        """
        total = self.cumulative_bits[-1]
        bits = bits + self._bits_from_first_row(self.start_s)
        periods, rest_bits = divmod(bits, total)
        if rest_bits == 0:  # the end of a period, not the start of the next: the trace may end at rate 0
            periods, rest_bits = periods - 1, total
        row = int(np.searchsorted(self.cumulative_bits, rest_bits)) - 1
        in_period_s = self.times_s[row] + (rest_bits - self.cumulative_bits[row]) / self.rate_bps[row]
        return float(periods * self.period_s + in_period_s - self.start_s)

    def per_slot(self, slot_s: float) -> np.ndarray:
        """Return the mean rate in each whole slot of one period, [L], from the first row on.

        Args:
            slot_s: above 0; a trace shorter than one slot gives a single rate.
        """
        slots = max(int(self.period_s / slot_s), 1)
        ends_s = np.minimum(np.arange(slots + 1) * slot_s, self.period_s)
        bits = np.interp(ends_s, np.append(self.times_s, self.period_s), self.cumulative_bits)
        return np.diff(bits) / np.diff(ends_s)

    def _bits_from_first_row(self, time_s: float) -> float:
        periods, rest_s = divmod(time_s, self.period_s)
        row = int(np.searchsorted(self.times_s, rest_s, side="right")) - 1
        in_period_bits = self.cumulative_bits[row] + self.rate_bps[row] * (rest_s - self.times_s[row])
        return float(periods * self.cumulative_bits[-1] + in_period_bits)


def load_traces(path: str | Path = TRACES) -> dict[str, Trace]:
    """Return all traces of a file by their id, in the order of the file.

    Args:
        path: a .csv or .csv.gz file; the shipped traces by default.

    Raises:
        TraceError: if it cannot be read, lacks a column, or a row is wrong; the message names file and line.
    """
    path = Path(path)
    read_columns(path, COLUMNS)
    series: dict[str, tuple[list[float], list[float]]] = {}
    for line, row in read_rows(path):
        times, rates = series.setdefault(row["trace_id"], ([], []))
        time_s = parse_number(path, line, row, "time_s")
        if times and time_s <= times[-1]:
            name = short_repr(row["trace_id"])
            raise TraceError(f"{path}:{line}: time_s {time_s:g} of {name} does not come after {times[-1]:g}")
        times.append(time_s)
        rates.append(parse_number(path, line, row, "throughput_bytes_per_s") * BITS_PER_BYTE)
    if not series:
        raise TraceError(f"{path}: holds no trace; expected rows of {','.join(COLUMNS)}")
    return {trace_id: _trace(path, trace_id, *values) for trace_id, values in series.items()}


def read_columns(path: Path, needed: Sequence[str]) -> list[str]:
    """Return the column names of a CSV file.

    Args:
        path: a .csv or .csv.gz file.
        needed: columns that must be among them.

    Raises:
        TraceError: if the file cannot be read, or lacks a column.
    """
    try:
        with _opened(path) as file:
            columns = next(csv.reader(file), [])
    except _UNREADABLE as error:
        raise _unreadable(path, error) from None
    if any(name not in columns for name in needed):
        raise TraceError(f"{path}:1: columns are {short_repr(','.join(columns))}, expected '{','.join(needed)}'")
    return columns


def read_rows(path: Path) -> Iterator[tuple[int, dict[str, str]]]:
    """Yield line number and values by column of each row after the heading.

    Args:
        path: a .csv or .csv.gz file that `read_columns` has accepted.

    Raises:
        TraceError: if the file cannot be read, or a row has too few or too many values.
    """
    try:
        with _opened(path) as file:
            reader = csv.reader(file)
            columns = next(reader)
            for row in reader:
                if len(row) != len(columns):
                    expected = f"expected {len(columns)}: {','.join(columns)}"
                    raise TraceError(f"{path}:{reader.line_num}: {len(row)} values, {expected}")
                yield reader.line_num, dict(zip(columns, row, strict=True))
    except _UNREADABLE as error:
        raise _unreadable(path, error) from None


def parse_number(path: Path, line: int, row: Mapping[str, str], column: str) -> float:
    """Return a value of a row as a finite number of at least 0.

    Args:
        path: of the file, for the message.
        line: of the row, for the message.
        row: values by column.
        column: name of the value's column.

    Raises:
        TraceError: if it is no such number.
    """
    try:
        value = float(row[column])
    except ValueError:
        value = math.nan
    if not 0 <= value < math.inf:
        raise TraceError(f"{path}:{line}: {column} is {short_repr(row[column])}, expected a number of at least 0")
    return value


def _opened(path: Path) -> TextIO:
    if path.suffix == ".gz":
        return cast(TextIO, gzip.open(path, "rt", encoding="utf-8-sig", newline=""))
    return path.open(encoding="utf-8-sig", newline="")


_UNREADABLE = (OSError, EOFError, UnicodeDecodeError, csv.Error, zlib.error)


def _unreadable(path: Path, error: Exception) -> TraceError:
    if isinstance(error, FileNotFoundError):
        return TraceError(f"{path}: no such file")
    return TraceError(f"{path}: not a readable trace file ({short_repr(str(error))}); expected .csv or .csv.gz")


def _trace(path: str | Path, trace_id: str, times_s: Sequence[float], rate_bps: Sequence[float]) -> Trace:
    try:
        return Trace(np.array(times_s), np.array(rate_bps))
    except TraceError as error:
        raise TraceError(f"{path}: trace {short_repr(trace_id)}: {error}") from None


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
