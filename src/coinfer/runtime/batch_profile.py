"""How long a piece of a network takes for several samples at once, and whether its answers stay the same.

Answers may differ in the last bits, as kernels for several rows add up in another order. A network that mixes its
samples (a quantisation over the whole batch, say) differs by far more, and is not batched.
"""

import hashlib
import os
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Annotated, NamedTuple

import numpy as np
from pydantic import Field, ValidationError

from coinfer.files import cache_folder, write_atomic
from coinfer.graph.ir import ModelGraph
from coinfer.physics.batching import ALONE, BatchTimes
from coinfer.profile.exactness import difference
from coinfer.profile.fields import Positive, Record, Seconds
from coinfer.profile.measure import this_machine
from coinfer.profile.samples import random_samples

TOLERANCE = 1e-4
"""Largest difference of batched answers, over their largest value, with which a piece is batched."""
LEAST_GAIN = 0.05
"""A size whose time per sample is not smaller by this share counts as no gain: measurements differ by as much."""
SIZES, TRIED = (2, 4, 8, 16), 8
"""Sizes that are measured; up to the second one, even if none has gained yet."""
ROUNDS, MOST_ROUNDS = 3, 9
ROUND_S = 0.05
"""Sizes are measured in more rounds until they took so long."""
MOST_S = 2.0
"""A size whose rounds would take longer is not measured, and not used."""
_SCALES = (1.0, 3.0, 0.3)
"""Samples of one batch are of different size, so that it shows if they influence each other."""

Run = Callable[[Mapping[str, np.ndarray]], Sequence[np.ndarray]]


class BatchProfile(Record):
    """How one piece behaves in batches."""

    sizes: tuple[Annotated[int, Field(ge=1)], ...] = ALONE.sizes
    ratios: tuple[Positive, ...] = ALONE.ratios
    """Time over that of a single sample."""
    difference: Seconds = 0.0
    """Largest difference of the answers over their largest value; 0 if all are bit-equal."""
    reason: str = ""
    """Why it is not batched; empty if it is where it pays."""

    @property
    def times(self) -> BatchTimes:
        """Return the times as the rule of batches takes them."""
        return BatchTimes(self.sizes, self.ratios)

    @property
    def is_unmeasured(self) -> bool:
        """Return true if nothing is known of the piece."""
        return self is UNMEASURED

    def limited(self, limit: int) -> "BatchProfile":
        """Return it without larger batches.

        Args:
            limit: largest size.
        """
        kept = [size for size in self.sizes if size <= limit]
        return self.model_copy(update={"sizes": tuple(kept), "ratios": self.ratios[: len(kept)]})

    def sentence(self) -> str:
        """Return in words whether, and why not, requests run as batches."""
        if self.reason:
            return f"not batched: {self.reason}"
        gains = [f"{size}: {ratio / size:.2f}" for size, ratio in zip(self.sizes, self.ratios, strict=True)][1:]
        same = "bit-equal" if self.difference == 0 else f"equal within {self.difference:.1g} of the largest value"
        return f"batched where it pays, answers {same}; time per request by size of the batch: {', '.join(gains)}"


UNMEASURED = BatchProfile(reason="it was not measured")


def measure_batches(
    graph: ModelGraph, inputs: Sequence[str], outputs: Sequence[str], run: Run, clock: Callable[[], float]
) -> BatchProfile:
    """Measure a piece.

    Args:
        graph: the network.
        inputs: names of the piece's inputs.
        outputs: names of its outputs.
        run: returns the outputs for inputs by name; raises if it does not take them.
        clock: returns seconds.
    """
    fixed = [name for name in (*inputs, *outputs) if graph.batch is None or not _is_free(graph, name)]
    if fixed:
        return BatchProfile(reason=f"the first axis of {fixed[0]!r} is no batch of any size")
    samples = _samples(graph, inputs)
    try:
        profile = _times(run, samples, clock)
        worst = 0.0 if profile.reason else max(_differences(run, samples))
    except Exception as error:  # engines' exceptions share no base class below this one
        return BatchProfile(reason=f"batches of random values are refused ({type(error).__name__})")
    if worst > TOLERANCE:
        return BatchProfile(difference=worst, reason=f"answers differ by {worst:.1g} of the largest value")
    return profile.model_copy(update={"difference": worst})


def _is_free(graph: ModelGraph, name: str) -> bool:
    return graph.tensors[name].axes[:1] == (graph.batch,)


def _samples(graph: ModelGraph, inputs: Sequence[str]) -> list[dict[str, np.ndarray]]:
    """Return different inputs of a piece."""
    if tuple(inputs) == graph.inputs:
        found = [dict(sample) for sample in random_samples(graph, len(_SCALES))]
    else:
        tensors, rng = [graph.tensors[name] for name in inputs], np.random.default_rng(0)
        found = [{t.name: rng.standard_normal(t.shape).astype(t.dtype) for t in tensors} for _ in _SCALES]
    return [
        {name: (array * scale).astype(array.dtype) if array.dtype.kind == "f" else array for name, array in one.items()}
        for one, scale in zip(found, _SCALES, strict=True)
    ]


def _stacked(samples: Sequence[Mapping[str, np.ndarray]], size: int) -> dict[str, np.ndarray]:
    chosen = [samples[k % len(samples)] for k in range(size)]
    return {name: np.concatenate([one[name] for one in chosen]) for name in samples[0]}


def _differences(run: Run, samples: Sequence[Mapping[str, np.ndarray]]) -> list[float]:
    """Return the differences between the rows of batches and the answers to the same samples alone."""
    found, answers = list[float](), [run(sample) for sample in samples]
    for size in (2, 3, 8):
        together = run(_stacked(samples, size))
        for k in range(size):
            alone = answers[k % len(samples)]
            found += [difference(one, many[k : k + 1]) for one, many in zip(alone, together, strict=True)]
    return found


def _times(run: Run, samples: Sequence[Mapping[str, np.ndarray]], clock: Callable[[], float]) -> BatchProfile:
    """Measure sizes until a larger one gains no more, or would take too long."""
    single, sizes, ratios = dict(samples[0]), [1], [1.0]
    run(single)
    alone_s = _time(run, single, clock)
    for size in SIZES:
        if ROUNDS * alone_s * (1 + size) > MOST_S:
            break
        ratio = _ratio(run, single, _stacked(samples, size), clock)
        ratio = ratio if ratio < (1 - LEAST_GAIN) * size else max(ratio, float(size))
        has_gained = ratios[-1] < sizes[-1] or size > TRIED
        if has_gained and ratio / size >= ratios[-1] / sizes[-1]:
            break
        sizes.append(size)
        ratios.append(ratio)
    if len(sizes) == 1:
        return BatchProfile(reason="it is too slow for that")
    if ratios[-1] >= sizes[-1]:
        return BatchProfile(reason="that is not faster here")
    return BatchProfile(sizes=tuple(sizes), ratios=tuple(ratios))


def _ratio(
    run: Run, single: Mapping[str, np.ndarray], many: Mapping[str, np.ndarray], clock: Callable[[], float]
) -> float:
    """Return the time of a batch over that of a single sample: the upper quartile over interleaved pairs."""
    run(many)
    pairs, spent_s = list[tuple[float, float]](), 0.0
    while len(pairs) < ROUNDS or (len(pairs) < MOST_ROUNDS and spent_s < ROUND_S):
        pairs.append((_time(run, single, clock), _time(run, many, clock)))
        spent_s += sum(pairs[-1])
    ratios = [many_s / max(one_s, 1e-9) for one_s, many_s in pairs]
    return max(float(np.quantile(ratios, 0.75)), 0.1)


def _time(run: Run, inputs: Mapping[str, np.ndarray], clock: Callable[[], float]) -> float:
    began_s = clock()
    run(inputs)
    return clock() - began_s


class _File(Record):
    """What is kept of a network on disk."""

    pieces: dict[str, BatchProfile] = Field(default_factory=dict)


class BatchCache(NamedTuple):
    """Profiles of the pieces of one network, kept in the user's cache."""

    path: Path

    def get(self, piece: str) -> BatchProfile | None:
        """Return the profile of a piece, or None if it was not measured.

        Args:
            piece: its label.
        """
        return self._read().pieces.get(piece)

    def put(self, piece: str, profile: BatchProfile) -> None:
        """Keep the profile of a piece, if the disk lets it.

        Args:
            piece: its label.
            profile: as measured.
        """
        content = _File(pieces={**self._read().pieces, piece: profile})
        with suppress(OSError):
            self.path.parent.mkdir(parents=True, exist_ok=True)
            write_atomic(self.path, content.model_dump_json(indent=1) + "\n")

    def _read(self) -> _File:
        try:
            return _File.model_validate_json(self.path.read_bytes())
        except (OSError, ValidationError):
            return _File()


def batch_cache(graph: ModelGraph, threads: int, provider: str) -> BatchCache:
    """Return the cache for a network, at the sizes with which it was opened, on this machine.

    Args:
        graph: the network.
        threads: threads within an operation.
        provider: short name of what computes.
    """
    stamp = this_machine().model_copy(update={"date": ""}).model_dump_json() + repr((graph.axes, graph.fixed))
    name = f"{graph.fingerprint[:16]}-{hashlib.sha256(stamp.encode()).hexdigest()[:12]}-{threads}-{provider}.json"
    try:
        return BatchCache(cache_folder("batches") / name)
    except FileNotFoundError:
        return BatchCache(Path(os.devnull))
