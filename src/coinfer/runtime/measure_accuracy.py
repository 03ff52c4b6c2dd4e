"""How often each exit answers rightly when what crosses a cut goes through the runtime's own codec.

Networks run on many pictures at a time; the codec sees every picture by itself, as on a real link.
"""

import itertools
import multiprocessing
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from typing import NamedTuple

import numpy as np

from coinfer.graph.ir import ImageInput, ModelGraph
from coinfer.options.table import Names
from coinfer.profile.accuracy import AccuracyError, AccuracyRow, AccuracyTable, CascadePoint
from coinfer.profile.dataset import LabelledPictures, misfit
from coinfer.progress import Progress, quiet
from coinfer.runtime.codec.codec import decode, encode
from coinfer.runtime.device.planning.early_exit import entropy
from coinfer.runtime.executor import Executor
from coinfer.runtime.images import normalise
from coinfer.units import FLOAT32_BITS, IMAGE_BITS

BATCH = 250
"""Pictures that a network runs on at a time."""
MAX_CASCADES = 400
EVERYBODY = 2.0
"""A threshold that every entropy is below."""


class Plan(NamedTuple):
    """What is measured."""

    cuts: Mapping[Names, tuple[int, ...]]
    """The exits that are computed behind each cut, the earliest first; without the input and the outputs."""
    bits: tuple[int, ...]
    """Below 32, which is exact."""


class Counts(NamedTuple):
    """What came of some pictures."""

    answers: np.ndarray
    """int64 [N, E]: the class that each exit names, nothing quantised."""
    entropies: np.ndarray
    """[N, E], of these answers."""
    correct: Mapping[tuple[int, Names, int], int]
    """Right answers by exit, cut and bits."""


def plan_of(graph: ModelGraph, bits: Iterable[int]) -> Plan:
    """Every useful cut of every exit."""
    cuts: dict[Names, list[int]] = {}
    for exit_, output in enumerate(graph.outputs):
        for cut in graph.pruned((output,)).useful_cuts()[1:-1]:
            cuts.setdefault(cut.tensors, []).append(exit_)
    return Plan({cut: tuple(found) for cut, found in cuts.items()}, tuple(b for b in bits if b != FLOAT32_BITS))


def measure_accuracy(
    graph: ModelGraph,
    data: LabelledPictures,
    bits: Sequence[int] = (4, 8, 12, 16, 32),
    jobs: int = 1,
    progress: Progress = quiet,
) -> AccuracyTable:
    """The network's accuracy table on these pictures. The input is sent as the picture's own bytes, which is exact.

    Args:
        jobs: processes that share the work, each with one thread.
        progress: told pictures done and pictures in all.

    Raises:
        AccuracyError: where pictures do not fit the network.
    """
    _check(graph, data)
    plan, total = plan_of(graph, bits), len(data.labels)
    parts = [(data.images[i : i + BATCH], data.labels[i : i + BATCH]) for i in range(0, total, BATCH)]
    found, done = list[Counts](), 0
    for counts in _all_counts(graph, plan, parts, jobs):
        found.append(counts)
        done += len(counts.answers)
        progress(done, total, "pictures")
    right = np.concatenate([counts.answers for counts in found]) == data.labels[:, None]
    exact = right.sum(axis=0).tolist()
    rows = [
        AccuracyRow(exit=exit_, cut=cut, bits=width, correct=sum(counts.correct[exit_, cut, width] for counts in found))
        for cut, exits in plan.cuts.items()
        for exit_ in exits
        for width in plan.bits
    ]
    rows += [AccuracyRow(exit=i, cut=graph.inputs, bits=IMAGE_BITS, correct=n) for i, n in enumerate(exact)]
    return AccuracyTable(
        model=graph.name,
        fingerprint=graph.fingerprint,
        dataset=f"{data.kind}, {total} test pictures",
        samples=total,
        exits=exact,
        rows=tuple(sorted(rows, key=lambda row: (row.exit, row.cut != graph.inputs))),
        confidence=cascades(right, np.concatenate([counts.entropies for counts in found])),
    )


def cascades(right: np.ndarray, entropies: np.ndarray) -> tuple[CascadePoint, ...]:
    """What comes of leaving early, for thresholds such that rising shares of the samples leave at each exit.

    Of two cascades of which one answers no later and no less rightly only that one is kept.

    Args:
        right: bool [N, E], whether each exit answers rightly.
        entropies: [N, E], over the logarithm of the number of classes.
    """
    exits = right.shape[1]
    if exits < 2:
        return ()
    shares = np.linspace(0, 1, max(2, min(21, int(MAX_CASCADES ** (1 / (exits - 1))))))[1:-1]
    grids = [
        sorted({0.0, EVERYBODY, *(float(f"{value:.3g}") for value in np.quantile(entropies[:, exit_], shares))})
        for exit_ in range(exits - 1)
    ]
    points = [cascade(right, entropies, thresholds) for thresholds in itertools.product(*grids)]
    early = np.array([np.cumsum(point.left) for point in points])
    correct = np.array([sum(point.correct) for point in points])
    kept = []
    for i, point in enumerate(points):
        as_good = (early >= early[i]).all(axis=1) & (correct >= correct[i])
        better = as_good & ((early > early[i]).any(axis=1) | (correct > correct[i]))
        equal_before = as_good[:i] & ~better[:i]
        if not better.any() and not equal_before.any():
            kept.append(point)
    return tuple(kept)


def cascade(right: np.ndarray, entropies: np.ndarray, thresholds: Sequence[float]) -> CascadePoint:
    """Who leaves where when every sample leaves at the first exit whose entropy is below its threshold."""
    sure = np.column_stack([entropies[:, :-1] < np.array(thresholds), np.ones(len(right), bool)])
    taken = sure.argmax(axis=1)
    hits = right[np.arange(len(right)), taken]
    exits = range(right.shape[1])
    left, correct = tuple(int((taken == e).sum()) for e in exits), tuple(int(hits[taken == e].sum()) for e in exits)
    return CascadePoint(thresholds=tuple(map(float, thresholds)), left=left, correct=correct)


def counts_of(executor: Executor, plan: Plan, images: np.ndarray, labels: np.ndarray) -> Counts:
    """Runs the network whole, and behind every cut with what the codec leaves of the cut's tensors."""
    graph = executor.graph
    image = graph.image
    assert image is not None
    inputs = {graph.inputs[0]: np.concatenate([normalise(one, image.mean, image.std) for one in images])}
    names = tuple(dict.fromkeys(name for cut in plan.cuts for name in cut))
    values, _ = executor.run(inputs, (*graph.outputs, *(name for name in names if name not in graph.outputs)))
    answers = np.stack([values[output].argmax(axis=1) for output in graph.outputs], axis=1)
    entropies = np.stack([entropy(values[output]) for output in graph.outputs], axis=1)
    correct: dict[tuple[int, Names, int], int] = {}
    for cut, exits in plan.cuts.items():
        outputs = tuple(graph.outputs[exit_] for exit_ in exits)
        for width in plan.bits:
            found, _ = executor.run({name: through_codec(values[name], width) for name in cut}, outputs)
            for exit_, output in zip(exits, outputs, strict=True):
                correct[exit_, cut, width] = int((found[output].argmax(axis=1) == labels).sum())
    return Counts(answers, entropies, correct)


def through_codec(batch: np.ndarray, bits: int) -> np.ndarray:
    """What arrives of each sample of a batch [N, ..] that is sent by itself."""
    return np.concatenate([decode(encode(batch[i : i + 1], bits)) for i in range(len(batch))])


def _all_counts(
    graph: ModelGraph, plan: Plan, parts: Sequence[tuple[np.ndarray, np.ndarray]], jobs: int
) -> Iterable[Counts]:
    if jobs == 1:
        executor = Executor(graph)
        yield from (counts_of(executor, plan, *part) for part in parts)
        return
    with ProcessPoolExecutor(jobs, multiprocessing.get_context("spawn"), _start, (graph, plan)) as pool:
        yield from pool.map(_counts, parts)


_mine: tuple[Executor, Plan]
"""Of a process of the pool."""


def _start(graph: ModelGraph, plan: Plan) -> None:
    global _mine
    _mine = Executor(graph), plan


def _counts(part: tuple[np.ndarray, np.ndarray]) -> Counts:
    return counts_of(*_mine, *part)


def _check(graph: ModelGraph, data: LabelledPictures) -> ImageInput:
    """How the network takes these pictures."""
    if graph.image is None:
        raise AccuracyError(f"{graph.name} does not say how it takes pictures; its accuracy cannot be measured on them")
    if not graph.dynamic_batch:
        raise AccuracyError(f"{graph.name} takes one picture at a time; export it with a free first axis")
    if found := misfit(graph, graph.image, data):
        told, of_classes = found
        raise AccuracyError(f"{told}; measure it on the data set that it was trained for" if of_classes else told)
    return graph.image
