"""A network as a chain of cuts with its costs: all that a scenario needs to know about it.

The table is made once from a graph and its profiles, and lies in a small JSON file, so that a simulation of VGG16 need
not build VGG16. tools/profile_networks.py writes the shipped ones (`data/networks`), on the machine that they name.
"""

import json
from collections.abc import Sequence
from functools import cache
from itertools import pairwise
from pathlib import Path
from typing import Annotated, Literal

import numpy as np
from pydantic import Field, ValidationError, model_validator

from coinfer.errors import UserError, short_repr
from coinfer.files import write_atomic
from coinfer.graph.bottleneck import Bottleneck, Code, CodeAnswer
from coinfer.graph.ir import ModelGraph
from coinfer.profile.code_times import BottleneckTimes, CodeTimes
from coinfer.profile.fields import Bits, Machine, Positive, Record, Seconds
from coinfer.profile.table import ProfileTable
from coinfer.units import IMAGE_BITS, WIRE_BITS

_DIGITS = 5


class NetworkTableError(UserError):
    """A network table that cannot be made or read; the message is one line that names network, or file and field."""


class ChainCut(Record):
    """A place to cut the chain; the first is the input, the last the exit's output."""

    tensors: Annotated[tuple[str, ...], Field(min_length=1)]
    """What crosses it."""
    kind: str
    """ONNX type of the operation that makes the last of them; empty for inputs."""
    elements: Annotated[int, Field(ge=1)]
    """Of all of them."""
    done_s: Seconds
    """Time of all operations before it, on the measured machine."""
    done_flop: Annotated[float, Field(ge=0)]
    """Arithmetic of these operations."""
    enter_s: Seconds
    """Extra time of a segment that starts here."""
    leave_s: Seconds
    """Extra time of a segment that ends here."""
    payload_bits: dict[Bits, Positive]
    """Encoded size by bits per element, measured; an image input has its own 8 bits only."""


class CodeCut(Record):
    """An exit's answer from a code of the network's bottleneck: what it costs on the measured machine."""

    exit: Annotated[int, Field(ge=0)]
    """Index of the exit that answers."""
    tensor: str
    """Name of the code's symbols."""
    answer: str
    """Name of the answer."""
    bits: Annotated[int, Field(ge=1, le=8)]
    """Of each symbol before entropy coding."""
    elements: Annotated[int, Field(ge=1)]
    """Symbols of one picture."""
    size_bits: Positive
    """Mean size of a payload."""
    device_flop: Annotated[float, Field(ge=0)]
    """Arithmetic up to the symbols."""
    server_flop: Annotated[float, Field(ge=0)]
    """Arithmetic from the symbols to the answer."""
    device_s: Seconds
    server_s: Seconds
    encode_s: Seconds
    decode_s: Seconds
    loss: Annotated[float, Field(ge=0, le=1)]
    """Accuracy that is lost against the exit's own answer."""


class NetworkTable(Record):
    """A network with one or more exits, at batch 1."""

    format: Literal[2] = 2
    network: str
    fingerprint: str
    """Fingerprint of the whole `ModelGraph`."""
    machine: Machine
    threads: Annotated[int, Field(ge=1)]
    work_flop: Positive
    """Arithmetic up to the last exit."""
    whole_s: Positive
    """Time up to the last exit."""
    call_s: Seconds
    """Fixed cost of running any segment."""
    exits: Annotated[tuple[tuple[ChainCut, ...], ...], Field(min_length=1)]
    """Cuts of each exit's network, the earliest exit first."""
    encode_s_per_byte: dict[Bits, Seconds]
    decode_s_per_byte: dict[Bits, Seconds]
    codes: tuple[CodeCut, ...] = ()
    """Of the network's bottleneck, a row for each exit behind it; the smallest code first."""

    @model_validator(mode="after")
    def _is_a_chain(self) -> "NetworkTable":
        for k, cuts in enumerate(self.exits):
            if len(cuts) < 2 or any(a.done_s > b.done_s or a.done_flop > b.done_flop for a, b in pairwise(cuts)):
                raise ValueError(
                    f"exit {k + 1} is no chain: its cuts must be two or more, with rising done_s, done_flop"
                )
        return self

    def rounded(self) -> "NetworkTable":
        """Return the table with fewer digits, as `save` writes it."""
        return NetworkTable.model_validate(self._short())

    def save(self, path: Path) -> None:
        """Write the table as JSON.

        Args:
            path: an old file there is replaced as a whole.

        Raises:
            OSError: if the file cannot be written.
        """
        write_atomic(path, json.dumps(self._short(), indent=1) + "\n")

    def _short(self) -> object:
        """Return the values with fewer digits."""
        return json.loads(self.model_dump_json(), parse_float=lambda text: float(f"{float(text):.{_DIGITS}g}"))


def network_table(
    graph: ModelGraph, tables: Sequence[ProfileTable], bottleneck: BottleneckTimes | None = None
) -> NetworkTable:
    """Return a network's table, made from the profiles of its exits.

    Args:
        graph: with one output for each exit, the earliest first.
        tables: one for each exit, of `graph.pruned((output,))`.
        bottleneck: what the codes of the network's bottleneck cost on the same machine.

    Raises:
        ProfileError: if a table belongs to another network.
    """
    exits = [graph.pruned((output,)) for output in graph.outputs]
    last = tables[-1]
    return NetworkTable(
        network=graph.name,
        fingerprint=graph.fingerprint,
        machine=last.machine,
        threads=last.threads,
        work_flop=last.work_flop,
        whole_s=last.whole_s,
        call_s=last.call_s,
        exits=tuple(_chain(one, table) for one, table in zip(exits, tables, strict=True)),
        encode_s_per_byte=last.encode_s_per_byte,
        decode_s_per_byte=last.decode_s_per_byte,
        codes=() if bottleneck is None else _codes(graph, bottleneck),
    )


def _codes(graph: ModelGraph, times: BottleneckTimes) -> tuple[CodeCut, ...]:
    """Return the answers from codes whose accuracy was measured."""
    bottleneck = graph.bottleneck
    assert bottleneck is not None, "times of a bottleneck come with the network that has it"
    pairs = zip(bottleneck.codes, times.codes, strict=True)
    return tuple(
        _code_cut(graph, bottleneck, code, answer, one)
        for code, one in pairs
        for answer in code.answers
        if answer.accuracy is not None
    )


def _code_cut(graph: ModelGraph, bottleneck: Bottleneck, code: Code, answer: CodeAnswer, times: CodeTimes) -> CodeCut:
    part = bottleneck.graph
    device_flop, server_flop = (
        sum(part.ops[i].work_flop for i in part.needed(first, (last,)))
        for first, last in ((part.inputs, code.tensor), ((code.tensor,), answer.tensor))
    )
    return CodeCut(
        exit=graph.outputs.index(answer.output),
        tensor=code.tensor,
        answer=answer.tensor,
        bits=code.bits,
        elements=part.tensors[code.tensor].elements,
        size_bits=times.size_bits,
        device_flop=device_flop,
        server_flop=server_flop,
        device_s=times.device_s,
        server_s=times.answer_s(answer.tensor),
        encode_s=times.encode_s,
        decode_s=times.decode_s,
        loss=answer.loss,
    )


def _chain(graph: ModelGraph, table: ProfileTable) -> tuple[ChainCut, ...]:
    table.check(graph)
    cuts = graph.useful_cuts()
    done_s = np.concatenate([[0.0], np.cumsum(table.op_s)]).tolist()
    done_flop = np.concatenate([[0.0], np.cumsum([op.work_flop for op in graph.ops])]).tolist()
    return tuple(
        ChainCut(
            tensors=cut.tensors,
            kind=_kind(graph, cut.tensors),
            elements=sum(graph.tensors[name].elements for name in cut.tensors),
            done_s=done_s[len(cut.head)],
            done_flop=done_flop[len(cut.head)],
            enter_s=0.0 if i == 0 else sum(table.enter_s.get(name, 0.0) for name in cut.tensors),
            leave_s=0.0 if cut is cuts[-1] else sum(table.leave_s.get(name, 0.0) for name in cut.tensors),
            payload_bits=_payloads(graph, table, cut.tensors),
        )
        for i, cut in enumerate(cuts)
    )


def _kind(graph: ModelGraph, names: Sequence[str]) -> str:
    makers = [graph.producer[name] for name in names if name in graph.producer]
    return graph.ops[max(makers)].kind if makers else ""


def _payloads(graph: ModelGraph, table: ProfileTable, names: tuple[str, ...]) -> dict[int, float]:
    """Return the size of what crosses a cut by bits per element, as far as it was measured."""
    is_image = graph.image is not None and names == graph.inputs
    known = {bits: table.size_bits(graph, names, bits) for bits in ((IMAGE_BITS,) if is_image else WIRE_BITS)}
    return {bits: size for bits, size in known.items() if size is not None}


def load(path: Path) -> NetworkTable:
    """Return the table in a file; a file that has not changed is read once.

    Args:
        path: as `NetworkTable.save` wrote it.

    Raises:
        NetworkTableError: if the file does not exist or holds no table; the message names file and field.
    """
    try:
        return _load(path, path.stat().st_mtime_ns)
    except OSError as error:
        raise NetworkTableError(f"{path}: cannot read this network table: {error.strerror}") from None


@cache
def _load(path: Path, _changed_ns: int) -> NetworkTable:
    try:
        return NetworkTable.model_validate_json(path.read_bytes())
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        place = ".".join(str(part) for part in first["loc"])
        raise NetworkTableError(
            f"{path}: no valid network table: {place + ': ' if place else ''}{short_repr(first['msg'], 120)}; "
            "write it anew with `coinfer scenario profile`"
        ) from None
