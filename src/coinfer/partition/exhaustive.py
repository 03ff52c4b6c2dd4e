"""Every placement, one by one: the oracle for tests of the other solvers."""

from collections.abc import Iterator
from itertools import chain, islice, product

import numpy as np

from coinfer.graph.ir import ModelGraph
from coinfer.partition.chain import heads_of
from coinfer.partition.multiway import blocks
from coinfer.partition.problem import Partition, PartitionError, Problem, cache_per_graph, latency_s, partition

LIMIT = 200_000
"""Placements; some seconds for a small network."""
_BATCH = 4096


def exhaustive(problem: Problem) -> Partition:
    """Return the best of every legal cut with every server, and of every route of blocks over several servers.

    Args:
        problem: of a small network and few servers.

    Raises:
        PartitionError: if there are more than `LIMIT` routes.
        GraphError: if there are more cuts than `ModelGraph.all_cuts` lists.
    """
    best, best_s = np.zeros(len(problem.graph.ops), dtype=int), np.inf
    rows = chain(_cuts(problem), _routes(problem))
    while batch := list(islice(rows, _BATCH)):
        places = np.stack(batch)
        latencies_s = latency_s(problem, places)
        if latencies_s.min() < best_s:
            best, best_s = places[np.argmin(latencies_s)], latencies_s.min()
    return partition(problem, best)


@cache_per_graph
def legal_heads(graph: ModelGraph) -> np.ndarray:
    """Return [C, ops] which operations lie before each legal cut, without those that split a fused group.

    Args:
        graph: the result is cached for as long as it lives.
    """
    heads = heads_of(graph, [cut.head for cut in graph.all_cuts()])
    whole = [heads[:, group].all(axis=1) | ~heads[:, group].any(axis=1) for group in map(list, graph.groups)]
    return heads[np.logical_and.reduce(whole)] if whole else heads


def _cuts(problem: Problem) -> Iterator[np.ndarray]:
    heads = legal_heads(problem.graph)
    yield np.zeros(heads.shape[1], dtype=int)
    for server in range(1, problem.nodes):
        yield from np.where(heads, 0, server)


def _routes(problem: Problem) -> Iterator[np.ndarray]:
    """Yield placements of whole blocks whose device part comes first; with one server they are cuts."""
    block, _ = blocks(problem.graph)
    count, servers = int(block.max(initial=-1)) + 1, problem.nodes - 1
    if servers < 2:
        return
    routes = sum(servers**tail for tail in range(count + 1))
    if routes > LIMIT:
        size = f"{routes} routes of {count} blocks over {servers} servers"
        raise PartitionError(f"{problem.graph.name}: {size} are more than {LIMIT}; use multiway")
    for tail in range(count + 1):
        for order in product(range(1, servers + 1), repeat=tail):
            yield np.array([0] * (count - tail) + list(order), dtype=int)[block]
