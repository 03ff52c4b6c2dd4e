"""A network as operations and tensors, and its legal cuts."""

import hashlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import NamedTuple

import numpy as np
import onnx

from coinfer.units import BITS_PER_BYTE


class GraphError(ValueError):
    """A network that cannot be read or cut; the message is one line for a person."""


class Tensor(NamedTuple):
    """An activation. Weights are not tensors of the graph; they belong to their operation."""

    name: str
    dtype: np.dtype
    shape: tuple[int, ...]
    """At batch 1."""

    @property
    def elements(self) -> int:
        return int(np.prod(self.shape, dtype=object))

    @property
    def size_bits(self) -> int:
        """Size as it lies in memory."""
        return self.elements * self.dtype.itemsize * BITS_PER_BYTE


class Op(NamedTuple):
    name: str
    kind: str
    """ONNX operator type, such as `Conv`."""
    inputs: tuple[str, ...]
    """Activations it reads, each once."""
    outputs: tuple[str, ...]
    weights: tuple[str, ...]
    """Initializers it reads."""
    work_flop: float
    """At batch 1; a multiply-add counts two."""
    params: int


class Cut(NamedTuple):
    """A partition of the operations into a head, closed under predecessors, and a tail."""

    tensors: tuple[str, ...]
    """What crosses it, in graph order."""
    head: frozenset[int]
    """Indices of the operations before it."""


class ImageInput(NamedTuple):
    """How a picture becomes the network's input: `(pixel / 255 - mean) / std`, channels first."""

    height: int
    width: int
    mean: tuple[float, ...]
    std: tuple[float, ...]


@dataclass(frozen=True)
class ModelGraph:
    """A network. `proto` holds the structure without weight values; `weights` holds those."""

    name: str
    ops: tuple[Op, ...]
    """In topological order; index i is `proto.graph.node[i]`."""
    tensors: Mapping[str, Tensor]
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    proto: onnx.ModelProto = field(repr=False)
    weights: Mapping[str, np.ndarray] = field(repr=False)
    dynamic_batch: bool = False
    """True where the first axis of inputs and outputs is free."""
    image: ImageInput | None = None

    @property
    def work_flop(self) -> float:
        return sum(op.work_flop for op in self.ops)

    @property
    def params(self) -> int:
        return sum(int(w.size) for w in self.weights.values())

    @cached_property
    def fingerprint(self) -> str:
        """SHA-256 over structure and weights, hex; two nodes cut the same network only where it is equal."""
        digest = hashlib.sha256(self.proto.SerializeToString(deterministic=True))
        for name in sorted(self.weights):
            digest.update(name.encode())
            digest.update(np.ascontiguousarray(self.weights[name]).data)
        return digest.hexdigest()

    @cached_property
    def producer(self) -> Mapping[str, int]:
        """Index of the operation that makes each tensor; graph inputs have none."""
        return {name: i for i, op in enumerate(self.ops) for name in op.outputs}

    @cached_property
    def consumers(self) -> Mapping[str, tuple[int, ...]]:
        """Indices of the operations that read each tensor."""
        readers: dict[str, list[int]] = {name: [] for name in self.tensors}
        for i, op in enumerate(self.ops):
            for name in op.inputs:
                readers[name].append(i)
        return {name: tuple(found) for name, found in readers.items()}

    def cut(self, head: frozenset[int]) -> Cut:
        """The cut after these operations.

        Raises:
            GraphError: where an operation of the head needs one outside it.
        """
        crossing = []
        for name in self.tensors:
            maker = self.producer.get(name)
            inside = maker is None or maker in head
            if not inside and any(i in head for i in self.consumers[name]):
                raise GraphError(f"{self.name}: no legal cut: an operation before it needs {name!r} from after it")
            if inside and (any(i not in head for i in self.consumers[name]) or (name in self.outputs)):
                crossing.append(name)
        return Cut(tuple(crossing), head)

    def single_cuts(self) -> tuple[Cut, ...]:
        """All cuts that cross one tensor, in order, from the input (cut 0) to the output (all on the device)."""
        raise NotImplementedError

    def useful_cuts(self) -> tuple[Cut, ...]:
        """The single-tensor cuts that do not fall inside what executors fuse (a convolution and its activation, a
        reshape and its source). These are the block boundaries: block i lies between cut i and cut i + 1."""
        raise NotImplementedError

    def all_cuts(self, limit: int = 100_000) -> Iterator[Cut]:
        """Every legal cut, also across several tensors: one for each downward-closed set of operations.

        Raises:
            GraphError: beyond `limit` cuts; their number grows exponentially with parallel branches.
        """
        raise NotImplementedError
