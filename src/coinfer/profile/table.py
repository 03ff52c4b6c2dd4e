"""What a network costs on one machine: measured once, saved as JSON, read by everything that plans."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Literal

import numpy as np
from pydantic import AfterValidator, Field, ValidationError, model_validator

from coinfer.errors import UserError
from coinfer.files import write_atomic
from coinfer.graph.bottleneck import HEAD
from coinfer.graph.ir import ModelGraph
from coinfer.profile.code_times import BottleneckTimes
from coinfer.profile.fields import Bits, Machine, Positive, Record, Seconds, finite, first_problem
from coinfer.units import (
    FLOAT32_BITS,
    IMAGE_BITS,
    MESSAGE_BYTES,
    bits_of_bytes,
    bytes_of_bits,
)


class ProfileError(UserError):
    """A profile that cannot be read or belongs to another network; the message is one line for a person."""


_HEADER_BYTES = 100


class CutCheck(Record):
    """What a cut changes: some tensors are sent without loss, and another session computes the outputs from them."""

    cut: tuple[str, ...]
    outputs: tuple[str, ...]
    difference: Annotated[float, Field(ge=0), AfterValidator(finite)]
    """Largest difference of the answers over their largest value, on sample inputs; 0 if all are equal."""


class ProfileTable(Record):
    """Times at batch 1. A segment of the network takes `call_s`, its operations, and what its ends cost extra."""

    format: Literal[2] = 2
    model: str
    fingerprint: str
    """Fingerprint of the `ModelGraph`."""
    machine: Machine
    threads: Annotated[int, Field(ge=1)]
    provider: str = "cpu"
    """What computed, by its short name. Another than `cpu` was timed on the whole network alone; its operations share
    that time as they do on the processor."""
    shapes: dict[str, str] = Field(default_factory=dict)
    """Sizes of axes that the network's file leaves free, as `open_model` takes them."""
    work_flop: Annotated[float, Field(ge=0), AfterValidator(finite)]
    whole_s: Positive
    """Median time of the whole network, undivided."""
    whole_spread_s: Seconds
    """Inter-quartile range of that time."""
    call_s: Seconds
    """Fixed cost of running any segment."""
    op_s: tuple[Seconds, ...]
    """By operation, in graph order; a fused group's time is shared among its operations by their arithmetic."""
    op_spread_s: tuple[Seconds, ...] = ()
    """Inter-quartile range over the runs, by operation and shared alike; empty if it was not measured."""
    enter_s: dict[str, Seconds]
    """Extra time for a segment that starts at this tensor: its change into the layout that the executor computes in."""
    leave_s: dict[str, Seconds]
    """Extra time for a segment that ends at this tensor."""
    payload_bits: dict[str, dict[Bits, Positive]] = Field(default_factory=dict)
    """Encoded size of a tensor by bits per element, on sample inputs."""
    encode_s_per_byte: dict[Bits, Seconds] = Field(default_factory=dict)
    """Seconds of encoding per byte of the tensor in memory, by bits per element."""
    decode_s_per_byte: dict[Bits, Seconds] = Field(default_factory=dict)
    encode_s: dict[str, dict[Bits, Seconds]] = Field(default_factory=dict)
    """Time of encoding by tensor and bits per element; `encode_s_per_byte` counts for tensors that it lacks."""
    decode_s: dict[str, dict[Bits, Seconds]] = Field(default_factory=dict)
    sizes: dict[str, dict[int, Positive]] = Field(default_factory=dict)
    """By free axis and size: time of the whole network over that at the axis's smallest size (`profile.sizing`)."""
    cut_checks: tuple[CutCheck, ...] = ()
    """The cuts that may be best, with what they change; empty if this was not measured."""
    bottleneck: BottleneckTimes | None = None
    """What the codes of the network's bottleneck cost, if it had one."""

    @model_validator(mode="after")
    def _adds_up(self) -> "ProfileTable":
        parts_s = self.call_s + sum(self.op_s)
        if abs(parts_s - self.whole_s) > 1e-3 * self.whole_s:
            raise ValueError(f"call_s and op_s add up to {parts_s:.6g} s, but whole_s is {self.whole_s:.6g} s")
        return self

    def check(self, graph: ModelGraph) -> None:
        """Check that this profile belongs to a network.

        Args:
            graph: the network that it is to be used for.

        Raises:
            ProfileError: if it was measured on another network.
        """
        if self.fingerprint != graph.fingerprint or len(self.op_s) != len(graph.ops):
            raise ProfileError(
                f"this profile was measured on network {self.model!r} ({self.fingerprint[:12]}), not on {graph.name!r} "
                f"({graph.fingerprint[:12]}): profile {graph.name!r} anew"
            )

    def check_provider(self, provider: str) -> None:
        """Check that this profile was measured with a provider.

        Args:
            provider: short name of what is to compute.

        Raises:
            ProfileError: if it was measured with another one.
        """
        if self.provider != provider:
            raise ProfileError(
                f"this profile of {self.model!r} was measured with provider {self.provider}, not {provider}: measure "
                f"it with `coinfer profile --provider {provider}`"
            )

    def segment_s(self, graph: ModelGraph, inputs: Sequence[str], outputs: Sequence[str]) -> float:
        """Return the predicted time to compute some tensors from others; 0 if nothing must be computed.

        Args:
            graph: the profiled network.
            inputs: names of the tensors that are given.
            outputs: names of the tensors to compute.

        Raises:
            GraphError: if the outputs do not follow from the inputs.
        """
        if graph.part(outputs) is not graph:
            given = tuple(name.removeprefix(HEAD) for name in inputs if name.startswith(HEAD))
            done_s = self.segment_s(graph, graph.inputs, given)
            return max(self.code_times(graph).segment_s(graph, inputs, outputs) - done_s, 0.0)
        ops = graph.needed(inputs, outputs)
        if not ops:
            return 0.0
        read = {name for i in ops for name in graph.ops[i].inputs}
        made = {name for i in ops for name in graph.ops[i].outputs}
        enter_s = sum(self.enter_s[name] for name in inputs if name in read and name not in graph.inputs)
        leave_s = sum(self.leave_s[name] for name in outputs if name in made and name not in graph.outputs)
        return self.call_s + sum(self.op_s[i] for i in ops) + enter_s + leave_s

    def code_times(self, graph: ModelGraph) -> BottleneckTimes:
        """Return what the codes of the network's bottleneck cost.

        Args:
            graph: the profiled network, with a bottleneck.

        Raises:
            ProfileError: if they were not measured.
        """
        if self.bottleneck is None or not self.bottleneck.fits(graph):
            raise ProfileError(f"the profile of {self.model!r} does not know this bottleneck: profile it anew")
        return self.bottleneck

    def difference(self, cut: Sequence[str], outputs: Sequence[str]) -> float | None:
        """Return what a cut changes (`CutCheck`), or None if that was not measured.

        Args:
            cut: names of the tensors that cross it.
            outputs: names of the answers.
        """
        wanted = tuple(cut), tuple(outputs)
        return next((check.difference for check in self.cut_checks if (check.cut, check.outputs) == wanted), None)

    def size_bits(self, graph: ModelGraph, names: Sequence[str], bits: int) -> float | None:
        """Return the encoded size of tensors together, or None if one was not measured so.

        Args:
            graph: the profiled network.
            names: of the tensors.
            bits: per element; inputs of the network go in a width of their own (`sent_width`).
        """
        sizes = [self.payload_bits.get(name, {}).get(sent_width(graph, name, bits)) for name in names]
        return None if None in sizes else float(sum(size for size in sizes if size is not None))

    def encoding_s(self, graph: ModelGraph, names: Sequence[str], bits: int) -> float:
        """Return the predicted time to encode tensors.

        Args:
            graph: the profiled network.
            names: of the tensors.
            bits: per element.

        Raises:
            ProfileError: if encoding with this number of bits was not measured.
        """
        return self._coding_s(graph, names, bits, self.encode_s, self.encode_s_per_byte)

    def decoding_s(self, graph: ModelGraph, names: Sequence[str], bits: int) -> float:
        """Return the predicted time to decode tensors.

        Args:
            graph: the profiled network.
            names: of the tensors.
            bits: per element.

        Raises:
            ProfileError: if decoding with this number of bits was not measured.
        """
        return self._coding_s(graph, names, bits, self.decode_s, self.decode_s_per_byte)

    def _coding_s(
        self,
        graph: ModelGraph,
        names: Sequence[str],
        bits: int,
        measured_s: Mapping[str, Mapping[int, float]],
        s_per_byte: Mapping[int, float],
    ) -> float:
        total_s = 0.0
        for name in names:
            width, size_bytes = sent_width(graph, name, bits), bytes_of_bits(graph.tensors[name].size_bits)
            one_s = measured_s.get(name, {}).get(width)
            if one_s is None and width not in s_per_byte:
                raise ProfileError(f"the profile of {self.model!r} has no encoding with {width} bits: profile it anew")
            total_s += size_bytes * s_per_byte[width] if one_s is None else one_s
        return total_s

    def chain_s(self, graph: ModelGraph, outputs: Sequence[str]) -> tuple[np.ndarray, np.ndarray]:
        """Return the predicted times [C] to each of the C useful cuts of `graph.pruned(outputs)`, and from each.

        It equals `segment_s` of every piece, in a time that grows with the network and not with its square.

        Args:
            graph: the profiled network.
            outputs: names of those that are computed.
        """
        one = graph.pruned(outputs)
        op_s = np.array(self.op_s)[list(range(len(one.ops)) if one is graph else graph.needed(graph.inputs, outputs))]
        cuts = one.useful_cuts()
        done_s = np.concatenate([[0.0], np.cumsum(op_s)])[[len(cut.head) for cut in cuts]]
        computed = [[name for name in cut.tensors if name not in graph.inputs] for cut in cuts]
        enter_s = np.array([sum(self.enter_s[name] for name in names) for names in computed])
        leave_s = np.array([sum(self.leave_s[n] for n in names if n not in graph.outputs) for names in computed])
        head_s, tail_s = self.call_s + done_s + leave_s, self.call_s + op_s.sum() - done_s + enter_s
        head_s[0] = tail_s[-1] = 0.0
        return head_s, tail_s

    def head_s(self, graph: ModelGraph, cuts: Sequence[Sequence[str]]) -> np.ndarray:
        """Return the predicted time [C] from the network's inputs to each cut.

        Args:
            graph: the profiled network.
            cuts: [C] names of the tensors that cross each cut.

        Raises:
            GraphError: if a cut has unknown tensors.
        """
        return np.array([self.segment_s(graph, graph.inputs, cut) for cut in cuts])

    def tail_s(self, graph: ModelGraph, cuts: Sequence[Sequence[str]]) -> np.ndarray:
        """Return the predicted time [C] from each cut to the network's outputs.

        Args:
            graph: the profiled network.
            cuts: [C] names of the tensors that cross each cut.

        Raises:
            GraphError: if the outputs do not follow from a cut.
        """
        return np.array([self.segment_s(graph, cut, graph.outputs) for cut in cuts])

    def with_op_s(self, op_s: Sequence[float]) -> "ProfileTable":
        """Return the profile of the same network on another machine; all other times scale with the operations'.

        Sizes of payloads stay. Use it with `predict.predict_ops`, or with a multiple of `op_s` for a device class.

        Args:
            op_s: [ops] seconds of each operation on the other machine.
        """
        whole_s = float(sum(op_s))
        ratio = whole_s / max(sum(self.op_s), 1e-12)
        scaled: dict[str, dict] = {
            name: {key: value * ratio for key, value in getattr(self, name).items()}
            for name in ("enter_s", "leave_s", "encode_s_per_byte", "decode_s_per_byte")
        }
        for name in ("encode_s", "decode_s"):
            coding_s = getattr(self, name).items()
            scaled[name] = {key: {bits: value * ratio for bits, value in by_bits.items()} for key, by_bits in coding_s}
        times = {
            "op_s": tuple(map(float, op_s)),
            "op_spread_s": (),
            "whole_s": whole_s + self.call_s * ratio,
            "call_s": self.call_s * ratio,
            "whole_spread_s": self.whole_spread_s * ratio,
            "bottleneck": self.bottleneck and self.bottleneck.scaled(ratio),
        }
        return self.model_copy(update=scaled | times)

    def save(self, path: str | Path) -> None:
        """Write the profile as JSON.

        Args:
            path: an old file there is replaced as a whole.

        Raises:
            OSError: if the file cannot be written.
        """
        write_atomic(path, self.model_dump_json(indent=1) + "\n")

    @staticmethod
    def load(path: str | Path) -> "ProfileTable":
        """Return the profile in a file.

        Args:
            path: as `save` wrote it.

        Raises:
            ProfileError: if the file does not exist or holds no profile; the message names file, field and remedy.
        """
        path = Path(path)
        try:
            data = path.read_bytes()
            if b'"format":1,' in data[:_HEADER_BYTES].replace(b" ", b"").replace(b"\n", b""):
                raise ProfileError(f"{path}: a profile of an older coinfer; write it anew with `coinfer profile`")
            return ProfileTable.model_validate_json(data)
        except OSError as error:
            raise ProfileError(f"{path}: cannot read this profile: {error.strerror}") from error
        except ValidationError as error:
            raise ProfileError(
                f"{path}: no valid profile: {first_problem(error)}; write it anew with `coinfer profile`"
            ) from error


def too_large(graph: ModelGraph, names: Sequence[str]) -> bool:
    """Return true if a tensor is larger than a message may be.

    Args:
        graph: the network.
        names: of the tensors.
    """
    return any(graph.tensors[name].size_bits > bits_of_bytes(MESSAGE_BYTES) for name in names)


def sent_width(graph: ModelGraph, name: str, bits: int) -> int:
    """Return the bits per element under which a tensor's size is known: a picture goes as its own bytes, and other
    inputs go untouched.

    Args:
        graph: the network.
        name: of the tensor.
        bits: for what the network computes.
    """
    if name not in graph.inputs:
        return bits
    return FLOAT32_BITS if graph.image is None else IMAGE_BITS
