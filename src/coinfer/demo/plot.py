"""The figure of a run: the links, the planner's choices, every scheme's latency, and the comparison."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from coinfer.demo.report import PARTS, Summary, View, choice_name, place_name
from coinfer.demo.rounds import Answer
from coinfer.demo.script import Phase
from coinfer.files import write_figure
from coinfer.units import MILLI

SHOWN_DEADLINES = 5.0
"""Latencies of more than so many deadlines are cut off, as the others could not be told apart else."""

if TYPE_CHECKING:  # an extra
    from matplotlib.axes import Axes


def draw(
    path: Path,
    rounds: Sequence[Sequence[Answer]],
    phases: Sequence[Phase],
    summaries: Sequence[Summary],
    view: View,
    deadline_s: float,
) -> None:
    """Draw the first scheme's choices, the latency of every request, and mean latencies side by side.

    Args:
        path: of the PNG file.
        rounds: complete ones, each with an answer of each scheme.
        phases: of the run.
        summaries: of the schemes, in the same order.
        view: of the run.
        deadline_s: of the requests.
    """
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot as plt

    figure, (chosen, latencies, bars) = plt.subplots(
        3, 1, figsize=(9, 9.5), height_ratios=(1, 1.6, 1), layout="constrained"
    )
    starts = [next((i for i, one in enumerate(rounds) if one[0].phase == p), None) for p in range(len(phases))]
    for axes in (chosen, latencies):
        axes.set(xlim=(-0.8, len(rounds) - 0.2))
        for start in starts:
            if start:
                axes.axvline(start - 0.5, color="grey", lw=0.8)
    for start, phase in zip(starts, phases, strict=True):
        if start is not None:
            text = f" {phase.name}\n best should be\n {phase.expects}"
            chosen.text(start - 0.5, 1.02, text, transform=chosen.get_xaxis_transform(), fontsize=8, va="bottom")
    _choices(chosen, [answers[0] for answers in rounds], view)
    for i, marker in zip(range(len(summaries)), "osv^DPX", strict=False):
        latency_ms = [answers[i].record.outcome.latency_s / MILLI for answers in rounds]
        latencies.plot(latency_ms, marker=marker, ms=3.5, lw=0.9, label=summaries[i].scheme, zorder=3 - (i > 0))
    latencies.axhline(deadline_s / MILLI, color="black", ls="--", lw=1, label="deadline")
    latencies.set(ylabel="latency, ms", xlabel="round: every scheme answers the same picture", ylim=(0, None))
    latencies.set_ylim(top=min(1.25 * latencies.get_ylim()[1], SHOWN_DEADLINES * deadline_s / MILLI))  # with the legend
    latencies.legend(loc="upper left", fontsize=8, ncols=3)
    _bars(bars, summaries, view)
    write_figure(path, figure)
    plt.close(figure)


def _choices(axes: "Axes", answers: Sequence[Answer], view: View) -> None:
    """Draw one row for each choice and one colour for who answered; a cross marks servers that were asked in vain."""
    names = [choice_name(answer.record, view) for answer in answers]
    rows = {name: row for row, name in enumerate(sorted(set(names), reverse=True))}
    places = sorted({place_name(answer.record) for answer in answers}, key=lambda place: (place == "device", place))
    colours = {place: "black" if place == "device" else f"C{i + 4}" for i, place in enumerate(places)}
    for place, colour in colours.items():
        axes.plot([], [], "s", color=colour, label=f"answered by {place}")
    for i, (answer, name) in enumerate(zip(answers, names, strict=True)):
        marker = "x" if answer.record.fallback else "s"
        axes.plot(i, rows[name], marker=marker, ms=5, color=colours[place_name(answer.record)])
    axes.set_yticks(list(rows.values()), list(rows))
    axes.set(ylim=(-1.4, len(rows) - 0.4), ylabel=f"the {answers[0].record.scheme}'s choice")
    axes.legend(fontsize=8, loc="lower right", ncols=len(places))


def _bars(axes: "Axes", summaries: Sequence[Summary], view: View) -> None:
    """Draw the mean latency of each scheme, split into its parts, with the interval of the mean."""
    names = [summary.scheme for summary in summaries]
    left = np.zeros(len(names))
    for part in PARTS:
        width = np.array([summary.parts_s[part] for summary in summaries]) / MILLI
        axes.barh(names, width, left=left, label=part.removesuffix("_s"))
        left += width
    intervals = [summary.mean_interval_s / MILLI for summary in summaries]
    axes.errorbar(left, range(len(names)), xerr=intervals, fmt="none", ecolor="black", capsize=3)
    for row, summary in enumerate(summaries):
        right = f", {summary.right:.0%} right" if view.has_labels else ""
        mean = f"{summary.mean_s / MILLI:.0f} ms, {summary.in_time:.0%} in time"
        text = f"   {mean}, {summary.energy_j / MILLI:.0f} mJ{right}"
        axes.text(left[row] + intervals[row], row, text, va="center", fontsize=9)
    axes.invert_yaxis()
    axes.set(xlabel="mean latency, ms, with its 95 % interval", xlim=(0, 1.8 * (left + intervals).max()))
    axes.legend(fontsize=8, loc="lower center", bbox_to_anchor=(0.5, 1.0), ncols=len(PARTS))
