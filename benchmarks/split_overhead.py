"""Measure what running a network as head and tail in one process costs over running it whole.

    python benchmarks/split_overhead.py [--models mobilenetv2 --rounds 48]

For the large networks of the zoo, at every cut that the planner may choose on some link (the hull of the measured
options) and at the cut with half of the arithmetic before it. Head and tail, and the whole, are ONNX Runtime sessions
that take turns of a fifth of a second and at least five runs. Times are processor time of the one computing thread, so
that other work on the machine does not count. The ratio is (head + tail) / whole of the same round; sessions are opened
anew every few rounds. What the planner expects of it stands beside: the profile has what a call and both ends of a cut
cost on this processor, so that plans count more where cuts cost more. With `--models`, the record keeps its other
networks. Writes benchmarks/results/split_overhead.json.
"""

import math
import time
from typing import Any

import harness
import numpy as np
from split_latency import mid_cut, quick_profile

from coinfer.graph.ir import ModelGraph
from coinfer.graph.open_model import open_model
from coinfer.graph.segment import segment, split
from coinfer.graph.session import open_session
from coinfer.options.compile import compile_options
from coinfer.options.prune import SPEED_RATIOS, prune
from coinfer.profile.samples import random_samples
from coinfer.profile.table import ProfileTable
from coinfer.runtime.profiling import profile_for

BAR = 1.02
TURN, TURN_S = 5, 0.2
"""Fewest runs in a row, so that neither way finds the other's weights in the caches, and least time, so that a slow
moment of the processor counts little."""
OPENINGS = 8
"""Sets of sessions for each cut: two sessions of one network can differ by several per cent, by where weights lie."""
MODELS = ("alexnet", "vgg16", "resnet50", "mobilenetv2", "googlenet")


def chosen_cuts(graph: ModelGraph, table: ProfileTable) -> list[tuple[str, ...]]:
    """Return the cuts of the hull that leave work on both sides, and the mid cut."""
    hull = prune(compile_options(graph, table), speed_ratios=SPEED_RATIOS).cuts
    return [cut for cut in dict.fromkeys((mid_cut(graph), *hull)) if cut not in (graph.inputs, graph.outputs)]


def expected(graph: ModelGraph, table: ProfileTable, cut: tuple[str, ...]) -> float:
    """Return the time of head and tail over that of the whole as the planner expects it."""
    head_s, tail_s = table.segment_s(graph, graph.inputs, cut), table.segment_s(graph, cut, graph.outputs)
    return (head_s + tail_s) / table.segment_s(graph, graph.inputs, graph.outputs)


def overhead(graph: ModelGraph, cut: tuple[str, ...], count: int) -> np.ndarray:
    """Return the time of head and tail over that of the whole, at least [count], by several sets of sessions."""
    openings = min(OPENINGS, count)
    return np.concatenate([_overhead(graph, cut, math.ceil(count / openings)) for _ in range(openings)])


def _overhead(graph: ModelGraph, cut: tuple[str, ...], count: int) -> np.ndarray:
    feed = dict(random_samples(graph)[0])
    head, tail = (open_session(graph, piece) for piece in split(graph, [cut]))
    whole = open_session(graph, segment(graph, graph.inputs, graph.outputs))

    def run_split() -> Any:
        return tail.run(None, dict(zip(cut, head.run(None, feed), strict=True)))[0]

    def run_whole() -> Any:
        return whole.run(None, feed)[0]

    assert np.allclose(run_split(), run_whole(), rtol=1e-3, atol=1e-4)
    begun_s = time.thread_time()
    run_whole()
    turn = max(TURN, math.ceil(TURN_S / (time.thread_time() - begun_s)))
    calls = {"split": lambda: [run_split() for _ in range(turn)], "whole": lambda: [run_whole() for _ in range(turn)]}
    took_s = harness.take_turns(calls, count, f"{graph.name} after {', '.join(cut)}", clock=time.thread_time)
    return took_s["split"] / took_s["whole"]


def main() -> None:
    parser = harness.parser(__doc__, "split_overhead")
    parser.add_argument("--models", nargs="+", default=MODELS, help="ONNX files or zoo networks")
    parser.add_argument("--rounds", type=int, default=40, help="rounds to measure")
    settings = parser.parse_args()
    models, count = (["nin"], 5) if settings.quick else (settings.models, settings.rounds)
    figures = dict[str, harness.Figure]()
    for model in models:
        graph = open_model(model)
        table = quick_profile(graph) if settings.quick else profile_for(graph)
        for cut in [mid_cut(graph)] if settings.quick else chosen_cuts(graph, table):
            name = f"{model} after {', '.join(cut)}"
            figures[name] = harness.figure(overhead(graph, cut, count), at_most=BAR)
            figures[f"{name}: the planner expects"] = harness.figure([expected(graph, table, cut)])
    harness.save(settings, figures, keep=settings.models != MODELS)


if __name__ == "__main__":
    main()
