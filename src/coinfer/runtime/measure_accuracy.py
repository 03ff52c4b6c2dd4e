"""Measures how often each exit is right if what crosses a cut passes through the runtime's own codec.

Networks run on many pictures at a time; the codec gets every picture by itself, as on a real link.
"""

import itertools
import multiprocessing
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from typing import NamedTuple

import numpy as np

from coinfer.graph.image_input import ImageInput
from coinfer.graph.ir import ModelGraph
from coinfer.options.table import Names
from coinfer.profile.accuracy import AccuracyError, AccuracyRow, AccuracyTable, CascadePoint
from coinfer.profile.dataset import ImageDataset, misfit
from coinfer.progress import Progress, quiet
from coinfer.runtime.codec.codec import decode, encode
from coinfer.runtime.device.planning.early_exit import entropy
from coinfer.runtime.executor import Executor
from coinfer.runtime.images import normalise
from coinfer.units import FLOAT32_BITS, IMAGE_BITS

BATCH = 250
"""Pictures in one run of the network."""
MAX_CASCADES = 400
ALWAYS_CONFIDENT = 2.0
"""A threshold above every entropy."""


class MeasurementPlan(NamedTuple):
    """The cuts, exits and numbers of bits that are measured."""

    cuts: Mapping[Names, tuple[int, ...]]
    """Exits behind each cut, the earliest first; input and outputs are no cuts here."""
    bits: tuple[int, ...]
    """Bits per element below 32, which is exact."""


class Counts(NamedTuple):
    """The results for N pictures with E exits."""

    answers: np.ndarray
    """int64 [N, E], the class that each exit names without quantising."""
    entropies: np.ndarray
    """[N, E], of these answers, over the logarithm of the number of classes."""
    correct: Mapping[tuple[int, Names, int], int]
    """Right answers by exit, cut and bits."""


def measurement_plan(graph: ModelGraph, bits: Iterable[int]) -> MeasurementPlan:
    """Return the plan for every useful cut of every exit.

    Args:
        graph: a network with one output for each exit.
        bits: bits per element of what is sent; 32 is left out, as it is exact.
    """
    cuts: dict[Names, list[int]] = {}
    for exit_, output in enumerate(graph.outputs):
        for cut in graph.pruned((output,)).useful_cuts()[1:-1]:
            cuts.setdefault(cut.tensors, []).append(exit_)
    return MeasurementPlan(
        {cut: tuple(exits) for cut, exits in cuts.items()}, tuple(b for b in bits if b != FLOAT32_BITS)
    )


def measure_accuracy(
    graph: ModelGraph,
    data: ImageDataset,
    bits: Sequence[int] = (4, 8, 12, 16, 32),
    jobs: int = 1,
    progress: Progress = quiet,
) -> AccuracyTable:
    """Return the accuracy table of a network on a data set; its input is sent as the picture's pixels, which is exact.

    Args:
        graph: a network with one output for each exit, the earliest first.
        data: test pictures at the network's size.
        bits: bits per element of what is sent.
        jobs: processes that share the work, each with one thread.
        progress: called with pictures done and their total.

    Raises:
        AccuracyError: if the network takes no such pictures, has other classes, or no free batch axis.
    """
    _check(graph, data)
    plan, total = measurement_plan(graph, bits), len(data.labels)
    parts = [(data.images[i : i + BATCH], data.labels[i : i + BATCH]) for i in range(0, total, BATCH)]
    all_counts, done = list[Counts](), 0
    for counts in _all_counts(graph, plan, parts, jobs):
        all_counts.append(counts)
        done += len(counts.answers)
        progress(done, total, "pictures")
    right = np.concatenate([counts.answers for counts in all_counts]) == data.labels[:, None]
    exact = right.sum(axis=0).tolist()
    rows = [
        AccuracyRow(
            exit=exit_, cut=cut, bits=width, correct=sum(counts.correct[exit_, cut, width] for counts in all_counts)
        )
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
        confidence=pareto_cascades(right, np.concatenate([counts.entropies for counts in all_counts])),
    )


def pareto_cascades(right: np.ndarray, entropies: np.ndarray) -> tuple[CascadePoint, ...]:
    """Return what cascades answer, for thresholds at which rising shares of the samples leave at each exit.

    A cascade is left out if another one lets at least as many leave by each exit and is right at least as often. A
    single exit gives none.

    Args:
        right: bool [N, E], whether each exit is right.
        entropies: [N, E], divided by the logarithm of the number of classes.
    """
    exits = right.shape[1]
    if exits < 2:
        return ()
    shares = np.linspace(0, 1, max(2, min(21, int(MAX_CASCADES ** (1 / (exits - 1))))))[1:-1]
    grids = [
        sorted({0.0, ALWAYS_CONFIDENT, *(float(f"{value:.3g}") for value in np.quantile(entropies[:, exit_], shares))})
        for exit_ in range(exits - 1)
    ]
    points = [run_cascade(right, entropies, thresholds) for thresholds in itertools.product(*grids)]
    left_by = np.array([np.cumsum(point.left) for point in points])
    correct = np.array([sum(point.correct) for point in points])
    pareto = []
    for i, point in enumerate(points):
        as_good = (left_by >= left_by[i]).all(axis=1) & (correct >= correct[i])
        better = as_good & ((left_by > left_by[i]).any(axis=1) | (correct > correct[i]))
        equal_before = as_good[:i] & ~better[:i]
        if not better.any() and not equal_before.any():
            pareto.append(point)
    return tuple(pareto)


def run_cascade(right: np.ndarray, entropies: np.ndarray, thresholds: Sequence[float]) -> CascadePoint:
    """Return how many samples leave at each exit, and how many of them are right.

    Each sample leaves at its first confident exit.

    Args:
        right: bool [N, E], whether each exit is right.
        entropies: [N, E], divided by the logarithm of the number of classes.
        thresholds: [E - 1]; an exit is confident below its own, and the last always.
    """
    confident = np.column_stack([entropies[:, :-1] < np.array(thresholds), np.ones(len(right), bool)])
    exit_of = confident.argmax(axis=1)
    is_right = right[np.arange(len(right)), exit_of]
    exits = range(right.shape[1])
    left, correct = (
        tuple(int((exit_of == e).sum()) for e in exits),
        tuple(int(is_right[exit_of == e].sum()) for e in exits),
    )
    return CascadePoint(thresholds=tuple(map(float, thresholds)), left=left, correct=correct)


def count_correct(executor: Executor, plan: MeasurementPlan, images: np.ndarray, labels: np.ndarray) -> Counts:
    """Run a network whole, and behind every cut on what the codec leaves of the cut's tensors.

    Args:
        executor: of a network that takes pictures.
        plan: what to measure.
        images: uint8 [N, height, width, 3] at the network's size.
        labels: [N], index of each picture's class.

    Returns:
        Answers and entropies without quantising, and right answers by exit, cut and bits.
    """
    graph = executor.graph
    image = graph.image
    assert image is not None
    inputs = {graph.inputs[0]: np.concatenate([normalise(one, image) for one in images])}
    names = tuple(dict.fromkeys(name for cut in plan.cuts for name in cut))
    values, _ = executor.run(inputs, (*graph.outputs, *(name for name in names if name not in graph.outputs)))
    answers = np.stack([values[output].argmax(axis=1) for output in graph.outputs], axis=1)
    entropies = np.stack([entropy(values[output]) for output in graph.outputs], axis=1)
    correct: dict[tuple[int, Names, int], int] = {}
    for cut, exits in plan.cuts.items():
        outputs = tuple(graph.outputs[exit_] for exit_ in exits)
        for width in plan.bits:
            computed, _ = executor.run({name: codec_round_trip(values[name], width) for name in cut}, outputs)
            for exit_, output in zip(exits, outputs, strict=True):
                correct[exit_, cut, width] = int((computed[output].argmax(axis=1) == labels).sum())
    return Counts(answers, entropies, correct)


def codec_round_trip(batch: np.ndarray, bits: int) -> np.ndarray:
    """Return a batch after encoding and decoding each sample by itself.

    Args:
        batch: float32 [N, ..].
        bits: bits per element, one of `units.WIRE_BITS`.
    """
    return np.concatenate([decode(encode(batch[i : i + 1], bits)) for i in range(len(batch))])


def _all_counts(
    graph: ModelGraph, plan: MeasurementPlan, parts: Sequence[tuple[np.ndarray, np.ndarray]], jobs: int
) -> Iterable[Counts]:
    if jobs == 1:
        executor = Executor(graph)
        yield from (count_correct(executor, plan, *part) for part in parts)
        return
    with ProcessPoolExecutor(jobs, multiprocessing.get_context("spawn"), _start, (graph, plan)) as pool:
        yield from pool.map(_counts, parts)


_worker: tuple[Executor, MeasurementPlan]
"""What a process of the pool works with."""


def _start(graph: ModelGraph, plan: MeasurementPlan) -> None:
    global _worker
    _worker = Executor(graph), plan


def _counts(part: tuple[np.ndarray, np.ndarray]) -> Counts:
    return count_correct(*_worker, *part)


def _check(graph: ModelGraph, data: ImageDataset) -> ImageInput:
    """Return how the network takes these pictures.

    Raises:
        AccuracyError: if it does not.
    """
    if graph.image is None:
        raise AccuracyError(f"{graph.name} does not say how it takes pictures; its accuracy cannot be measured on them")
    if not graph.dynamic_batch:
        raise AccuracyError(f"{graph.name} takes one picture at a time; export it with a free first axis")
    if mismatch := misfit(graph, graph.image, data):
        problem, is_about_classes = mismatch
        raise AccuracyError(
            f"{problem}; measure it on the data set that it was trained for" if is_about_classes else problem
        )
    return graph.image
