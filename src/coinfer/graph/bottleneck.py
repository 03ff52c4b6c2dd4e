"""Trained bottlenecks: a network with a small code in its middle, beside the network that it answers for.

A bottleneck is an ONNX file `NAME.bottleneck.onnx` of its own. It has the network's inputs, one tensor of symbols for
each code (uint8, the encoder's end), and one output for each code: what the rest of the network answers from it. Its
metadata say which network it is for, and how the symbols are entropy-coded.
"""

import base64
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Literal

import numpy as np
import onnx
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from coinfer.errors import short_repr
from coinfer.graph.ir import GraphError, ModelGraph
from coinfer.graph.onnx.load import load

BOTTLENECK_KEY = "coinfer.bottleneck"
SUFFIX = ".bottleneck.onnx"
VALUES = 256
"""Symbols of several channels at one place are entropy-coded together, as one byte."""


class _Record(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class CodeAccuracy(_Record):
    """How often a code's answers are right."""

    dataset: str
    samples: Annotated[int, Field(ge=1)]
    plain: Annotated[int, Field(ge=0)]
    """Right answers of the network without a bottleneck, on the same pictures."""
    correct: Annotated[int, Field(ge=0)]
    """Right answers through the code, through the runtime's codec."""
    size_bytes: Annotated[float, Field(gt=0)]
    """Mean size of a payload."""

    @property
    def loss(self) -> float:
        """Return the share of right answers that the code loses, 0 or more; fewer losses than none are chance."""
        return max(self.plain - self.correct, 0) / self.samples


class Code(_Record):
    """One of the nested codes of a bottleneck."""

    tensor: str
    """Name of the symbols, uint8 [N, channels, height, width]."""
    answer: str
    """Name of the output that is computed from them."""
    bits: Annotated[int, Field(ge=1, le=8)]
    """Of each symbol before entropy coding."""
    lengths: str
    """Lengths of the code words, uint8 [groups, `VALUES`], base64; 0 for a word that does not exist."""
    accuracy: CodeAccuracy | None = None
    """Measured on held-out pictures."""

    @property
    def loss(self) -> float:
        """Return the accuracy that it loses; 1 if that was not measured."""
        return 1.0 if self.accuracy is None else self.accuracy.loss


class BottleneckRecord(_Record):
    """What the metadata of a bottleneck's file say."""

    format: Literal[1] = 1
    network: str
    """Name of the network that it answers for."""
    fingerprint: str
    """Fingerprint of that network."""
    output: str
    """Output of that network whose answer it gives."""
    codes: Annotated[tuple[Code, ...], Field(min_length=1)]
    """The smallest first."""


@dataclass(frozen=True, eq=False)
class Bottleneck:
    """A bottleneck of a network."""

    graph: ModelGraph
    """From the network's inputs through the codes to the answers."""
    output: str
    """Output of the network whose answer it gives."""
    codes: tuple[Code, ...]
    """The smallest first."""

    def code(self, name: str) -> Code | None:
        """Return the code whose symbols or answer a tensor is, or None.

        Args:
            name: of the tensor.
        """
        return next((code for code in self.codes if name in (code.tensor, code.answer)), None)


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
            f"({graph.fingerprint[:12]}); train one with `coinfer bottleneck train`"
        )
    clash = set(made.tensors) & (set(graph.tensors) - set(graph.inputs))
    if clash or made.inputs != graph.pruned((record.output,)).inputs:
        raise GraphError(f"{where}: its tensors do not fit {graph.name!r}; train it anew")
    named = replace(made, name=graph.name)
    return replace(graph, bottleneck=Bottleneck(named, record.output, record.codes))


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
        raise GraphError(f"{where}: no bottleneck; make one with `coinfer bottleneck train`")
    try:
        record = BottleneckRecord.model_validate_json(text)
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        place = ".".join(str(part) for part in first["loc"])
        raise GraphError(f"{where}: no valid bottleneck: {place}: {short_repr(first['msg'], 120)}") from None
    for code in record.codes:
        _check_code(made, code, where)
    return record


def _check_code(made: ModelGraph, code: Code, where: str) -> None:
    tensor = made.tensors.get(code.tensor)
    if tensor is None or tensor.dtype != np.uint8 or len(tensor.shape) != 4 or code.answer not in made.outputs:
        raise GraphError(f"{where}: no valid bottleneck: it has no symbols {code.tensor!r} with answer {code.answer!r}")
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
