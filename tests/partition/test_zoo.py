"""All two-node solvers against every legal cut of every network of the zoo, over a dense grid of rates and speeds."""

import numpy as np
import pytest

from coinfer.graph.ir import ModelGraph
from coinfer.graph.zoo.networks import ZOO, build
from coinfer.partition.chain import chain
from coinfer.partition.exhaustive import legal_heads
from coinfer.partition.hull import server_hull
from coinfer.partition.mincut import ROUNDING, mincut
from coinfer.partition.multiway import multiway
from coinfer.partition.problem import Problem, compute_s, plain_bits, sent_bits, star

RATES_BPS = np.geomspace(1e4, 1e11, 400)
RATIOS = (0.3, 1.0, 4.0, 30.0, 1000.0)
BITS = (32, 8)
CHAINS = {"alexnet", "vgg16", "nin", "alexnet-cifar", "vgg16-cifar"}


def speeds(graph: ModelGraph, ratio: float, rng: np.random.Generator) -> np.ndarray:
    """[2, ops] times at 5 GFLOP/s and `ratio` times that, each operation up to twice as fast or slow as that."""
    flop = np.array([op.work_flop for op in graph.ops]) + 1e4
    return np.stack([flop / 5e9, flop / (5e9 * ratio)]) * 2 ** rng.uniform(-1, 1, (2, len(flop)))


def grid(graph: ModelGraph) -> list[Problem]:
    rng = np.random.default_rng(7)
    sizes = [plain_bits(graph, bits, input_bits=8) for bits in BITS]
    return [star(graph, speeds(graph, ratio, rng), size, 1e7) for ratio in RATIOS for size in sizes]


def at(problem: Problem, rate_bps: float, wait_s: float = 0.0) -> Problem:
    return star(problem.graph, problem.op_s, problem.tensor_bits, rate_bps, wait_s=wait_s)


@pytest.fixture(scope="module", params=sorted(ZOO))
def graph(request: pytest.FixtureRequest) -> ModelGraph:
    return build(request.param)


def test_solvers_equal_every_cut_tried(graph: ModelGraph) -> None:
    places = np.where(legal_heads(graph), 0, 1)
    for problem in grid(graph):
        compute, bits = compute_s(problem, places), sent_bits(problem, places)[:, 0, 1]
        optimum_s = (compute + bits / RATES_BPS[:, None]).min(axis=1)
        hull, _ = server_hull(problem, 1)
        np.testing.assert_allclose(hull.latency_s(RATES_BPS), optimum_s, rtol=2 * ROUNDING)
        for i in range(7, len(RATES_BPS), 40):
            here = at(problem, float(RATES_BPS[i]))
            assert mincut(here).latency_s == pytest.approx(optimum_s[i], rel=ROUNDING)
            scanned_s = chain(here).latency_s
            assert multiway(here).latency_s == pytest.approx(scanned_s, rel=1e-12)
            assert scanned_s >= optimum_s[i] * (1 - 1e-12)
            if graph.name in CHAINS:
                assert scanned_s == pytest.approx(optimum_s[i], rel=1e-12)


def test_a_wait_never_brings_work_to_the_server(graph: ModelGraph) -> None:
    problem = grid(graph)[4]
    for rate in RATES_BPS[::80]:
        before, after = mincut(at(problem, rate)), mincut(at(problem, rate, wait_s=0.02))
        assert before.latency_s - 1e-12 <= after.latency_s <= before.latency_s + 0.02 + 1e-12
        np.testing.assert_array_equal(after.place, before.place if after.place.any() else np.zeros_like(after.place))
