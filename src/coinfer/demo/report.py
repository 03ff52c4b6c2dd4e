"""The results of a run: a comparison on the same inputs and traces, as a table, a JSON record and a plot."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from rich.table import Table

from coinfer.files import write_atomic, write_figure
from coinfer.records import Record, as_json
from coinfer.traces import Trace
from coinfer.units import MEGA, MILLI, bytes_of_bits

if TYPE_CHECKING:  # an extra, needed for the plot only
    from matplotlib.axes import Axes


class View(NamedTuple):
    """What tables and plots show of a run."""

    inputs: tuple[str, ...]
    """Names of the network's inputs."""
    has_exits: bool = False
    has_labels: bool = False

    @property
    def criterion(self) -> str:
        """Return what counts as a right answer, as a heading."""
        return "right" if self.has_labels else "top-1 as exact"


class Summary(NamedTuple):
    """The results of one scheme over the whole run."""

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
    """Share of answers with the picture's class or, if that is unknown, with the class that the whole network names."""
    expected_right: float
    """Mean expected accuracy of the answers; 1 without an accuracy table."""
    exits: tuple[float, ...]
    """Share of answers by exit, up to the last exit that answered."""


def choice_name(record: Record, view: View) -> str:
    """Return what was done with a request, for people: exit, cut and bits if there are exits, else the cut.

    Args:
        record: of the request.
        view: of the run.
    """
    if not view.has_exits:
        return cut_name(record, view.inputs)
    if record.exit != record.route.exit:
        return f"{record.exit + 1} sure"
    sends = len(record.route.hops) > 1
    bits = f" {record.route.hops[0].bits} bit" if sends and record.route.hops[0].cut != view.inputs else ""
    return f"{record.exit + 1} {cut_name(record, view.inputs)}{bits}"


def cut_name(record: Record, inputs: tuple[str, ...]) -> str:
    """Return where a request left the device, for people.

    Args:
        record: of the request.
        inputs: names of the network's inputs.
    """
    cut = record.route.hops[0].cut
    return "(all here)" if len(record.route.hops) == 1 else "(input)" if cut == inputs else "+".join(cut)


def summarise(records: Sequence[Record], right: Sequence[bool]) -> Summary:
    """Return the summary of one scheme.

    Args:
        records: of its requests, at least one.
        right: whether each answer is right.
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
    """Return the table at the end of a run.

    Args:
        summaries: one for each row.
        deadline_s: of the requests, for the title.
        view: which columns are shown.
    """
    table = Table(title=f"same inputs, same trace, deadline {deadline_s / MILLI:.0f} ms", title_justify="left")
    table.add_column("scheme", no_wrap=True)
    for heading in ("mean ms", "p95 ms", "in time", "kB sent", "fall- backs", "pred. error", view.criterion):
        table.add_column(heading, justify="right")
    if view.has_exits:
        table.add_column("expected", justify="right")
        table.add_column("by exit, %", justify="right", no_wrap=True)
    for summary in summaries:
        table.add_row(
            summary.scheme,
            f"{summary.mean_s / MILLI:.0f}",
            f"{summary.p95_s / MILLI:.0f}",
            f"{summary.in_time:.0%}",
            f"{summary.sent_bytes / 1e3:.0f}",
            str(summary.fallbacks),
            f"{summary.prediction_error:.0%}",
            f"{summary.right:.1%}",
            *(
                (f"{summary.expected_right:.1%}", " ".join(f"{s * 100:.0f}" for s in summary.exits))
                if view.has_exits
                else ()
            ),
        )
    return table


def write_json(
    path: Path, settings: Mapping[str, object], summaries: Sequence[Summary], pictures: str, view: View
) -> None:
    """Write settings and summaries; the run log beside the file holds the single requests.

    Args:
        path: of the file; an existing one is replaced.
        settings: of the demo, by name.
        summaries: of the schemes.
        pictures: description of the pictures.
        view: of the run.

    Raises:
        OSError: if the file cannot be written.
    """
    schemes = [as_json(summary) for summary in summaries]
    content = {"settings": as_json(settings), "pictures": pictures, "right means": view.criterion, "schemes": schemes}
    write_atomic(path, json.dumps(content, indent=2, default=str) + "\n")


def plot(
    path: Path,
    records: Mapping[str, Sequence[Record]],
    summaries: Sequence[Summary],
    traces: Mapping[str, Trace],
    view: View,
    deadline_s: float,
) -> None:
    """Draw link rates, the first scheme's choices, the latency of every request, and mean latencies side by side.

    Args:
        path: of the PNG file.
        records: by scheme, each sorted by time.
        summaries: of the schemes, in the same order.
        traces: of the links, by server address.
        view: of the run.
        deadline_s: of the requests.
    """
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot as plt

    figure, (rates, chosen, latencies, bars) = plt.subplots(
        4, 1, figsize=(9, 11.5), height_ratios=(1, 0.8, 1.5, 1), layout="constrained"
    )
    end_s = max(record.at_s for scheme_records in records.values() for record in scheme_records)
    colours = {address: f"C{i + 4}" for i, address in enumerate(traces)} | {"device": "black"}
    span_s = (-0.01 * end_s, 1.01 * end_s)  # markers at both ends are whole
    grid = np.linspace(0, end_s, 600)
    for address, trace in traces.items():
        rates.plot(grid, [trace.rate_at(t) / MEGA for t in grid], label=address, lw=1.2, color=colours[address])
    rates.set(ylabel="link rate, Mbit/s", xlim=span_s, ylim=(0, None), title="The links, the same for every scheme")
    rates.set_ylim(top=1.2 * rates.get_ylim()[1])  # room for the legend
    rates.legend(loc="upper right", fontsize=8, ncols=len(traces))
    _choices(chosen, next(iter(records.values())), colours, view)
    chosen.set(xlim=span_s)
    for scheme_records, marker in zip(records.values(), "osv^DPX", strict=False):
        times = [record.at_s for record in scheme_records]
        latency = [record.outcome.latency_s / MILLI for record in scheme_records]
        latencies.plot(times, latency, marker=marker, ms=4, lw=0.9, label=scheme_records[0].scheme)
    latencies.axhline(deadline_s / MILLI, color="black", ls="--", lw=1, label="deadline")
    latencies.set(ylabel="latency, ms", xlabel="time of the request, s", xlim=span_s, ylim=(0, None))
    latencies.set_ylim(top=1.2 * latencies.get_ylim()[1])
    latencies.legend(loc="upper left", fontsize=8, ncols=3)
    _bars(bars, records, summaries, view)
    write_figure(path, figure)
    plt.close(figure)


def _choices(axes: "Axes", records: Sequence[Record], colours: Mapping[str, str], view: View) -> None:
    """Draw one row for each choice and one colour for each server; a cross marks servers that were asked in vain."""
    names = [choice_name(record, view) for record in records]
    rows = {name: row for row, name in enumerate(sorted(set(names), reverse=True))}
    for record, name in zip(records, names, strict=True):
        colour = colours.get(record.route.hops[-1].node, "black")
        axes.plot(record.at_s, rows[name], marker="x" if record.fallback else "s", ms=5, color=colour)
    axes.set_yticks(list(rows.values()), list(rows))
    what = "exit, cut, bits" if view.has_exits else "cut"
    axes.set(ylim=(-0.6, len(rows) - 0.4), title=f"What the {records[0].scheme} chose ({what}, colour of the server)")


PARTS = ("device_s", "upload_s", "queue_s", "server_s", "download_s")


def _bars(axes: "Axes", records: Mapping[str, Sequence[Record]], summaries: Sequence[Summary], view: View) -> None:
    """Draw the mean latency of each scheme, split into its parts."""
    names = [summary.scheme for summary in summaries]
    left = np.zeros(len(names))
    for part in PARTS:
        width = np.array([np.mean([getattr(record.outcome, part) for record in records[name]]) for name in names])
        axes.barh(names, width / MILLI, left=left, label=part.removesuffix("_s"))
        left += width / MILLI
    for row, summary in enumerate(summaries):
        right = f", {summary.right:.1%} right" if view.has_labels else ""
        text = f" {summary.mean_s / MILLI:.0f} ms, {summary.in_time:.0%} in time{right}"
        axes.text(left[row], row, text, va="center")
    axes.invert_yaxis()
    axes.set(xlabel="mean latency, ms", xlim=(0, left.max() * 1.6))
    axes.legend(fontsize=8, loc="lower center", bbox_to_anchor=(0.5, 1.0), ncols=len(PARTS))
