"""Early exits: the device looks at the exits that lie before its cut, the earliest first, and answers if confident.

After Teerapittayanon et al., "BranchyNet" (ICPR 2016): an answer is confident if the entropy of its class probabilities
is small. Here the entropy is divided by the logarithm of the number of classes, so that thresholds lie between 0 and 1.
"""

from collections.abc import Iterator, Mapping, Sequence
from typing import NamedTuple

import numpy as np

from coinfer.errors import UserError
from coinfer.graph.ir import GraphError, ModelGraph
from coinfer.options.table import Names, Options
from coinfer.profile.accuracy import AccuracyTable, CascadePoint
from coinfer.profile.table import ProfileTable
from coinfer.types import OffloadObservation

MIN_SHARE = 1e-6
"""Of requests that continue past an exit; what is sent must not seem to stay."""


class ConfidenceError(UserError):
    """Thresholds that do not fit the network; the message is one line for a person."""


class ExitStats(NamedTuple):
    """What early exits change on average; all [O]."""

    continue_share: np.ndarray
    """Share of requests that no exit before the cut is confident of."""
    device_share: np.ndarray
    """Mean time on the device over that of a request that takes no early exit."""
    accuracy: np.ndarray
    """Of all answers, early ones included."""

    def mean(self, options: Options) -> Options:
        """Return the options of the mean request, from those of a request that takes no early exit."""
        return options._replace(
            device_s=options.device_s * self.device_share,
            upload_bits=options.upload_bits * self.continue_share,
            server_s=options.server_s * self.continue_share[:, None],
            accuracy=self.accuracy,
        )

    def expected(self, observation: OffloadObservation) -> OffloadObservation:
        """Return the observation of the mean request, likewise."""
        return observation._replace(
            option_device_s=observation.option_device_s * self.device_share,
            option_device_j=observation.option_device_j * self.device_share,
            option_upload_bits=observation.option_upload_bits * self.continue_share,
            option_server_s=observation.option_server_s * self.continue_share[:, None],
        )


class Stage(NamedTuple):
    """A piece of the head that ends with an exit's answer and with what the rest of the head starts from."""

    exit: int
    answer: Names
    """Outputs of the exit."""
    tap: Names
    """Where the exit's branch leaves the trunk."""

    @property
    def outputs(self) -> Names:
        return (*self.answer, *(name for name in self.tap if name not in self.answer))


def thresholds_for(
    exits: int, confidence: float | Sequence[float] | None, loss: float | None, accuracy: AccuracyTable | None
) -> tuple[float, ...]:
    """Return one threshold for each exit but the last; none if no early exit is wanted.

    Args:
        exits: number of exits.
        confidence: the thresholds, or one for all exits.
        loss: accuracy that may be lost against the last exit, from which the table's cheapest cascade follows.

    Raises:
        ConfidenceError: if they do not fit the network.
        AccuracyError: if the table holds no such cascade.
    """
    if confidence is None and loss is None:
        return ()
    if exits < 2:
        raise ConfidenceError("an early exit needs a network with several exits and its accuracy table")
    if confidence is None:
        assert accuracy is not None
        assert loss is not None
        if not 0 <= loss < 1:
            raise ConfidenceError(f"confidence_loss is {loss:g}; expected a share from 0 to 1, such as 0.005")
        return accuracy.cascade(max(accuracy.accuracy(exits - 1) - loss, 0.0)).thresholds
    found = tuple(map(float, confidence)) if isinstance(confidence, Sequence) else (float(confidence),) * (exits - 1)
    if len(found) != exits - 1 or not all(0 <= value <= 1 for value in found):
        raise ConfidenceError(
            f"confidence is {list(found)}; expected entropies from 0 (never) to 1, {exits - 1} or one for all"
        )
    return found


def measured_point(accuracy: AccuracyTable, thresholds: Sequence[float]) -> CascadePoint | None:
    """Return what was measured with these thresholds, if anything."""
    return next((point for point in accuracy.confidence if point.thresholds == tuple(thresholds)), None)


def entropy(logits: np.ndarray) -> np.ndarray:
    """Return the entropy of the class probabilities [..] of logits [.., C], over ln C: 0 is certain, 1 uniform."""
    shifted = logits - logits.max(axis=-1, keepdims=True)
    log_total = np.log(np.exp(shifted).sum(axis=-1, keepdims=True))
    log_share = shifted - log_total
    return -(np.exp(log_share) * log_share).sum(axis=-1) / np.log(logits.shape[-1])


def is_confident(logits: np.ndarray, threshold: float) -> bool:
    """Return true if every row's entropy is below the threshold."""
    return bool((entropy(np.asarray(logits, np.float64)) < threshold).all())


class ExitCascade:
    """The early exits of a network, as seen from any cut. Without thresholds there are none.

    Args:
        exits: outputs of each exit, the earliest first.
        thresholds: of each exit but the last.
    """

    def __init__(self, graph: ModelGraph, exits: Sequence[Names], thresholds: Sequence[float]):
        self.thresholds = tuple(thresholds)
        self._graph = graph
        self._exits = exits
        self._known: dict[tuple[int, Names], tuple[Stage, ...]] = {}

    def stages(self, exit_: int, cut: Names) -> tuple[Stage, ...]:
        """Return the stages at which a request to `exit_` may be answered before `cut`."""
        if not self.thresholds:
            return ()
        if (exit_, cut) not in self._known:
            self._known[exit_, cut] = stages_before(self._graph, self._exits, exit_, cut)
        return self._known[exit_, cut]

    def segments(self, exit_: int, cut: Names) -> Iterator[tuple[Names, Names]]:
        """Yield inputs and outputs of the segments that the device runs one after another up to the cut."""
        at_hand = self._graph.inputs
        for stage in self.stages(exit_, cut):
            yield at_hand, stage.outputs
            at_hand = stage.tap
        yield at_hand, cut

    def exit_s(self, exit_: int, cut: Names, table: ProfileTable) -> dict[int, float]:
        """Return the profiled machine's time until each exit before the cut has answered, by exit."""
        found, spent_s = {}, 0.0
        for stage, segment in zip(self.stages(exit_, cut), self.segments(exit_, cut), strict=False):
            spent_s += table.segment_s(self._graph, *segment)
            found[stage.exit] = spent_s
        return found

    def stats(self, options: Options, table: ProfileTable, accuracy: AccuracyTable | None) -> ExitStats:
        """Return averages over the test set of the accuracy table.

        If these thresholds were not measured, no request is expected to exit early. Exits before a cut are expected to
        cost the accuracy that the whole cascade costs.
        """
        ones = np.ones(len(options.bits))
        point = measured_point(accuracy, self.thresholds) if accuracy else None
        if point is None or accuracy is None:
            return ExitStats(ones, ones, options.accuracy)
        samples, whole = accuracy.samples, accuracy.accuracy(len(accuracy.exits) - 1)
        loss = max(whole - sum(point.correct) / samples, 0.0)
        continue_share, device_share, right = ones.copy(), ones.copy(), options.accuracy.copy()
        for i, (exit_, cut, _) in enumerate(options.triples):
            exit_s = self.exit_s(exit_, cut, table)
            share = {early: point.left[early] / samples for early in exit_s}
            continue_share[i] = max(1 - sum(share.values()), MIN_SHARE)
            mean_s = sum(share[early] * exit_s[early] for early in exit_s) + continue_share[i] * options.device_s[i]
            device_share[i] = mean_s / options.device_s[i] if exit_s else 1.0
            right[i] -= loss if exit_s else 0.0
        return ExitStats(continue_share, device_share, right)

    def is_confident(self, stage: Stage, computed: Mapping[str, np.ndarray]) -> bool:
        """Return true if the stage's answer will do."""
        return all(is_confident(computed[name], self.thresholds[stage.exit]) for name in stage.answer)

    def with_branches(self, options: Options, table: ProfileTable) -> Options:
        """Return the options of a request that computes every exit before its cut and takes none."""
        extra_s = [
            sum(table.segment_s(self._graph, *segment) for segment in self.segments(exit_, cut))
            - table.segment_s(self._graph, self._graph.inputs, cut)
            for exit_, cut, _ in options.triples
        ]
        return options._replace(device_s=options.device_s + np.array(extra_s))


def stages_before(graph: ModelGraph, exits: Sequence[Names], exit_: int, cut: Names) -> tuple[Stage, ...]:
    """Return the stages of a head that ends at `cut`, for an answer of `exit_`: one for each earlier exit whose branch
    leaves the trunk before the cut."""
    trunk = set(graph.needed(graph.inputs, exits[exit_]))
    head = set(graph.needed(graph.inputs, cut))
    return tuple(_stages(graph, exits[:exit_], trunk, head, cut))


def _stages(graph: ModelGraph, exits: Sequence[Names], trunk: set[int], head: set[int], cut: Names) -> Iterator[Stage]:
    at_hand: Names = graph.inputs
    for exit_, answer in enumerate(exits):
        needed = set(graph.needed(graph.inputs, answer))
        branch = needed - trunk
        read = {name for i in branch for name in graph.ops[i].inputs} | set(answer)
        made = {name for i in branch for name in graph.ops[i].outputs}
        tap = tuple(name for name in graph.tensors if name in read - made)
        if needed & trunk <= head and _follows(graph, at_hand, (*answer, *tap)) and _follows(graph, tap, cut):
            yield Stage(exit_, answer, tap)
            at_hand = tap


def _follows(graph: ModelGraph, inputs: Names, outputs: Names) -> bool:
    try:
        graph.needed(inputs, outputs)
    except GraphError:
        return False
    return True
