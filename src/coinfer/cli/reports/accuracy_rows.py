"""The table of `coinfer exits measure`."""

from collections.abc import Sequence

from rich.table import Table

from coinfer.graph.ir import ModelGraph
from coinfer.profile.accuracy import AccuracyTable


def accuracy_rows(graph: ModelGraph, accuracy: AccuracyTable, widths: Sequence[int]) -> Table:
    """Return the accuracy in percent: a row for each exit by itself, then one for each of its cuts.

    Args:
        graph: the measured network.
        accuracy: holds every cut with every one of the widths.
        widths: bits per element, one column each.
    """
    table = Table(title=f"{graph.name}, percent right of {accuracy.dataset}")
    for heading in ("exit", "cut after", "32 bit, exact", *(f"{width} bit" for width in widths)):
        table.add_column(heading, justify="left" if heading == "cut after" else "right", overflow="fold")
    for exit_, output in enumerate(graph.outputs):
        low, high = accuracy.interval(exit_)
        interval = f"{100 * accuracy.accuracy(exit_):.2f} ({100 * low:.1f} to {100 * high:.1f})"
        table.add_row(str(exit_ + 1), f"none: {output}", interval, style="bold")
        cuts = dict.fromkeys(row.cut for row in accuracy.rows if row.exit == exit_ and row.cut != graph.inputs)
        for cut in cuts:
            cells = (f"{100 * accuracy.accuracy(exit_, cut, width):.2f}" for width in widths)
            table.add_row("", ", ".join(cut), "", *cells)
    return table
