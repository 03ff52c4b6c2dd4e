"""Measure how well a profile predicts segments: random pieces of the zoo's networks, predicted from their parts, then
run.

    python benchmarks/prediction.py [--models resnet50 ...] [--segments 16] [--repeats 12]

Each network is profiled once. Then random segments between two of its useful cuts, with at least 2 % of its arithmetic,
run in turns with the whole network. Times are processor time of the one computing thread, so that other work on the
machine does not count. The machine's drift since the profile is divided out by the whole network's time in the same
turns (`median`, `p90`, `worst`), or not (`median_undivided`). Writes benchmarks/results/prediction.json.
"""

import argparse
import json
import sys
import time
from itertools import combinations
from pathlib import Path

import numpy as np

from coinfer.graph.ir import ModelGraph
from coinfer.graph.segment import segment
from coinfer.graph.session import open_session
from coinfer.graph.zoo import networks
from coinfer.profile.measure import WARM_UP, Engine, measure, run_s, this_machine
from coinfer.profile.samples import random_samples
from coinfer.profile.table import ProfileTable

RESULT = Path(__file__).resolve().parent / "results/prediction.json"
LEAST_SHARE = 0.02
"""Smallest share of the network's arithmetic in a segment."""
Names = tuple[str, ...]


def random_segments(graph: ModelGraph, count: int, rng: np.random.Generator) -> list[tuple[Names, Names]]:
    """Return pairs of useful cuts, without the pair that is the whole network."""
    cuts = [cut.tensors for cut in graph.useful_cuts()]
    pairs = [(a, b) for a, b in combinations(cuts, 2) if (a, b) != (graph.inputs, graph.outputs)]
    work = [sum(graph.ops[i].work_flop for i in graph.needed(a, b)) for a, b in pairs]
    pairs = [pair for pair, flop in zip(pairs, work, strict=True) if flop >= LEAST_SHARE * graph.work_flop]
    chosen = rng.permutation(len(pairs))[:count]
    return [pairs[i] for i in sorted(chosen)]


def true_s(graph: ModelGraph, inputs: Names, outputs: Names, repeats: int) -> tuple[float, float]:
    """Return the lower quartiles of the times of a segment and of the whole network; other work only ever adds."""
    values = dict(random_samples(graph)[0])
    if inputs != graph.inputs:
        head = open_session(graph, segment(graph, graph.inputs, inputs))
        values |= dict(zip(inputs, map(np.asarray, head.run(None, dict(values))), strict=True))
    piece = open_session(graph, segment(graph, inputs, outputs))
    whole = open_session(graph, segment(graph, graph.inputs, graph.outputs))
    feeds = [{name: values[name] for name in inputs}, {name: values[name] for name in graph.inputs}]
    spent_s = [
        [run_s(session, feed, time.thread_time) for session, feed in zip((piece, whole), feeds, strict=True)]
        for _ in range(WARM_UP + repeats)
    ]
    piece_s, whole_s = np.quantile(spent_s[WARM_UP:], 0.25, axis=0).tolist()
    return piece_s, whole_s


def errors(graph: ModelGraph, table: ProfileTable, count: int, repeats: int, seed: int) -> np.ndarray:
    """Return relative errors [segments, 2], drift divided out and not; positive if the prediction is too high."""
    rows = []
    for inputs, outputs in random_segments(graph, count, np.random.default_rng(seed)):
        predicted_s = table.segment_s(graph, inputs, outputs)
        piece_s, whole_s = true_s(graph, inputs, outputs, repeats)
        rows.append((predicted_s / table.whole_s / (piece_s / whole_s) - 1, predicted_s / piece_s - 1))
        print(f"  {inputs[0]:24s} -> {outputs[0]:24s} {piece_s * 1e3:8.2f} ms  {rows[-1][0]:+6.1%} {rows[-1][1]:+6.1%}")
    return np.array(rows)


def summary(found: np.ndarray) -> dict[str, float | int]:
    divided, undivided = np.abs(found).T
    figures = {
        "median": np.median(divided),
        "p90": np.quantile(divided, 0.9),
        "worst": divided.max(),
        "bias": np.median(found[:, 0]),
        "median_undivided": np.median(undivided),
    }
    return {"segments": len(found)} | {name: round(float(value), 4) for name, value in figures.items()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", nargs="+", default=list(networks.ZOO), metavar="NAME", help="networks of the zoo")
    parser.add_argument("--segments", type=int, default=16, help="random segments of each network")
    parser.add_argument("--repeats", type=int, default=12, help="timed runs of each segment")
    parser.add_argument("--seed", type=int, default=0, help="seed of the segments")
    parser.add_argument("--output", type=Path, default=RESULT, help="file of the record")
    settings = parser.parse_args()
    found = {}
    for name in settings.models:
        graph = networks.build(name)
        table = measure(graph, random_samples(graph), engine=Engine(clock=time.thread_time))
        print(f"{name}: whole network {table.whole_s * 1e3:.2f} ms")
        found[name] = errors(graph, table, settings.segments, settings.repeats, settings.seed)
        print(f"{name}: {summary(found[name])}", flush=True)
    report = {
        "command": " ".join(["python", "benchmarks/prediction.py", *sys.argv[1:]]),
        "machine": this_machine().model_dump(),
        "threads": 1,
        "all": summary(np.concatenate(list(found.values()))),
        "models": {name: summary(rows) for name, rows in found.items()},
    }
    print(f"all: {report['all']}")
    settings.output.parent.mkdir(parents=True, exist_ok=True)
    settings.output.write_text(json.dumps(report, indent=2) + "\n")


if __name__ == "__main__":
    main()
