"""Runs the demo: the same requests under each scheme, one after another, on the same replay of the links."""

import time
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, as_completed
from contextlib import ExitStack
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np
from rich.console import Console

from coinfer.demo import report
from coinfer.demo.cluster import EdgeProcess, edges
from coinfer.demo.live import LiveTable
from coinfer.demo.pictures import Pictures, load_pictures
from coinfer.demo.report import View
from coinfer.demo.schemes import ADAPTIVE, device_only, schemes
from coinfer.demo.settings import DemoSettings, relative_to
from coinfer.graph.zoo.networks import open_model
from coinfer.profile.table import ProfileTable
from coinfer.progress import progress_bar
from coinfer.records import Record, RunLog
from coinfer.runtime.clock import WallClock
from coinfer.runtime.device.device import Device, Result
from coinfer.runtime.emulation.links import Link
from coinfer.runtime.executor import Executor
from coinfer.runtime.images import preprocess
from coinfer.runtime.profiling import profile_for
from coinfer.traces import Trace, TraceError, load_traces
from coinfer.types import Policy
from coinfer.units import BITS_PER_BYTE

BURST_BITS = 3200 * BITS_PER_BYTE
REST_S = 1.5
"""Between schemes, so that the links' estimates forget the last one."""
SETTLE_S, SETTLE_RUNS = 2.0, 15
"""The device's own answers before the first scheme: at most so long, and so many."""
PERIOD = 1.5
"""Between two requests, in times of the device's own answer: alone, it has a third of its time free."""
CONCURRENT = 32
"""Requests under way at a time."""


def run_demo(settings: DemoSettings, console: Console) -> Path:
    """Runs all schemes and returns the folder with run log, summary and plot.

    Raises:
        GraphError, TraceError, ImageError, ClusterError: for what a user can mend, in one line.
    """
    graph = open_model(settings.model)
    pictures = load_pictures(graph, settings.images)
    with progress_bar(console, f"measuring {graph.name}") as progress:
        table = profile_for(graph, progress=progress)
    traces = link_traces(settings.trace, len(settings.edge_slowdowns))
    with ExitStack() as stack:
        with console.status(f"starting {len(settings.edge_slowdowns)} edge servers"):
            running = stack.enter_context(edges(settings.model, settings.edge_slowdowns))
        links = {
            edge.address: _link(trace, settings.link_scale)
            for edge, trace in zip(running, traces.values(), strict=True)
        }
        device = Device(
            graph,
            list(links),
            profile=table,
            bits=settings.bits,
            jpeg_quality=settings.jpeg_quality,
            links=links,
            slowdown=settings.device_slowdown,
            **settings.wishes.for_device(),
        )
        stack.callback(device.close)
        with console.status("preparing the segments that may be chosen, here and on the servers"):
            device.open()
        _settle(device, pictures.images[0])
        settings = _fitted(settings, device, table, traces)
        device.deadline_s = settings.deadline_s
        traces = link_traces(settings.trace, len(settings.edge_slowdowns), settings.link_scale)
        return _compare(settings, console, device, running, links, traces, pictures)


def _fitted(settings: DemoSettings, device: Device, table: ProfileTable, traces: Mapping[str, Trace]) -> DemoSettings:
    """Deadline and links as they fit the device's speed, where they are not given."""
    own_s = float(device.observe().option_device_s[0, -1])
    picture_bits = sum(max(table.payload_bits[name].values()) for name in device.graph.inputs)
    return relative_to(own_s, picture_bits, float(np.mean([trace.mean_bps for trace in traces.values()])), settings)


def link_traces(where: str, count: int, scale: float = 1.0) -> dict[str, Trace]:
    """One trace for each link: the first ones of the file, or one trace at different times where it holds fewer.

    Args:
        scale: of the rates.

    Raises:
        TraceError: naming the file and what is wrong with it.
    """
    path, _, wanted = where.partition(":") if not Path(where).exists() else (where, "", "")
    found = {name: replace(trace, rate_bps=trace.rate_bps * scale) for name, trace in load_traces(path).items()}
    if wanted:
        if wanted not in found:
            raise TraceError(f"{path}: no trace {wanted!r}; it holds {', '.join(list(found)[:8])}")
        found = {wanted: found[wanted]}
    if len(found) >= count:
        return dict(list(found.items())[:count])
    name, trace = next(iter(found.items()))
    offsets_s = [trace.period_s * i / count for i in range(count)]
    return {f"{name} +{offset_s:.0f} s": trace.shifted(offset_s) for offset_s in offsets_s}


def _link(trace: Trace, scale: float) -> Link:
    """What an idle link saves up is scaled like its rate, or small pictures would weigh nothing."""
    return Link(trace, WallClock(), burst_bits=BURST_BITS * scale)


def _compare(
    settings: DemoSettings,
    console: Console,
    device: Device,
    running: Sequence[EdgeProcess],
    links: dict[str, Link],
    traces: Mapping[str, Trace],
    pictures: Pictures,
) -> Path:
    folder = Path(settings.runs) / time.strftime("demo-%Y%m%d-%H%M%S")
    observation = device.observe()
    local_s = float(observation.option_device_s[0, -1])
    period_s = PERIOD * local_s
    count = max(int(settings.scheme_s / period_s), 5)
    rivals = schemes(device, observation, [trace.mean_bps for trace in traces.values()])
    _introduce(console, settings, device, running, traces, local_s)
    console.print(f"pictures: {pictures.kind}; {wished(settings)}")
    console.print(f"{count} requests, one every {period_s:.2f} s, for each of the schemes; Ctrl-C stops")
    truth = _exact_classes(device, pictures) if pictures.labels is None else pictures.labels
    records: dict[str, list[Record]] = {}
    right: dict[str, list[bool]] = {}
    shown = View(device.graph.inputs, len(device.exits) > 1, pictures.labels is not None)
    with RunLog(folder / "requests.jsonl") as log, LiveTable(console, list(rivals), count, shown) as live:
        for name, policy in rivals.items():
            _replay(settings, links, traces)
            records[name], right[name] = [], []
            for record, result in _requests(device, name, policy, links, pictures, period_s, count):
                is_right = int(np.argmax(result.output)) == int(truth[record.request % len(truth)])
                log.append(record)
                live.add(record, is_right)
                records[name].append(record)
                right[name].append(is_right)
    summaries = [report.summarise(found, right[name]) for name, found in records.items()]
    console.print(report.comparison(summaries, settings.deadline_s, shown))
    report.write_json(folder / "summary.json", asdict(settings), summaries, pictures.kind, shown)
    for found in records.values():
        found.sort(key=lambda record: record.request)
    by_server = {edge.address: trace for edge, trace in zip(running, traces.values(), strict=True)}
    report.plot(folder / "comparison.png", records, summaries, by_server, shown, settings.deadline_s)
    console.print(f"plot {folder / 'comparison.png'}, record {folder / 'summary.json'}, every request {log.path}")
    return folder


def _settle(device: Device, picture: np.ndarray) -> None:
    """The device finds out how fast it is now, from its own answers."""
    device.policy, policy = device_only(device.options), device.policy
    device.leaves_early = False
    until_s = time.monotonic() + SETTLE_S
    for _ in range(SETTLE_RUNS):
        if time.monotonic() < until_s:
            device.infer(picture)
    device.policy = policy


def _introduce(
    console: Console,
    settings: DemoSettings,
    device: Device,
    running: Sequence[EdgeProcess],
    traces: Mapping[str, Trace],
    local_s: float,
) -> None:
    trained = "" if device.accuracy else " (seeded random weights unless the model is your own file)"
    console.print(
        f"{device.graph.name}: {device.graph.work_flop / 1e9:.2g} GFLOP, {device.graph.params / 1e6:.1f} M parameters"
        f"{trained}; on the device {local_s * 1e3:.0f} ms (this processor slowed {settings.device_slowdown:g} times)"
    )
    if device.accuracy:
        shares = ", ".join(f"{device.accuracy.accuracy(i):.1%}" for i in range(len(device.exits)))
        console.print(f"exits: {shares} right on {device.accuracy.dataset}")
    scale = "" if settings.link_scale == 1 else f" scaled by {settings.link_scale:g}"
    for edge, (name, trace) in zip(running, traces.items(), strict=True):
        console.print(
            f"edge {edge.address}: slowed {edge.slowdown:g} times, link {name}{scale}, mean "
            f"{trace.mean_bps / 1e6:.2g} Mbit/s"
        )


def wished(settings: DemoSettings) -> str:
    """The planner's wish in words."""
    wish, limits = settings.wishes.wish, [f"latency at most {settings.deadline_s * 1e3:g} ms"]
    limits += [f"accuracy at least {wish.min_accuracy:.1%}"] if wish.min_accuracy else []
    limits += [f"energy at most {wish.energy_j * 1e3:g} mJ"] if wish.energy_j < float("inf") else []
    return f"wished: best {wish.goal}, {', '.join(limits)}"


def _replay(settings: DemoSettings, links: dict[str, Link], traces: Mapping[str, Trace]) -> None:
    """Starts all links again at the beginning of their traces."""
    for address, trace in zip(list(links), traces.values(), strict=True):
        links[address] = _link(trace, settings.link_scale)
    time.sleep(REST_S)
    for address, trace in zip(list(links), traces.values(), strict=True):
        links[address] = _link(trace, settings.link_scale)


def _requests(
    device: Device,
    scheme: str,
    policy: Policy,
    links: Mapping[str, Link],
    pictures: Pictures,
    period_s: float,
    count: int,
) -> Iterator[tuple[Record, Result]]:
    """Makes a request every `period_s`, whether those before are answered or not; yields them as they are answered."""
    device.policy, device.hedge = policy, scheme in ADAPTIVE
    device.leaves_early = scheme in ADAPTIVE
    began_s = time.monotonic()

    def request(i: int) -> tuple[Record, Result]:
        rates_bps = {address: link.rate_bps() for address, link in links.items()}
        result = device.infer(pictures.images[i % len(pictures.images)])
        link_bps = rates_bps.get(result.route.hops[-1].node, 0.0)
        return result.record(scheme, i, i * period_s, link_bps), result

    with ThreadPoolExecutor(CONCURRENT) as pool:
        futures: set[Future[tuple[Record, Result]]] = set()
        for i in range(count):
            time.sleep(max(began_s + i * period_s - time.monotonic(), 0.0))
            futures.add(pool.submit(request, i))
            done = {future for future in futures if future.done()}
            futures -= done
            yield from (future.result() for future in done)
        yield from (future.result() for future in as_completed(futures))


def _exact_classes(device: Device, pictures: Pictures) -> np.ndarray:
    """First class of every picture by the whole network, nothing sent."""
    image = device.graph.image
    if image is None:
        raise ValueError(f"{device.graph.name} takes no pictures")
    executor = Executor(device.graph)
    name, outputs = device.graph.inputs[0], device.exits[-1]
    runs = (executor.run({name: preprocess(picture, image)}, outputs)[0] for picture in pictures.images)
    return np.array([int(np.argmax(found[outputs[0]])) for found in runs])
