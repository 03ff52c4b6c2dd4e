"""Runs the demo: the same requests under each scheme, one after another, on the same replay of the links."""

import time
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import asdict, replace
from importlib.util import find_spec
from pathlib import Path
from typing import NamedTuple

import numpy as np
from rich.console import Console

from coinfer.demo import report
from coinfer.demo.cluster import EdgeProcess, edges
from coinfer.demo.live import LiveTable
from coinfer.demo.pictures import Pictures, load_pictures
from coinfer.demo.replay import Load, link_traces, requests, restart_links, start_links
from coinfer.demo.report import View
from coinfer.demo.schemes import SERVER_ONLY, device_only, schemes
from coinfer.demo.settings import DemoSettings, deadline_for, link_scale_for
from coinfer.errors import UserError
from coinfer.graph.open_model import open_model
from coinfer.profile.table import ProfileTable
from coinfer.progress import progress_bar
from coinfer.records import Record, RunLog
from coinfer.runtime.device.config import DeviceConfig
from coinfer.runtime.device.device import Device
from coinfer.runtime.emulation.links import Link
from coinfer.runtime.executor import Executor
from coinfer.runtime.images import preprocess
from coinfer.runtime.profiling import profile_for
from coinfer.traces import Trace

WARM_UP_S, WARM_UP_RUNS = 2.0, 15
"""Longest time and largest number of the device's own answers before the first scheme."""
PERIOD = 1.5
"""Time between two requests over that of the device's own answer: alone, it is idle for a third of the time."""
MIN_REQUESTS = 5
"""Fewest requests of each scheme."""


class Setup(NamedTuple):
    """What runs, and on what."""

    settings: DemoSettings
    """With deadline and link scale set."""
    device: Device
    edges: Sequence[EdgeProcess]
    links: dict[str, Link]
    traces: Mapping[str, Trace]
    """By name of the trace, in the order of the edges."""
    pictures: Pictures
    load: Load
    own_s: float
    """The device's own time for the whole network."""

    @property
    def traces_by_address(self) -> dict[str, Trace]:
        """Return the links' traces by server address."""
        return {edge.address: trace for edge, trace in zip(self.edges, self.traces.values(), strict=True)}


Records = dict[str, list[Record]]
"""Records by scheme."""


def run_demo(settings: DemoSettings, console: Console) -> Path:
    """Run all schemes, and write run log, summary and plot.

    Ctrl-C ends the run; the schemes that are complete by then are compared.

    Args:
        settings: what to run.
        console: for the live table and the comparison.

    Returns:
        The new folder with the results.

    Raises:
        UserError: if a setting does not fit, in one line; after the run, if some pictures could not be read.
        KeyboardInterrupt: if Ctrl-C ended the run, after the comparison.
    """
    if find_spec("matplotlib") is None:
        raise UserError("the demo draws a plot and needs Matplotlib: pip install 'coinfer[plot]'")
    wanted = settings.device
    graph = open_model(settings.model, wanted.shapes, limits=wanted.limits)
    if graph.image is None:
        raise UserError(
            f"{graph.name} does not say how it takes pictures, which the demo needs; say it in a file "
            f"{graph.name}.input.yaml beside it (docs/inputs.md)"
        )
    pictures = load_pictures(graph, settings.images)
    for problem in pictures.unreadable:
        console.print(f"left out: {problem}", style="red", soft_wrap=True)
    traces = link_traces(settings.trace, len(settings.edge_slowdowns))
    folder = Path(settings.runs) / time.strftime("demo-%Y%m%d-%H%M%S")
    folder.mkdir(parents=True, exist_ok=True)
    with progress_bar(console, f"measuring {graph.name}") as progress:
        table = profile_for(graph, wanted.profile, wanted.threads, progress, provider=wanted.provider)
    with ExitStack() as stack:
        with console.status(f"starting {len(settings.edge_slowdowns)} edge servers"):
            running = stack.enter_context(edges(settings.model, settings.edge_slowdowns, edge_options(wanted)))
        links: dict[str, Link] = {}
        start_links(links, _by_address(running, traces), settings.link_scale or 1.0)
        config = replace(wanted, servers=tuple(links), profile=table)
        with console.status("preparing the segments that may be chosen, here and on the servers"):
            device = stack.enter_context(Device(graph, config, links=links))
        _warm_up(device, pictures.images[0])
        setup = _fit_setup(settings, device, table, traces, running, links, pictures)
        _print_setup(console, setup)
        _compare(console, setup, folder)
    if pictures.unreadable:
        count = len(pictures.unreadable)
        raise UserError(f"{count} of {count + len(pictures.images)} pictures could not be read; see above")
    return folder


def edge_options(device: DeviceConfig) -> list[str]:
    """Return the options with which edge servers open the network as the device does.

    Args:
        device: its settings.
    """
    options = ["--provider", device.provider]
    for option, values in (("--shape", device.shapes), ("--limit", device.limits)):
        options += [word for name, value in values.items() for word in (option, f"{name}={value}")]
    return options


def _by_address(running: Sequence[EdgeProcess], traces: Mapping[str, Trace]) -> dict[str, Trace]:
    return {edge.address: trace for edge, trace in zip(running, traces.values(), strict=True)}


def _warm_up(device: Device, picture: np.ndarray) -> None:
    """Let the device learn its present speed from its own answers."""
    policy = device_only(device.options)
    until_s = time.monotonic() + WARM_UP_S
    for _ in range(WARM_UP_RUNS):
        if time.monotonic() < until_s:
            device.infer(picture, policy=policy, early_exit=False)


def _fit_setup(
    settings: DemoSettings,
    device: Device,
    table: ProfileTable,
    traces: Mapping[str, Trace],
    running: Sequence[EdgeProcess],
    links: dict[str, Link],
    pictures: Pictures,
) -> Setup:
    """Return the setup; deadline, links and number of requests that are not given fit the device's speed."""
    own_s = float(device.observe(early_exit=False).option_device_s[0, -1])
    picture_bits = sum(max(table.payload_bits[name].values()) for name in device.graph.inputs)
    mean_bps = float(np.mean([trace.mean_bps for trace in traces.values()]))
    scale = link_scale_for(settings, own_s, picture_bits, mean_bps)
    settings = replace(settings, deadline_s=deadline_for(settings, own_s), link_scale=scale)
    period_s = PERIOD * own_s
    count = max(int(settings.scheme_s / period_s), MIN_REQUESTS)
    load = Load(pictures.images, period_s, count, deadline_for(settings, own_s))
    scaled = link_traces(settings.trace, len(running), scale)
    return Setup(settings, device, running, links, scaled, pictures, load, own_s)


def _compare(console: Console, setup: Setup, folder: Path) -> None:
    """Run the schemes and write the results."""
    device, pictures, load = setup.device, setup.pictures, setup.load
    observation = device.observe(load.deadline_s, early_exit=False)
    compared = schemes(device.planner, observation, [trace.mean_bps for trace in setup.traces.values()])
    if SERVER_ONLY not in compared:
        console.print(f"{SERVER_ONLY} is left out: sending the input is never better than computing on the device")
    truth = _exact_classes(device, pictures) if pictures.labels is None else pictures.labels
    view = View(device.graph.inputs, len(device.planner.exits) > 1, pictures.labels is not None)
    records: Records = {}
    right: dict[str, list[bool]] = {}
    stopped = False
    with RunLog(folder / "requests.jsonl") as log, LiveTable(console, list(compared), load.requests, view) as live:
        try:
            for name, scheme in compared.items():
                restart_links(setup.links, setup.traces_by_address, setup.settings.link_scale or 1.0)
                scheme_records, scheme_right = list[Record](), list[bool]()
                for record, result in requests(device, name, scheme, setup.links, load):
                    is_right = int(np.argmax(result.output)) == int(truth[record.request % len(truth)])
                    log.append(record)
                    live.add(record, is_right)
                    scheme_records.append(record)
                    scheme_right.append(is_right)
                records[name], right[name] = scheme_records, scheme_right
        except KeyboardInterrupt:
            stopped = True
    if records:
        _report(console, setup, folder, view, records, right)
    if stopped:
        console.print(f"stopped; complete: {', '.join(records) or 'no scheme'}; every request is in {log.path}")
        raise KeyboardInterrupt


def _report(
    console: Console,
    setup: Setup,
    folder: Path,
    view: View,
    records: Records,
    right: Mapping[str, Sequence[bool]],
) -> None:
    """Print the comparison, and write summary and plot."""
    summaries = [report.summarise(scheme_records, right[name]) for name, scheme_records in records.items()]
    console.print(report.comparison(summaries, setup.load.deadline_s, view))
    report.write_json(folder / "summary.json", asdict(setup.settings), summaries, setup.pictures.kind, view)
    for scheme_records in records.values():
        scheme_records.sort(key=lambda record: record.request)
    plot = folder / "comparison.png"
    report.plot(plot, records, summaries, setup.traces_by_address, view, setup.load.deadline_s)
    console.print(f"plot {plot}, record {folder / 'summary.json'}, every request {folder / 'requests.jsonl'}")


def _print_setup(console: Console, setup: Setup) -> None:
    """Print what runs."""
    settings, device, planner = setup.settings, setup.device, setup.device.planner
    graph, accuracy = device.graph, planner.accuracy
    trained = "" if accuracy else " (seeded random weights unless the model is your own file)"
    console.print(
        f"{graph.name}: {graph.work_flop / 1e9:.2g} GFLOP, {graph.params / 1e6:.1f} M parameters{trained}; "
        f"on the device {setup.own_s * 1e3:.0f} ms (this processor slowed {device.config.slowdown:g} times)"
    )
    if accuracy:
        shares = ", ".join(f"{accuracy.accuracy(i):.1%}" for i in range(len(planner.exits)))
        console.print(f"exits: {shares} right on {accuracy.dataset}")
    scale = "" if settings.link_scale == 1 else f" scaled by {settings.link_scale:g}"
    for edge, (name, trace) in zip(setup.edges, setup.traces.items(), strict=True):
        console.print(
            f"edge {edge.address}: slowed {edge.slowdown:g} times, link {name}{scale}, mean "
            f"{trace.mean_bps / 1e6:.2g} Mbit/s"
        )
    console.print(f"pictures: {setup.pictures.kind}; {objective_text(setup)}")
    console.print(
        f"{setup.load.requests} requests, one every {setup.load.period_s:.2f} s, for each of the schemes; Ctrl-C stops"
    )


def objective_text(setup: Setup) -> str:
    """Return the planner's objective in words.

    Args:
        setup: of the run.
    """
    objective, limits = setup.device.config.objective, [f"latency at most {setup.load.deadline_s * 1e3:g} ms"]
    limits += [f"accuracy at least {objective.min_accuracy:.1%}"] if objective.min_accuracy else []
    limits += [f"energy at most {objective.energy_j * 1e3:g} mJ"] if objective.energy_j < float("inf") else []
    return f"objective: best {objective.goal}, {', '.join(limits)}"


def _exact_classes(device: Device, pictures: Pictures) -> np.ndarray:
    """Return the class of every picture that the whole network names, without sending anything."""
    image = device.graph.image
    assert image is not None, "checked before anything runs"
    executor = Executor(device.graph, provider=device.config.provider)
    name, outputs = device.graph.inputs[0], device.planner.exits[-1]
    runs = (executor.run({name: preprocess(picture, image)}, outputs)[0] for picture in pictures.images)
    return np.array([int(np.argmax(values[outputs[0]])) for values in runs])
