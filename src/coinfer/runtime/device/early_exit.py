"""Leaving early when sure: the device looks at the exits that lie before its cut, the earliest first.

After Teerapittayanon et al., "BranchyNet" (ICPR 2016): an answer is sure where the entropy of its class probabilities
is small. Here it is divided by the logarithm of the number of classes, so that thresholds lie between 0 and 1.
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

LEAST_SHARE = 1e-6
"""Of requests that go on; what is sent must not seem to stay."""


class ConfidenceError(UserError):
    """Thresholds that do not fit the network; the message is one line for a person."""


class Chances(NamedTuple):
    """What leaving early changes on average; all [O]."""

    goes_on: np.ndarray
    """Share of requests that no exit before the cut is sure of."""
    device_share: np.ndarray
    """Mean time on the device over that of a request that is never sure."""
    accuracy: np.ndarray
    """Of all answers, early ones included."""

    def mean(self, options: Options) -> Options:
        """The mean request, where the options are of one that is never sure."""
        return options._replace(
            device_s=options.device_s * self.device_share,
            upload_bits=options.upload_bits * self.goes_on,
            server_s=options.server_s * self.goes_on[:, None],
            accuracy=self.accuracy,
        )

    def expected(self, observation: OffloadObservation) -> OffloadObservation:
        """The same for what a policy sees."""
        return observation._replace(
            option_device_s=observation.option_device_s * self.device_share,
            option_device_j=observation.option_device_j * self.device_share,
            option_upload_bits=observation.option_upload_bits * self.goes_on,
            option_server_s=observation.option_server_s * self.goes_on[:, None],
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
    """One threshold for each exit but the last; none where nobody wants to leave early.

    Args:
        confidence: the thresholds, or one for all exits.
        loss: accuracy that may be lost against the last exit, from which the table's cheapest cascade follows.

    Raises:
        ConfidenceError: where both are given, or they do not fit the network.
        AccuracyError: where the table holds no such cascade.
    """
    if confidence is None and loss is None:
        return ()
    if confidence is not None and loss is not None:
        raise ConfidenceError("confidence and confidence_loss are both given; expected one of them")
    if exits < 2:
        raise ConfidenceError("leaving early needs a network with several exits and its accuracy table")
    if confidence is None:
        assert accuracy is not None
        assert loss is not None
        if not 0 <= loss < 1:
            raise ConfidenceError(f"confidence_loss is {loss:g}; expected a share from 0 to 1, such as 0.005")
        return accuracy.cascade(max(accuracy.accuracy(exits - 1) - loss, 0.0)).thresholds
    found = tuple(map(float, confidence)) if isinstance(confidence, Sequence) else (float(confidence),) * (exits - 1)
    if len(found) != exits - 1 or not all(0 <= value <= 1 for value in found):
        raise ConfidenceError(
            f"confidence is {list(found)}; expected entropies from 0 (never sure) to 1, {exits - 1} or one for all"
        )
    return found


def calibrated(accuracy: AccuracyTable, thresholds: Sequence[float]) -> CascadePoint | None:
    """What was measured with these thresholds, if they were."""
    return next((point for point in accuracy.confidence if point.thresholds == tuple(thresholds)), None)


def entropy(logits: np.ndarray) -> np.ndarray:
    """Entropy of the class probabilities [..] of logits [.., C], divided by ln C: 0 is sure, 1 knows nothing."""
    shifted = logits - logits.max(axis=-1, keepdims=True)
    log_total = np.log(np.exp(shifted).sum(axis=-1, keepdims=True))
    log_share = shifted - log_total
    return -(np.exp(log_share) * log_share).sum(axis=-1) / np.log(logits.shape[-1])


def is_sure(logits: np.ndarray, threshold: float) -> bool:
    """True where every row's entropy is below the threshold."""
    return bool((entropy(np.asarray(logits, np.float64)) < threshold).all())


class Ladder:
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
        """Where a request to `exit_` may be answered on its way to `cut`."""
        if not self.thresholds:
            return ()
        if (exit_, cut) not in self._known:
            self._known[exit_, cut] = stages_before(self._graph, self._exits, exit_, cut)
        return self._known[exit_, cut]

    def steps(self, exit_: int, cut: Names) -> Iterator[tuple[Names, Names]]:
        """The segments that the device runs one after another up to the cut: from these tensors to those."""
        at_hand = self._graph.inputs
        for stage in self.stages(exit_, cut):
            yield at_hand, stage.outputs
            at_hand = stage.tap
        yield at_hand, cut

    def reached_s(self, exit_: int, cut: Names, table: ProfileTable) -> dict[int, float]:
        """Time on the profiled machine until each exit on the way has answered."""
        reached, spent_s = {}, 0.0
        for stage, step in zip(self.stages(exit_, cut), self.steps(exit_, cut), strict=False):
            spent_s += table.segment_s(self._graph, *step)
            reached[stage.exit] = spent_s
        return reached

    def chances(self, options: Options, table: ProfileTable, accuracy: AccuracyTable | None) -> Chances:
        """Averages over the test set of the accuracy table; where these thresholds were not measured, nobody is taken
        to leave early.

        What leaves at exits before a cut is taken to cost the accuracy that the whole cascade costs.
        """
        ones = np.ones(len(options.bits))
        point = calibrated(accuracy, self.thresholds) if accuracy else None
        if point is None or accuracy is None:
            return Chances(ones, ones, options.accuracy)
        samples, whole = accuracy.samples, accuracy.accuracy(len(accuracy.exits) - 1)
        loss = max(whole - sum(point.correct) / samples, 0.0)
        goes_on, device_share, right = ones.copy(), ones.copy(), options.accuracy.copy()
        for i, (exit_, cut, _) in enumerate(options.triples):
            reached = self.reached_s(exit_, cut, table)
            leaves = {early: point.left[early] / samples for early in reached}
            goes_on[i] = max(1 - sum(leaves.values()), LEAST_SHARE)
            mean_s = sum(leaves[early] * reached[early] for early in reached) + goes_on[i] * options.device_s[i]
            device_share[i] = mean_s / options.device_s[i] if reached else 1.0
            right[i] -= loss if reached else 0.0
        return Chances(goes_on, device_share, right)

    def is_sure(self, stage: Stage, computed: Mapping[str, np.ndarray]) -> bool:
        """True where the stage's answer will do."""
        return all(is_sure(computed[name], self.thresholds[stage.exit]) for name in stage.answer)

    def unsure(self, options: Options, table: ProfileTable) -> Options:
        """Options with the answers at every exit on their way: the times of a request that is never sure."""
        extra_s = [
            sum(table.segment_s(self._graph, *step) for step in self.steps(exit_, cut))
            - table.segment_s(self._graph, self._graph.inputs, cut)
            for exit_, cut, _ in options.triples
        ]
        return options._replace(device_s=options.device_s + np.array(extra_s))


def stages_before(graph: ModelGraph, exits: Sequence[Names], exit_: int, cut: Names) -> tuple[Stage, ...]:
    """The stages of a head that ends at `cut`, for an answer of `exit_`: one for each earlier exit whose branch leaves
    the trunk before the cut."""
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
