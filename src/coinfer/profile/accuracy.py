"""How often a network answers correctly: counted once on a test set, saved as JSON, read by everything that plans."""

import math
from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field, ValidationError, model_validator

from coinfer.errors import UserError
from coinfer.files import write_atomic
from coinfer.graph.ir import ModelGraph
from coinfer.profile.fields import Bits, Record, first_problem
from coinfer.units import FLOAT32_BITS

Z_95 = 1.959963984540054
"""Quantile of the normal distribution for two-sided 95 %."""

TOLERANCE = 0.01
"""Relative difference within which an answer that is no class counts as the same."""
MAX_LOSS = 0.01
"""Share of right answers that a width may lose and still be offered without being asked for."""
MIN_SAMPLES = 20
"""Samples without which nothing is known of a width."""
Measure = Literal["labels", "same class", "tolerance"]
Count = Annotated[int, Field(ge=0)]


class AccuracyError(UserError):
    """An accuracy table that cannot be read, belongs to another network, or lacks an entry."""


class AccuracyRow(Record):
    """Correct answers of one exit if what crosses a cut is sent with some number of bits per element."""

    exit: Count
    """Index, 0 is the first."""
    cut: Annotated[tuple[str, ...], Field(min_length=1)]
    """Names of the tensors that leave the device."""
    bits: Bits
    correct: Count
    error: Annotated[float, Field(ge=0, le=1)] | None = None
    """Mean over the samples of how far answers are from those without loss, relative to these; None if not measured."""


class CascadePoint(Record):
    """The result of leaving at the first exit that is confident (Teerapittayanon et al., BranchyNet, ICPR 2016)."""

    thresholds: tuple[Annotated[float, Field(ge=0)], ...]
    """One for each exit but the last: a sample leaves at an exit if the entropy of its answer, divided by the logarithm
    of the number of classes, is below the threshold. At 0 no sample leaves, above 1 all do."""
    left: tuple[Count, ...]
    """Samples that each exit answered."""
    correct: tuple[Count, ...]
    """How many of these each exit answered correctly."""


class AccuracyTable(Record):
    """Correct answers on one test set, with the runtime's own codec in the loop."""

    format: Literal[1] = 1
    model: str
    fingerprint: str
    """Fingerprint of the `ModelGraph`."""
    dataset: Annotated[str, Field(min_length=1)]
    """Which pictures, and of what kind, such as "CIFAR-10 test, JPEG copy"."""
    samples: Annotated[int, Field(ge=1)]
    measure: Measure = "labels"
    """When an answer counts as correct: it names the sample's class; it names the class that the network names without
    loss; or it differs from the answer without loss by `TOLERANCE` at most."""
    exits: Annotated[tuple[Count, ...], Field(min_length=1)]
    """Correct answers of each exit without quantising."""
    rows: tuple[AccuracyRow, ...] = ()
    confidence: tuple[CascadePoint, ...] = ()
    """Cascades from which thresholds are chosen; empty if none were measured."""

    @model_validator(mode="after")
    def _adds_up(self) -> "AccuracyTable":
        counts = (*self.exits, *(row.correct for row in self.rows))
        if max(counts) > self.samples:
            raise ValueError(f"{max(counts)} right answers to {self.samples} samples")
        if any(row.exit >= len(self.exits) for row in self.rows):
            raise ValueError(
                f"a row names exit {max(row.exit for row in self.rows)}; the last is {len(self.exits) - 1}"
            )
        if len(self._correct) < len(self.rows):
            raise ValueError("two rows for the same exit, cut and bits")
        for point in self.confidence:
            sizes = len(point.thresholds) + 1, len(point.left), len(point.correct)
            right = all(correct <= left for correct, left in zip(point.correct, point.left, strict=False))
            if set(sizes) != {len(self.exits)} or sum(point.left) != self.samples or not right:
                raise ValueError(f"the cascade with thresholds {list(point.thresholds)} does not add up")
        return self

    @cached_property
    def _correct(self) -> dict[tuple[int, tuple[str, ...], int], int]:
        return {(row.exit, row.cut, row.bits): row.correct for row in self.rows}

    def check(self, graph: ModelGraph) -> None:
        """Check that this table belongs to a network.

        Args:
            graph: the network that it is to be used for.

        Raises:
            AccuracyError: if it was measured on another network.
        """
        if self.fingerprint != graph.fingerprint or len(self.exits) not in (1, len(graph.outputs)):
            raise AccuracyError(
                f"this accuracy table was measured on network {self.model!r} ({self.fingerprint[:12]}, "
                f"{len(self.exits)} exits), not on {graph.name!r} ({graph.fingerprint[:12]}, {len(graph.outputs)} "
                f"exits): measure {graph.name!r} with `coinfer accuracy`"
            )

    def correct(self, exit: int, cut: Sequence[str] = (), bits: int = FLOAT32_BITS) -> int:
        """Return the number of correct answers of an exit.

        Args:
            exit: index, 0 is the first.
            cut: names of the tensors that are sent.
            bits: per element; with 32 nothing is lost, whatever the cut.

        Raises:
            AccuracyError: if the network has no such exit or this was not measured.
        """
        if not 0 <= exit < len(self.exits):
            raise AccuracyError(
                f"{self.model}: no exit {exit} in its accuracy table; it has 0 to {len(self.exits) - 1}"
            )
        if bits == FLOAT32_BITS:
            return self.exits[exit]
        count = self._correct.get((exit, tuple(cut), bits))
        if count is None:
            raise AccuracyError(
                f"{self.model}: accuracy of exit {exit}, cut {', '.join(cut) or 'nowhere'}, {bits} bits was not "
                "measured; measure it with `coinfer accuracy`"
            )
        return count

    def accuracy(self, exit: int, cut: Sequence[str] = (), bits: int = FLOAT32_BITS) -> float:
        """Return the share of correct answers, 0 to 1.

        Args:
            exit: index, 0 is the first.
            cut: names of the tensors that are sent.
            bits: per element; with 32 nothing is lost, whatever the cut.

        Raises:
            AccuracyError: as `correct`.
        """
        return self.correct(exit, cut, bits) / self.samples

    def has(self, exit: int, cut: Sequence[str], bits: int) -> bool:
        """Return true if this was measured; 32 bits need not be.

        Args:
            exit: index, 0 is the first.
            cut: names of the tensors that are sent.
            bits: per element.
        """
        return bits == FLOAT32_BITS or (exit, tuple(cut), bits) in self._correct

    def is_earned(self, exit: int, cut: Sequence[str], bits: int) -> bool:
        """Return true if a lossy width may be offered without being asked for: it was measured and loses little.

        Args:
            exit: index, 0 is the first.
            cut: names of the tensors that are sent.
            bits: per element.
        """
        count = self._correct.get((exit, tuple(cut), bits))
        if count is None or self.samples < MIN_SAMPLES:
            return False
        return count >= self.exits[exit] - MAX_LOSS * self.samples

    def assured(self, exit: int, cut: Sequence[str] = (), bits: int = FLOAT32_BITS) -> float:
        """Return the share of correct answers that is known of, 0 to 1: 0 if nothing was measured.

        Args:
            exit: index, 0 is the first.
            cut: names of the tensors that are sent.
            bits: per element; with 32 nothing is lost, whatever the cut.

        Raises:
            AccuracyError: if the network has no such exit.
        """
        return self.accuracy(exit, cut, bits) if self.has(exit, cut, bits) else 0.0

    def interval(self, exit: int, cut: Sequence[str] = (), bits: int = FLOAT32_BITS) -> tuple[float, float]:
        """Return the 95 % confidence interval of the accuracy (Wilson).

        Args:
            exit: index, 0 is the first.
            cut: names of the tensors that are sent.
            bits: per element; with 32 nothing is lost, whatever the cut.

        Raises:
            AccuracyError: as `correct`.
        """
        return wilson(self.correct(exit, cut, bits), self.samples)

    def cascade(self, min_accuracy: float, cost: Sequence[float] | None = None) -> CascadePoint:
        """Return the cheapest measured cascade that is accurate enough.

        Args:
            min_accuracy: 0 to 1.
            cost: of answering at each exit, in any unit; without it an exit costs its number.

        Raises:
            AccuracyError: if no cascade reaches `min_accuracy`, or none was measured.
        """
        if not self.confidence:
            raise AccuracyError(f"{self.model}: its accuracy table holds no confidence thresholds; measure it anew")
        cost = range(1, len(self.exits) + 1) if cost is None else cost
        enough = [point for point in self.confidence if sum(point.correct) >= min_accuracy * self.samples]
        if not enough:
            best = max(sum(point.correct) for point in self.confidence) / self.samples
            raise AccuracyError(f"{self.model}: accuracy {min_accuracy:g} is out of reach; the best is {best:.4f}")
        spent = [sum(c * n for c, n in zip(cost, point.left, strict=True)) for point in enough]
        return enough[min(range(len(enough)), key=lambda i: (spent[i], -sum(enough[i].correct)))]

    def save(self, path: str | Path) -> None:
        """Write the table as JSON.

        Args:
            path: an old file there is replaced as a whole.

        Raises:
            OSError: if the file cannot be written.
        """
        write_atomic(path, self.model_dump_json(indent=1) + "\n")

    @staticmethod
    def load(path: str | Path) -> "AccuracyTable":
        """Return the table in a file.

        Args:
            path: as `save` wrote it.

        Raises:
            AccuracyError: if the file does not exist or holds no table; the message names file, field and remedy.
        """
        try:
            return AccuracyTable.model_validate_json(Path(path).read_bytes())
        except OSError as error:
            raise AccuracyError(f"{path}: cannot read this accuracy table: {error.strerror}") from error
        except ValidationError as error:
            remedy = "write it anew with `coinfer accuracy`"
            raise AccuracyError(f"{path}: no valid accuracy table: {first_problem(error)}; {remedy}") from error


def wilson(correct: int, samples: int, z: float = Z_95) -> tuple[float, float]:
    """Return the confidence interval of a share (Wilson, 1927); unlike the usual one it stays within 0 and 1.

    Args:
        correct: 0 to `samples`.
        samples: at least 1.
        z: quantile of the normal distribution; 95 % without it.
    """
    share, extra = correct / samples, z * z / samples
    middle = (share + extra / 2) / (1 + extra)
    half = z / (1 + extra) * math.sqrt(share * (1 - share) / samples + extra / (4 * samples))
    return max(0.0, middle - half), min(1.0, middle + half)
