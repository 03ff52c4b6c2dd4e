"""The compile step: a graph and its profile become dense arrays of options; nobody touches the graph afterwards."""

from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np

from coinfer.graph.ir import ModelGraph
from coinfer.profile.accuracy import AccuracyTable
from coinfer.profile.table import ProfileError, ProfileTable
from coinfer.units import FLOAT32_BITS

IMAGE_BITS = 8
"""Bits per element of an image sent as its own bytes."""
Names = tuple[str, ...]
Piece = tuple[Names, Names]
"""A rest of a network: the tensors that it starts from and the outputs that it ends at."""


class Options(NamedTuple):
    """All ways to run one network, O of them, at batch 1 on the profiled machine, by exit and cut. Each exit has one
    that stays on the device, after its others; so the last of all stays on the device."""

    cuts: tuple[Names, ...]
    """Tensors that leave the device; the exit's outputs where nothing is left for a server."""
    bits: np.ndarray
    """[O] bits per element of these tensors."""
    exit: np.ndarray
    """[O] index of the exit."""
    device_s: np.ndarray
    """[O] head and encoding."""
    upload_bits: np.ndarray
    """[O] size of the encoded tensors; 0 for an option that stays on the device."""
    server_s: np.ndarray
    """[O] decoding and tail."""
    accuracy: np.ndarray
    """[O] measured, 0 to 1; 1 (relative to the whole network) without an accuracy table."""
    outputs: tuple[Names, ...]
    """What answers: the outputs of the option's exit."""

    @property
    def pieces(self) -> tuple[Piece, ...]:
        """What a server computes, by option."""
        return tuple(zip(self.cuts, self.outputs, strict=True))

    @property
    def triples(self) -> list[tuple[int, Names, int]]:
        """(exit, cut, bits) by option."""
        return list(zip(self.exit.tolist(), self.cuts, self.bits.tolist(), strict=True))

    def take(self, index: np.ndarray) -> "Options":
        """The options at these indices."""
        columns: dict[str, Any] = {
            name: tuple(values[i] for i in index) if isinstance(values, tuple) else values[index]
            for name, values in self._asdict().items()
        }
        return Options(**columns)


def exits_of(graph: ModelGraph, accuracy: AccuracyTable | None) -> tuple[Names, ...]:
    """The outputs of each exit, the earliest first. An accuracy table says that each output is an answer by itself;
    without one, several outputs are one answer."""
    return (graph.outputs,) if accuracy is None else tuple((name,) for name in graph.outputs)


def compile_options(
    graph: ModelGraph, table: ProfileTable, bits: Sequence[int] = (32, 16, 8), accuracy: AccuracyTable | None = None
) -> Options:
    """Every useful cut of every exit's network with every number of bits that the table has a measured size for, and
    every exit whole on the device.

    An image input is sent as its own bytes (8 bits, exact), any other input as it is (32).

    Args:
        accuracy: makes each output of the network an exit.

    Raises:
        ProfileError: where the table belongs to another network.
        AccuracyError: where `accuracy` does, or lacks one of the options.
    """
    table.check(graph)
    if accuracy is not None:
        accuracy.check(graph)
    rows = [
        (*row, outputs)
        for exit_, outputs in enumerate(exits_of(graph, accuracy))
        for row in _of_exit(graph, table, bits, accuracy, exit_, outputs)
    ]
    names, width, exits, device_s, upload_bits, server_s, right, outputs = zip(*rows, strict=True)
    return Options(
        cuts=names,
        bits=np.array(width),
        exit=np.array(exits),
        device_s=np.array(device_s, dtype=float),
        upload_bits=np.array(upload_bits, dtype=float),
        server_s=np.array(server_s, dtype=float),
        accuracy=np.array(right, dtype=float),
        outputs=outputs,
    )


def _of_exit(
    graph: ModelGraph,
    table: ProfileTable,
    bits: Sequence[int],
    accuracy: AccuracyTable | None,
    exit_: int,
    outputs: Names,
) -> Iterator[tuple[Names, int, int, float, float, float, float]]:
    """Rows of cut, bits, exit, device_s, upload_bits, server_s, accuracy."""
    exact = 1.0 if accuracy is None else accuracy.accuracy(exit_, outputs, FLOAT32_BITS)
    for cut in graph.pruned(outputs).useful_cuts()[:-1]:
        names = cut.tensors
        head_s, tail_s = table.segment_s(graph, graph.inputs, names), table.segment_s(graph, names, outputs)
        for width in _widths(graph, names, bits):
            device_s = head_s + table.encoding_s(graph, names, width)
            server_s = tail_s + table.decoding_s(graph, names, width)
            upload_bits = sum(_payload_bits(table, name, width) for name in names)
            if accuracy is None or names == graph.inputs:
                right = exact
            else:
                right = min(accuracy.accuracy(exit_, names, width), exact)  # more than exact is chance
            yield names, width, exit_, device_s, upload_bits, server_s, right
    yield outputs, FLOAT32_BITS, exit_, table.segment_s(graph, graph.inputs, outputs), 0.0, 0.0, exact


def _payload_bits(table: ProfileTable, name: str, width: int) -> float:
    try:
        return table.payload_bits[name][width]
    except KeyError:
        message = f"the profile of {table.model!r} has no size of tensor {name!r} at {width} bits: profile it anew"
        raise ProfileError(message) from None


def _widths(graph: ModelGraph, names: Names, bits: Sequence[int]) -> Sequence[int]:
    if names == graph.inputs:
        return (IMAGE_BITS,) if graph.image is not None else (FLOAT32_BITS,)
    return bits
