"""Links whose rate follows a bandwidth trace, for runs on one machine."""

import csv
import gzip
import math
import threading
import zlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path

import numpy as np

from coinfer.runtime.clock import Clock
from coinfer.types import UserError
from coinfer.units import BITS_PER_BYTE

COLUMNS = ("trace_id", "time_s", "throughput_bytes_per_s")
SHIPPED_TRACES = Path(__file__).resolve().parent.parent / "data" / "traces" / "synthetic.csv.gz"


class TraceError(UserError):
    """A trace that cannot be used; the message is one line for a person."""


class TransferCancelled(Exception):
    """The transfer was given up before it was through."""


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
    def load(path: str | Path = SHIPPED_TRACES, trace_id: str | None = None) -> "Trace":
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

    def _bits_from_first_row(self, time_s: float) -> float:
        turns, rest_s = divmod(time_s, self.period_s)
        row = int(np.searchsorted(self.times_s, rest_s, side="right")) - 1
        inside = self.cumulative_bits[row] + self.rate_bps[row] * (rest_s - self.times_s[row])
        return float(turns * self.cumulative_bits[-1] + inside)


class Link:
    """A token bucket filled by a trace, served first come, first served.

    A transfer may use at once what the idle link saved up, at most `burst_bits`; the rest goes at the trace's rate.
    The trace's time 0 is the moment the link is made.
    """

    def __init__(self, trace: Trace, clock: Clock, burst_bits: float = 3200 * BITS_PER_BYTE, latency_s: float = 0.0):
        if not (0 <= burst_bits < math.inf and 0 <= latency_s < math.inf):
            raise ValueError(f"a link has a burst and a latency of at least 0, not {burst_bits} bits, {latency_s} s")
        self.trace = trace
        self.clock = clock
        self.burst_bits = burst_bits
        self.latency_s = latency_s
        self._began_s = clock.now_s()
        self._sent_bits = -math.inf
        """Up to where the trace's capacity, in bits since the link was made, is spoken for."""
        self._lock = threading.Lock()

    def rate_bps(self) -> float:
        """The trace's rate now."""
        return self.trace.rate_at(self.clock.now_s() - self._began_s)

    def reserve(self, size_bits: float, now_s: float) -> float:
        """Puts a transfer at the end of the queue and returns when its last bit arrives, on the link's clock."""
        return self._reserve(size_bits, now_s)[0]

    def transmit(self, size_bits: float, cancel: threading.Event | None = None) -> float:
        """Waits until a transfer is through and returns how long that took, in seconds.

        Raises:
            TransferCancelled: as soon as `cancel` is set; what was not sent yet is given back to the link.
        """
        began_s = self.clock.now_s()
        finish_s, end_bits = self._reserve(size_bits, began_s)
        if not self.clock.sleep(finish_s - began_s, cancel):
            self._give_back(size_bits, end_bits)
            raise TransferCancelled(f"transfer of {size_bits:.0f} bits was cancelled")
        return self.clock.now_s() - began_s

    def _reserve(self, size_bits: float, now_s: float) -> tuple[float, float]:
        if not 0 <= size_bits < math.inf:
            raise ValueError(f"a transfer has a size of at least 0 bits, not {size_bits}")
        with self._lock:
            since_s = now_s - self._began_s
            free_from = self.trace.bits_until(since_s) - self.burst_bits
            self._sent_bits = max(self._sent_bits, free_from) + size_bits
            arrival_s = max(self.trace.time_of(self._sent_bits), since_s)
            return self._began_s + arrival_s + self.latency_s, self._sent_bits

    def _give_back(self, size_bits: float, end_bits: float) -> None:
        """Only the last transfer of the queue can shrink: others were already told when they finish."""
        with self._lock:
            if self._sent_bits == end_bits:
                passed = self.trace.bits_until(self.clock.now_s() - self._began_s)
                self._sent_bits = min(max(passed, end_bits - size_bits), end_bits)


def load_traces(path: str | Path = SHIPPED_TRACES) -> dict[str, Trace]:
    """All traces of a CSV file (also .csv.gz) with the columns trace_id, time_s, throughput_bytes_per_s.

    Raises:
        TraceError: naming file and line.
    """
    try:
        rows = list(_rows(Path(path)))
    except FileNotFoundError:
        raise TraceError(f"{path}: no such file") from None
    except (OSError, EOFError, UnicodeDecodeError, csv.Error, zlib.error) as error:
        raise TraceError(f"{path}: not a readable trace file ({error}); expected CSV or .csv.gz") from None
    if not rows:
        raise TraceError(f"{path}: holds no trace; expected rows of {','.join(COLUMNS)}")
    series: dict[str, tuple[list[float], list[float]]] = {}
    for line, trace_id, time_s, rate in rows:
        times, rates = series.setdefault(trace_id, ([], []))
        if times and time_s <= times[-1]:
            raise TraceError(f"{path}:{line}: time_s {time_s:g} of {trace_id!r} does not come after {times[-1]:g}")
        times.append(time_s)
        rates.append(rate * BITS_PER_BYTE)
    return {trace_id: _trace(path, trace_id, *values) for trace_id, values in series.items()}


def _rows(path: Path) -> Iterator[tuple[int, str, float, float]]:
    """(line, trace_id, time_s, bytes per second) of a file, checked one by one."""
    opener = gzip.open if path.suffix == ".gz" else open
    with opener(path, "rt", encoding="utf-8", newline="") as file:
        reader = csv.reader(file)
        heading = tuple(next(reader, ()))
        if heading != COLUMNS:
            raise TraceError(f"{path}:1: columns are {','.join(heading)!r}, expected {','.join(COLUMNS)!r}")
        for row in reader:
            line = reader.line_num
            if len(row) != len(COLUMNS):
                raise TraceError(f"{path}:{line}: {len(row)} values, expected {len(COLUMNS)}: {','.join(COLUMNS)}")
            yield line, row[0], _number(path, line, COLUMNS[1], row[1]), _number(path, line, COLUMNS[2], row[2])


def _number(path: Path, line: int, column: str, text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not 0 <= value < math.inf:
        raise TraceError(f"{path}:{line}: {column} is {text!r}, expected a number of at least 0")
    return value


def _trace(path: str | Path, trace_id: str, times_s: Sequence[float], rate_bps: Sequence[float]) -> Trace:
    try:
        return Trace(np.array(times_s), np.array(rate_bps))
    except TraceError as error:
        raise TraceError(f"{path}: trace {trace_id!r}: {error}") from None


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
