"""Routes over several servers with several cuts, by dynamic programming over blocks and nodes."""

import numpy as np

from coinfer.graph.ir import ModelGraph
from coinfer.partition.chain import useful_heads
from coinfer.partition.problem import Partition, Problem, cache_per_graph, partition, wiring


def multiway(
    problem: Problem, *, first_bits: np.ndarray | None = None, further_cuts: np.ndarray | None = None
) -> Partition:
    """Return the best route: the device runs the first blocks, or none, then one server after the other runs some.

    Exact among the placements of whole blocks, so for every network that is a chain of blocks; O(blocks x nodes^2). A
    server may be visited twice, and then its wait counts twice; the route does not come back to the device.

    Args:
        problem: of any number of servers.
        first_bits: [blocks] size of what the device sends at the cut before each block, if it encodes tensors unlike
            servers do; infinite where it may not hand over. None takes `tensor_bits`.
        further_cuts: [blocks] whether a server may hand over there to the next one; None allows all.
    """
    block, crossing = blocks(problem.graph)
    count, nodes = int(block.max(initial=-1)) + 1, np.arange(problem.nodes)
    block_s = np.stack([np.bincount(block, times, count) for times in problem.op_s], axis=1)
    bits = np.repeat((crossing @ problem.bits)[:, None], problem.nodes, axis=1)
    if first_bits is not None:
        bits[:, 0] = first_bits
    if further_cuts is not None:
        bits[:, 1:][~further_cuts] = np.inf
    sent_bps = np.where(np.eye(problem.nodes, dtype=bool), 1.0, problem.rate_bps)
    arrival_s = np.where(nodes == 0, 0.0, np.inf)
    previous = np.empty((count, problem.nodes), dtype=int)
    for b in range(count):
        enter_s = bits[b][:, None] / sent_bps + problem.wait_s
        enter_s[:, 0] = np.inf
        np.fill_diagonal(enter_s, 0.0)
        entry_s = arrival_s[:, None] + enter_s
        previous[b] = np.argmin(entry_s, axis=0)
        arrival_s = entry_s[previous[b], nodes] + block_s[b]
    found = partition(problem, _trace(previous, int(np.argmin(arrival_s)))[block])
    return found if first_bits is None else found._replace(latency_s=float(arrival_s.min()))


@cache_per_graph
def blocks(graph: ModelGraph) -> tuple[np.ndarray, np.ndarray]:
    """Return [ops] the block of each operation, and [blocks, T] which tensors of `wiring` cross the cut before a block.

    Args:
        graph: the result is cached for as long as it lives.
    """
    heads = useful_heads(graph)
    wires = wiring(graph)
    made = np.concatenate([heads, np.ones((len(heads), 1), dtype=bool)], axis=1)[:, wires.maker]
    read_later = np.zeros_like(made)
    rows = np.arange(len(heads))[:, None]
    np.logical_or.at(read_later, (rows, wires.edge_tensor), ~heads[:, wires.edge_op])
    return (~heads).sum(axis=0) - 1, (made & read_later)[:-1].astype(float)


def _trace(previous: np.ndarray, last: int) -> np.ndarray:
    """Return [blocks] the nodes on the best route that ends at the node `last`."""
    route = np.empty(len(previous), dtype=int)
    for b in range(len(previous) - 1, -1, -1):
        route[b] = last
        last = previous[b, last]
    return route
