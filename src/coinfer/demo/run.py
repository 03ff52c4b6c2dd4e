"""Runs the demo: in each round all schemes answer the same picture, through the phases of the script."""

import statistics
import time
from collections.abc import Mapping, Sequence
from contextlib import ExitStack, nullcontext
from dataclasses import asdict, replace
from importlib.util import find_spec
from pathlib import Path
from typing import NamedTuple

import numpy as np
from rich.console import Console

from coinfer.demo import plot, report
from coinfer.demo.cluster import EdgeProcess, edges
from coinfer.demo.crowd import Crowd
from coinfer.demo.live import LivePicture
from coinfer.demo.pictures import Pictures, load_pictures
from coinfer.demo.report import View
from coinfer.demo.rounds import Answer, Player, begin_phase, play, players
from coinfer.demo.schemes import (
    SERVER_ONLY,
    Scheme,
    at_state,
    best_in_hindsight,
    fixed_best,
    policy_without_exits,
    schemes,
)
from coinfer.demo.script import PHASES, Phase, file_traces, link_of, moments_bps, phase_traces, trace_phase
from coinfer.demo.settings import DemoSettings, fitted
from coinfer.errors import UserError
from coinfer.graph.ir import ModelGraph
from coinfer.graph.open_model import open_model
from coinfer.profile.table import ProfileTable
from coinfer.progress import progress_bar
from coinfer.records import RunLog
from coinfer.runtime.clock import WallClock
from coinfer.runtime.device.config import DeviceConfig
from coinfer.runtime.device.device import Device
from coinfer.runtime.device.planning.blocks_policy import is_blocks_file
from coinfer.runtime.device.planning.message_size import message_bits
from coinfer.runtime.device.request_message import request_message
from coinfer.runtime.edge.defaults import QUEUE
from coinfer.runtime.executor import Executor
from coinfer.runtime.images import preprocess
from coinfer.runtime.profiling import profile_for
from coinfer.runtime.protocol.messages import InferRequest
from coinfer.runtime.providers import CPU
from coinfer.traces import Trace
from coinfer.types import Hop, Route
from coinfer.units import FLOAT32_BITS, IMAGE_BITS

MEASURE_S, MEASURE_RUNS = 1.0, 40
"""Longest time and largest number of runs that measure this machine."""
CROWD_SHARE = 2.0
"""The crowd's requests under way at a server take this many times as long as the device needs for the network."""


class Setup(NamedTuple):
    """What runs, and on what."""

    settings: DemoSettings
    """With slow-downs and deadline set."""
    graph: ModelGraph
    table: ProfileTable
    running: Sequence[EdgeProcess]
    pictures: Pictures
    phases: Sequence[Phase]
    traces: Sequence[Mapping[str, Trace]]
    """Of each phase, by server address."""
    own_s: float
    """The device's own time for the whole network."""

    @property
    def deadline_s(self) -> float:
        """Return the deadline of every request."""
        assert self.settings.deadline_s is not None
        return self.settings.deadline_s

    def crowd_size(self, server: int) -> int:
        """Return how many requests of the crowd are under way at a server.

        Args:
            server: its index.
        """
        assert self.settings.device_slowdown is not None
        served_s = self.own_s * self.running[server].slowdown / self.settings.device_slowdown
        return int(np.clip(round(CROWD_SHARE * self.own_s / served_s), 2, QUEUE - 2))


def run_demo(settings: DemoSettings, console: Console) -> Path:
    """Run all schemes, and write run log, summary and plot.

    Ctrl-C ends the run; the rounds that are complete by then are compared.

    Args:
        settings: what to run.
        console: for the live picture and the comparison.

    Returns:
        The new folder with the results.

    Raises:
        UserError: if a setting does not fit, in one line; after the run, if some pictures could not be read.
        KeyboardInterrupt: if Ctrl-C ended the run, after the comparison.
    """
    if find_spec("matplotlib") is None:
        raise UserError("the demo draws a plot and needs Matplotlib: pip install '.[plot]' in coinfer's folder")
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
    if settings.trace is not None:
        file_traces(settings.trace, 1)  # a file that cannot be used is said before anything runs
    folder = Path(settings.runs) / time.strftime("demo-%Y%m%d-%H%M%S")
    folder.mkdir(parents=True, exist_ok=True)
    with progress_bar(console, f"measuring {graph.name}") as progress:
        table = profile_for(graph, wanted.profile, wanted.threads, progress, provider=wanted.provider)
        whole_s = measured_whole_s(graph, wanted.provider, pictures.images[0])
    settings = fitted(settings, whole_s)
    assert settings.edge_slowdowns is not None
    assert settings.device_slowdown is not None
    with ExitStack() as stack:
        with console.status(f"starting {len(settings.edge_slowdowns)} edge servers"):
            running = stack.enter_context(edges(settings.model, settings.edge_slowdowns, edge_options(settings.device)))
        own_s = settings.device_slowdown * whole_s
        phases, traces = _script(settings, graph, table, running, own_s)
        setup = Setup(settings, graph, table, running, pictures, phases, traces, own_s)
        with console.status("every scheme measures its links and servers"):
            made = _players(stack, setup)
        _print_setup(console, setup, made)
        _compare(console, setup, made, folder)
    if pictures.unreadable:
        count = len(pictures.unreadable)
        raise UserError(f"{count} of {count + len(pictures.images)} pictures could not be read; see above")
    return folder


def measured_whole_s(graph: ModelGraph, provider: str, picture: np.ndarray) -> float:
    """Return what this machine now takes for the whole network: processor time on the CPU, else time.

    Args:
        graph: a network that takes pictures.
        provider: what computes.
        picture: uint8 [height, width, 3].
    """
    assert graph.image is not None
    executor, clock = Executor(graph, provider=provider), time.thread_time if provider == CPU else time.perf_counter
    tensors = {graph.inputs[0]: preprocess(picture, graph.image)}
    executor.run(tensors, graph.outputs[-1:])
    runs_s, until_s = list[float](), time.monotonic() + MEASURE_S
    while not runs_s or (time.monotonic() < until_s and len(runs_s) < MEASURE_RUNS):
        began_s = clock()
        executor.run(tensors, graph.outputs[-1:])
        runs_s.append(clock() - began_s)
    return statistics.median(runs_s)


def edge_options(device: DeviceConfig) -> list[str]:
    """Return the options with which edge servers open the network as the device does, and forward where a policy may
    want that.

    Args:
        device: its settings.
    """
    options = ["--provider", device.provider]
    for option, values in (("--shape", device.shapes), ("--limit", device.limits)):
        options += [word for name, value in values.items() for word in (option, f"{name}={value}")]
    return [*options, "--peers", "any"] if is_blocks_file(device.policy) else options


def _script(
    settings: DemoSettings, graph: ModelGraph, table: ProfileTable, running: Sequence[EdgeProcess], own_s: float
) -> tuple[Sequence[Phase], list[dict[str, Trace]]]:
    """Return the phases and the traces of each, by server address."""
    addresses = [edge.address for edge in running]
    bits = sum(max(table.payload_bits[name].values()) for name in graph.inputs)
    bits += message_bits(graph, (graph.inputs, graph.outputs[-1:]))
    if settings.trace is None:
        made = [phase_traces(phase, len(running), bits, own_s) for phase in PHASES]
        return PHASES, [dict(zip(addresses, traces, strict=True)) for traces in made]
    from_file = list(file_traces(settings.trace, len(running)).values())
    phase, traces = trace_phase(from_file, settings.link_scale, bits, own_s)
    return (phase,), [dict(zip(addresses, traces, strict=True))]


def _players(stack: ExitStack, setup: Setup) -> list[Player]:
    """Return all schemes with their devices. The fixed choices follow from the script and from what a first device has
    measured of the servers."""
    addresses = tuple(setup.traces[0])
    config = replace(setup.settings.device, servers=addresses, profile=setup.table)
    links = {address: link_of(trace, WallClock()) for address, trace in setup.traces[0].items()}
    with Device(setup.graph, config, links=links) as device:
        compared = _schemes(setup, device)
    return players(stack, setup.graph, config, compared, setup.traces[0])


def _schemes(setup: Setup, device: Device) -> dict[str, Scheme]:
    planner, servers = device.planner, len(device.servers)
    calm = device.observe(setup.deadline_s, early_exit=False)
    with_exits = planner.stats.mean_observation(device.observe(setup.deadline_s))
    traces = [[of_phase[address] for address in device.servers] for of_phase in setup.traces]
    mean_bps = np.mean([[trace.mean_bps for trace in of_phase] for of_phase in traces], axis=0).tolist()
    moments = [
        (rates_bps, CROWD_SHARE * setup.own_s * phase.crowded, (0,) if phase.first_is_dead and servers > 1 else ())
        for phase, of_phase in zip(setup.phases, traces, strict=True)
        for rates_bps in moments_bps(of_phase)
    ]
    states = [[at_state(seen, *moment) for moment in moments] for seen in (calm, with_exits)]
    cut = fixed_best(at_state(calm, mean_bps), policy_without_exits(planner))
    return schemes(planner, cut, best_in_hindsight(planner, *states))


def _compare(console: Console, setup: Setup, made: Sequence[Player], folder: Path) -> None:
    """Play all phases and write the results."""
    settings, pictures, names = setup.settings, setup.pictures, [player.name for player in made]
    if SERVER_ONLY not in names:
        console.print(f"{SERVER_ONLY} is left out: sending the input is never better than computing on the device")
    truth = _exact_classes(setup) if pictures.labels is None else pictures.labels
    exits = len(made[0].device.planner.exits) > 1
    codes = () if setup.graph.bottleneck is None else tuple(code.tensor for code in setup.graph.bottleneck.codes)
    view = View(setup.graph.inputs, exits, pictures.labels is not None, codes)
    rounds: list[list[Answer]] = []
    stopped, began_s = False, time.monotonic()
    live = LivePicture(console, names, setup.phases, settings.rounds, view, setup.own_s)
    with RunLog(folder / "requests.jsonl") as log, live:
        try:
            for index, phase in enumerate(setup.phases):
                live.begin(index)
                with _begun(setup, index, phase, made):
                    numbers = range(len(rounds), len(rounds) + settings.rounds)
                    for answers in play(made, index, numbers, pictures.images, truth, setup.deadline_s, began_s):
                        rounds.append(answers)
                        live.add(answers)
                        for answer in answers:
                            log.append(answer.record)
        except KeyboardInterrupt:
            stopped = True
    if rounds:
        _report(console, setup, folder, view, rounds)
    if stopped:
        console.print(f"stopped after {len(rounds)} rounds; every request is in {log.path}")
        raise KeyboardInterrupt


def _begun(setup: Setup, index: int, phase: Phase, made: Sequence[Player]) -> "Crowd | nullcontext[None]":
    """Let a phase begin: links change, a server dies; return the crowd that comes, if any."""
    begin_phase(made, setup.traces[index])
    alive = [edge for edge in setup.running if edge.process.poll() is None]
    if phase.first_is_dead and len(setup.running) > 1 and alive[0] is setup.running[0]:
        alive[0].process.kill()
        alive[0].process.wait()
        alive = alive[1:]
    if not phase.crowded:
        return nullcontext()
    size = max(setup.crowd_size(setup.running.index(edge)) for edge in alive)
    return Crowd(_crowd_request(setup), [edge.address for edge in alive], size)


def _crowd_request(setup: Setup) -> InferRequest:
    """Return the request of the crowd: a picture through the whole network."""
    graph, picture = setup.graph, setup.pictures.images[0]
    assert graph.image is not None
    outputs = graph.outputs[-1:]
    route = Route((Hop("device", graph.inputs, IMAGE_BITS), Hop("crowd", outputs, FLOAT32_BITS)), 0, np.inf)
    tensors = {graph.inputs[0]: preprocess(picture, graph.image)}
    return request_message(graph, route, tensors, None, rate_bps=np.inf, deadline_s=np.inf, jpeg_quality=None)


def _report(console: Console, setup: Setup, folder: Path, view: View, rounds: Sequence[Sequence[Answer]]) -> None:
    """Print the comparison, and write summary and plot."""
    summaries = report.summarise(rounds, view.codes)
    console.print(report.comparison(summaries, setup.deadline_s, view))
    if said := report.codes_text(summaries):
        console.print(said, soft_wrap=True, highlight=False)
    if view.has_labels:
        console.print(f"right: of {setup.pictures.kind}")
    for summary in summaries[1:]:
        if abs(summary.behind) < summary.behind_interval:
            console.print(f"{summary.scheme} and {summaries[0].scheme} cannot be told apart in this run")
    settings = asdict(setup.settings) | {"own_s": setup.own_s}
    report.write_json(folder / "summary.json", settings, setup.phases, summaries, setup.pictures.kind, view)
    figure = folder / "comparison.png"
    plot.draw(figure, rounds, setup.phases, summaries, view, setup.deadline_s)
    console.print(f"plot {figure}, record {folder / 'summary.json'}, every request {folder / 'requests.jsonl'}")


def _print_setup(console: Console, setup: Setup, made: Sequence[Player]) -> None:
    """Print what runs."""
    settings, graph, planner = setup.settings, setup.graph, made[0].device.planner
    accuracy = planner.accuracy
    trained = "" if accuracy else " (seeded random weights unless the model is your own file)"
    console.print(
        f"{graph.name}: {graph.work_flop / 1e9:.2g} GFLOP, {graph.params / 1e6:.1f} M parameters{trained}; on the "
        f"device {setup.own_s * 1e3:.0f} ms (this processor slowed {settings.device_slowdown:g} times)"
    )
    if accuracy:
        shares = ", ".join(f"{accuracy.accuracy(i):.1%}" for i in range(len(planner.exits)))
        console.print(f"exits: {shares} right on {accuracy.dataset}")
    for edge in setup.running:
        rates = ", ".join(f"{traces[edge.address].mean_bps / 1e6:.2g}" for traces in setup.traces)
        console.print(f"edge {edge.address}: slowed {edge.slowdown:g} times, link {rates} Mbit/s by phase")
    console.print(f"pictures: {setup.pictures.kind}; {objective_text(setup)}")
    for player in made:
        if player.name not in (made[0].name, SERVER_ONLY):
            console.print(f"{player.name}: {_choice_text(player, setup)}")
    console.print(f"{len(setup.phases)} phases of {settings.rounds} rounds at most; Ctrl-C stops", highlight=False)


def _choice_text(player: Player, setup: Setup) -> str:
    """Return a scheme's only choice in words."""
    options, early = player.scheme.options, " with early exits" if player.scheme.exits_early else ""
    if not player.scheme.servers:
        return f"the device computes everything{early}"
    cut = "the input" if options.cuts[0] == setup.graph.inputs else "+".join(options.cuts[0])
    return f"{cut} at {int(options.bits[0])} bits to {', '.join(player.scheme.servers)}{early}"


def objective_text(setup: Setup) -> str:
    """Return the planner's objective in words.

    Args:
        setup: of the run.
    """
    objective, limits = setup.settings.device.objective, [f"latency at most {setup.deadline_s * 1e3:g} ms"]
    limits += [f"accuracy at least {objective.min_accuracy:.1%}"] if objective.min_accuracy else []
    limits += [f"energy at most {objective.energy_j * 1e3:g} mJ"] if objective.energy_j < float("inf") else []
    power = f"{objective.power_w:g} W while it computes and {objective.transmit_power_w:g} W while it sends"
    return f"objective: best {objective.goal}, {', '.join(limits)}; the device is taken to draw {power}"


def _exact_classes(setup: Setup) -> np.ndarray:
    """Return the class of every picture that the whole network names, without sending anything."""
    graph, image = setup.graph, setup.graph.image
    assert image is not None, "checked before anything runs"
    executor = Executor(graph, provider=setup.settings.device.provider)
    name, outputs = graph.inputs[0], graph.outputs[-1:]
    runs = (executor.run({name: preprocess(picture, image)}, outputs)[0] for picture in setup.pictures.images)
    return np.array([int(np.argmax(values[outputs[0]])) for values in runs])
