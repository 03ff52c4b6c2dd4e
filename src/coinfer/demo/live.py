"""The table that people watch while requests run."""

from collections import deque
from collections.abc import Sequence

from rich.console import Console, Group, JustifyMethod
from rich.live import Live
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Table

from coinfer.demo.report import View, cut_name
from coinfer.records import Record
from coinfer.units import MEGA, MILLI

ROWS = 12
LOOPBACK = "127.0.0.1"
"""Where all servers of the demo are: their ports tell them apart."""


class LiveTable:
    """Shows the last requests and the progress of the run, as a context manager.

    Without a terminal it prints one plain line for each request.

    Args:
        console: to print on.
        names: of the schemes, in the order in which they run.
        requests: of each scheme.
        view: which columns are shown.
    """

    def __init__(self, console: Console, names: Sequence[str], requests: int, view: View):
        self._console = console
        self._view = view
        self._rows: deque[tuple[Record, bool]] = deque(maxlen=ROWS)
        self._progress = Progress(
            TextColumn("{task.description:>16}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn()
        )
        self._tasks = {name: self._progress.add_task(name, total=requests) for name in names}
        self._live = Live(console=console, refresh_per_second=8, get_renderable=self._render)

    def __enter__(self) -> "LiveTable":
        if self._console.is_terminal:
            self._live.start()
        return self

    def __exit__(self, *_: object) -> None:
        if self._console.is_terminal:
            self._live.stop()

    def add(self, record: Record, is_right: bool) -> None:
        """Show one more request.

        Args:
            record: of a scheme in `names`.
            is_right: whether the answer is right.
        """
        self._rows.append((record, is_right))
        self._progress.advance(self._tasks[record.scheme])
        if not self._console.is_terminal:
            self._console.print(" ".join(cells(record, is_right, self._view)), highlight=False)

    def _render(self) -> Group:
        table = Table(title="requests, times in ms", title_justify="left", box=None, padding=(0, 1, 0, 0))
        for heading, justify in headings(self._view):
            table.add_column(heading, justify=justify, no_wrap=True)
        for record, is_right in self._rows:
            table.add_row(*cells(record, is_right, self._view), style="" if record.outcome.in_time else "red")
        return Group(table, self._progress)


HEADINGS: tuple[tuple[str, JustifyMethod], ...] = (
    ("scheme", "left"),
    ("#", "right"),
    ("Mbit/s", "right"),
    ("cut after", "left"),
    ("bits", "right"),
    ("by", "left"),
    ("device", "right"),
    ("up", "right"),
    ("queue", "right"),
    ("server", "right"),
    ("down", "right"),
    ("total", "right"),
    ("time", "left"),
)


EXIT_HEADING: tuple[tuple[str, JustifyMethod], ...] = (("exit", "left"),)
RIGHT_HEADING: tuple[tuple[str, JustifyMethod], ...] = (("class", "left"),)


def headings(view: View) -> tuple[tuple[str, JustifyMethod], ...]:
    """Return heading and alignment of each column.

    Args:
        view: with exits, one column says which exit answered; with labels, one says whether the answer is right.
    """
    exits = EXIT_HEADING if view.has_exits else ()
    return (*HEADINGS[:3], *exits, *HEADINGS[3:], *(RIGHT_HEADING if view.has_labels else ()))


def cells(record: Record, is_right: bool, view: View) -> list[str]:
    """Return one row of the table, with times in milliseconds.

    Args:
        record: of the request.
        is_right: whether the answer is right; shown only with labels.
        view: which columns are shown.
    """
    outcome, head = record.outcome, record.route.hops[0]
    exited_early = record.exit != record.route.exit
    offloaded = len(record.route.hops) > 1 and not exited_early
    parts = (outcome.device_s, outcome.upload_s, outcome.queue_s, outcome.server_s, outcome.download_s)
    exits = [f"{record.exit + 1}{' sure' if exited_early else ''}"] if view.has_exits else []
    return [
        record.scheme,
        str(record.request),
        f"{record.link_bps / MEGA:.2g}" if offloaded else "-",
        *exits,
        "-" if exited_early else cut_name(record, view.inputs),
        str(head.bits) if offloaded else "-",
        record.executed_on.removeprefix(LOOPBACK) + (" (fallback)" if record.fallback else ""),
        *(f"{part / MILLI:.0f}" for part in parts),
        f"{outcome.latency_s / MILLI:.0f}",
        "ok" if outcome.in_time else "late",
        *([("right" if is_right else "wrong")] if view.has_labels else []),
    ]
