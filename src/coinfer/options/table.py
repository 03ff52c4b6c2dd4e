"""The table of options from which planner, simulator and policies choose, and how its rows are made."""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import NamedTuple, Protocol

import numpy as np

from coinfer.profile.accuracy import AccuracyTable
from coinfer.units import FLOAT32_BITS, IMAGE_BITS

Names = tuple[str, ...]
Piece = tuple[Names, Names]
"""The rest of a network: the tensors that it starts from and the outputs that it ends at."""
Triple = tuple[int, Names, int]
"""What an option means: exit from 0, tensors that leave the device, bits per element."""
Accuracy = Callable[[int, Names, int], float]
"""Accuracy, 0 to 1, of an exit, the tensors that are quantised (none if nothing is), and bits per element."""


class Options(NamedTuple):
    """All ways to run one network at batch 1, O of them, by exit and cut, on a device and N servers.

    The last option of each exit stays on the device, so the last of all does.
    """

    cuts: tuple[Names, ...]
    """[O] tensors that leave the device, also the symbols of a bottleneck; the exit's outputs if nothing is left for a
    server."""
    bits: np.ndarray
    """[O] bits per element of these tensors."""
    exit: np.ndarray
    """[O] index of the exit, from 0."""
    device_s: np.ndarray
    """[O] head and encoding."""
    upload_bits: np.ndarray
    """[O] size of the encoded tensors; 0 for an option that stays on the device."""
    server_s: np.ndarray
    """[O, N] decoding and tail on each server; 0 for an option that stays on the device. N is 1 for a network's own
    profile, which knows one machine."""
    accuracy: np.ndarray
    """[O] 0 to 1; 1 (relative to the whole network) if no accuracy is known."""
    outputs: tuple[Names, ...]
    """[O] what answers: the outputs of the option's exit, or what a bottleneck answers for them."""

    @property
    def is_local(self) -> np.ndarray:
        """Return [O] true if nothing leaves the device."""
        return self.upload_bits == 0

    @property
    def pieces(self) -> tuple[Piece, ...]:
        """Return [O] what a server computes."""
        return tuple(zip(self.cuts, self.outputs, strict=True))

    @property
    def triples(self) -> list[Triple]:
        """Return [O] exit, cut and bits."""
        return list(zip(self.exit.tolist(), self.cuts, self.bits.tolist(), strict=True))

    @property
    def sidecar_triples(self) -> list[Triple]:
        """Return [O] the triples in the form of a policy's side-car: without tensors if nothing leaves the device."""
        pairs = zip(self.triples, self.is_local.tolist(), strict=True)
        return [(exit_, () if is_local else cut, bits) for (exit_, cut, bits), is_local in pairs]

    def take(self, index: np.ndarray) -> "Options":
        """Return some of the options.

        Args:
            index: indices in the order wanted, or a mask [O].
        """
        index = np.flatnonzero(index) if index.dtype == bool else index
        rows: list[int] = index.tolist()
        return Options(
            cuts=tuple(self.cuts[i] for i in rows),
            bits=self.bits[index],
            exit=self.exit[index],
            device_s=self.device_s[index],
            upload_bits=self.upload_bits[index],
            server_s=self.server_s[index],
            accuracy=self.accuracy[index],
            outputs=tuple(self.outputs[i] for i in rows),
        )

    def latency_s(self, rate_bps: np.ndarray) -> np.ndarray:
        """Return the latency [O, N] of one task alone.

        Args:
            rate_bps: [N] rate of the link to each server.
        """
        away_s = self.upload_bits[:, None] / rate_bps + self.server_s
        return self.device_s[:, None] + np.where(self.is_local[:, None], 0.0, away_s)


class CodeCosts(NamedTuple):
    """What it costs to answer for an exit through a code of a bottleneck, on a device and N servers."""

    tensor: str
    """Name of the symbols, which leave the device."""
    answer: str
    """Name of what is computed from them."""
    bits: int
    """Of each symbol before entropy coding."""
    size_bits: float
    device_s: float
    """Encoder and entropy coding."""
    server_s: tuple[float, ...]
    """[N] entropy decoding, decoder and the rest of the network."""
    loss: float
    """Accuracy that is lost against the exit's own answer, 0 to 1."""


class ExitCosts(Protocol):
    """What one exit's network costs on a device and N servers, as I + 1 cuts from its input to its outputs."""

    @property
    def exit(self) -> int:
        """Return the index of the exit, from 0."""
        ...

    @property
    def cuts(self) -> Sequence[Names]:
        """Return the tensors [I + 1] that cross each cut; the last are the exit's outputs."""
        ...

    def sizes_bits(self, cut: int) -> Mapping[int, float]:
        """Return the encoded size of what crosses a cut, by each allowed number of bits per element.

        Args:
            cut: index of the cut; the last one is never asked for.
        """
        ...

    def head_s(self, cut: int) -> float:
        """Return the device's time from the input to a cut.

        Args:
            cut: index of the cut.
        """
        ...

    def encode_s(self, cut: int, bits: int) -> float:
        """Return the device's time to encode what crosses a cut.

        Args:
            cut: index of the cut.
            bits: per element.
        """
        ...

    def tail_s(self, cut: int) -> Sequence[float]:
        """Return each server's time [N] from a cut to the outputs.

        Args:
            cut: index of the cut.
        """
        ...

    def decode_s(self, cut: int, bits: int) -> Sequence[float]:
        """Return each server's time [N] to decode what crosses a cut.

        Args:
            cut: index of the cut.
            bits: per element.
        """
        ...

    @property
    def codes(self) -> Sequence[CodeCosts]:
        """Return the codes of a bottleneck that answer for this exit."""
        ...


def tabulate(exits: Iterable[ExitCosts], accuracy: Accuracy, *, ends_only: bool = False) -> Options:
    """Return every cut of every exit with every allowed number of bits, and every exit whole on the device.

    Args:
        exits: at least one, the earliest first.
        accuracy: asked with no tensors if nothing is quantised, which is the case for an input and on the device.
        ends_only: leave out the cuts inside the network, so that it runs whole here or there.
    """
    rows = [row for costs in exits for row in _rows(costs, accuracy, ends_only)]
    cuts, bits, exit_, device_s, upload_bits, server_s, right, outputs = zip(*rows, strict=True)
    return Options(
        cuts=cuts,
        bits=np.array(bits),
        exit=np.array(exit_),
        device_s=np.array(device_s, dtype=float),
        upload_bits=np.array(upload_bits, dtype=float),
        server_s=np.array(server_s, dtype=float),
        accuracy=np.array(right, dtype=float),
        outputs=outputs,
    )


_Row = tuple[Names, int, int, float, float, list[float], float, Names]


def _rows(costs: ExitCosts, accuracy: Accuracy, ends_only: bool) -> Iterator[_Row]:
    """Yield the columns of `Options` for one exit."""
    last = len(costs.cuts) - 1
    outputs, servers = costs.cuts[last], len(costs.tail_s(last))
    for i, cut in enumerate(costs.cuts[: 1 if ends_only else last]):
        head_s, tail_s = costs.head_s(i), costs.tail_s(i)
        for bits, size_bits in costs.sizes_bits(i).items():
            device_s = head_s + costs.encode_s(i, bits)
            server_s = [tail + decode for tail, decode in zip(tail_s, costs.decode_s(i, bits), strict=True)]
            right = accuracy(costs.exit, cut if i else (), bits)
            yield cut, bits, costs.exit, device_s, size_bits, server_s, right, outputs
    exact = accuracy(costs.exit, (), FLOAT32_BITS)
    for code in () if ends_only else costs.codes:
        right, server_s = max(exact - code.loss, 0.0), list(code.server_s)
        yield (code.tensor,), code.bits, costs.exit, code.device_s, code.size_bits, server_s, right, (code.answer,)
    yield outputs, FLOAT32_BITS, costs.exit, costs.head_s(last), 0.0, [0.0] * servers, exact, outputs


def widths(bits: Sequence[int], *, is_input: bool, is_image: bool) -> tuple[int, ...]:
    """Return the allowed numbers of bits per element for a tensor.

    Args:
        bits: allowed for what the network computes.
        is_input: an image input goes as its own bytes, any other input as it is.
        is_image: whether the network's input is an image.
    """
    if is_input:
        return (IMAGE_BITS,) if is_image else (FLOAT32_BITS,)
    return tuple(dict.fromkeys(bits))


def full_accuracy(_exit: int, _cut: Names, _bits: int) -> float:
    """Return 1, the accuracy relative to the whole network: the `Accuracy` if none is known.

    Args:
        _exit: ignored.
        _cut: ignored.
        _bits: ignored.
    """
    return 1.0


def measured_accuracy(table: AccuracyTable) -> Accuracy:
    """Return the `Accuracy` that a table measured.

    More right answers than without quantising are chance, and count as equally many. Of a network that answers once,
    widths that were not measured count as never right; with early exits, every option must have been measured.

    Args:
        table: of the network.

    Raises:
        AccuracyError: (the returned function) if something was not measured.
    """

    def accuracy(exit_: int, cut: Names, bits: int) -> float:
        exact = table.accuracy(exit_)
        known = table.assured if len(table.exits) == 1 else table.accuracy
        return min(known(exit_, cut, bits), exact) if cut else exact

    return accuracy


def stated_accuracy(exact: Mapping[int, float], drop: Mapping[int, float]) -> Accuracy:
    """Return an `Accuracy` from figures that a person states.

    Args:
        exact: by exit, without quantising.
        drop: by bits, what quantising loses; 0 if not given.
    """
    return lambda exit_, cut, bits: max(exact[exit_] - (drop.get(bits, 0.0) if cut else 0.0), 0.0)
