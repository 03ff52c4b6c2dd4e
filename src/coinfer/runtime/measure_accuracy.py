"""Measures what answers are worth if what crosses a cut passes through the runtime's own codec.

An answer is right if it names the sample's class; or, of samples without a class, if it is what the network answers
without loss: the same class, or numbers within `TOLERANCE`. Networks run on many samples at a time where they can; the
codec gets every sample by itself, as on a real link.
"""

import multiprocessing
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from typing import NamedTuple

import numpy as np

from coinfer.graph.ir import ModelGraph
from coinfer.options.table import Names
from coinfer.profile.accuracy import TOLERANCE, AccuracyRow, AccuracyTable
from coinfer.progress import Progress, quiet
from coinfer.runtime.accuracy_samples import Part, SampleSet, inputs_of
from coinfer.runtime.cascades import pareto_cascades
from coinfer.runtime.classes import is_classifier
from coinfer.runtime.codec.codec import decode, encode
from coinfer.runtime.device.planning.early_exit import entropy
from coinfer.runtime.executor import Executor
from coinfer.units import FLOAT32_BITS, IMAGE_BITS

Key = tuple[int, Names, int]
"""Exit, cut and bits."""


class MeasurementPlan(NamedTuple):
    """The exits, cuts and numbers of bits that are measured."""

    exits: tuple[Names, ...]
    """Outputs that answer together, the earliest exit first."""
    cuts: Mapping[Names, tuple[int, ...]]
    """Exits behind each cut, the earliest first; input and outputs are no cuts here."""
    bits: tuple[int, ...]
    """Bits per element below 32, which is exact."""
    classes: bool
    """Whether answers are classes."""


class Counts(NamedTuple):
    """The results for N samples with E exits."""

    right: np.ndarray
    """bool [N, E], whether each exit is right without quantising."""
    entropies: np.ndarray
    """[N, E], of these answers, over the logarithm of the number of classes; 0 of answers that are no classes."""
    correct: Mapping[Key, int]
    """Right answers."""
    error: Mapping[Key, float]
    """Sum over the samples of how far answers are from those without loss, relative to these; at most 1 each."""


def measurement_plan(
    graph: ModelGraph,
    bits: Iterable[int],
    exits: Sequence[Names] | None = None,
    cuts: Iterable[Names] | None = None,
) -> MeasurementPlan:
    """Return the plan for the useful cuts of every exit; those that send whole numbers alone lose nothing.

    Args:
        graph: the network.
        bits: bits per element of what is sent; 32 is left out, as it is exact.
        exits: outputs that answer together; None makes every output an exit.
        cuts: the cuts to measure; None takes all.
    """
    exits = tuple((output,) for output in graph.outputs) if exits is None else tuple(exits)
    wanted = None if cuts is None else set(cuts)
    found: dict[Names, list[int]] = {}
    for exit_, outputs in enumerate(exits):
        for cut in graph.pruned(outputs).useful_cuts()[1:-1]:
            is_lossy = any(graph.tensors[name].dtype.kind == "f" for name in cut.tensors)
            if is_lossy and (wanted is None or cut.tensors in wanted):
                found.setdefault(cut.tensors, []).append(exit_)
    classes = all(is_classifier(graph, outputs) for outputs in exits)
    widths = tuple(width for width in bits if width != FLOAT32_BITS)
    return MeasurementPlan(exits, {cut: tuple(indices) for cut, indices in found.items()}, widths, classes)


def measure_accuracy(
    graph: ModelGraph,
    samples: SampleSet,
    plan: MeasurementPlan,
    jobs: int = 1,
    progress: Progress = quiet,
) -> AccuracyTable:
    """Return the accuracy table of a network on samples; inputs are sent as they are, pictures as their pixels.

    Args:
        graph: the network.
        samples: with labels, answers must be classes.
        plan: what to measure.
        jobs: processes that share the work, each with one thread.
        progress: called with samples done and their total.
    """
    all_counts, done = list[Counts](), 0
    for counts in _all_counts(graph, plan, samples.parts, jobs):
        all_counts.append(counts)
        done += len(counts.right)
        progress(done, samples.size, "samples")
    right = np.concatenate([counts.right for counts in all_counts])
    exact = right.sum(axis=0).tolist()
    rows = [
        AccuracyRow(
            exit=key[0],
            cut=key[1],
            bits=key[2],
            correct=sum(counts.correct[key] for counts in all_counts),
            error=sum(counts.error[key] for counts in all_counts) / samples.size,
        )
        for key in all_counts[0].correct
    ]
    if graph.image is not None:
        rows += [AccuracyRow(exit=i, cut=graph.inputs, bits=IMAGE_BITS, correct=n) for i, n in enumerate(exact)]
    is_exits = len(plan.exits) > 1
    return AccuracyTable(
        model=graph.name,
        fingerprint=graph.fingerprint,
        dataset=samples.description,
        samples=samples.size,
        measure="labels" if samples.labelled else "same class" if plan.classes else "tolerance",
        exits=exact,
        rows=tuple(sorted(rows, key=lambda row: (row.exit, row.cut != graph.inputs))),
        confidence=pareto_cascades(right, np.concatenate([c.entropies for c in all_counts])) if is_exits else (),
    )


def count_correct(executor: Executor, plan: MeasurementPlan, part: Part) -> Counts:
    """Run a network whole, and behind every cut on what the codec leaves of the cut's tensors.

    Args:
        executor: of the network.
        plan: what to measure.
        part: some samples.
    """
    graph, count = executor.graph, part.size
    outputs = tuple(dict.fromkeys(name for exit_ in plan.exits for name in exit_))
    inputs = inputs_of(graph, part)
    inner = dict.fromkeys(name for cut in plan.cuts for name in cut if name not in inputs and name not in outputs)
    values, _ = executor.run(inputs, (*outputs, *inner))
    values = {**inputs, **values}
    last = _classes([values[name] for name in plan.exits[-1]]) if plan.classes else None
    truth = last if part.labels is None else part.labels[:, None]
    right = np.ones((count, len(plan.exits)), bool)
    entropies = np.zeros((count, len(plan.exits)))
    if plan.classes:
        for i, names in enumerate(plan.exits):
            right[:, i] = (_classes([values[name] for name in names]) == truth).all(axis=1)
            entropies[:, i] = entropy(values[names[0]].reshape(count, -1))
    correct, errors = dict[Key, int](), dict[Key, float]()
    for cut, exits in plan.cuts.items():
        wanted = tuple(dict.fromkeys(name for i in exits for name in plan.exits[i]))
        for width in plan.bits:
            sent = {name: values[name] if name in inputs else codec_round_trip(values[name], width) for name in cut}
            found, _ = executor.run(sent, wanted)
            for i in exits:
                error = relative_error([values[n] for n in plan.exits[i]], [found[n] for n in plan.exits[i]], count)
                same = (_classes([found[n] for n in plan.exits[i]]) == truth).all(axis=1) if plan.classes else None
                correct[i, cut, width] = int((error <= TOLERANCE if same is None else same).sum())
                errors[i, cut, width] = float(error.sum())
    return Counts(right, entropies, correct, errors)


def codec_round_trip(batch: np.ndarray, bits: int) -> np.ndarray:
    """Return a batch after encoding and decoding each sample by itself.

    Args:
        batch: [N, ..].
        bits: bits per element, one of `units.WIRE_BITS`.
    """
    if batch.ndim == 0:
        return decode(encode(batch, bits))
    return np.concatenate([decode(encode(batch[i : i + 1], bits)) for i in range(len(batch))])


def relative_error(exact: Sequence[np.ndarray], found: Sequence[np.ndarray], count: int) -> np.ndarray:
    """Return how far each sample's answer is from the exact one: the norm of the difference over that of the exact one.

    Args:
        exact: the outputs that answer together, without loss.
        found: the same outputs.
        count: of samples N; with one, outputs may have any shape.

    Returns:
        [N], the largest of the outputs, from 0 to 1; 1 if an output has another shape.
    """
    worst = np.zeros(count)
    for truth, answer in zip(exact, found, strict=True):
        if truth.shape != answer.shape:
            return np.ones(count)
        a, b = (np.nan_to_num(one.astype(np.float64).reshape(count, -1)) for one in (truth, answer))
        difference, size = np.linalg.norm(a - b, axis=1), np.linalg.norm(a, axis=1)
        share = np.divide(difference, size, out=(difference > 0).astype(np.float64), where=size > 0)
        worst = np.maximum(worst, np.minimum(share, 1.0))
    return worst


def _classes(outputs: Sequence[np.ndarray]) -> np.ndarray:
    """Return the class that each output names, [N, outputs]."""
    return np.stack([output.reshape(len(output), -1).argmax(axis=1) for output in outputs], axis=1)


def _all_counts(graph: ModelGraph, plan: MeasurementPlan, parts: Iterable[Part], jobs: int) -> Iterable[Counts]:
    if jobs == 1:
        executor = Executor(graph)
        yield from (count_correct(executor, plan, part) for part in parts)
        return
    with ProcessPoolExecutor(jobs, multiprocessing.get_context("spawn"), _start, (graph, plan)) as pool:
        yield from pool.map(_counts, parts)


_worker: tuple[Executor, MeasurementPlan]
"""What a process of the pool works with."""


def _start(graph: ModelGraph, plan: MeasurementPlan) -> None:
    global _worker
    _worker = Executor(graph), plan


def _counts(part: Part) -> Counts:
    return count_correct(*_worker, part)
