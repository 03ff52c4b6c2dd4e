"""The same requests and links for every scheme: links start their traces anew, requests come at fixed times."""

import time
from collections.abc import Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor, as_completed
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

import numpy as np

from coinfer.demo.schemes import Scheme
from coinfer.records import Record
from coinfer.runtime.clock import WallClock
from coinfer.runtime.device.device import Device
from coinfer.runtime.device.result import Result
from coinfer.runtime.emulation.links import Link
from coinfer.traces import Trace, TraceError, load_traces
from coinfer.units import BITS_PER_BYTE

BURST_BITS = 3200 * BITS_PER_BYTE
REST_S = 1.5
"""Pause between schemes, in which the estimates of links forget the last one."""
CONCURRENT = 32
"""Most requests in flight at a time."""


class Load(NamedTuple):
    """The requests of each scheme."""

    pictures: list[np.ndarray]
    """uint8 [height, width, 3] each; requests repeat them in turn."""
    period_s: float
    """Time between two requests."""
    requests: int
    """Number of requests of each scheme."""
    deadline_s: float


def link_traces(source: str, count: int, scale: float = 1.0) -> dict[str, Trace]:
    """Return one trace for each link by name: the file's first ones, or one trace at different times if it holds fewer.

    Args:
        source: a file, or `file:trace_id` for all links on one trace.
        count: number of links.
        scale: factor on all rates, above 0.

    Raises:
        TraceError: if the file cannot be used, or holds no such trace.
    """
    path, _, trace_id = source.partition(":") if not Path(source).exists() else (source, "", "")
    traces = {name: replace(trace, rate_bps=trace.rate_bps * scale) for name, trace in load_traces(path).items()}
    if trace_id:
        if trace_id not in traces:
            raise TraceError(f"{path}: no trace {trace_id!r}; it holds {', '.join(list(traces)[:8])}")
        traces = {trace_id: traces[trace_id]}
    if len(traces) >= count:
        return dict(list(traces.items())[:count])
    name, trace = next(iter(traces.items()))
    offsets_s = [trace.period_s * i / count for i in range(count)]
    return {f"{name} +{offset_s:.0f} s": trace.shifted(offset_s) for offset_s in offsets_s}


def start_links(links: dict[str, Link], traces: Mapping[str, Trace], scale: float) -> None:
    """Put links at the start of their traces into `links`.

    What an idle link saves up is scaled like its rate; otherwise small pictures would pass at once.

    Args:
        links: by server address; entries are added or replaced.
        traces: of the links, by server address.
        scale: of the traces' rates.
    """
    for address, trace in traces.items():
        links[address] = Link(trace, WallClock(), burst_bits=BURST_BITS * scale)


def restart_links(links: dict[str, Link], traces: Mapping[str, Trace], scale: float) -> None:
    """Start all links again, after a pause in which the device forgets the last scheme's links.

    Args:
        links: by server address; entries are replaced.
        traces: of the links, by server address.
        scale: of the traces' rates.
    """
    start_links(links, traces, scale)
    time.sleep(REST_S)
    start_links(links, traces, scale)


def requests(
    device: Device, name: str, scheme: Scheme, links: Mapping[str, Link], load: Load
) -> Iterator[tuple[Record, Result]]:
    """Make the requests of one scheme at fixed times, whether earlier ones are answered or not.

    Args:
        device: answers them.
        name: of the scheme, for the records.
        scheme: decides.
        links: emulated links by server address.
        load: what is requested, and when.

    Yields:
        Record and result of each request, in the order of the answers.
    """
    began_s = time.monotonic()

    def request(i: int) -> tuple[Record, Result]:
        rates_bps = {address: link.rate_bps() for address, link in links.items()}
        result = device.infer(
            load.pictures[i % len(load.pictures)],
            deadline_s=load.deadline_s,
            policy=scheme.policy,
            hedge=scheme.is_adaptive,
            early_exit=scheme.is_adaptive,
        )
        link_bps = rates_bps.get(result.route.hops[-1].node, 0.0)
        return result.record(name, i, i * load.period_s, link_bps), result

    with ThreadPoolExecutor(CONCURRENT) as pool:
        futures: set[Future[tuple[Record, Result]]] = set()
        for i in range(load.requests):
            time.sleep(max(began_s + i * load.period_s - time.monotonic(), 0.0))
            futures.add(pool.submit(request, i))
            done = {future for future in futures if future.done()}
            futures -= done
            yield from (future.result() for future in done)
        yield from (future.result() for future in as_completed(futures))
