"""Where a network can be cut: positions in the order of its operations, with the tensors that cross there."""

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence, Set
from typing import NamedTuple, Protocol

import numpy as np

from coinfer.graph.fusion import Operation

MAX_TENSORS = 6
"""Tensors that cross a useful cut, at most: what a block computed, and what the blocks after it read too, such as
masks, positions, and an encoder's memory."""
MAX_CUTS = 256
"""Useful cuts of a network, at most."""
SHARED_READERS = 3
"""Operations that read a tensor which is shared by blocks, at least; a skip connection has two."""
SMALL_SHARE = 1 / 8
"""Size of a small tensor over that of the largest one that crosses with it, at most."""

_RESHAPING_KINDS = "Cast Flatten Identity Reshape Squeeze Transpose Unsqueeze"
_RESHAPING = frozenset(_RESHAPING_KINDS.split())
"""Operations that move the elements of their first input, or change their type."""


class Prefix(Set[int]):
    """The set of the first operations of a network; it holds only their number.

    Args:
        count: of the operations.
    """

    __slots__ = ("count",)

    def __init__(self, count: int) -> None:
        self.count = count

    def __contains__(self, value: object) -> bool:
        return isinstance(value, int) and 0 <= value < self.count

    def __iter__(self) -> Iterator[int]:
        return iter(range(self.count))

    def __len__(self) -> int:
        return self.count

    def __hash__(self) -> int:
        return self._hash()

    def __repr__(self) -> str:
        return f"Prefix({self.count})"

    @classmethod
    def _from_iterable(cls, it: Iterable[int]) -> frozenset[int]:  # pyright: ignore[reportIncompatibleMethodOverride]
        return frozenset(it)


class Cut(NamedTuple):
    """A partition of the operations into a head, closed under predecessors, and a tail."""

    tensors: tuple[str, ...]
    """Names of the tensors that cross it, in graph order."""
    head: Set[int]
    """Indices of the operations before the cut."""


class Activation(Protocol):
    """What the enumeration needs to know about a tensor; `ir.Tensor` has it."""

    @property
    def shape(self) -> tuple[int, ...]:
        """Return the shape at batch 1."""
        ...

    @property
    def size_bits(self) -> int:
        """Return the size in memory at batch 1."""
        ...


class Network(Protocol):
    """What the enumeration needs to know about a network; `ir.ModelGraph` has it."""

    @property
    def ops(self) -> Sequence[Operation]:
        """Return the operations in topological order."""
        ...

    @property
    def tensors(self) -> Mapping[str, Activation]:
        """Return the activations by name."""
        ...

    @property
    def inputs(self) -> tuple[str, ...]:
        """Return the names of the network's inputs."""
        ...

    @property
    def outputs(self) -> tuple[str, ...]:
        """Return the names of the network's outputs."""
        ...


def single_cuts(graph: Network) -> tuple[Cut, ...]:
    """Return all cuts that a single tensor crosses, in order.

    Every operation descends from an input and leads to an output, so the head of such a cut holds exactly the ancestors
    of its tensor, and these come first in any topological order: no single-tensor cut is missed.

    Args:
        graph: the network.
    """
    frontiers = _frontiers(graph, {name: name for name in graph.tensors}, 1)
    return tuple(Cut(live, Prefix(count)) for count, live in frontiers if len(live) == 1)


def useful_cuts(graph: Network, groups: Sequence[Sequence[int]]) -> tuple[Cut, ...]:
    """Return the cuts between blocks, in order; the first lies before all operations, the last after all.

    A cut is useful if it splits no fused group and a single tensor crosses it, beside at most `MAX_TENSORS` - 1 that
    are carried along: inputs of the network, tensors that many blocks read (masks, positions, an encoder's memory), and
    small ones. It is not if one before it sends the same tensors or only some of them, and computes less on the device.
    What can be had again from a tensor that is no larger is not sent, and the tail computes it: the result of a
    `DequantizeLinear`, an input of the network in another shape or type, what follows from constants. The outputs of
    the network cross the last cut only. Of more than `MAX_CUTS`, those of each run of neighbours that send least stay.

    Args:
        graph: the network.
        groups: indices of the operations that executors run as one, ascending in each.
    """
    carriers, last = _carriers(graph), len(graph.ops)
    inside = {i + 1 for group in groups for i in range(group[0], group[-1])}
    last_use, shared = _last_use(graph, carriers), _shared(graph, carriers)
    cuts, covered_until = [Cut(_ends(graph.inputs, last_use), Prefix(0))], 0
    for count, live in _frontiers(graph, carriers, MAX_TENSORS):
        if not 0 < len(live) <= MAX_TENSORS or count == last or count in inside:
            continue
        is_end = any(name in graph.outputs for name in live)
        if count >= covered_until and count > 0 and not is_end and _is_narrow(graph, live, shared):
            cuts.append(Cut(live, Prefix(count)))
        covered_until = max(covered_until, min(last_use[name] for name in live))
    outputs = tuple(name for name in graph.tensors if name in graph.outputs)
    return (*_thinned(graph, cuts), Cut(outputs, Prefix(last)))


def _ends(names: Sequence[str], last_use: Mapping[str, int]) -> tuple[str, ...]:
    """Return the inputs that some operation reads."""
    return tuple(name for name in names if last_use.get(name, 0) > 0)


def _shared(graph: Network, carriers: Mapping[str, str | None]) -> set[str]:
    """Return the inputs of the network, and the tensors that many operations read."""
    readers = Counter(carriers[name] for op in graph.ops for name in op.inputs)
    return {*graph.inputs, *(sent for sent, count in readers.items() if sent is not None and count >= SHARED_READERS)}


def _is_narrow(graph: Network, live: Sequence[str], shared: Set[str]) -> bool:
    """Return true if no more than one of the tensors is neither shared nor small."""
    small_bits = SMALL_SHARE * max(graph.tensors[name].size_bits for name in live)
    return sum(name not in shared and graph.tensors[name].size_bits > small_bits for name in live) <= 1


def _carriers(graph: Network) -> dict[str, str | None]:
    """Return the tensor that is sent for each tensor: mostly itself; None for what follows from constants alone."""
    carriers: dict[str, str | None] = {name: name for name in graph.inputs}
    from_input = set(graph.inputs)
    for op in graph.ops:
        sources = {carriers[name] for name in op.inputs}
        if sources <= {None}:
            carriers |= dict.fromkeys(op.outputs)
            continue
        carriers |= {name: name for name in op.outputs}
        source = op.inputs[0]
        again = op.kind == "DequantizeLinear" or (op.kind in _RESHAPING and source in from_input)
        if again and len(op.inputs) == 1 and graph.tensors[source].size_bits <= graph.tensors[op.outputs[0]].size_bits:
            carriers[op.outputs[0]] = carriers[source]
            if source in from_input:
                from_input.add(op.outputs[0])
    return carriers


def _last_use(graph: Network, carriers: Mapping[str, str | None]) -> dict[str, int]:
    """Return the number of operations after which each sent tensor is not needed any more."""
    last_use: dict[str, int] = {}
    for i, op in enumerate(graph.ops):
        made = {carriers[name] for name in op.outputs}
        last_use |= {sent: i + 1 for sent in {carriers[name] for name in op.inputs} - made if sent is not None}
    after = len(graph.ops) + 1
    return last_use | {sent: after for sent in map(carriers.get, graph.outputs) if sent is not None}


def _frontiers(graph: Network, carriers: Mapping[str, str | None], most: int) -> Iterator[tuple[int, tuple[str, ...]]]:
    """Yield the number of operations and the tensors to send after them, for the first 0, 1, .. operations.

    Of frontiers with more than `most` tensors, only one more than these are listed.
    """
    last_use = _last_use(graph, carriers)
    live = dict.fromkeys(_ends(graph.inputs, last_use))
    yield 0, _first(live, most)
    for i, op in enumerate(graph.ops):
        for sent in {carriers[name] for name in op.inputs}:
            if sent in live and last_use[sent] == i + 1:
                del live[sent]
        live |= dict.fromkeys(name for name in op.outputs if carriers[name] == name and last_use.get(name, 0) > i + 1)
        yield i + 1, _first(live, most)


def _first(live: Mapping[str, None], most: int) -> tuple[str, ...]:
    return tuple(live) if len(live) <= most else tuple(live)[: most + 1]


def _thinned(graph: Network, cuts: Sequence[Cut]) -> list[Cut]:
    """Return at most `MAX_CUTS` - 1 cuts, the first among them: of each run of neighbours the one that sends least."""
    most = MAX_CUTS - 1
    if len(cuts) <= most:
        return list(cuts)
    runs = np.array_split(np.arange(1, len(cuts)), most - 1)
    sizes = [sum(graph.tensors[name].size_bits for name in cut.tensors) for cut in cuts]
    return [cuts[0], *(cuts[min(run.tolist(), key=sizes.__getitem__)] for run in runs)]
