"""The placement problem and its objective.

Node 0 is the device, node n is server n. A task's operations run one after another, each on its node. A tensor is sent
once from the node that made it to each other node that reads it; the input lies on the device.
"""

import weakref
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import NamedTuple, TypeVar

import numpy as np

from coinfer.errors import UserError
from coinfer.graph.ir import Cut, ModelGraph
from coinfer.units import FLOAT32_BITS

T = TypeVar("T")


class PartitionError(UserError):
    """A placement problem that makes no sense or is too large for its solver; the message is one line for a person."""


class Wiring(NamedTuple):
    """A graph's structure as arrays: T tensors that some operation reads, and E readings."""

    tensors: tuple[str, ...]
    maker: np.ndarray
    """[T] index of the operation that makes it; -1 for an input of the network."""
    edge_tensor: np.ndarray
    """[E] which tensor is read."""
    edge_op: np.ndarray
    """[E] which operation reads it, ascending."""


@dataclass(frozen=True, eq=False)
class Problem:
    """Which node should compute what? One device and N servers, at batch 1.

    Raises:
        PartitionError: if a size or a sign is wrong, or a tensor is missing.
    """

    graph: ModelGraph
    op_s: np.ndarray
    """[1 + N, ops] time of each operation on each node. Of a fused group only the sum counts."""
    tensor_bits: Mapping[str, float]
    """Size of each activation as it is sent."""
    rate_bps: np.ndarray
    """[1 + N, 1 + N] rate from node to node; from a node to itself it is infinite, whatever is given."""
    wait_s: np.ndarray
    """[1 + N] cost of each visit of a node: queue, round trip, and the answer's way back; 0 for the device."""

    def __post_init__(self) -> None:
        for name in ("op_s", "rate_bps", "wait_s"):
            object.__setattr__(self, name, np.array(getattr(self, name), dtype=float))
        _check_times(self)
        _check_links(self)
        np.fill_diagonal(self.rate_bps, np.inf)
        missing = [name for name in wiring(self.graph).tensors if name not in self.tensor_bits]
        if missing:
            raise PartitionError(f"{self.graph.name}: tensor_bits lacks {len(missing)} tensors, such as {missing[0]!r}")
        if not _are_sizes(self.bits):
            raise PartitionError(f"{self.graph.name}: tensor_bits must be finite and not negative")

    @property
    def nodes(self) -> int:
        """Return the number of nodes, 1 + N."""
        return len(self.op_s)

    @property
    def bits(self) -> np.ndarray:
        """Return the sizes [T] of `tensor_bits`, in the order of `wiring(graph).tensors`."""
        return np.array([self.tensor_bits[name] for name in wiring(self.graph).tensors], dtype=float)


class Partition(NamedTuple):
    """A solver's answer."""

    place: np.ndarray
    """[ops] node of each operation."""
    nodes: tuple[int, ...]
    """The nodes visited, in order; the first is the device, even if it only sends the input."""
    cuts: tuple[Cut, ...]
    """Cut i lies between nodes i and i + 1."""
    latency_s: float


def star(
    graph: ModelGraph,
    op_s: np.ndarray,
    tensor_bits: Mapping[str, float],
    uplink_bps: np.ndarray | float,
    between_bps: float | None = None,
    wait_s: np.ndarray | float = 0.0,
) -> Problem:
    """Return the problem of a device with a link to each of N servers, and one rate between any two servers.

    Args:
        graph: the network.
        op_s: [1 + N, ops] time of each operation, the device first.
        tensor_bits: size of each activation as it is sent (`plain_bits`).
        uplink_bps: [N] or one for all.
        between_bps: needed if there are several servers.
        wait_s: [N] or one for all.

    Raises:
        PartitionError: if `between_bps` is missing, or as for `Problem`.
    """
    servers = len(op_s) - 1
    if servers > 1 and between_bps is None:
        raise PartitionError(f"{graph.name}: {servers} servers but no between_bps, the rate from server to server")
    rate_bps = np.full((1 + servers, 1 + servers), np.inf if between_bps is None else between_bps)
    rate_bps[0, 1:] = rate_bps[1:, 0] = uplink_bps
    np.fill_diagonal(rate_bps, np.inf)
    waits = np.zeros(1 + servers)
    waits[1:] = wait_s
    return Problem(graph, np.asarray(op_s), tensor_bits, rate_bps, waits)


def plain_bits(graph: ModelGraph, bits: int = FLOAT32_BITS, input_bits: int | None = None) -> dict[str, float]:
    """Return the size of every activation by name, without headers.

    Args:
        graph: the network.
        bits: per element.
        input_bits: per element of the network's inputs; `bits` without it.
    """
    width = {name: bits if input_bits is None else input_bits for name in graph.inputs}
    return {name: float(tensor.elements * width.get(name, bits)) for name, tensor in graph.tensors.items()}


def latency_s(problem: Problem, place: np.ndarray) -> np.ndarray:
    """Return the latency [..] of placements for one task alone: computing, sending and waiting.

    Args:
        problem: gives times, sizes, rates and waits.
        place: [.., ops] node of each operation.
    """
    sending_s = (sent_bits(problem, place) / problem.rate_bps).sum(axis=(-2, -1))
    return compute_s(problem, place) + sending_s + visits(problem, place) @ problem.wait_s


def compute_s(problem: Problem, place: np.ndarray) -> np.ndarray:
    """Return the computing time [..] of placements, on all nodes together.

    Args:
        problem: gives the times.
        place: [.., ops] node of each operation.
    """
    return problem.op_s[place, np.arange(place.shape[-1])].sum(axis=-1)


def sent_bits(problem: Problem, place: np.ndarray) -> np.ndarray:
    """Return the bits that placements send from node to node, [.., 1 + N, 1 + N]; the diagonal holds what is not sent.

    Args:
        problem: gives the sizes.
        place: [.., ops] node of each operation.
    """
    wires, nodes = wiring(problem.graph), problem.nodes
    flat = place.reshape(-1, place.shape[-1])
    rows = np.arange(len(flat))[:, None]
    source = _with_input(flat)[:, wires.maker]
    needed = np.zeros((*source.shape, nodes), dtype=bool)
    needed[rows, wires.edge_tensor, flat[:, wires.edge_op]] = True
    made = (source[..., None] == np.arange(nodes)) * problem.bits[:, None]
    return np.matmul(made.swapaxes(-1, -2), needed).reshape(*place.shape[:-1], nodes, nodes)


def visits(problem: Problem, place: np.ndarray) -> np.ndarray:
    """Return how often placements visit each node, [.., 1 + N].

    Args:
        problem: gives graph and number of nodes.
        place: [.., ops] node of each operation.
    """
    flat = place.reshape(-1, place.shape[-1])
    leg = legs(problem.graph, flat)
    visited = np.zeros((len(flat), leg.max(initial=0) + 1, problem.nodes), dtype=bool)
    visited[np.arange(len(flat))[:, None], leg, flat] = True
    return visited.sum(axis=1).reshape(*place.shape[:-1], problem.nodes)


def legs(graph: ModelGraph, place: np.ndarray) -> np.ndarray:
    """Return [P, ops] how many hand-overs precede each operation; 0 on the device with the input.

    Operations of one leg on one node are one visit: everything that they need from other nodes was sent before it.

    Args:
        graph: the network.
        place: [P, ops] node of each operation.
    """
    wires = wiring(graph)
    maker = wires.maker[wires.edge_tensor]
    moved = _with_input(place)[:, maker] != place[:, wires.edge_op]
    leg, handed_over = np.zeros(place.shape, dtype=int), moved
    while handed_over.any():
        later = handed_over.astype(np.float32) @ downstream(graph) > 0
        leg += later
        handed_over = moved & _with_input(later)[:, maker]
    return leg


def partition(problem: Problem, place: np.ndarray) -> Partition:
    """Return a placement as a route with its cuts and its latency.

    Args:
        problem: that the placement answers.
        place: [ops] node of each operation; each leg must lie on one node, as it does in all solvers' answers.
    """
    leg = legs(problem.graph, place[None])[0]
    nodes, cuts = [0], []
    for number in range(1, leg.max(initial=0) + 1):
        nodes.append(int(place[leg == number][0]))
        cuts.append(problem.graph.cut(frozenset(np.flatnonzero(leg < number).tolist())))
    return Partition(place, tuple(nodes), tuple(cuts), float(latency_s(problem, place)))


def cache_per_graph(build: Callable[[ModelGraph], T]) -> Callable[[ModelGraph], T]:
    """Return a function that builds something of a graph once, and keeps it for as long as that graph lives.

    Args:
        build: must depend on the graph only.
    """
    cache: dict[int, T] = {}

    def get(graph: ModelGraph) -> T:
        key = id(graph)
        if key not in cache:
            cache[key] = build(graph)
            weakref.finalize(graph, cache.pop, key, None)
        return cache[key]

    return get


@cache_per_graph
def wiring(graph: ModelGraph) -> Wiring:
    """Return the graph's structure as arrays.

    Args:
        graph: the result is cached for as long as it lives.
    """
    tensors = tuple(name for name, readers in graph.consumers.items() if readers)
    number = {name: i for i, name in enumerate(tensors)}
    maker = np.array([graph.producer.get(name, -1) for name in tensors], dtype=int)
    edges = [(number[name], i) for i, op in enumerate(graph.ops) for name in op.inputs]
    edge_tensor, edge_op = np.array(edges, dtype=int).reshape(-1, 2).T
    return Wiring(tensors, maker, edge_tensor, edge_op)


@cache_per_graph
def downstream(graph: ModelGraph) -> np.ndarray:
    """Return [E, ops] 1 if the operation makes a reading of `wiring`, or depends on the operation that does, else 0.

    Args:
        graph: the result is cached for as long as it lives.
    """
    reach = np.eye(len(graph.ops), dtype=np.float32)
    for i in range(len(graph.ops) - 1, -1, -1):
        for name in graph.ops[i].outputs:
            for reader in graph.consumers[name]:
                np.maximum(reach[i], reach[reader], out=reach[i])
    return reach[wiring(graph).edge_op]


def _with_input(place: np.ndarray) -> np.ndarray:
    """Return placements [P, ops] with a last column for the network's input, on the device; index -1 selects it."""
    return np.concatenate([place, np.zeros((len(place), 1), dtype=place.dtype)], axis=1)


def _are_sizes(values: np.ndarray) -> bool:
    return bool(np.isfinite(values).all() and (values >= 0).all())


def _check_times(problem: Problem) -> None:
    name, ops = problem.graph.name, len(problem.graph.ops)
    if problem.op_s.ndim != 2 or problem.op_s.shape[1] != ops or not len(problem.op_s):
        raise PartitionError(f"{name}: op_s must be [1 + servers, {ops}], got {list(problem.op_s.shape)}")
    if not _are_sizes(problem.op_s):
        node, op = np.argwhere(~(np.isfinite(problem.op_s) & (problem.op_s >= 0)))[0]
        bad = f"{problem.op_s[node, op]} of {problem.graph.ops[op].name!r} on node {node}"
        raise PartitionError(f"{name}: op_s must be finite and not negative seconds, got {bad}")


def _check_links(problem: Problem) -> None:
    name, nodes = problem.graph.name, problem.nodes
    if problem.rate_bps.shape != (nodes, nodes):
        raise PartitionError(f"{name}: rate_bps must be [{nodes}, {nodes}], got {list(problem.rate_bps.shape)}")
    between = ~np.eye(nodes, dtype=bool)
    if not (problem.rate_bps[between] > 0).all():
        raise PartitionError(f"{name}: rate_bps must be positive between nodes; leave out a node that is out of reach")
    if problem.wait_s.shape != (nodes,) or not _are_sizes(problem.wait_s) or problem.wait_s[0] != 0:
        raise PartitionError(f"{name}: wait_s must be {nodes} finite times, none negative, 0 for the device")
