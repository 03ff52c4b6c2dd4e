"""The scan of single-tensor cuts: device first, then one server (Neurosurgeon, Kang et al., ASPLOS 2017)."""

from collections.abc import Sequence, Set

import numpy as np

from coinfer.graph.ir import ModelGraph
from coinfer.partition.problem import Partition, Problem, cache_per_graph, latency_s, partition


def chain(problem: Problem) -> Partition:
    """Return the best of all useful cuts with each server; exact if the network is a chain of blocks.

    Args:
        problem: of any number of servers.
    """
    heads = useful_heads(problem.graph)
    best = heads[-1]
    places = np.concatenate([np.where(heads, 0, server) for server in range(1, problem.nodes)] or [best[None] * 0])
    return partition(problem, places[np.argmin(latency_s(problem, places))])


@cache_per_graph
def useful_heads(graph: ModelGraph) -> np.ndarray:
    """Return [C, ops] which operations lie before each useful cut.

    Args:
        graph: the result is cached for as long as it lives.
    """
    return heads_of(graph, [cut.head for cut in graph.useful_cuts()])


def heads_of(graph: ModelGraph, heads: Sequence[Set[int]]) -> np.ndarray:
    """Return [C, ops] sets of operations as rows of booleans.

    Args:
        graph: the network.
        heads: [C] indices of the operations before each cut.
    """
    rows = np.zeros((len(heads), len(graph.ops)), dtype=bool)
    for row, head in zip(rows, heads, strict=True):
        row[list(head)] = True
    return rows
