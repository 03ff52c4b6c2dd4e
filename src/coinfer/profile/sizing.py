"""A profile at other sizes of a network's free axes: batch, height, width, length.

The whole network is measured at a few sizes of each axis (`measure_sizes`). Between them its time is interpolated as a
power of the size, and beyond them continued; the factors of several axes are multiplied. Operations share that time by
their measured share and by how their arithmetic grows; bits follow the tensors' sizes.
"""

import statistics
from collections.abc import Callable, Mapping
from contextlib import suppress

import numpy as np

from coinfer.graph.ir import FreeAxis, ModelGraph, Tensor
from coinfer.graph.session import Session, silent
from coinfer.graph.sizes import with_sizes
from coinfer.profile.samples import Sample
from coinfer.profile.table import ProfileTable

STEPS = (2, 8)
"""An axis is measured at its smallest size and at so many times that."""
RUNS = 4
MOST_S = 2.0
"""An axis is measured no further once its runs took so long."""
_STEEPEST = 3.0
"""Largest power with which time is continued beyond the largest size that was measured."""
Ratios = Mapping[int, float]
"""Time of the whole network at some sizes of an axis, over its time at the smallest."""


def measure_sizes(
    graph: ModelGraph, sample: Sample, session: Session, clock: Callable[[], float]
) -> dict[str, dict[int, float]]:
    """Return how the time of the whole network grows with each of its free axes, by name and size.

    Sizes that the network does not take are left out.

    Args:
        graph: the network, at its smallest sizes.
        sample: fits it.
        session: of the undivided network.
        clock: returns seconds.
    """
    return {axis.name: _measure_axis(session, axis, sample, clock) for axis in graph.axes}


def _measure_axis(session: Session, axis: FreeAxis, sample: Sample, clock: Callable[[], float]) -> dict[int, float]:
    base = dict(sample)
    ratios, spent_s = {axis.low: 1.0}, 0.0
    for size in _sizes(axis):
        if spent_s > MOST_S:
            break
        feeds = stretched(sample, axis, size)
        try:
            session.run(None, feeds, silent())
        except Exception:  # ONNX Runtime's exceptions share no base class below this one
            continue
        times_s = [(_run_s(session, base, clock), _run_s(session, feeds, clock)) for _ in range(RUNS)]
        spent_s += float(np.sum(times_s))
        base_s, sized_s = (statistics.median(column) for column in zip(*times_s, strict=True))
        if base_s > 0 and sized_s > 0:
            ratios[size] = sized_s / base_s
    return ratios


def _sizes(axis: FreeAxis) -> list[int]:
    most = axis.high or STEPS[-1] * axis.low
    inside = [axis.low * step for step in STEPS if axis.low * step < most]
    return [*inside, most] if most > axis.low else []


def _run_s(session: Session, feeds: dict[str, np.ndarray], clock: Callable[[], float]) -> float:
    began_s = clock()
    session.run(None, feeds)
    return clock() - began_s


def stretched(sample: Sample, axis: FreeAxis, size: int) -> dict[str, np.ndarray]:
    """Return a sample at another size of an axis, its values repeated.

    Args:
        sample: arrays by input.
        axis: of the inputs; those that are not in the sample do not count.
        size: number of elements.
    """
    arrays = dict(sample)
    for name, place in axis.places:
        if name not in arrays:
            continue
        arrays[name] = np.take(arrays[name], np.arange(size) % arrays[name].shape[place], place)
    return arrays


def larger_samples(graph: ModelGraph, sample: Sample, session: Session) -> list[dict[str, np.ndarray]]:
    """Return a sample about twice as large on every free axis but the batch, of odd sizes if the network takes them.

    Args:
        graph: the network, at its smallest sizes.
        sample: fits it.
        session: of the undivided network.

    Returns:
        One sample; none if no such axis is free, or the network takes neither.
    """
    axes = [axis for axis in graph.axes if not axis.is_batch and axis.high != axis.low]
    for more in (1, 0) if axes else ():
        larger = dict(sample)
        for axis in axes:
            size = 2 * axis.low + more
            larger = stretched(larger, axis, size if axis.high is None else min(size, axis.high))
        with suppress(Exception):  # ONNX Runtime's exceptions share no base class below this one
            session.run(None, larger, silent())
            return [larger]
    return []


def time_ratio(sizes: Mapping[str, Ratios], chosen: Mapping[str, int]) -> float:
    """Return the time of the whole network at some sizes over that at the smallest ones.

    Args:
        sizes: measured ratios by axis and size.
        chosen: size by axis; an axis that is not there has its smallest.
    """
    return float(np.prod([_interpolated(sizes[axis], size) for axis, size in chosen.items() if axis in sizes]))


def interpolation_error(sizes: Mapping[str, Ratios]) -> float:
    """Return the largest error of interpolating a measured size from its neighbours, as a share of the measured time.

    Args:
        sizes: measured ratios by axis and size.
    """
    errors = [
        abs(_interpolated({s: r for s, r in ratios.items() if s != size}, size) / ratios[size] - 1)
        for ratios in sizes.values()
        for size in sorted(ratios)[1:-1]
    ]
    return max(errors, default=0.0)


def _interpolated(ratios: Ratios, size: int) -> float:
    known = sorted(ratios)
    if len(known) < 2:
        return size / known[0]
    x, y = np.log(known), np.log([ratios[one] for one in known])
    if size <= known[-1]:
        return float(np.exp(np.interp(np.log(size), x, y)))
    slope = np.clip((y[-1] - y[-2]) / (x[-1] - x[-2]), 0.0, _STEEPEST)
    return float(np.exp(y[-1] + slope * (np.log(size) - x[-1])))


def at_sizes(graph: ModelGraph, table: ProfileTable, sizes: Mapping[str, int]) -> tuple[ModelGraph, ProfileTable]:
    """Return a network and its profile at other sizes of its free axes.

    Args:
        graph: the network.
        table: its profile at the smallest sizes.
        sizes: by axis; those that are not there stay the smallest.

    Raises:
        GraphError: if the network does not take these sizes.
    """
    sized = with_sizes(graph, sizes)
    if sized is graph:
        return graph, table
    grown = {name: _times_as_many(tensor, graph.tensors[name]) for name, tensor in sized.tensors.items()}
    share = np.array(table.op_s) * _growth(graph, sized, grown)
    op_s = share / max(share.sum(), 1e-12) * (time_ratio(table.sizes, sizes) * table.whole_s - table.call_s)
    return sized, table.model_copy(
        update={
            "work_flop": sized.work_flop,
            "whole_s": table.call_s + float(op_s.sum()),
            "op_s": tuple(op_s.tolist()),
            "op_spread_s": (),
            "bottleneck": table.bottleneck
            and table.bottleneck.scaled(time_ratio(table.sizes, sizes), grown[graph.inputs[0]]),
            "enter_s": {name: seconds * grown[name] for name, seconds in table.enter_s.items()},
            "leave_s": {name: seconds * grown[name] for name, seconds in table.leave_s.items()},
            **{
                field: {
                    name: {bits: value * grown[name] for bits, value in by_bits.items()}
                    for name, by_bits in getattr(table, field).items()
                }
                for field in ("payload_bits", "encode_s", "decode_s")
            },
        }
    )


def _times_as_many(after: Tensor, before: Tensor) -> float:
    """Return how many times as many elements a tensor has; 1 if their number is not known before the network runs."""
    return after.elements / before.elements if before.elements else 1.0


def _growth(graph: ModelGraph, sized: ModelGraph, grown: Mapping[str, float]) -> np.ndarray:
    """Return [ops] how many times as much work each operation has; what only moves elements grows with them."""
    return np.array(
        [
            after.work_flop / before.work_flop if before.work_flop > 0 else grown[before.outputs[0]]
            for before, after in zip(graph.ops, sized.ops, strict=True)
        ]
    )


def rounded_sizes(sizes: Mapping[str, int]) -> dict[str, int]:
    """Return sizes with four binary digits, so that requests of nearly one size share a plan.

    Args:
        sizes: by axis.
    """

    def short(size: int) -> int:
        unit = 1 << max(size.bit_length() - 4, 0)
        return max(round(size / unit), 1) * unit

    return {axis: short(size) for axis, size in sizes.items()}
