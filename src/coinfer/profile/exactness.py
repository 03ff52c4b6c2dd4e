"""How much a network's answers change if it is cut: nothing, unless the executor computes otherwise across the cut."""

from collections.abc import Callable, Sequence

import numpy as np

from coinfer.graph.ir import ModelGraph
from coinfer.graph.session import Session, silent
from coinfer.profile.samples import Sample
from coinfer.profile.sizing import larger_samples

Names = tuple[str, ...]
Opener = Callable[[Names, Names], Session]


def cut_differences(
    graph: ModelGraph, samples: Sequence[Sample], cuts: Sequence[Names], outputs: Names, open_: Opener
) -> list[float]:
    """Return for each cut the largest difference of the answers with and without it, over the largest value.

    Where sizes are free, answers are also compared on a larger sample (`sizing.larger_samples`).

    Args:
        graph: the network.
        samples: inputs to compare on.
        cuts: tensors that are sent, without loss.
        outputs: names of the answers.
        open_: opens the piece between some tensors; the one from the network's inputs is the uncut network.

    Returns:
        0 for a cut that changes nothing, 1 for one whose pieces do not take what the undivided network takes.
    """
    inputs = graph.pruned(outputs).inputs
    whole = open_(inputs, outputs)
    feeds = [{name: sample[name] for name in inputs} for sample in samples]
    feeds += larger_samples(graph.pruned(outputs), feeds[0], whole)
    expected = [_run(whole, outputs, feed) for feed in feeds]
    worst = []
    for cut in cuts:
        head, tail = open_(inputs, cut), open_(cut, outputs)
        try:
            got = [_run(tail, outputs, dict(zip(cut, _run(head, cut, feed), strict=True))) for feed in feeds]
        except Exception:  # ONNX Runtime's exceptions share no base class below this one
            worst.append(1.0)
            continue
        pairs = [pair for one, other in zip(expected, got, strict=True) for pair in zip(one, other, strict=True)]
        worst.append(max(difference(one, other) for one, other in pairs))
    return worst


def _run(session: Session, names: Names, feed: Sample) -> list[np.ndarray]:
    return [np.asarray(value) for value in session.run(list(names), dict(feed), silent())]


def difference(expected: np.ndarray, got: np.ndarray) -> float:
    """Return the largest difference of two arrays over the largest finite value expected; 0 if all are equal.

    Args:
        expected: of the undivided network.
        got: of the pieces; values that are finite in one of the arrays only count as 1.
    """
    if expected.tobytes() == got.tobytes() or expected.size == 0:
        return 0.0
    one, other = expected.astype(np.float64), got.astype(np.float64)
    finite = np.isfinite(one)
    if not np.array_equal(one[~finite], other[~finite], equal_nan=True) or not np.isfinite(other[finite]).all():
        return 1.0
    scale = np.abs(one[finite]).max(initial=0.0) or 1.0
    return float(np.abs(one[finite] - other[finite]).max(initial=0.0) / scale)
