"""Trained bottlenecks: a network with a small code in its middle, beside the network that it answers for.

A bottleneck is an ONNX file `NAME.bottleneck.onnx` of its own. It has the network's inputs, one tensor of symbols for
each code (uint8, the encoder's end), and for each code an output for every exit of the network behind it: what the rest
of the network answers from the code. Its metadata say which network it is for, and how the symbols are entropy-coded.
"""

import base64
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np
import onnx
from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from coinfer.errors import short_repr
from coinfer.graph.ir import GraphError, ModelGraph
from coinfer.graph.onnx.load import load

BOTTLENECK_KEY = "coinfer.bottleneck"
SUFFIX = ".bottleneck.onnx"
HEAD = "head/"
"""Stands before the names of the network's own tensors up to the encoder, which a bottleneck computes too."""
VALUES = 256
"""Symbols of several channels at one place are entropy-coded together, as one byte."""


class _Record(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class CodeAccuracy(_Record):
    """How often the answers of an exit from a code are right."""

    dataset: str
    samples: Annotated[int, Field(ge=1)]
    plain: Annotated[int, Field(ge=0)]
    """Right answers of that exit of the network without a bottleneck, on the same pictures."""
    correct: Annotated[int, Field(ge=0)]
    """Right answers through the code, through the runtime's codec."""
    size_bytes: Annotated[float, Field(gt=0)]
    """Mean size of a payload."""

    @property
    def loss(self) -> float:
        """Return the share of right answers that the code loses, 0 or more; fewer losses than none are chance."""
        return max(self.plain - self.correct, 0) / self.samples


class CodeAnswer(_Record):
    """What one exit of the network answers from a code."""

    output: str
    """Output of the network whose answer it is."""
    tensor: str
    """Name of this answer, an output of the bottleneck's own network."""
    accuracy: CodeAccuracy | None = None
    """Measured on held-out pictures."""

    @property
    def loss(self) -> float:
        """Return the accuracy that it loses; 1 if that was not measured."""
        return 1.0 if self.accuracy is None else self.accuracy.loss


class Code(_Record):
    """One of the nested codes of a bottleneck."""

    tensor: str
    """Name of the symbols, uint8 [N, channels, height, width]."""
    bits: Annotated[int, Field(ge=1, le=8)]
    """Of each symbol before entropy coding."""
    lengths: str
    """Lengths of the code words, uint8 [groups, `VALUES`], base64; 0 for a word that does not exist."""
    answers: Annotated[tuple[CodeAnswer, ...], Field(min_length=1)]
    """Of each exit behind the code, the earliest first."""

    @property
    def size_bytes(self) -> float | None:
        """Return the mean size of a payload, or None if it was not measured."""
        return next((answer.accuracy.size_bytes for answer in self.answers if answer.accuracy), None)


class BottleneckRecord(_Record):
    """What the metadata of a bottleneck's file say; a record of format 1 is read as one of format 2."""

    format: Literal[2] = 2
    network: str
    """Name of the network that it answers for."""
    fingerprint: str
    """Fingerprint of that network."""
    source: str = ""
    """Tensor of that network that the encoder reads; empty if the file does not say it."""
    codes: Annotated[tuple[Code, ...], Field(min_length=1)]
    """The smallest first; all answer for the same exits."""

    @model_validator(mode="before")
    @classmethod
    def _newest(cls, data: Any) -> Any:
        return _from_format_1(data) if isinstance(data, dict) and data.get("format") == 1 else data

    @property
    def outputs(self) -> tuple[str, ...]:
        """Return the outputs of the network whose answers it gives."""
        return tuple(answer.output for answer in self.codes[0].answers)


@dataclass(frozen=True, eq=False)
class Bottleneck:
    """A bottleneck of a network."""

    graph: ModelGraph
    """From the network's inputs through the codes to the answers."""
    codes: tuple[Code, ...]
    """The smallest first."""
    source: str = ""
    """Tensor of the network that the encoder reads; empty if that is not known."""

    @property
    def outputs(self) -> tuple[str, ...]:
        """Return the outputs of the network whose answers it gives, the earliest exit first."""
        return tuple(answer.output for answer in self.codes[0].answers)

    def code(self, name: str) -> Code | None:
        """Return the code whose symbols or answer a tensor is, or None.

        Args:
            name: of the tensor.
        """
        return next(
            (code for code in self.codes if name in (code.tensor, *(answer.tensor for answer in code.answers))), None
        )

    def answer(self, name: str) -> CodeAnswer | None:
        """Return the answer of this name, or None.

        Args:
            name: of the tensor.
        """
        return next((answer for code in self.codes for answer in code.answers if answer.tensor == name), None)

    def output_of(self, name: str) -> str:
        """Return the network's output that a tensor answers for; its own name if it is no answer of a code.

        Args:
            name: of the tensor.
        """
        answer = self.answer(name)
        return name if answer is None else answer.output


def _from_format_1(data: Mapping[str, Any]) -> dict[str, Any]:
    """Return a record of format 1, whose codes have one answer each, as one of format 2.

    What is missing stays missing, for pydantic to say so.
    """
    rest = {key: value for key, value in data.items() if key not in ("format", "output", "codes")}
    codes = data.get("codes")
    if isinstance(codes, list) and all(isinstance(code, dict) for code in codes):
        rest["codes"] = [_code_from_format_1(code, data.get("output")) for code in codes]
    return rest


def _code_from_format_1(code: Mapping[str, Any], output: Any) -> dict[str, Any]:
    moved = {"output": output, "tensor": code.get("answer"), "accuracy": code.get("accuracy")}
    kept = {key: value for key, value in code.items() if key not in ("answer", "accuracy")}
    return kept | {"answers": [moved]}


def encoded_lengths(lengths: np.ndarray) -> str:
    """Return the text of `Code.lengths`.

    Args:
        lengths: uint8 [groups, `VALUES`].
    """
    return base64.b64encode(np.ascontiguousarray(lengths, np.uint8).tobytes()).decode("ascii")


def word_lengths_of(text: str) -> np.ndarray:
    """Return the lengths of the code words, uint8 [groups, `VALUES`].

    Args:
        text: as `encoded_lengths` returned it.

    Raises:
        ValueError: if it is damaged.
    """
    return np.frombuffer(base64.b64decode(text, validate=True), np.uint8).reshape(-1, VALUES)


def with_record(proto: onnx.ModelProto, record: BottleneckRecord) -> onnx.ModelProto:
    """Return a copy of a model whose metadata hold a bottleneck's record.

    Args:
        proto: the model.
        record: replaces an older one.
    """
    made = onnx.ModelProto()
    made.CopyFrom(proto)
    kept = [entry for entry in proto.metadata_props if entry.key != BOTTLENECK_KEY]
    del made.metadata_props[:]
    made.metadata_props.extend(kept)
    made.metadata_props.add(key=BOTTLENECK_KEY, value=record.model_dump_json())
    return made


def with_bottleneck(graph: ModelGraph, path: str | Path) -> ModelGraph:
    """Return a network together with the bottleneck in a file.

    Args:
        graph: the network; it stays as it is.
        path: of the bottleneck, as `coinfer bottleneck train` wrote it.

    Raises:
        GraphError: if the file is no bottleneck, or that of another network.
    """
    return attach(graph, load(path), str(path))


def attach(graph: ModelGraph, made: ModelGraph, where: str) -> ModelGraph:
    """Return a network together with its bottleneck.

    Args:
        graph: the network.
        made: the bottleneck's own network, with a record in its metadata.
        where: what messages call it.

    Raises:
        GraphError: if it is no bottleneck, or that of another network.
    """
    record = read_record(made, where)
    if record.fingerprint != graph.fingerprint:
        raise GraphError(
            f"{where}: a bottleneck of network {record.network!r} ({record.fingerprint[:12]}), not of {graph.name!r} "
            f"({graph.fingerprint[:12]})"
        )
    clash = set(made.tensors) & (set(graph.tensors) - set(graph.inputs))
    if clash or not _fits(made, graph, record):
        raise GraphError(f"{where}: its tensors do not fit {graph.name!r}")
    named = replace(made, name=graph.name)
    return replace(graph, bottleneck=Bottleneck(named, record.codes, record.source))


def _fits(made: ModelGraph, graph: ModelGraph, record: BottleneckRecord) -> bool:
    """Return true if inputs, exits and the encoder's input are those of the network."""
    if not set(record.outputs) <= set(graph.outputs) or made.inputs != graph.pruned(record.outputs).inputs:
        return False
    source = record.source
    return not source or source in graph.inputs or (source in graph.tensors and f"{HEAD}{source}" in made.tensors)


def read_record(made: ModelGraph, where: str) -> BottleneckRecord:
    """Return what the metadata of a bottleneck say, after a check against its tensors.

    Args:
        made: the bottleneck's own network.
        where: what messages call it.

    Raises:
        GraphError: if there is no valid record.
    """
    text = next((entry.value for entry in made.proto.metadata_props if entry.key == BOTTLENECK_KEY), None)
    if text is None:
        raise GraphError(f"{where}: no bottleneck")
    try:
        record = BottleneckRecord.model_validate_json(text)
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        place = ".".join(str(part) for part in first["loc"])
        raise GraphError(f"{where}: no valid bottleneck: {place}: {short_repr(first['msg'], 120)}") from None
    for code in record.codes:
        _check_code(made, code, where)
        if tuple(answer.output for answer in code.answers) != record.outputs:
            raise GraphError(f"{where}: no valid bottleneck: its codes do not answer for the same exits")
    return record


def _check_code(made: ModelGraph, code: Code, where: str) -> None:
    tensor = made.tensors.get(code.tensor)
    answers = [answer.tensor for answer in code.answers]
    if tensor is None or tensor.dtype != np.uint8 or len(tensor.shape) != 4 or not set(answers) <= set(made.outputs):
        named = " and ".join(map(repr, answers))
        raise GraphError(f"{where}: no valid bottleneck: it has no symbols {code.tensor!r} with answer {named}")
    try:
        lengths = word_lengths_of(code.lengths)
    except ValueError:
        raise GraphError(f"{where}: no valid bottleneck: the code words of {code.tensor!r} are damaged") from None
    if len(lengths) != groups_of(tensor.shape[1], code.bits):
        raise GraphError(f"{where}: no valid bottleneck: {code.tensor!r} has code words of {len(lengths)} groups")


def groups_of(channels: int, bits: int) -> int:
    """Return the number of bytes that hold the symbols of one place.

    Args:
        channels: symbols of one place.
        bits: of each symbol, 1 to 8.
    """
    return -(-channels // (8 // bits))
