"""Options and times for requests of one size: of a batch, of pictures of some height and width, of a sequence."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np

from coinfer.graph.ir import ModelGraph
from coinfer.graph.sizes import sizes_of
from coinfer.options.table import Names, Options, Piece
from coinfer.profile.table import ProfileTable

Sizes = tuple[tuple[str, int], ...]
"""Axis and size, by name, of every free axis that is larger than its smallest size; () for a single small request."""
Compile = Callable[[ModelGraph, ProfileTable], Options]


@dataclass(frozen=True, eq=False)
class SizedTimes:
    """What the planner knows of requests of one size."""

    sizes: Sizes
    graph: ModelGraph
    table: ProfileTable
    plain: Options
    """The planner's options of a request that takes no early exit."""
    options: Options
    """The same of a request that computes every exit before its cut."""
    tail_s: Mapping[Piece, float]
    """The profiled machine's time for each piece that a server may compute."""

    def profiled_s(self, inputs: Names, outputs: Names) -> float:
        """Return the profiled machine's time to compute some tensors from others.

        Args:
            inputs: names of the tensors that are given.
            outputs: names of the tensors to compute.
        """
        return self.table.segment_s(self.graph, inputs, outputs)


def request_sizes(graph: ModelGraph, tensors: Mapping[str, np.ndarray]) -> Sizes:
    """Return the sizes of a request.

    Args:
        graph: the network.
        tensors: its inputs by name; they fit.
    """
    low = {axis.name: axis.low for axis in graph.axes}
    sizes = sizes_of(graph, tensors) if low else {}
    return tuple(sorted((axis, size) for axis, size in sizes.items() if size > low.get(axis, size)))


def resized(options: Options, every: Options) -> Options:
    """Return the same options with the figures of another size.

    Args:
        options: what the planner chooses from.
        every: all options at that size; a server takes infinitely long for one that is not among them, because its
            tensors do not fit into a message.
    """
    row_of = {triple: row for row, triple in enumerate(every.triples)}
    rows = [row_of.get(triple, -1) for triple in options.triples]
    known, found = np.array(rows) >= 0, every.take(np.array(rows))
    return options._replace(
        device_s=np.where(known, found.device_s, options.device_s),
        upload_bits=np.where(known, found.upload_bits, options.upload_bits),
        server_s=np.where(known[:, None], found.server_s, np.inf),
    )
