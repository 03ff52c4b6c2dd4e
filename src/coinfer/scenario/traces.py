"""Measured links and measured workloads from CSV files, and where such files are looked for.

A link trace has the columns `trace_id, time_s, throughput_bytes_per_s`; a value holds until the next row of its trace.
A workload has `time_s`, and may have a column that names the series (`series` or `service`) and one that counts
(`requests`, `count_per_5min`); without a count every row is one request. Other columns are ignored.
"""

import csv
import gzip
import math
import os
import zlib
from collections.abc import Iterator, Mapping, Sequence
from importlib.resources import as_file, files
from pathlib import Path
from typing import NamedTuple, TextIO, cast

import numpy as np

from coinfer.scenario.errors import ScenarioError, shown
from coinfer.units import BITS_PER_BYTE

DATA_VARIABLE = "COINFER_DATA"
"""Environment variable: a folder with traces, workloads and profiles that are not shipped."""
LINK_COLUMNS = ("trace_id", "time_s", "throughput_bytes_per_s")
SERIES_COLUMNS = ("series", "service")
COUNT_COLUMNS = {"requests": 1.0, "count_per_5min": 300.0}
"""Column of counts, and how many seconds each counts where only one row tells."""


class RateTrace(NamedTuple):
    """A link rate over time; the last value holds as long as the one before it, then the trace starts again."""

    times_s: np.ndarray
    """[rows] from 0, increasing."""
    rate_bps: np.ndarray
    """[rows]"""

    @property
    def period_s(self) -> float:
        return float(self.times_s[-1] + (self.times_s[-1] - self.times_s[-2] if len(self.times_s) > 1 else 1.0))

    def per_slot(self, slot_s: float) -> np.ndarray:
        """Mean rate of each whole slot [L] of one turn; a trace shorter than a slot is one slot."""
        edges = np.append(self.times_s, self.period_s)
        carried_bits = np.concatenate([[0.0], np.cumsum(self.rate_bps * np.diff(edges))])
        slots = max(int(self.period_s / slot_s), 1)
        ends_s = np.minimum(np.arange(slots + 1) * slot_s, self.period_s)
        return np.diff(np.interp(ends_s, edges, carried_bits)) / np.diff(ends_s)


class Workload(NamedTuple):
    """Requests over time; after its end it starts again."""

    times_s: np.ndarray
    """[rows] starts of intervals, from 0, increasing."""
    counts: np.ndarray
    """[rows] requests from this row to the next."""
    period_s: float

    def per_bin(self, bin_s: float) -> np.ndarray:
        """Requests in each whole interval of this length, [L]; within a row they are spread evenly."""
        edges = np.append(self.times_s, self.period_s)
        so_far = np.concatenate([[0.0], np.cumsum(self.counts)])
        bins = max(int(self.period_s / bin_s + 1e-9), 1)
        return np.diff(np.interp(np.arange(bins + 1) * bin_s, edges, so_far))

    def window(self, start_s: float, length_s: float | None) -> "Workload":
        """A part of it, which then stands for the whole.

        Raises:
            ValueError: where no row lies inside.
        """
        end_s = self.period_s if length_s is None else min(start_s + length_s, self.period_s)
        inside = (self.times_s >= start_s) & (self.times_s < end_s)
        if not inside.any():
            raise ValueError(f"holds nothing between {start_s:g} s and {end_s:g} s; it is {self.period_s:g} s long")
        return Workload(self.times_s[inside] - start_s, self.counts[inside], end_s - start_s)


def find_file(name: str, folder: Path | None) -> Path | None:
    """A data file by name: beside the scenario, in the folder that `COINFER_DATA` names, or among those shipped."""
    with as_file(files("coinfer").joinpath("data")) as shipped:
        places = [folder, Path(os.environ[DATA_VARIABLE]) if os.environ.get(DATA_VARIABLE) else None, shipped]
        candidates = [place / name for place in places if place is not None]
    try:
        return next((path for path in candidates if path.is_file()), None)
    except (OSError, ValueError):  # a name that no file system takes
        return None


def load_links(path: Path) -> dict[str, RateTrace]:
    """All link traces of a file.

    Raises:
        ScenarioError: naming file and line.
    """
    _columns(path, LINK_COLUMNS)
    series: dict[str, tuple[list[float], list[float]]] = {}
    for line, row in _rows(path):
        times, rates = series.setdefault(row["trace_id"], ([], []))
        times.append(_number(path, line, row, "time_s", after=times[-1] if times else None))
        rates.append(_number(path, line, row, "throughput_bytes_per_s") * BITS_PER_BYTE)
    if not series:
        raise ScenarioError(f"{path}: holds no trace; expected rows of {','.join(LINK_COLUMNS)}")
    dead = [name for name, (_, rates) in series.items() if not any(rates)]
    if dead:
        raise ScenarioError(f"{path}: trace {shown(dead[0])} is 0 throughout")
    return {name: RateTrace(np.array(times) - times[0], np.array(rates)) for name, (times, rates) in series.items()}


def load_workload(path: Path, series: str | None) -> Workload:
    """One workload of a file.

    Args:
        series: which one, where the file has several.

    Raises:
        ScenarioError: naming file and line.
    """
    columns = _columns(path, ("time_s",))
    name_column = next((name for name in SERIES_COLUMNS if name in columns), None)
    count_column = next((name for name in COUNT_COLUMNS if name in columns), None)
    times, counts, found = list[float](), list[float](), dict[str, None]()
    for line, row in _rows(path):
        if name_column:
            found[row[name_column]] = None
            if row[name_column] != series:
                continue
        times.append(_number(path, line, row, "time_s", after=times[-1] if times else None, strictly=False))
        counts.append(_number(path, line, row, count_column) if count_column else 1.0)
    if name_column and series not in found:
        raise ScenarioError(f"{path}: no series {shown(series)}; it holds {shown(', '.join(found))}")
    if name_column is None and series is not None:
        raise ScenarioError(f"{path}: has no column that names a series; leave `series` away")
    if sum(counts) == 0:
        raise ScenarioError(f"{path}: holds no request")
    return _workload(np.array(times), np.array(counts), COUNT_COLUMNS[count_column] if count_column else 0.0)


def _workload(times_s: np.ndarray, counts: np.ndarray, row_s: float) -> Workload:
    """Rows of one moment become one row."""
    moments, first = np.unique(times_s - times_s[0], return_index=True)
    last_s = row_s or float(moments[-1] / max(len(moments) - 1, 1)) or 1.0
    return Workload(moments, np.add.reduceat(counts, first), float(moments[-1] + last_s))


def _columns(path: Path, needed: Sequence[str]) -> list[str]:
    """The heading of a CSV or .csv.gz file, which must have the needed columns."""
    try:
        with _opened(path) as file:
            columns = next(csv.reader(file), [])
    except _UNREADABLE as error:
        raise _unreadable(path, error) from None
    if any(name not in columns for name in needed):
        raise ScenarioError(f"{path}:1: columns are {shown(','.join(columns))}, expected {','.join(needed)}")
    return columns


def _rows(path: Path) -> Iterator[tuple[int, dict[str, str]]]:
    """(line, row) of a file, after its heading."""
    try:
        with _opened(path) as file:
            reader = csv.reader(file)
            columns = next(reader)
            for row in reader:
                if len(row) != len(columns):
                    raise ScenarioError(f"{path}:{reader.line_num}: {len(row)} values, expected {len(columns)}")
                yield reader.line_num, dict(zip(columns, row, strict=True))
    except _UNREADABLE as error:
        raise _unreadable(path, error) from None


def _number(
    path: Path, line: int, row: Mapping[str, str], column: str, after: float | None = None, strictly: bool = True
) -> float:
    try:
        value = float(row[column])
    except ValueError:
        value = math.nan
    if not 0 <= value < math.inf:
        raise ScenarioError(f"{path}:{line}: {column} is {shown(row[column])}, expected a number of at least 0")
    if after is not None and (value < after or (strictly and value == after)):
        raise ScenarioError(f"{path}:{line}: {column} {value:g} does not come after {after:g}")
    return value


def _opened(path: Path) -> TextIO:
    if path.suffix == ".gz":
        return cast(TextIO, gzip.open(path, "rt", encoding="utf-8", newline=""))
    return path.open(encoding="utf-8", newline="")


_UNREADABLE = (OSError, EOFError, UnicodeDecodeError, csv.Error, zlib.error)


def _unreadable(path: Path, error: Exception) -> ScenarioError:
    return ScenarioError(f"{path}: not a readable CSV file ({shown(str(error))}); expected .csv or .csv.gz")
