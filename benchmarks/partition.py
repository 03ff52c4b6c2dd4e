"""Measure how fast the partitioners decide, for every network of the zoo, in one run.

    python benchmarks/partition.py

Times of operations are modelled, not measured: a roofline (arithmetic and memory traffic) of a small board with
5 GFLOP/s and 4 GB/s, and of a server with 200 GFLOP/s and 20 GB/s. Cuts are timed at 32 bits per element and an image
of 8 bits, over the uplinks of DADS (Hu et al., INFOCOM 2019; 0.13 to 18.88 Mbit/s) and three faster ones; the figures
are the median and the slowest of the seven medians. The hull is that of all useful cuts at 32, 16, 8 and 4 bits.

NetworkX gets the same arcs as our minimum cut and, as `networkx_per_op`, a vertex for every operation, as in DADS. Its
graphs are ready before the clock starts, and it only cuts; our `mincut` also sets the capacities, computes the latency
of its answer and names the cut. Writes benchmarks/results/partition.json.
"""

import gc
import json
from collections.abc import Callable, Sequence
from importlib.metadata import version
from statistics import median
from time import perf_counter
from typing import Any

import harness
import networkx as nx
import numpy as np

from coinfer.graph.ir import ModelGraph
from coinfer.graph.zoo.networks import ZOO, build
from coinfer.partition.chain import chain, useful_heads
from coinfer.partition.exhaustive import legal_heads
from coinfer.partition.hull import Hull, best_of, server_hull
from coinfer.partition.mincut import ROUNDING, SINK, SOURCE, arc_costs_s, flow_network, mincut
from coinfer.partition.multiway import multiway
from coinfer.partition.problem import Problem, compute_s, latency_s, plain_bits, sent_bits, star
from coinfer.units import BITS_PER_BYTE, FLOAT32_BITS, GIGA, MEGA, MILLI

TASKS = 1_000_000
UPLINKS_BPS = tuple(rate * MEGA for rate in (0.13, 1.1, 5.85, 18.88, 50, 100, 1000))
WIDTHS = (32, 16, 8, 4)
LIMITS = {"decisions_per_s": 1e6, "hull_build_ms": 50, "mincut_ms": 5}


def roofline_s(graph: ModelGraph, flop_per_s: float, byte_per_s: float) -> np.ndarray:
    """Return the modelled times [ops]."""
    traffic = [
        sum(graph.tensors[name].size_bits for name in (*op.inputs, *op.outputs)) / BITS_PER_BYTE + 4 * op.params
        for op in graph.ops
    ]
    return np.array([op.work_flop for op in graph.ops]) / flop_per_s + np.array(traffic) / byte_per_s


def problem_of(graph: ModelGraph, uplink_bps: float, servers: int = 1, bits: int = FLOAT32_BITS) -> Problem:
    op_s = [roofline_s(graph, 5e9, 4e9)] + [roofline_s(graph, 200e9 / n, 20e9 / n) for n in range(1, servers + 1)]
    return star(graph, np.stack(op_s), plain_bits(graph, bits, input_bits=8), uplink_bps, 1e9, wait_s=5 * MILLI)


def options_of(graph: ModelGraph) -> tuple[np.ndarray, np.ndarray]:
    """Return computing times [O] and bits [O] of every useful cut at every width, coding at 1 GB/s on either side."""
    places = np.where(useful_heads(graph), 0, 1)
    sized = [problem_of(graph, MEGA, bits=bits) for bits in WIDTHS]
    upload_bits = np.stack([sent_bits(problem, places)[:, 0, 1] for problem in sized])
    coding_s = (upload_bits < upload_bits[0]) * 2 * upload_bits[0] / BITS_PER_BYTE / GIGA
    return (compute_s(sized[0], places) + coding_s).ravel(), upload_bits.ravel()


def same_graph(problem: Problem) -> nx.DiGraph:
    """Return the flow network of `mincut`, for NetworkX."""
    network, flow = flow_network(problem.graph), nx.DiGraph()
    costs = arc_costs_s(problem, 1)
    for i, (tail, head) in enumerate(zip(network.tail.tolist(), network.head.tolist(), strict=True)):
        flow.add_edge(tail, head, **({"capacity": float(costs[i])} if i < len(costs) else {}))
    return flow


def per_op_graph(problem: Problem) -> nx.DiGraph:
    """Return DADS's graph: a vertex for each operation, one more for each tensor with several readers."""
    graph, flow = problem.graph, nx.DiGraph()
    for i in range(len(graph.ops)):
        flow.add_edge(SOURCE, f"op{i}", capacity=float(problem.op_s[1, i]))
        flow.add_edge(f"op{i}", SINK, capacity=float(problem.op_s[0, i]))
    for name, readers in graph.consumers.items():
        maker = f"op{graph.producer[name]}" if name in graph.producer else SOURCE
        hub = name if len(readers) != 1 else f"op{readers[0]}"
        flow.add_edge(maker, hub, capacity=problem.tensor_bits[name] / problem.rate_bps[0, 1])
        if hub == name:
            flow.add_edges_from((name, f"op{reader}") for reader in readers)
    return flow


def networkx_cut(flow: nx.DiGraph) -> float:
    return float(nx.minimum_cut(flow, SOURCE, SINK)[0])


def median_ms(run: Callable[[], object], repeats: int) -> float:
    run()
    gc.collect()
    taken_s = []
    for _ in range(repeats):
        start = perf_counter()
        run()
        taken_s.append(perf_counter() - start)
    return median(taken_s) / MILLI


def over_uplinks_ms(solve: Callable[[Any], object], problems: Sequence[Any], repeats: int) -> tuple[float, float]:
    """Return the median and the slowest of the medians at each link rate."""
    taken_ms = [median_ms(lambda problem=problem: solve(problem), repeats) for problem in problems]
    return median(taken_ms), max(taken_ms)


def first_ms(name: str) -> float:
    """Return the time of the first cut of a network: nothing of its structure is cached, nor its fused groups."""
    problem = problem_of(build(name), MEGA)
    start = perf_counter()
    mincut(problem)
    return (perf_counter() - start) / MILLI


def is_optimal(problem: Problem) -> bool:
    """Return true if the minimum cut is the best of every legal cut, and of leaving all on the device."""
    heads = legal_heads(problem.graph)
    optimum_s = latency_s(problem, np.where(np.concatenate([heads, np.ones_like(heads[:1])]), 0, 1)).min()
    return bool(abs(mincut(problem).latency_s / optimum_s - 1) < ROUNDING)


def measure(name: str) -> dict[str, float | int | bool]:
    graph = build(name)
    first = median([first_ms(name) for _ in range(3)])
    problems = [problem_of(graph, uplink_bps) for uplink_bps in UPLINKS_BPS]
    three_servers = [problem_of(graph, uplink_bps, servers=3) for uplink_bps in UPLINKS_BPS]
    options = options_of(graph)
    hull = Hull.build(*options)
    rates_bps = np.random.default_rng(0).lognormal(np.log(10 * MEGA), 2, (TASKS, 3))
    wait_s = np.array([5, 6, 7]) * MILLI
    row: dict[str, float | int | bool] = {
        "operations": len(graph.ops),
        "fused_groups": len(graph.groups),
        "useful_cuts": len(useful_heads(graph)),
        "legal_cuts": len(legal_heads(graph)),
        "hull_options": len(options[0]),
        "hull_options_left": len(hull.options),
        "decisions_per_s": round(TASKS / median_ms(lambda: hull.best(rates_bps[:, 0]), 7) / MILLI),
        "decisions_per_s_of_3_servers": round(
            TASKS / median_ms(lambda: best_of([hull] * 3, rates_bps, wait_s), 3) / MILLI
        ),
        "hull_build_ms": median_ms(lambda: Hull.build(*options), 51),
        "mincut_is_optimal": all(is_optimal(problem) for problem in problems),
        "mincut_first_time_ms": first,
    }
    for solver, solve, given, repeats in (
        ("mincut", mincut, problems, 31),
        ("networkx", networkx_cut, [same_graph(problem) for problem in problems], 5),
        ("networkx_per_op", networkx_cut, [per_op_graph(problem) for problem in problems], 5),
        ("hull_of_all_legal_cuts", lambda problem: server_hull(problem, 1), problems, 5),
        ("chain", chain, problems, 31),
        ("multiway_3_servers", multiway, three_servers, 31),
    ):
        row[f"{solver}_ms"], row[f"{solver}_slowest_ms"] = over_uplinks_ms(solve, given, repeats)
    return {key: round(value, 4) if isinstance(value, float) else value for key, value in row.items()}


def main() -> None:
    parser = harness.parser(__doc__, "partition")
    parser.add_argument("--models", nargs="+", choices=sorted(ZOO), default=sorted(ZOO), help="networks of the zoo")
    settings = parser.parse_args()
    rows = {}
    for name in ["nin"] if settings.quick else settings.models:
        rows[name] = measure(name)
        print(name, json.dumps(rows[name]), flush=True)
    versions = {package: version(package) for package in ("numpy", "scipy", "networkx")}
    harness.write(settings, versions=versions, limits=LIMITS, networks=rows)


if __name__ == "__main__":
    main()
