"""ONNX Runtime's own profile of a session, summed up per fused group of the network."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple, TypedDict

import numpy as np

from coinfer.graph.ir import ModelGraph
from coinfer.graph.layout import HELD
from coinfer.graph.segment import segment
from coinfer.graph.session import CPU, Session, open_session
from coinfer.profile.table import ProfileError

_KERNEL = "_kernel_time"
_FUSED = "fused "
_BLOCKED = "_nchwc"
"""Suffix with which ONNX Runtime names an operation in its channel-blocked layout, after the tensor that it makes."""
_MICROSECOND = 1e-6


class Trace(NamedTuple):
    """Typical times of a segment's parts. Arrays are [groups], of all the network's fused groups."""

    group_s: np.ndarray
    """Time of everything but changes of layout."""
    enter_s: np.ndarray
    """Time of changes into the channel-blocked layout, before the group that needs them."""
    leave_s: np.ndarray
    """Time of changes out of that layout, after the group that makes the tensor."""
    blocked: np.ndarray
    """True if the group computes in that layout."""
    spread_s: np.ndarray
    """Inter-quartile ranges over the runs, of everything in and around the group."""


def open_traced(
    graph: ModelGraph,
    inputs: Sequence[str],
    outputs: Sequence[str],
    folder: Path,
    threads: int = 1,
    providers: Sequence[str] = (CPU,),
) -> Session:
    """Return a segment's session under ONNX Runtime's profiler.

    Args:
        graph: the network.
        inputs: names of the tensors from which the segment starts.
        outputs: names of the tensors that it computes.
        folder: where the profiler writes once `read_trace` ends it.
        threads: within an operation.
        providers: of ONNX Runtime, the preferred one first.

    Raises:
        GraphError: if the outputs do not follow from the inputs.
    """
    piece = segment(graph, inputs, outputs)
    for node in piece.proto.graph.node:
        node.name = node.output[0]
    return open_session(graph, piece, threads, providers, folder / "trace")


def read_trace(graph: ModelGraph, session: Session, warm_up: int = 2) -> Trace:
    """End the profile of a session that has run, and sum it up.

    Args:
        graph: the network that the session's segment is part of.
        session: from `open_traced`; the file of its profile is deleted.
        warm_up: first runs, which do not count.

    Returns:
        Typical times of a run.
    """
    events = _events(Path(session.end_profiling()))
    nodes = [event for event in events if event["cat"] == "Node" and event["name"].endswith(_KERNEL)]
    durations: dict[str, list[float]] = {}
    for event in sorted(nodes, key=lambda event: event["ts"]):
        durations.setdefault(event["name"], []).append(event["dur"] * _MICROSECOND)
    kinds = {event["name"]: event["args"]["op_name"] for event in nodes}
    places = _places(graph, list(durations))
    empty = np.zeros(len(graph.groups))
    trace = Trace(empty.copy(), empty.copy(), empty.copy(), empty > 0, empty.copy())
    for name, group in zip(durations, places, strict=True):
        column = _column(trace, name, kinds[name])
        column[group] += _typical_s(durations[name][warm_up:])
        trace.spread_s[group] += _spread_s(durations[name][warm_up:])
        trace.blocked[group] |= column is trace.group_s and name.endswith(_BLOCKED + _KERNEL)
    return trace


class _Event(TypedDict):
    """An event of ONNX Runtime's trace, as far as it is read here."""

    cat: str
    name: str
    ts: float
    """Start, microseconds."""
    dur: float
    """Duration, microseconds."""
    args: dict[str, str]


def _events(path: Path) -> list[_Event]:
    """Return the events of a trace file, and delete it."""
    try:
        events = json.loads(path.read_text())
        path.unlink()
    except (OSError, ValueError):
        raise ProfileError(
            f"{path.parent}: the times that ONNX Runtime wrote there are not whole; is the disk full? "
            "Free some of it, or name another folder for temporary files with TMPDIR"
        ) from None
    return events


def _column(trace: Trace, name: str, kind: str) -> np.ndarray:
    """Return the array of times that an event belongs to."""
    if kind == "ReorderInput" or HELD in name:
        return trace.enter_s
    return trace.leave_s if kind == "ReorderOutput" else trace.group_s


def _places(graph: ModelGraph, names: Sequence[str]) -> list[int]:
    """Return the fused group of each event, in the order of execution.

    What the executor added itself, such as a change of layout, counts to the operation before it; at the start, to the
    one after it.
    """
    groups = [graph.group_of.get(_tensor(name)) for name in names]
    last = next((k for k in groups if k is not None), 0)
    places = []
    for place in groups:
        last = place if place is not None else last
        places.append(last)
    return places


def _tensor(event: str) -> str:
    """Return the tensor that `open_traced` named an operation after, before ONNX Runtime fused and renamed it."""
    return event.removesuffix(_KERNEL).removesuffix(_BLOCKED).removeprefix(_FUSED)


def _typical_s(durations_s: Sequence[float]) -> float:
    """Return the mean of the faster half.

    Other work on the processor only ever adds time, and ONNX Runtime counts whole microseconds, which a median would
    keep.
    """
    ordered = np.sort(durations_s)
    return float(ordered[: (len(ordered) + 1) // 2].mean()) if len(ordered) else 0.0


def _spread_s(durations_s: Sequence[float]) -> float:
    low_s, high_s = np.quantile(durations_s, [0.25, 0.75]) if len(durations_s) else (0.0, 0.0)
    return float(high_s - low_s)
