"""Measure the end-to-end latency of split inference: ResNet-50 at its mid cut, a device and a `coinfer edge` process on
loopback.

    python benchmarks/split_latency.py

`Device.infer` runs with a policy that always takes the mid cut. In the same rounds, the two segments run in ONNX
Runtime alone (`compute`). The bars allow 2 ms on top, so the ratios are, unshaped and on a link of 10 MB/s,

    (latency - 2 ms) / compute <= 1.15   and   (latency - 2 ms) / (compute + bits / rate) <= 1.10

with the bits of request and reply as sent. Everything else counts as overhead: planning, coding, messages, threads.
Writes benchmarks/results/split_latency.json.
"""

from collections.abc import Callable
from contextlib import ExitStack

import harness
import numpy as np

from coinfer.demo.cluster import edges
from coinfer.graph.ir import ModelGraph
from coinfer.graph.open_model import open_model
from coinfer.graph.segment import split
from coinfer.graph.session import open_session
from coinfer.options.compile import compile_options
from coinfer.options.table import Options
from coinfer.profile.measure import measure
from coinfer.profile.payloads import Codec
from coinfer.profile.samples import random_samples
from coinfer.profile.table import ProfileTable
from coinfer.runtime.clock import WallClock
from coinfer.runtime.codec import codec
from coinfer.runtime.device.device import Device
from coinfer.runtime.device.result import Result
from coinfer.runtime.emulation.links import Link
from coinfer.runtime.malloc import keep_freed_memory
from coinfer.runtime.profiling import profile_for
from coinfer.traces import Trace
from coinfer.types import OffloadDecision, OffloadObservation
from coinfer.units import MEGA, MILLI, bits_of_bytes

RATE_BPS = bits_of_bytes(10 * MEGA)
ALLOWED_S = 2 * MILLI
WIDTHS = (32, 8)
UNSHAPED_BAR, SHAPED_BAR = 1.15, 1.10


def mid_cut(graph: ModelGraph) -> tuple[str, ...]:
    """Return the useful cut with about half of the arithmetic on either side."""
    cuts = [cut.tensors for cut in graph.useful_cuts()]
    flop = [sum(graph.ops[i].work_flop for i in graph.needed(graph.inputs, cut)) for cut in cuts]
    return min(zip(cuts, flop, strict=True), key=lambda pair: abs(pair[1] - graph.work_flop / 2))[0]


def one_option(options: Options, cut: tuple[str, ...], bits: int) -> Options:
    """Return the options of this cut at this width, and of the whole network on the device."""
    wanted = [i for i, names in enumerate(options.cuts) if names == cut and options.bits[i] == bits]
    return options.take(np.array([*wanted, len(options.cuts) - 1]))


def first_option(observation: OffloadObservation) -> OffloadDecision:
    """Choose the first option and server, whatever is observed."""
    return OffloadDecision(np.array([0]), np.array([0]))


def own_times(graph: ModelGraph, cut: tuple[str, ...], x: np.ndarray) -> dict[str, Callable[[], object]]:
    """Return the calls that run head and tail in ONNX Runtime and nothing else."""
    head, tail = (open_session(graph, piece) for piece in split(graph, [cut]))
    at_cut = {name: np.asarray(y) for name, y in zip(cut, head.run(None, {graph.inputs[0]: x}), strict=True)}
    return {"head": lambda: head.run(None, {graph.inputs[0]: x}), "tail": lambda: tail.run(None, at_cut)}


def quick_profile(graph: ModelGraph) -> ProfileTable:
    """Return a quick profile, good enough for a device that has no choice."""
    codecs = {bits: Codec(lambda x, bits=bits: codec.encode(x, bits), codec.decode) for bits in WIDTHS}
    image = {8: codecs[8]}
    return measure(graph, random_samples(graph), codecs, input_codecs=image, repeats=5)


def main() -> None:
    parser = harness.parser(__doc__, "split_latency")
    parser.add_argument("--model", default="resnet50", help="ONNX file or zoo network")
    parser.add_argument("--rounds", type=int, default=60, help="rounds to measure")
    settings = parser.parse_args()
    model = "nin" if settings.quick else settings.model
    count = 3 if settings.quick else settings.rounds
    keep_freed_memory()
    graph = open_model(model)
    cut = mid_cut(graph)
    options = compile_options(graph, quick_profile(graph) if settings.quick else profile_for(graph), WIDTHS)
    x = dict(random_samples(graph)[0])[graph.inputs[0]]
    calls, results = own_times(graph, cut, x), dict[str, list[Result]]()
    with ExitStack() as stack:
        [edge] = stack.enter_context(edges(model, [1.0]))
        for shape in ("unshaped", "10 MB/s"):
            for bits in WIDTHS:
                links = {edge.address: Link(Trace.constant(RATE_BPS), WallClock())} if shape != "unshaped" else None
                device = Device(
                    graph,
                    servers=[edge.address],
                    policy=first_option,
                    options=one_option(options, cut, bits),
                    links=links,
                )
                stack.enter_context(device)
                name = f"{shape}, {bits} bits"
                results[name] = []
                calls[name] = lambda device=device, found=results[name]: found.append(device.infer(x))
        took_s = harness.take_turns(calls, count, f"{model} cut after {', '.join(cut)}")
    answers = {name: found[-count:] for name, found in results.items()}
    fell_back = sum(bool(answer.fallback) for found in answers.values() for answer in found)
    harness.save(settings, figures_of(took_s, answers), model=model, cut=cut, fell_back=fell_back)


def figures_of(took_s: dict[str, np.ndarray], results: dict[str, list[Result]]) -> dict[str, harness.Figure]:
    """Return the ratios to the bars, and their parts in milliseconds."""
    compute_s = took_s["head"] + took_s["tail"]
    found = {"compute, ms": harness.figure(compute_s / MILLI)}
    for name, answers in results.items():
        shaped = not name.startswith("unshaped")
        sent_bits = np.array([answer.sent_bits for answer in answers])
        least_s = compute_s + shaped * sent_bits / RATE_BPS
        ratio = (took_s[name] - ALLOWED_S) / least_s
        found[f"{name}: latency, ms"] = harness.figure(took_s[name] / MILLI)
        found[f"{name}: ratio"] = harness.figure(ratio, at_most=SHAPED_BAR if shaped else UNSHAPED_BAR)
        parts = {"device": "device_s", "upload": "upload_s", "server": "server_s", "download": "download_s"}
        for part, field in parts.items():
            spent_s = [getattr(answer.outcome, field) for answer in answers]
            found[f"{name}: {part}, ms"] = harness.figure(np.array(spent_s) / MILLI)
        found[f"{name}: sent, kB"] = harness.figure(sent_bits / 8e3)
    return found


if __name__ == "__main__":
    main()
