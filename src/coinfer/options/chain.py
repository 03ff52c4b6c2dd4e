"""Options from network tables: every way to run a chain of cuts on the devices and servers of a scenario."""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

from coinfer.errors import UserError
from coinfer.options.network import ChainCut, CodeCut, NetworkTable
from coinfer.options.table import Accuracy, CodeCosts, Names, Options, tabulate, widths
from coinfer.physics.compute import compute_s
from coinfer.units import FLOAT32_BITS, IMAGE_BITS, bytes_of_bits


class SizeError(UserError):
    """A tensor whose encoded size was not measured; the message is one line that names it."""


class Speed(NamedTuple):
    """How fast one computer runs one network."""

    table: NetworkTable
    factor: float
    """Factor on the table's times: how much slower the computer is than the table's machine."""
    flop_per_s: float | None
    """Speed that counts instead of the table's times, with arithmetic only; None uses the times."""

    def segment_s(self, exit_: int, first: int, last: int) -> float:
        """Return the time of a segment of an exit's chain; 0 for an empty one.

        Args:
            exit_: index of the exit.
            first: index of the cut at which the segment starts.
            last: index of the cut at which it ends, not before `first`.
        """
        start, end = self.table.exits[exit_][first], self.table.exits[exit_][last]
        if first == last:
            return 0.0
        if self.flop_per_s is not None:
            return float(compute_s(end.done_flop - start.done_flop, self.flop_per_s))
        return self.factor * (self.table.call_s + end.done_s - start.done_s + start.enter_s + end.leave_s)

    def coding_s(self, elements: int, per_byte: Mapping[int, float], bits: int) -> float:
        """Return the time to encode or decode a tensor; 0 if only arithmetic counts.

        Args:
            elements: of the tensor.
            per_byte: the table's seconds per byte of float32, by bits per element.
            bits: per element; a number that is not in the table takes no time.
        """
        if self.flop_per_s is not None:
            return 0.0
        return self.factor * bytes_of_bits(elements * FLOAT32_BITS) * per_byte.get(bits, 0.0)

    def code(self, answer: str) -> CodeCut | None:
        """Return what an answer from a code of the network's bottleneck costs; None if the table does not know it.

        Args:
            answer: its name.
        """
        return next((code for code in self.table.codes if code.answer == answer), None)

    def symbols_s(self, answer: str) -> float:
        """Return the time to compute the symbols of a code and to encode them.

        Args:
            answer: name of an answer from the code; the table has it.
        """
        code = self._known(answer)
        if self.flop_per_s is not None:
            return float(compute_s(code.device_flop, self.flop_per_s))
        return self.factor * (code.device_s + code.encode_s)

    def answer_s(self, answer: str) -> float:
        """Return the time to decode the symbols of a code and to compute an answer from them.

        Args:
            answer: its name; the table has it.
        """
        code = self._known(answer)
        if self.flop_per_s is not None:
            return float(compute_s(code.server_flop, self.flop_per_s))
        return self.factor * (code.decode_s + code.server_s)

    def _known(self, answer: str) -> CodeCut:
        code = self.code(answer)
        assert code is not None, f"{answer} is an answer of the table"
        return code


class Encoding(NamedTuple):
    """How tensors are encoded for the link."""

    bits: Sequence[int]
    """Allowed bits per element of what the network computes."""
    plain: bool = False
    """Whether sizes are elements times bits instead of the measured ones."""
    codes: bool = False
    """Whether the codes of a network's bottleneck are allowed, too."""

    def sizes_bits(self, cut: ChainCut, *, is_input: bool) -> dict[int, float]:
        """Return the encoded size of what crosses a cut, by bits per element.

        Args:
            cut: of any exit's chain.
            is_input: true for the network's input, which has a width of its own.

        Raises:
            SizeError: if one of the sizes was not measured.
        """
        is_image = set(cut.payload_bits) == {IMAGE_BITS}
        allowed = widths(self.bits, is_input=is_input, is_image=is_image)
        if self.plain:
            return {bits: float(cut.elements * bits) for bits in allowed}
        missing = next((bits for bits in allowed if bits not in cut.payload_bits), None)
        if missing is not None:
            raise SizeError(f"no measured size of tensor {' + '.join(cut.tensors)!r} at {missing} bits")
        return {bits: cut.payload_bits[bits] for bits in allowed}


def chain_options(
    device: Speed,
    servers: Sequence[Speed],
    exits: Sequence[int],
    encoding: Encoding,
    accuracy: Accuracy,
    *,
    ends_only: bool = False,
) -> Options:
    """Return every way to run a network on a device and N servers.

    Args:
        device: its table lists the cuts and their sizes.
        servers: [N] speeds of the same network.
        exits: indices of the exits that may answer, rising.
        encoding: how tensors are sent.
        accuracy: of each exit with each encoding.
        ends_only: leave out the cuts inside the network, so that it runs whole here or there.

    Raises:
        SizeError: if a size was not measured.
        AccuracyError: if `accuracy` lacks one of the options.
    """
    return tabulate((_Exit(exit_, device, servers, encoding) for exit_ in exits), accuracy, ends_only=ends_only)


class _Exit:
    """One exit's chain on a device and servers (`ExitCosts`)."""

    def __init__(self, exit_: int, device: Speed, servers: Sequence[Speed], encoding: Encoding):
        self.exit = exit_
        self._chain = device.table.exits[exit_]
        self.cuts: list[Names] = [cut.tensors for cut in self._chain]
        self._device, self._servers, self._encoding = device, servers, encoding

    def sizes_bits(self, cut: int) -> Mapping[int, float]:
        return self._encoding.sizes_bits(self._chain[cut], is_input=cut == 0)

    def head_s(self, cut: int) -> float:
        return self._device.segment_s(self.exit, 0, cut)

    def encode_s(self, cut: int, bits: int) -> float:
        device = self._device
        return device.coding_s(self._chain[cut].elements, device.table.encode_s_per_byte, bits)

    def tail_s(self, cut: int) -> list[float]:
        return [speed.segment_s(self.exit, cut, len(self.cuts) - 1) for speed in self._servers]

    def decode_s(self, cut: int, bits: int) -> list[float]:
        elements = self._chain[cut].elements
        return [speed.coding_s(elements, speed.table.decode_s_per_byte, bits) for speed in self._servers]

    @property
    def codes(self) -> list[CodeCosts]:
        """Return the codes that are allowed and that the tables of all computers have."""
        if not self._encoding.codes:
            return []
        answering = [code for code in self._device.table.codes if code.exit == self.exit]
        return [self._costs(code) for code in answering if all(s.code(code.answer) for s in self._servers)]

    def _costs(self, code: CodeCut) -> CodeCosts:
        size_bits = float(code.elements * code.bits) if self._encoding.plain else code.size_bits
        server_s = tuple(speed.answer_s(code.answer) for speed in self._servers)
        device_s = self._device.symbols_s(code.answer)
        return CodeCosts(code.tensor, code.answer, code.bits, size_bits, device_s, server_s, code.loss)
