"""What happens in the demo: phases with links, a server that dies, and a crowd; or links that follow a trace.

Rates follow from what was measured: in a phase, a picture takes so many times as long on a link as the device needs for
the whole network. So the best answer of a phase is the same on every machine.
"""

from collections.abc import Sequence
from dataclasses import replace
from itertools import cycle, islice
from pathlib import Path
from typing import NamedTuple

import numpy as np

from coinfer.resources import TRACES
from coinfer.runtime.clock import Clock
from coinfer.runtime.emulation.links import Link
from coinfer.traces import Trace, TraceError, load_traces
from coinfer.units import BITS_PER_BYTE

SWING = (0.8, 1.25)
"""Within a phase a link's rate follows a shipped trace, relative to that trace's mean and within this range."""
PICTURE_SHARE = 0.5
"""On a trace whose scale is not given, a picture takes this share of the device's time at the mean rate."""
MOMENTS = 4
BURST_S = 0.002
"""An idle link saves up what it carries in this time."""


class Phase(NamedTuple):
    """A part of the demo."""

    name: str
    expects: str
    """What should be best."""
    picture_shares: tuple[float, ...]
    """Time of a picture on each server's link, over the device's time for the whole network; the last repeats."""
    faded_shares: tuple[float, ...] = ()
    """The same while a link has faded. Links fade in turn for `FADE_S`, as for a device that moves: those of every
    second server first. Empty if none fades."""
    first_is_dead: bool = False
    """Whether the first server is killed before it, and stays dead."""
    crowded: bool = False
    """Whether others keep all servers busy."""


FADE_S = 6.0
GOOD, BAD = (0.05, 0.08, 0.12), (1.2, 1.5, 2.0)
PHASES = (
    Phase("good links", "the first server", GOOD),
    Phase("links fade in turn", "the server in reach", GOOD[:2] + BAD[2:], BAD),
    Phase("bad links", "an early exit or a code", BAD),
    Phase("the first server dies", "another server", GOOD, first_is_dead=True),
    Phase("a crowd at the servers", "the device", GOOD, first_is_dead=True, crowded=True),
)


def phase_traces(phase: Phase, servers: int, picture_bits: float, own_s: float) -> list[Trace]:
    """Return the trace of each server's link in a phase.

    Args:
        phase: of the script.
        servers: number of links.
        picture_bits: size of a picture as it is sent, with its reply.
        own_s: the device's time for the whole network.
    """
    rates_bps, faded_bps = (
        [picture_bits / (share * own_s) for share in _repeated(shares, servers)]
        for shares in (phase.picture_shares, phase.faded_shares or phase.picture_shares)
    )
    if not phase.faded_shares:
        shapes = islice(cycle(load_traces(TRACES).values()), servers)
        return [_like(shape, rate_bps) for rate_bps, shape in zip(rates_bps, shapes, strict=True)]
    pairs = zip(rates_bps, faded_bps, strict=True)
    return [Trace(np.array([0.0, FADE_S]), np.array(pair[:: -1 if i % 2 else 1])) for i, pair in enumerate(pairs)]


def _repeated(shares: Sequence[float], count: int) -> list[float]:
    return [*shares, *[shares[-1]] * count][:count]


def moments_bps(traces: Sequence[Trace]) -> list[list[float]]:
    """Return the rate of each link at some moments of a phase, which stand for all of it.

    Args:
        traces: of the links in the phase.
    """
    return [[trace.rate_at((i + 0.5) * FADE_S) for trace in traces] for i in range(MOMENTS)]


def _like(shape: Trace, rate_bps: float) -> Trace:
    """Return a trace that swings like another around a rate."""
    relative = np.clip(shape.rate_bps / shape.mean_bps, *SWING)
    return replace(shape, rate_bps=relative / relative.mean() * rate_bps)


def file_traces(source: str, count: int) -> dict[str, Trace]:
    """Return one trace for each link by name: the file's first ones, or one trace at different times if it holds fewer.

    Args:
        source: a file, or `file:trace_id` for all links on one trace.
        count: number of links.

    Raises:
        TraceError: if the file cannot be used, or holds no such trace.
    """
    path, _, trace_id = source.partition(":") if not Path(source).exists() else (source, "", "")
    traces = load_traces(path)
    if trace_id:
        if trace_id not in traces:
            raise TraceError(f"{path}: no trace {trace_id!r}; it holds {', '.join(list(traces)[:8])}")
        traces = {trace_id: traces[trace_id]}
    if len(traces) >= count:
        return dict(list(traces.items())[:count])
    name, trace = next(iter(traces.items()))
    offsets_s = [trace.period_s * i / count for i in range(count)]
    return {f"{name} +{offset_s:.0f} s": trace.shifted(offset_s) for offset_s in offsets_s}


def trace_phase(
    traces: Sequence[Trace], scale: float | None, picture_bits: float, own_s: float
) -> tuple[Phase, list[Trace]]:
    """Return the only phase of a demo whose links follow traces, and these traces, scaled.

    Args:
        traces: one for each server.
        scale: factor on the rates; None fits it to the device.
        picture_bits: size of a picture as it is sent, with its reply.
        own_s: the device's time for the whole network.
    """
    mean_bps = float(np.mean([trace.mean_bps for trace in traces]))
    scale = scale or float(f"{picture_bits / (PICTURE_SHARE * own_s) / mean_bps:.2g}")
    scaled = [trace.scaled(scale) for trace in traces]
    shares = tuple(picture_bits / trace.mean_bps / own_s for trace in scaled)
    return Phase("links that follow the trace", "what fits the link", shares), scaled


def link_of(trace: Trace, clock: Clock) -> Link:
    """Return a link that starts a trace now; what it saves up is scaled like its rate.

    Args:
        trace: of the link.
        clock: of the link.
    """
    return Link(trace, clock, burst_bits=min(trace.mean_bps * BURST_S, 3200 * BITS_PER_BYTE))
