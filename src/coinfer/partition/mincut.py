"""The best cut of any network, also across several tensors, as a minimum cut (DADS, Hu et al., INFOCOM 2019).

The source side is the device, the sink side the server. An arc from the source to each operation costs its time on the
server, and an arc from it to the sink its time on the device, so the cut pays for the side on which it runs. A tensor
is an arc that costs its transfer; if several operations read it, the arc leads to an auxiliary vertex, so that it is
paid once. Two departures from DADS: operations that executors fuse are one vertex, and infinite arcs from readers back
to makers keep the head closed even if the server is slower than the device (DADS assumes that it is faster; then no cut
crosses backwards).

SciPy's maximum flow counts in whole numbers, so the answer is optimal within `ROUNDING` of the latency.
"""

from typing import NamedTuple

import numpy as np

from coinfer.graph.ir import ModelGraph
from coinfer.partition.problem import (
    Partition,
    PartitionError,
    Problem,
    cache_per_graph,
    compute_s,
    latency_s,
    partition,
    sent_bits,
    wiring,
)

SOURCE, SINK, FIRST = 0, 1, 2
_UNITS = 2**29
"""Capacity that stands for an upper bound of the cut. No residual capacity, at most this and the next one together and
again the next one, reaches 2**31."""
_UNCUTTABLE = _UNITS + 2**20
ROUNDING = 1e-6
"""Relative; 2**-28 for each arc in the cut, of which there are at most a few hundred."""


class Network(NamedTuple):
    """The arcs of the flow network: G from the source, G to the sink, W that carry tensors, the rest uncuttable."""

    group: np.ndarray
    """[ops] fused group of each operation."""
    tail: np.ndarray
    head: np.ndarray
    carried: np.ndarray
    """[W] tensor of `wiring` on each arc that costs a transfer."""
    vertices: int


def mincut(problem: Problem) -> Partition:
    """Return the best of all legal cuts with each server.

    Args:
        problem: of any number of servers.
    """
    local = np.zeros(len(problem.graph.ops), dtype=int)
    places = np.stack([local, *(cut_placement(problem, server) for server in range(1, problem.nodes))])
    return partition(problem, places[np.argmin(latency_s(problem, places))])


def cut_placement(problem: Problem, server: int, rate_bps: float | None = None) -> np.ndarray:
    """Return [ops] the best placement on the device and one server, without the wait.

    A wait cannot change which of the cuts that send something is best, and a cut that sends nothing does not pay it.

    Args:
        problem: gives times and sizes.
        server: 1 to N.
        rate_bps: of the link; the problem's without it.
    """
    network = flow_network(problem.graph)
    on_device = _min_cut_side(network, arc_costs_s(problem, server, rate_bps))[network.group + FIRST]
    return np.where(on_device, 0, server)


def arc_costs_s(problem: Problem, server: int, rate_bps: float | None = None) -> np.ndarray:
    """Return what it costs to cut each of the first G + G + W arcs of the flow network.

    Args:
        problem: gives times and sizes.
        server: 1 to N.
        rate_bps: of the link; the problem's without it.
    """
    network, groups = flow_network(problem.graph), len(problem.graph.groups)
    device_s, server_s = (np.bincount(network.group, problem.op_s[n], groups) for n in (0, server))
    transfer_s = problem.bits[network.carried] / (problem.rate_bps[0, server] if rate_bps is None else rate_bps)
    return np.concatenate([server_s, device_s, transfer_s])


def frontier(problem: Problem, server: int) -> np.ndarray:
    """Return [V, ops] placements on the device and one server that contain the best one for every link rate.

    Their points (bits sent, computing time) are the corners of the lower convex hull over all legal cuts, even if there
    are too many cuts to list: between two corners, a minimum cut at the rate at which they tie either finds a third or
    proves that there is none (Eisner and Severance, J. ACM 23(4), 1976).

    Args:
        problem: gives times and sizes; its rates do not matter.
        server: 1 to N.
    """
    corners = [np.zeros(len(problem.graph.ops), dtype=int), cut_placement(problem, server, np.inf)]
    points = [_point(problem, server, place) for place in corners]
    pending = [(0, 1)]
    while pending:
        fewer, more = pending.pop()
        (fewer_bits, slow_s), (more_bits, fast_s) = points[fewer], points[more]
        if not (more_bits > fewer_bits and fast_s < slow_s):
            continue
        tie_bps = (more_bits - fewer_bits) / (slow_s - fast_s)
        place = cut_placement(problem, server, tie_bps)
        bits, seconds = _point(problem, server, place)
        if seconds + bits / tie_bps < (slow_s + fewer_bits / tie_bps) * (1 - ROUNDING):
            corners.append(place)
            points.append((bits, seconds))
            pending += [(fewer, len(points) - 1), (len(points) - 1, more)]
    return np.stack(corners)


@cache_per_graph
def flow_network(graph: ModelGraph) -> Network:
    """Return the arcs of the flow network; only its capacities depend on the problem.

    Args:
        graph: the result is cached for as long as it lives.

    Raises:
        PartitionError: if an operation belongs to no fused group.
    """
    group = _group_of(graph)
    vertex = group + FIRST
    groups = len(graph.groups)
    arcs = [(SOURCE, FIRST + g) for g in range(groups)] + [(FIRST + g, SINK) for g in range(groups)]
    vertices, carried, paid, free = FIRST + groups, [], [], set()
    for number, name in enumerate(wiring(graph).tensors):
        maker = int(vertex[graph.producer[name]]) if name in graph.producer else SOURCE
        readers = sorted({int(vertex[i]) for i in graph.consumers[name]} - {maker})
        if not readers:
            continue
        carried.append(number)
        hub = readers[0]
        if len(readers) > 1 or (maker, hub) in paid:
            hub, vertices = vertices, vertices + 1
            free |= {(hub, reader) for reader in readers}
        paid.append((maker, hub))
        if maker != SOURCE:
            free |= {(reader, maker) for reader in readers}
    tail, head = np.array(arcs + paid + sorted(free), dtype=np.int32).reshape(-1, 2).T
    return Network(group, tail, head, np.array(carried, dtype=int), vertices)


def _group_of(graph: ModelGraph) -> np.ndarray:
    group = np.full(len(graph.ops), -1)
    for number, members in enumerate(graph.groups):
        group[list(members)] = number
    if (group < 0).any():
        raise PartitionError(f"{graph.name}: {graph.ops[int(np.argmin(group))].name!r} belongs to no fused group")
    return group


def _min_cut_side(network: Network, cost_s: np.ndarray) -> np.ndarray:
    """Return [vertices] true on the source's side of a minimum cut, given the costs of the arcs that may be cut.

    Costs are counted in fractions of the best cut that is known, at first one of the two trivial ones. If the flow
    finds a far better one, they are counted again in fractions of that.
    """
    tail, head = network.tail[: len(cost_s)], network.head[: len(cost_s)]
    vertices = np.arange(network.vertices)
    trivial = [vertices == SOURCE, vertices != SINK]
    values_s = [float(cost_s[side[tail] & ~side[head]].sum()) for side in trivial]
    best = int(np.argmin(values_s))
    side, value_s, bound_s = trivial[best], values_s[best], np.inf
    while 0 < 2 * value_s < bound_s:
        bound_s = value_s
        cut_side = _flow_side(network, np.minimum(np.rint(cost_s * (_UNITS / bound_s)), _UNCUTTABLE))
        cut_s = float(cost_s[cut_side[tail] & ~cut_side[head]].sum())
        if cut_s < value_s:
            side, value_s = cut_side, cut_s
    return side


def _flow_side(network: Network, cuttable: np.ndarray) -> np.ndarray:
    """Return [vertices] true on the source's side of a minimum cut, given capacities in whole numbers."""
    from scipy.sparse import csr_array
    from scipy.sparse.csgraph import breadth_first_order, maximum_flow

    capacity = np.full(len(network.tail), _UNCUTTABLE, dtype=np.int32)
    capacity[: len(cuttable)] = cuttable
    arcs = csr_array((capacity, (network.tail, network.head)), shape=(network.vertices, network.vertices))
    residual = arcs - maximum_flow(arcs, SOURCE, SINK).flow
    residual.eliminate_zeros()
    side = np.zeros(network.vertices, dtype=bool)
    side[breadth_first_order(residual, SOURCE, return_predecessors=False)] = True
    return side


def _point(problem: Problem, server: int, place: np.ndarray) -> tuple[float, float]:
    return float(sent_bits(problem, place)[0, server]), float(compute_s(problem, place))
