"""Options from a graph and its profile; whoever plans needs only the options, not the graph."""

from collections.abc import Mapping, Sequence

from coinfer.graph.bottleneck import Code, CodeAnswer
from coinfer.graph.ir import ModelGraph
from coinfer.options.table import (
    CodeCosts,
    Names,
    Options,
    full_accuracy,
    measured_accuracy,
    tabulate,
    widths,
)
from coinfer.profile.accuracy import AccuracyTable
from coinfer.profile.table import ProfileError, ProfileTable, too_large
from coinfer.units import FLOAT32_BITS, MESSAGE_BYTES, WIRE_BITS, bytes_of_bits

DEFAULT_BITS = (FLOAT32_BITS, 16)
"""Bits per element that are allowed for any network, measured or not: 32 are exact, and 16 have 65,536 levels."""


def exits_of(graph: ModelGraph, accuracy: AccuracyTable | None) -> tuple[Names, ...]:
    """Return the outputs of each exit, the earliest exit first.

    Args:
        graph: its outputs are in the order of the exits.
        accuracy: a table of several exits makes each output an answer by itself; else all outputs are one answer.
    """
    one_answer = accuracy is None or len(accuracy.exits) == 1
    return (graph.outputs,) if one_answer else tuple((name,) for name in graph.outputs)


def compile_options(
    graph: ModelGraph,
    table: ProfileTable,
    bits: Sequence[int] = DEFAULT_BITS,
    accuracy: AccuracyTable | None = None,
    *,
    exits: Sequence[Names] | None = None,
    codes: Sequence[Code] = (),
) -> Options:
    """Return every useful cut of every exit's network with every number of bits, and every exit whole on the device.

    With a bottleneck, also its codes.

    What does not fit into a message (`MESSAGE_BYTES`) is left out. So are, if only 32 bits are allowed, the cuts that
    the profile does not know to keep every bit of the answers.

    Args:
        graph: the network.
        table: the network's profile; it stands for the device and for the one server (N = 1).
        bits: allowed bits per element. An image input is sent as its own bytes (8 bits, exact), any other as it is.
        accuracy: makes each output of the network an exit.
        exits: outputs of each exit; None takes those that follow from `accuracy`.
        codes: of the network's bottleneck, with the answers that are allowed; the profile must know it.

    Raises:
        ProfileError: if the table belongs to another network, or lacks a size.
        AccuracyError: if `accuracy` belongs to another network, or lacks one of the options.
    """
    table.check(graph)
    if accuracy is not None:
        accuracy.check(graph)
    exits = exits_of(graph, accuracy) if exits is None else exits
    right = full_accuracy if accuracy is None else measured_accuracy(accuracy)
    return tabulate((_Exit(graph, table, bits, i, outputs, codes) for i, outputs in enumerate(exits)), right)


def _code_costs(graph: ModelGraph, table: ProfileTable, code: Code, answer: CodeAnswer) -> CodeCosts:
    """Return what an answer from a code costs; one whose accuracy was not measured is never right."""
    times = next(one for one in table.code_times(graph).codes if one.tensor == code.tensor)
    device_s, server_s = times.device_s + times.encode_s, times.decode_s + times.answer_s(answer.tensor)
    return CodeCosts(code.tensor, answer.tensor, code.bits, times.size_bits, device_s, (server_s,), answer.loss)


class _Exit:
    """One exit's network as the profile knows it (`ExitCosts`); the server is the profiled machine itself."""

    def __init__(
        self,
        graph: ModelGraph,
        table: ProfileTable,
        bits: Sequence[int],
        exit_: int,
        outputs: Names,
        codes: Sequence[Code],
    ):
        self.exit = exit_
        answering = [(code, answer) for code in codes for answer in code.answers if (answer.output,) == outputs]
        self.codes = [_code_costs(graph, table, *pair) for pair in answering]
        self.cuts: list[Names] = [*(cut.tensors for cut in graph.pruned(outputs).useful_cuts()[:-1]), outputs]
        self._graph, self._table = graph, table
        of_codes = {code.bits for code in codes}.difference(WIRE_BITS)
        self._bits = tuple(width for width in bits if width not in of_codes)
        self._head_s, self._tail_s = table.chain_s(graph, outputs)

    def sizes_bits(self, cut: int) -> Mapping[int, float]:
        """Leave out what does not fit into a message: a tensor, all of them together, or the answer."""
        names, graph = self.cuts[cut], self._graph
        if too_large(graph, names) or too_large(graph, self.cuts[-1]) or not self._is_allowed(names):
            return {}
        sizes_bits = {bits: self._size_bits(names, bits) for bits in self._widths(names)}
        return {bits: size for bits, size in sizes_bits.items() if bytes_of_bits(size) <= MESSAGE_BYTES}

    def _widths(self, names: Names) -> tuple[int, ...]:
        """Return the allowed numbers of bits per element; whole numbers are sent as they are, whatever is allowed."""
        graph, is_input = self._graph, names == self._graph.inputs
        if not is_input and not any(graph.tensors[name].dtype.kind == "f" for name in names):
            return (FLOAT32_BITS,)
        return widths(self._bits, is_input=is_input, is_image=graph.image is not None)

    def _is_allowed(self, names: Names) -> bool:
        """Return false for a cut that changes answers, or may, if only exact answers are allowed."""
        table, inner = self._table, names != self._graph.inputs
        return not (inner and table.cut_checks and set(self._bits) == {FLOAT32_BITS}) or (
            table.difference(names, self.cuts[-1]) == 0
        )

    def _size_bits(self, names: Names, bits: int) -> float:
        size = self._table.size_bits(self._graph, names, bits)
        if size is None:
            where, name = f"the profile of {self._table.model!r}", " + ".join(names)
            raise ProfileError(f"{where} has no size of tensor {name!r} at {bits} bits: profile it anew")
        return size

    def head_s(self, cut: int) -> float:
        return float(self._head_s[cut])

    def encode_s(self, cut: int, bits: int) -> float:
        return self._table.encoding_s(self._graph, self.cuts[cut], bits)

    def tail_s(self, cut: int) -> list[float]:
        return [float(self._tail_s[cut])]

    def decode_s(self, cut: int, bits: int) -> list[float]:
        return [self._table.decoding_s(self._graph, self.cuts[cut], bits)]
