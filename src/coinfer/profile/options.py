"""The compile step: a graph and its profile become dense arrays of options; nobody touches the graph afterwards."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from coinfer.graph.ir import ModelGraph
from coinfer.profile.table import ProfileTable
from coinfer.units import FLOAT32_BITS, bytes_of_bits

IMAGE_BITS = 8
"""Bits per element of an image sent as its own bytes."""


class Options(NamedTuple):
    """All ways to run one network, O of them, at batch 1 on the profiled machine. The last one stays on the device."""

    cuts: tuple[tuple[str, ...], ...]
    """Tensors that leave the device; the network's outputs where nothing is left for a server."""
    bits: np.ndarray
    """[O] bits per element of these tensors."""
    exit: np.ndarray
    """[O] index of the exit."""
    device_s: np.ndarray
    """[O] head and encoding."""
    upload_bits: np.ndarray
    """[O] size of the encoded tensors; 0 for the last option."""
    server_s: np.ndarray
    """[O] decoding and tail."""
    accuracy: np.ndarray
    """[O] relative to the whole network; 1 where not measured."""

    def take(self, index: np.ndarray) -> "Options":
        """The options at these indices."""
        arrays = {name: getattr(self, name)[index] for name in self._fields if name != "cuts"}
        return Options(cuts=tuple(self.cuts[i] for i in index), **arrays)


def compile_options(graph: ModelGraph, table: ProfileTable, bits: Sequence[int] = (32, 16, 8)) -> Options:
    """Every useful cut with every number of bits that the table has a measured size for, and the whole on the device.

    An image input is sent as its own bytes (8 bits, exact), any other input as it is (32).

    Raises:
        ProfileError: where the table belongs to another network.
    """
    table.check(graph)
    cuts = graph.useful_cuts()
    tensors = [cut.tensors for cut in cuts]
    head_s, tail_s = table.head_s(graph, tensors), table.tail_s(graph, tensors)
    rows = []
    for i, names in enumerate(tensors[:-1]):
        for width in _widths(graph, names, bits):
            raw_bytes = bytes_of_bits(sum(graph.tensors[name].size_bits for name in names))
            rows.append(
                (
                    names,
                    width,
                    head_s[i] + raw_bytes * table.encode_s_per_byte[width],
                    sum(table.payload_bits[name][width] for name in names),
                    tail_s[i] + raw_bytes * table.decode_s_per_byte[width],
                )
            )
    rows.append((graph.outputs, 32, float(head_s[-1]), 0.0, 0.0))
    names, width, device_s, upload_bits, server_s = zip(*rows, strict=True)
    return Options(
        cuts=names,
        bits=np.array(width),
        exit=np.zeros(len(rows), dtype=int),
        device_s=np.array(device_s, dtype=float),
        upload_bits=np.array(upload_bits, dtype=float),
        server_s=np.array(server_s, dtype=float),
        accuracy=np.ones(len(rows)),
    )


def _widths(graph: ModelGraph, names: tuple[str, ...], bits: Sequence[int]) -> Sequence[int]:
    if names == graph.inputs:
        return (IMAGE_BITS,) if graph.image is not None else (FLOAT32_BITS,)
    return bits
