"""What came out: a comparison on the same inputs and the same trace, as a table, a JSON record and a plot."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from rich.table import Table

from coinfer.files import write_atomic
from coinfer.records import Record, as_json
from coinfer.traces import Trace
from coinfer.units import MEGA, MILLI, bytes_of_bits


class View(NamedTuple):
    """What there is to show."""

    inputs: tuple[str, ...]
    """Of the network."""
    has_exits: bool = False
    has_labels: bool = False

    @property
    def judged(self) -> str:
        """What a right answer is."""
        return "right" if self.has_labels else "top-1 as exact"


class Summary(NamedTuple):
    """One scheme over the whole run."""

    scheme: str
    requests: int
    mean_s: float
    p95_s: float
    in_time: float
    """Share of requests that met the deadline."""
    sent_bytes: float
    """Mean per request."""
    fallbacks: int
    prediction_error: float
    """Median of |predicted - measured| / measured latency."""
    right: float
    """Share of answers with the picture's class, or where that is not known with the class that the whole network
    finds."""
    expected_right: float
    """Mean of the accuracies that were expected of the answers; 1 without an accuracy table."""
    exits: tuple[float, ...]
    """Share of answers by exit, up to the last that answered."""


def choice_name(record: Record, view: View) -> str:
    """Return what was done with a request, for people: exit, cut and bits if there are exits, else the cut."""
    if not view.has_exits:
        return cut_name(record, view.inputs)
    if record.exit != record.route.exit:
        return f"{record.exit + 1} sure"
    sends = len(record.route.hops) > 1
    bits = f" {record.route.hops[0].bits} bit" if sends and record.route.hops[0].cut != view.inputs else ""
    return f"{record.exit + 1} {cut_name(record, view.inputs)}{bits}"


def cut_name(record: Record, inputs: tuple[str, ...]) -> str:
    """Return where a request left the device, for people."""
    cut = record.route.hops[0].cut
    return "(all here)" if len(record.route.hops) == 1 else "(input)" if cut == inputs else "+".join(cut)


def summarise(records: Sequence[Record], right: Sequence[bool]) -> Summary:
    """Summarise the records of one scheme.

    Args:
        right: whether each answer was right.
    """
    latency_s = np.array([record.outcome.latency_s for record in records])
    predicted_s = np.array([record.predicted_s for record in records])
    return Summary(
        scheme=records[0].scheme,
        requests=len(records),
        mean_s=float(latency_s.mean()),
        p95_s=float(np.percentile(latency_s, 95)),
        in_time=float(np.mean([record.outcome.in_time for record in records])),
        sent_bytes=float(np.mean([bytes_of_bits(record.sent_bits) for record in records])),
        fallbacks=sum(bool(record.fallback) for record in records),
        prediction_error=float(np.median(np.abs(predicted_s - latency_s) / latency_s)),
        right=float(np.mean(right)),
        expected_right=float(np.mean([record.outcome.accuracy for record in records])),
        exits=tuple((np.bincount([record.exit for record in records]) / len(records)).tolist()),
    )


def comparison(summaries: Sequence[Summary], deadline_s: float, view: View) -> Table:
    """Return the table at the end of a run."""
    table = Table(title=f"same inputs, same trace, deadline {deadline_s / MILLI:.0f} ms", title_justify="left")
    table.add_column("scheme", no_wrap=True)
    for heading in ("mean ms", "p95 ms", "in time", "kB sent", "fall- backs", "pred. error", view.judged):
        table.add_column(heading, justify="right")
    if view.has_exits:
        table.add_column("expected", justify="right")
        table.add_column("by exit, %", justify="right", no_wrap=True)
    for found in summaries:
        table.add_row(
            found.scheme,
            f"{found.mean_s / MILLI:.0f}",
            f"{found.p95_s / MILLI:.0f}",
            f"{found.in_time:.0%}",
            f"{found.sent_bytes / 1e3:.0f}",
            str(found.fallbacks),
            f"{found.prediction_error:.0%}",
            f"{found.right:.1%}",
            *(
                (f"{found.expected_right:.1%}", " ".join(f"{s * 100:.0f}" for s in found.exits))
                if view.has_exits
                else ()
            ),
        )
    return table


def write_json(
    path: Path, settings: Mapping[str, object], summaries: Sequence[Summary], pictures: str, view: View
) -> None:
    """Write settings and summaries; the single requests are in the run log beside it."""
    schemes = [as_json(summary) for summary in summaries]
    found = {"settings": as_json(settings), "pictures": pictures, "right means": view.judged, "schemes": schemes}
    write_atomic(path, json.dumps(found, indent=2, default=str) + "\n")


def plot(
    path: Path,
    records: Mapping[str, Sequence[Record]],
    summaries: Sequence[Summary],
    traces: Mapping[str, Trace],
    view: View,
    deadline_s: float,
) -> None:
    """Draw link rates, what the first scheme chose, latency of every request, and the means side by side.

    Args:
        traces: of the links, by the address of the server.
    """
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot as plt

    figure, (rates, chosen, latencies, bars) = plt.subplots(
        4, 1, figsize=(9, 11.5), height_ratios=(1, 0.8, 1.5, 1), layout="constrained"
    )
    end_s = max(record.at_s for found in records.values() for record in found)
    colours = {address: f"C{i + 4}" for i, address in enumerate(traces)} | {"device": "black"}
    grid = np.linspace(0, end_s, 600)
    for address, trace in traces.items():
        rates.plot(grid, [trace.rate_at(t) / MEGA for t in grid], label=address, lw=1.2, color=colours[address])
    rates.set(ylabel="link rate, Mbit/s", xlim=(0, end_s), ylim=(0, None), title="The links, the same for every scheme")
    rates.legend(loc="upper right", fontsize=8, ncols=len(traces))
    _choices(chosen, next(iter(records.values())), colours, view)
    chosen.set(xlim=(0, end_s))
    for found, marker in zip(records.values(), "osv^DPX", strict=False):
        times = [record.at_s for record in found]
        latency = [record.outcome.latency_s / MILLI for record in found]
        latencies.plot(times, latency, marker=marker, ms=4, lw=0.9, label=found[0].scheme)
    latencies.axhline(deadline_s / MILLI, color="black", ls="--", lw=1, label="deadline")
    latencies.set(ylabel="latency, ms", xlabel="time of the request, s", xlim=(0, end_s), ylim=(0, None))
    latencies.legend(loc="upper left", fontsize=8, ncols=3)
    _bars(bars, records, summaries, view)
    figure.savefig(path, dpi=120)
    plt.close(figure)


def _choices(axes: Any, records: Sequence[Record], colours: Mapping[str, str], view: View) -> None:
    """One row for each choice, one colour for each server; a cross if a server was asked in vain."""
    names = [choice_name(record, view) for record in records]
    rows = {name: row for row, name in enumerate(sorted(set(names), reverse=True))}
    for record, name in zip(records, names, strict=True):
        colour = colours.get(record.route.hops[-1].node, "black")
        axes.plot(record.at_s, rows[name], marker="x" if record.fallback else "s", ms=5, color=colour)
    axes.set_yticks(list(rows.values()), list(rows))
    what = "exit, cut, bits" if view.has_exits else "cut"
    axes.set(ylim=(-0.6, len(rows) - 0.4), title=f"What the {records[0].scheme} chose ({what}, colour of the server)")


PARTS = ("device_s", "upload_s", "queue_s", "server_s", "download_s")


def _bars(axes: Any, records: Mapping[str, Sequence[Record]], summaries: Sequence[Summary], view: View) -> None:
    """Mean latency of each scheme, split into its parts."""
    names = [summary.scheme for summary in summaries]
    left = np.zeros(len(names))
    for part in PARTS:
        width = np.array([np.mean([getattr(record.outcome, part) for record in records[name]]) for name in names])
        axes.barh(names, width / MILLI, left=left, label=part.removesuffix("_s"))
        left += width / MILLI
    for row, summary in enumerate(summaries):
        right = f", {summary.right:.1%} right" if view.has_labels else ""
        told = f" {summary.mean_s / MILLI:.0f} ms, {summary.in_time:.0%} in time{right}"
        axes.text(left[row], row, told, va="center")
    axes.invert_yaxis()
    axes.set(xlabel="mean latency, ms", xlim=(0, left.max() * 1.6))
    axes.legend(fontsize=8, loc="center right")
