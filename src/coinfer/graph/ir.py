"""A network as operations and tensors, with its legal cuts."""

import hashlib
from collections.abc import Iterable, Iterator, Mapping, Sequence, Set
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import TYPE_CHECKING

import numpy as np
import onnx

from coinfer.errors import UserError
from coinfer.graph import cuts, layout
from coinfer.graph.cuts import Cut
from coinfer.graph.fingerprints import shortened
from coinfer.graph.fusion import Dataflow, fused_groups
from coinfer.graph.image_input import ImageInput
from coinfer.graph.onnx.subgraphs import reads
from coinfer.graph.parts import FreeAxis, ImportNotes, Op, Tensor

if TYPE_CHECKING:
    from coinfer.graph.bottleneck import Bottleneck

_MESSAGE_CHARACTERS = 1000


class GraphError(UserError):
    """A network that cannot be read or cut; the message is one line for a person, whatever names a file holds."""

    def __init__(self, message: str) -> None:
        super().__init__("".join(c if c.isprintable() else " " for c in message)[:_MESSAGE_CHARACTERS])


@dataclass(frozen=True)
class ModelGraph:
    """A network. `proto` holds the structure without the values of weights; `weights` holds those."""

    name: str
    ops: tuple[Op, ...]
    """In topological order."""
    tensors: Mapping[str, Tensor]
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    proto: onnx.ModelProto = field(repr=False)
    weights: Mapping[str, np.ndarray] = field(repr=False)
    axes: tuple[FreeAxis, ...] = ()
    """Axes of the inputs that have no fixed size; `sizes.with_sizes` returns the network at other sizes."""
    fixed: Mapping[str, int] = field(default_factory=dict)
    """Sizes of axes that the file leaves free and the user fixed, by name."""
    image: ImageInput | None = None
    labels: Mapping[str, str] = field(default_factory=dict, repr=False)
    """The file's own names of tensors whose names cannot be sent."""
    notes: ImportNotes = field(default=ImportNotes(), repr=False, compare=False)
    bottleneck: "Bottleneck | None" = field(default=None, repr=False, compare=False)
    """A trained bottleneck of this network; see `graph.bottleneck`."""

    @property
    def picture_input(self) -> str | None:
        """Return the name of the input that takes pictures, or None."""
        return None if self.image is None else self.image.input or self.inputs[0]

    @property
    def work_flop(self) -> float:
        """Return the floating-point operations of the whole network at batch 1."""
        return sum(op.work_flop for op in self.ops)

    @property
    def params(self) -> int:
        """Return the number of values in all weights."""
        return sum(int(w.size) for w in self.weights.values())

    @property
    def batch(self) -> str | None:
        """Return the name of the free axis that is the first of all inputs and outputs, or None."""
        first = {self.tensors[name].axes[:1] for name in (*self.inputs, *self.outputs)}
        return next((axis.name for axis in self.axes if axis.is_batch and first == {(axis.name,)}), None)

    @property
    def dynamic_batch(self) -> bool:
        """Return true if the first axis of inputs and outputs may have any size."""
        return self.batch is not None

    @property
    def sizes(self) -> Mapping[str, int]:
        """Return the sizes of the free axes at which shapes and work are stated, by name."""
        return {axis.name: self.tensors[axis.places[0][0]].shape[axis.places[0][1]] for axis in self.axes}

    def part(self, names: Iterable[str]) -> "ModelGraph":
        """Return the network that tensors belong to: this one, or that of its bottleneck.

        Args:
            names: of the tensors; inputs belong to both.
        """
        inner = None if self.bottleneck is None else self.bottleneck.graph
        foreign = inner is not None and any(name not in self.tensors and name in inner.tensors for name in names)
        return inner if foreign and inner is not None else self

    def free_shape(self, name: str) -> tuple[int | str, ...]:
        """Return a tensor's shape with the names of free axes, `?` for sizes that follow otherwise.

        Args:
            name: of the tensor.
        """
        tensor = self.tensors[name]
        free = {axis.name: "N" if axis.is_batch else axis.name for axis in self.axes}
        names = tensor.axes or ("",) * len(tensor.shape)
        return tuple(free.get(axis, axis) if axis else size for size, axis in zip(tensor.shape, names, strict=True))

    @property
    def shapes(self) -> Mapping[str, str]:
        """Return the sizes that `open_model` needs to open the network as it is, by name of the axis."""
        ranges = {axis.name: f"{axis.low}..{axis.high or ''}" for axis in self.axes}
        default = {axis.name: "1.." for axis in self.axes if axis.is_batch}
        chosen = {name: text for name, text in ranges.items() if default.get(name) != text}
        return {name: str(size) for name, size in self.fixed.items()} | chosen

    @cached_property
    def fingerprint(self) -> str:
        """Return the SHA-256 over structure and weights, hex; nodes share a network only if it is equal."""
        digest = hashlib.sha256(self.proto.SerializeToString(deterministic=True))
        for name in sorted(self.weights):
            digest.update(name.encode())
            digest.update(np.ascontiguousarray(self.weights[name]).data)
        return digest.hexdigest()

    @property
    def short_fingerprint(self) -> str:
        """Return the beginning of the fingerprint that requests carry; longer ones would outweigh small payloads."""
        return shortened(self.fingerprint)

    @cached_property
    def producer(self) -> Mapping[str, int]:
        """Return the index of the operation that makes each tensor; graph inputs are not among them."""
        return {name: i for i, op in enumerate(self.ops) for name in op.outputs}

    @cached_property
    def consumers(self) -> Mapping[str, tuple[int, ...]]:
        """Return the indices of the operations that read each tensor, ascending."""
        readers: dict[str, list[int]] = {name: [] for name in self.tensors}
        for i, op in enumerate(self.ops):
            for name in op.inputs:
                readers[name].append(i)
        return {name: tuple(indices) for name, indices in readers.items()}

    def cut(self, head: Set[int]) -> Cut:
        """Return the cut after some operations.

        Args:
            head: indices of the operations before the cut; with each one, all that it needs.

        Raises:
            GraphError: if an operation of the head needs one outside it.
        """
        crossing = []
        for name in self.tensors:
            producer = self.producer.get(name)
            inside = producer is None or producer in head
            if not inside and any(i in head for i in self.consumers[name]):
                raise GraphError(f"{self.name}: no legal cut: an operation before it needs {name!r} from after it")
            if inside and (any(i not in head for i in self.consumers[name]) or (name in self.outputs)):
                crossing.append(name)
        return Cut(tuple(crossing), head)

    def single_cuts(self) -> tuple[Cut, ...]:
        """Return all cuts that a single tensor crosses, in order.

        The first lies at the input (nothing runs on the device), the last at the output (everything does).
        """
        return cuts.single_cuts(self)

    def useful_cuts(self) -> tuple[Cut, ...]:
        """Return the cuts between blocks, in order; see `cuts.useful_cuts`.

        The cut before all operations and the one after all are always among them. Block i lies between cut i and cut
        i + 1.
        """
        return self._useful_cuts

    def all_cuts(self, limit: int = 100_000) -> Iterator[Cut]:
        """Yield every legal cut, also across several tensors: one for each downward-closed set of operations.

        Args:
            limit: largest number of cuts; it grows exponentially with parallel branches.

        Raises:
            GraphError: if there are more than `limit` cuts.
        """
        producers = [{self.producer[name] for name in op.inputs if name in self.producer} for op in self.ops]
        needs = [sum(1 << index for index in direct) for direct in producers]
        count, open_sets = 0, [(0, 0)]
        while open_sets:
            head, i = open_sets.pop()
            while i < len(self.ops):
                if needs[i] & ~head == 0:
                    open_sets.append((head | 1 << i, i + 1))
                i += 1
            count += 1
            if count > limit:
                raise GraphError(f"{self.name}: more than {limit} legal cuts; use single_cuts(), or raise the limit")
            yield self.cut(frozenset(j for j in range(len(self.ops)) if head >> j & 1))

    def needed(self, inputs: Sequence[str], outputs: Sequence[str]) -> tuple[int, ...]:
        """Return the indices of the operations that compute `outputs` from `inputs`, ascending.

        Args:
            inputs: names of the given tensors.
            outputs: names of the tensors to compute; those among the inputs need nothing.

        Raises:
            GraphError: if a tensor is unknown, or the outputs need more than these inputs.
        """
        unknown = [name for name in (*inputs, *outputs) if name not in self.tensors]
        if unknown:
            raise GraphError(f"{self.name}: no tensor {', '.join(map(repr, unknown))} in this network")
        sources, indices = set(inputs), set[int]()
        pending = [name for name in outputs if name not in sources]
        while pending:
            name = pending.pop()
            if name not in self.producer:
                names = ", ".join(inputs) or "nothing"
                raise GraphError(
                    f"{self.name}: cannot compute {', '.join(outputs)} from {names}: graph input {name!r} is needed too"
                )
            if self.producer[name] not in indices:
                indices.add(self.producer[name])
                pending += [source for source in self.ops[self.producer[name]].inputs if source not in sources]
        return tuple(sorted(indices))

    def structure(self, inputs: Sequence[str], outputs: Sequence[str]) -> onnx.ModelProto:
        """Return the model between some tensors; its weights are references to `weights`, in memory.

        Args:
            inputs: names of the model's inputs.
            outputs: names of its outputs.

        Raises:
            GraphError: if a tensor is unknown, or the outputs need more than these inputs.
        """
        nodes = [self.proto.graph.node[i] for i in self._nodes(self.needed(inputs, outputs))]
        read = {name for node in nodes for name in reads(node)}
        proto = onnx.ModelProto(ir_version=self.proto.ir_version, opset_import=self.proto.opset_import)
        proto.graph.name = self.proto.graph.name
        proto.graph.node.extend(nodes)
        proto.graph.initializer.extend(value for value in self.proto.graph.initializer if value.name in read)
        proto.graph.input.extend(self._values[name] for name in inputs)
        proto.graph.output.extend(self._values[name] for name in outputs)
        return proto

    def pruned(self, outputs: Sequence[str]) -> "ModelGraph":
        """Return the network that computes some tensors and nothing else, such as one exit of several.

        Args:
            outputs: names of its outputs; for the network's own ones it is the network itself.

        Raises:
            GraphError: if an output is no tensor of the network.
        """
        if tuple(outputs) == self.outputs:
            return self
        indices = self.needed(self.inputs, outputs)
        read = {name for i in indices for name in self.ops[i].inputs} | set(outputs)
        place = {old: new for new, old in enumerate(self._nodes(indices))}
        ops = tuple(
            op._replace(
                outputs=tuple(name for name in op.outputs if name in read), nodes=tuple(place[i] for i in op.nodes)
            )
            for op in (self.ops[i] for i in indices)
        )
        inputs = tuple(name for name in self.inputs if name in read)
        known = {*inputs, *(name for op in ops for name in op.outputs)}
        tensors = {name: tensor for name, tensor in self.tensors.items() if name in known}
        proto = self.structure(inputs, outputs)
        ends = {*inputs, *outputs}
        proto.graph.value_info.extend(self._values[name] for name in tensors if name not in ends)
        proto.metadata_props.extend(self.proto.metadata_props)
        used = {name for op in ops for name in op.weights}
        weights = {name: value for name, value in self.weights.items() if name in used}
        return replace(
            self, ops=ops, tensors=tensors, inputs=inputs, outputs=tuple(outputs), proto=proto, weights=weights
        )

    def node(self, op: Op) -> onnx.NodeProto:
        """Return the node that an operation is named after, with its attributes.

        Args:
            op: of this network.
        """
        return next(node for node in map(self.proto.graph.node.__getitem__, op.nodes) if node.name == op.name)

    def made(self, op: Op) -> tuple[str, ...]:
        """Return all tensors that an operation's nodes make, also those that stay inside it.

        Args:
            op: of this network.
        """
        return tuple(name for i in op.nodes for name in self.proto.graph.node[i].output if name)

    def label(self, name: str) -> str:
        """Return a tensor's name in the network's file.

        Args:
            name: of the tensor.
        """
        return self.labels.get(name, name)

    def named(self, labels: Iterable[str]) -> tuple[str, ...]:
        """Return the names of tensors that are called as in the network's file, or by their names.

        Args:
            labels: of the tensors.
        """
        names = {label: name for name, label in self.labels.items()}
        return tuple(names.get(label, label) for label in labels)

    @cached_property
    def groups(self) -> tuple[tuple[int, ...], ...]:
        """Return the groups of operations that executors run as one; see `fusion.fused_groups`."""
        return fused_groups(Dataflow(self.ops, self.outputs, self.producer, self.consumers))

    @cached_property
    def group_of(self) -> Mapping[str, int]:
        """Return the index of the fused group that makes each tensor, also those that stay inside an operation."""
        return {name: k for k, group in enumerate(self.groups) for i in group for name in self.made(self.ops[i])}

    def _nodes(self, ops: Sequence[int]) -> list[int]:
        """Return the indices of the nodes of some operations, ascending."""
        return sorted({node for i in ops for node in self.ops[i].nodes})

    @cached_property
    def blocked_tensors(self) -> Set[str]:
        """Return the tensors in ONNX Runtime's channel-blocked layout; see `layout.blocked_tensors`."""
        return layout.blocked_tensors(self)

    @cached_property
    def _values(self) -> Mapping[str, onnx.ValueInfoProto]:
        graph = self.proto.graph
        return {value.name: value for value in (*graph.value_info, *graph.input, *graph.output)}

    @cached_property
    def _useful_cuts(self) -> tuple[Cut, ...]:
        return cuts.useful_cuts(self, self.groups)
