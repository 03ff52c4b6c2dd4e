"""What a network consists of: activations, operations, and axes whose size is free."""

import math
from typing import NamedTuple

import numpy as np

from coinfer.units import BITS_PER_BYTE


class Tensor(NamedTuple):
    """An activation. Weights are not tensors of the graph; they belong to their operation."""

    name: str
    dtype: np.dtype
    shape: tuple[int, ...]
    """At batch 1, and at the smallest sizes of other free axes (`ModelGraph.axes`)."""
    axes: tuple[str, ...] = ()
    """For each axis the name of the free axis whose size it has, "" if it is fixed, `?` if its size follows otherwise
    from free axes or from values. Empty if all are fixed."""

    @property
    def elements(self) -> int:
        """Return the number of elements of `shape`."""
        return math.prod(self.shape)

    @property
    def size_bits(self) -> int:
        """Return the size in memory at `shape`."""
        return self.elements * self.dtype.itemsize * BITS_PER_BYTE


class FreeAxis(NamedTuple):
    """An axis of inputs whose size may differ from request to request."""

    name: str
    low: int
    """Smallest size, at which shapes and work of the network are stated."""
    high: int | None
    """Largest size; None for any."""
    places: tuple[tuple[str, int], ...]
    """Inputs and their axes that have this size."""
    is_batch: bool = False


class Op(NamedTuple):
    """An operation of a network."""

    name: str
    kind: str
    """ONNX operator type, such as `Conv`."""
    inputs: tuple[str, ...]
    """Activations that it reads, each once."""
    outputs: tuple[str, ...]
    weights: tuple[str, ...]
    """Names of the `ModelGraph.weights` that it reads. Constants that configure it (a shape, a clip limit) stay in
    `proto` and are not among them."""
    work_flop: float
    """At batch 1; a multiply-add counts as two."""
    params: int
    nodes: tuple[int, ...] = ()
    """Indices of its nodes in `proto.graph.node`, ascending. Mostly one; before the last may stand nodes that only
    prepare its weights, and operations whose sizes depend on values are one operation together."""


class ImportNotes(NamedTuple):
    """What happened to a network when it was read, in sentences for people."""

    folded: tuple[str, ...] = ()
    uncut: tuple[str, ...] = ()
    """Why some operations run in one place together."""
