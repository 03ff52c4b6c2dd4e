"""Early exits: the device computes the exits before its cut, the earliest first, and answers if one is confident.

After Teerapittayanon et al., "BranchyNet" (ICPR 2016): an answer is confident if the entropy of its class probabilities
is small. Here the entropy is divided by the logarithm of the number of classes, so that thresholds lie between 0 and 1.

Before a code of a bottleneck these are the exits that lie before what its encoder reads.
"""

from collections.abc import Iterator, Mapping, Sequence
from typing import NamedTuple

import numpy as np

from coinfer.errors import UserError
from coinfer.graph.bottleneck import HEAD
from coinfer.graph.ir import GraphError, ModelGraph
from coinfer.options.table import Names, Options
from coinfer.profile.accuracy import AccuracyTable, CascadePoint
from coinfer.profile.table import ProfileTable
from coinfer.types import OffloadObservation

MIN_SHARE = 1e-6
"""Smallest share of requests that continue past an exit; at 0, an option that sends would look as if it did not."""


class ConfidenceError(UserError):
    """Thresholds that do not fit the network; the message is one line for a person."""


class ExitStats(NamedTuple):
    """How early exits change the mean request, for each of O options; all fields are [O]."""

    continue_share: np.ndarray
    """Share of requests for which no exit before the cut is confident."""
    device_share: np.ndarray
    """Mean time on the device over that of a request that takes no early exit."""
    accuracy: np.ndarray
    """Mean over all answers, early ones included."""

    def mean(self, options: Options) -> Options:
        """Return the options of the mean request.

        Args:
            options: O options of a request that takes no early exit but computes each one before its cut.
        """
        return options._replace(
            device_s=options.device_s * self.device_share,
            upload_bits=options.upload_bits * self.continue_share,
            server_s=options.server_s * self.continue_share[:, None],
            accuracy=self.accuracy,
        )

    def mean_observation(self, observation: OffloadObservation[np.ndarray]) -> OffloadObservation[np.ndarray]:
        """Return the observation of the mean request, from which the mean latency is predicted.

        The prediction is an approximation: it is the latency of the mean request (device time times `device_share`,
        upload and service time times `continue_share`), not the mean over the latencies of requests that exit and
        requests that continue. Both are equal if the mean request finds link and server free when it gets there, since
        latency is then a sum. If it has to wait for one of them, the prediction is too high, by at most the share of
        early exits times the wait: it makes every request wait, but those that exit early do not. The shares are
        averages over the accuracy table's test set; a request's own picture plays no part.

        Args:
            observation: of a request that takes no early exit, with O options.
        """
        return observation._replace(
            option_device_s=observation.option_device_s * self.device_share,
            option_device_j=observation.option_device_j * self.device_share,
            option_upload_bits=observation.option_upload_bits * self.continue_share,
            option_server_s=observation.option_server_s * self.continue_share[:, None],
        )


class Stage(NamedTuple):
    """A piece of the head that computes an exit's outputs and the tensors from which the rest of the head starts."""

    exit: int
    answer: Names
    """Outputs of the exit."""
    tap: Names
    """Tensors at which the exit's branch leaves the trunk."""
    starts: Names
    """The tap by the names that the rest of the head knows it by: its own, or those of the bottleneck's network."""

    @property
    def outputs(self) -> Names:
        """Return the tensors that the piece computes: the exit's outputs, then the tap, each once."""
        return (*self.answer, *(name for name in self.tap if name not in self.answer))


def thresholds_for(
    exits: int, confidence: float | Sequence[float] | None, loss: float | None, accuracy: AccuracyTable | None
) -> tuple[float, ...]:
    """Return one threshold for each exit but the last; none if no early exit is asked for.

    Args:
        exits: number of exits.
        confidence: the thresholds, 0 (never confident) to 1, or one for all exits.
        loss: accuracy that may be lost against the last exit, 0 to 1; the table's cheapest cascade within it is taken.
        accuracy: the network's accuracy table; needed if `loss` is given and `confidence` is not.

    Raises:
        ConfidenceError: if there is only one exit, or a value or their number is wrong.
        AccuracyError: if the table holds no cascade within the loss.
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
    thresholds = (
        tuple(map(float, confidence)) if isinstance(confidence, Sequence) else (float(confidence),) * (exits - 1)
    )
    if len(thresholds) != exits - 1 or not all(0 <= value <= 1 for value in thresholds):
        raise ConfidenceError(
            f"confidence is {list(thresholds)}; expected entropies from 0 (never) to 1, {exits - 1} or one for all"
        )
    return thresholds


def measured_point(accuracy: AccuracyTable, thresholds: Sequence[float]) -> CascadePoint | None:
    """Return the cascade that was measured with exactly these thresholds, or None.

    Args:
        accuracy: table whose cascades are searched.
        thresholds: of each exit but the last.
    """
    return next((point for point in accuracy.confidence if point.thresholds == tuple(thresholds)), None)


def entropy(logits: np.ndarray) -> np.ndarray:
    """Return the entropy of class probabilities, [..], divided by ln C: 0 is certain, 1 is uniform.

    Args:
        logits: [.., C] with C of at least 2.
    """
    shifted = logits - logits.max(axis=-1, keepdims=True)
    log_total = np.log(np.exp(shifted).sum(axis=-1, keepdims=True))
    log_share = shifted - log_total
    return -(np.exp(log_share) * log_share).sum(axis=-1) / np.log(logits.shape[-1])


def is_confident(logits: np.ndarray, threshold: float) -> bool:
    """Return true if the entropy of every row is below the threshold.

    Args:
        logits: [.., C].
        threshold: 0 (never confident) to 1.
    """
    return bool((entropy(np.asarray(logits, np.float64)) < threshold).all())


class ExitCascade:
    """The early exits of a network, for any cut. Without thresholds there are none.

    Args:
        graph: the network.
        exits: outputs of each exit, the earliest first.
        thresholds: of each exit but the last, or none.
    """

    def __init__(self, graph: ModelGraph, exits: Sequence[Names], thresholds: Sequence[float]):
        self.thresholds = tuple(thresholds)
        self._graph = graph
        self._exits = exits
        self._known: dict[tuple[int, Names], tuple[Stage, ...]] = {}

    def stages(self, exit_: int, cut: Names) -> tuple[Stage, ...]:
        """Return the stages at which the device may answer before the cut, the earliest first.

        Args:
            exit_: index of the exit that the request is routed to.
            cut: tensors that leave the device.
        """
        if not self.thresholds:
            return ()
        if (exit_, cut) not in self._known:
            self._known[exit_, cut] = stages_before(self._graph, self._exits, exit_, cut)
        return self._known[exit_, cut]

    def segments(self, exit_: int, cut: Names) -> Iterator[tuple[Names, Names]]:
        """Yield inputs and outputs of the segments that the device runs one after another up to the cut.

        Args:
            exit_: index of the exit that the request is routed to.
            cut: tensors that leave the device.
        """
        inputs = self._graph.inputs
        for stage in self.stages(exit_, cut):
            yield inputs, stage.outputs
            inputs = stage.starts
        yield inputs, cut

    def exit_s(self, exit_: int, cut: Names, table: ProfileTable) -> dict[int, float]:
        """Return the profiled machine's time in seconds until each exit before the cut has answered, by index of the
        exit.

        Args:
            exit_: index of the exit that the request is routed to.
            cut: tensors that leave the device.
            table: measured times of the network.
        """
        exit_s, elapsed_s = {}, 0.0
        for stage, segment in zip(self.stages(exit_, cut), self.segments(exit_, cut), strict=False):
            elapsed_s += table.segment_s(self._graph, *segment)
            exit_s[stage.exit] = elapsed_s
        return exit_s

    def stats(self, options: Options, table: ProfileTable, accuracy: AccuracyTable | None) -> ExitStats:
        """Return averages over the test set of the accuracy table.

        If these thresholds were not measured, no request is expected to exit early. If any exit lies before a cut, the
        answers are expected to lose the accuracy that the whole cascade loses.

        Args:
            options: O options of a request that takes no early exit but computes each one before its cut.
            table: measured times of the network.
            accuracy: the network's accuracy table, if any.
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
        """Return true if the device may answer with a stage's outputs.

        Args:
            stage: one of `stages`.
            computed: tensors by name, among them the stage's outputs; every row of a batch must be confident.
        """
        return all(is_confident(computed[name], self.thresholds[stage.exit]) for name in stage.answer)

    def with_branches(self, options: Options, table: ProfileTable) -> Options:
        """Return the options of a request that computes every exit before its cut and takes none.

        Args:
            options: O options whose device times hold no exit before the cut.
            table: measured times of the network.
        """
        extra_s = [
            sum(table.segment_s(self._graph, *segment) for segment in self.segments(exit_, cut))
            - table.segment_s(self._graph, self._graph.inputs, cut)
            for exit_, cut, _ in options.triples
        ]
        return options._replace(device_s=options.device_s + np.array(extra_s))


def stages_before(graph: ModelGraph, exits: Sequence[Names], exit_: int, cut: Names) -> tuple[Stage, ...]:
    """Return one stage for each exit before `exit_` whose branch leaves the trunk before the cut.

    Args:
        graph: the network.
        exits: outputs of each exit, the earliest first.
        exit_: index of the exit that the request is routed to; the trunk is what it needs.
        cut: tensors that leave the device; before a code of the bottleneck, exits that lie before its encoder count.

    Raises:
        GraphError: if the exit or the cut cannot be computed from the network's inputs.
    """
    trunk = set(graph.needed(graph.inputs, exits[exit_]))
    if graph.part(cut) is graph:
        return tuple(_stages(graph, exits[:exit_], trunk, cut))
    if graph.bottleneck is None or not graph.bottleneck.source:
        return ()
    stages = tuple(_stages(graph, exits[:exit_], trunk, (graph.bottleneck.source,)))
    return (*stages[:-1], *(_before_code(graph, last) for last in stages[-1:]))


def _before_code(graph: ModelGraph, stage: Stage) -> Stage:
    """Return a stage from which a bottleneck's own network goes on."""
    starts = tuple(name if name in graph.inputs else f"{HEAD}{name}" for name in stage.tap)
    return stage._replace(starts=starts)


def _stages(graph: ModelGraph, exits: Sequence[Names], trunk: set[int], cut: Names) -> Iterator[Stage]:
    head = set(graph.needed(graph.inputs, cut))
    inputs: Names = graph.inputs
    for exit_, answer in enumerate(exits):
        needed = set(graph.needed(graph.inputs, answer))
        branch = needed - trunk
        read = {name for i in branch for name in graph.ops[i].inputs} | set(answer)
        written = {name for i in branch for name in graph.ops[i].outputs}
        tap = tuple(name for name in graph.tensors if name in read - written)
        if needed & trunk <= head and _follows(graph, inputs, (*answer, *tap)) and _follows(graph, tap, cut):
            yield Stage(exit_, answer, tap, tap)
            inputs = tap


def _follows(graph: ModelGraph, inputs: Names, outputs: Names) -> bool:
    try:
        graph.needed(inputs, outputs)
    except GraphError:
        return False
    return True
