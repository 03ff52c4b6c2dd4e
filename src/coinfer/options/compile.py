"""Options from a graph and its profile; whoever plans needs only the options, not the graph."""

from collections.abc import Mapping, Sequence

from coinfer.graph.ir import ModelGraph
from coinfer.options.table import Names, Options, full_accuracy, measured_accuracy, tabulate, widths
from coinfer.profile.accuracy import AccuracyTable
from coinfer.profile.table import ProfileError, ProfileTable
from coinfer.units import IMAGE_BITS


def exits_of(graph: ModelGraph, accuracy: AccuracyTable | None) -> tuple[Names, ...]:
    """Return the outputs of each exit, the earliest exit first.

    Args:
        graph: its outputs are in the order of the exits.
        accuracy: a table makes each output an answer by itself; without one, all outputs are one answer.
    """
    return (graph.outputs,) if accuracy is None else tuple((name,) for name in graph.outputs)


def compile_options(
    graph: ModelGraph, table: ProfileTable, bits: Sequence[int] = (32, 16, 8), accuracy: AccuracyTable | None = None
) -> Options:
    """Return every useful cut of every exit's network with every number of bits, and every exit whole on the device.

    Args:
        graph: the network.
        table: the network's profile; it stands for the device and for the one server (N = 1).
        bits: allowed bits per element. An image input is sent as its own bytes (8 bits, exact), any other as it is.
        accuracy: makes each output of the network an exit.

    Raises:
        ProfileError: if the table belongs to another network, or lacks a size.
        AccuracyError: if `accuracy` belongs to another network, or lacks one of the options.
    """
    table.check(graph)
    if accuracy is not None:
        accuracy.check(graph)
    exits = exits_of(graph, accuracy)
    right = full_accuracy if accuracy is None else measured_accuracy(accuracy)
    return tabulate((_Exit(graph, table, bits, i, outputs) for i, outputs in enumerate(exits)), right)


class _Exit:
    """One exit's network as the profile knows it (`ExitCosts`); the server is the profiled machine itself."""

    def __init__(self, graph: ModelGraph, table: ProfileTable, bits: Sequence[int], exit_: int, outputs: Names):
        self.exit = exit_
        self.cuts: list[Names] = [*(cut.tensors for cut in graph.pruned(outputs).useful_cuts()[:-1]), outputs]
        self._graph, self._table, self._bits = graph, table, bits

    def sizes_bits(self, cut: int) -> Mapping[int, float]:
        names, graph = self.cuts[cut], self._graph
        allowed = widths(self._bits, is_input=names == graph.inputs, is_image=graph.image is not None)
        return {bits: sum(self._size_bits(name, bits) for name in names) for bits in allowed}

    def _size_bits(self, name: str, bits: int) -> float:
        if name in self._graph.inputs and self._graph.image is not None:
            bits = IMAGE_BITS  # a picture goes as its bytes, and what goes with it as it is
        try:
            return self._table.payload_bits[name][bits]
        except KeyError:
            where = f"the profile of {self._table.model!r}"
            raise ProfileError(f"{where} has no size of tensor {name!r} at {bits} bits: profile it anew") from None

    def head_s(self, cut: int) -> float:
        return self._table.segment_s(self._graph, self._graph.inputs, self.cuts[cut])

    def encode_s(self, cut: int, bits: int) -> float:
        return self._table.encoding_s(self._graph, self.cuts[cut], bits)

    def tail_s(self, cut: int) -> list[float]:
        return [self._table.segment_s(self._graph, self.cuts[cut], self.cuts[-1])]

    def decode_s(self, cut: int, bits: int) -> list[float]:
        return [self._table.decoding_s(self._graph, self.cuts[cut], bits)]
