"""Distributions of times by model and piece, in Prometheus' form. The number of series is bounded, whatever comes."""

from bisect import bisect_left
from collections.abc import Iterator, Mapping, Sequence
from itertools import accumulate

from prometheus_client.core import HistogramMetricFamily

BOUNDS_S = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0)
"""Upper bounds of the buckets; one more takes what is longer."""
MAX_MODELS = 16
MAX_PIECES = 12
"""Pieces of a model with series of their own; clients choose cuts, and Prometheus must not keep a series for each."""
OTHER = "other"
"""Label of the models and pieces beyond."""
MAX_LABEL_CHARS = 100
STEPS = {
    "request_latency": "Time from the arrival of a request to its reply",
    "queue_wait": "Time that a request waited for a worker",
    "compute": "Time of computing",
    "upload": "Time on the way to the next node",
}
"""What is measured, by the middle of the metric's name."""
_BUCKETS = [*(f"{bound:g}" for bound in BOUNDS_S), "+Inf"]


class TimeHistograms:
    """A histogram of every step for each model and piece.

    Args:
        prefix: of the metrics' names.
        further: names of labels beside model and piece; their values must be few.
    """

    def __init__(self, prefix: str = "coinfer", further: Sequence[str] = ()):
        self._prefix = prefix
        self._labels = ("model", "piece", *further)
        self._pieces: dict[str, set[str]] = {}
        self._series: dict[str, dict[tuple[str, ...], list[float]]] = {step: {} for step in STEPS}
        """For each label the count of every bucket, and the sum in seconds."""

    def observe(self, model: str, piece: str, times_s: Mapping[str, float], *further: str) -> None:
        """Count the times of one request.

        Args:
            model: its name.
            piece: what was computed, from `piece_label`.
            times_s: by step; steps that it did not have are left out.
            further: values of the further labels.
        """
        labels = (*self._bounded(model, piece), *further)
        for step, time_s in times_s.items():
            series = self._series[step].get(labels)
            if series is None:
                series = self._series[step][labels] = [0.0] * (len(_BUCKETS) + 1)
            series[bisect_left(BOUNDS_S, time_s)] += 1
            series[-1] += time_s

    def collect(self) -> Iterator[HistogramMetricFamily]:
        """Yield the histograms as they are now."""
        for step, text in STEPS.items():
            family = HistogramMetricFamily(f"{self._prefix}_{step}_seconds", text, labels=self._labels)
            for labels, (*counts, sum_s) in self._series[step].items():
                family.add_metric(labels, list(zip(_BUCKETS, accumulate(counts), strict=True)), sum_s)
            yield family

    def _bounded(self, model: str, piece: str) -> tuple[str, str]:
        pieces = self._pieces.get(model)
        if pieces is None:
            if len(self._pieces) >= MAX_MODELS:
                return OTHER, OTHER
            pieces = self._pieces[model] = set()
        if piece not in pieces:
            if len(pieces) >= MAX_PIECES:
                return model, OTHER
            pieces.add(piece)
        return model, piece


def piece_label(inputs: Sequence[str], outputs: Sequence[str]) -> str:
    """Return the name of a piece of a network in a label.

    Args:
        inputs: tensors that are given.
        outputs: tensors that are computed; empty for those of the network.
    """
    return f"{'+'.join(inputs)} to {'+'.join(outputs) or 'outputs'}"[:MAX_LABEL_CHARS]
