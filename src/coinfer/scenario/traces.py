"""Measured workloads from CSV files, and where these and measured links (`coinfer.traces`) are looked for.

A workload has a column `time_s`, and may have one that names the series (`series` or `service`) and one that counts
(`requests`, `count_per_5min`); without a count every row is one request. Other columns are ignored.
"""

import os
from pathlib import Path
from typing import NamedTuple

import numpy as np

from coinfer.errors import short_repr
from coinfer.resources import DATA
from coinfer.traces import TraceError, parse_number, read_columns, read_rows

DATA_VARIABLE = "COINFER_DATA"
"""Environment variable: a folder with traces, workloads and profiles that are not shipped."""
SERIES_COLUMNS = ("series", "service")
COUNT_COLUMNS = {"requests": 1.0, "count_per_5min": 300.0}
"""Columns of counts, and the seconds that one row of each covers."""


class Workload(NamedTuple):
    """Requests over time; after its end it starts again."""

    times_s: np.ndarray
    """[rows] starts of intervals, from 0, increasing."""
    counts: np.ndarray
    """[rows] requests from this row to the next."""
    period_s: float

    def per_bin(self, bin_s: float) -> np.ndarray:
        """Return the requests [L] in each whole interval; within a row they are spread evenly.

        Args:
            bin_s: length of an interval; a shorter workload still makes one.
        """
        edges = np.append(self.times_s, self.period_s)
        so_far = np.concatenate([[0.0], np.cumsum(self.counts)])
        bins = max(int(self.period_s / bin_s + 1e-9), 1)
        return np.diff(np.interp(np.arange(bins + 1) * bin_s, edges, so_far))

    def window(self, start_s: float, length_s: float | None) -> "Workload":
        """Return a part of the workload, which then stands for the whole.

        Args:
            start_s: of the part.
            length_s: of the part; up to the end without it.

        Raises:
            ValueError: if no row lies inside.
        """
        end_s = self.period_s if length_s is None else min(start_s + length_s, self.period_s)
        inside = (self.times_s >= start_s) & (self.times_s < end_s)
        if not inside.any():
            raise ValueError(f"holds nothing between {start_s:g} s and {end_s:g} s; it is {self.period_s:g} s long")
        return Workload(self.times_s[inside] - start_s, self.counts[inside], end_s - start_s)


def find_file(name: str, folder: Path | None) -> Path | None:
    """Return the path of a data file, or None if it does not exist.

    Args:
        name: looked for beside the scenario, in the folder that `COINFER_DATA` names, and among the shipped files.
        folder: of the scenario; None for a preset.
    """
    places = [folder, Path(os.environ[DATA_VARIABLE]) if os.environ.get(DATA_VARIABLE) else None, DATA]
    candidates = [place / name for place in places if place is not None]
    try:
        return next((path for path in candidates if path.is_file()), None)
    except (OSError, ValueError):  # a name that no file system takes
        return None


def load_workload(path: Path, series: str | None) -> Workload:
    """Return one workload of a file.

    Args:
        path: of the CSV file.
        series: which one, if the file has several.

    Raises:
        TraceError: naming file and line.
    """
    columns = read_columns(path, ("time_s",))
    name_column = next((name for name in SERIES_COLUMNS if name in columns), None)
    count_column = next((name for name in COUNT_COLUMNS if name in columns), None)
    times, counts, names = list[float](), list[float](), dict[str, None]()
    for line, row in read_rows(path):
        if name_column:
            names[row[name_column]] = None
            if row[name_column] != series:
                continue
        times.append(parse_number(path, line, row, "time_s"))
        if len(times) > 1 and times[-1] < times[-2]:
            raise TraceError(f"{path}:{line}: time_s {times[-1]:g} does not come after {times[-2]:g}")
        counts.append(parse_number(path, line, row, count_column) if count_column else 1.0)
    if name_column and series not in names:
        lacks = (
            "holds several, name one with `series`" if series is None else f"no series {short_repr(series)}; it holds"
        )
        raise TraceError(f"{path}: {lacks}: {', '.join(map(short_repr, list(names)[:12]))}")
    if name_column is None and series is not None:
        raise TraceError(f"{path}: has no column that names a series; leave `series` away")
    if sum(counts) == 0:
        raise TraceError(f"{path}: holds no request")
    return _workload(np.array(times), np.array(counts), COUNT_COLUMNS[count_column] if count_column else 0.0)


def _workload(times_s: np.ndarray, counts: np.ndarray, row_s: float) -> Workload:
    """Return the workload of these rows; rows of the same moment become one."""
    moments, first = np.unique(times_s - times_s[0], return_index=True)
    last_s = row_s or float(moments[-1] / max(len(moments) - 1, 1)) or 1.0
    return Workload(moments, np.add.reduceat(counts, first), float(moments[-1] + last_s))
