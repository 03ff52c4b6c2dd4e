"""Progress of long work: the callback that reports it, and a bar on the terminal."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import BarColumn, TextColumn, TimeRemainingColumn
from rich.progress import Progress as Bar

from coinfer.errors import printable

Progress = Callable[[int, int, str], None]
"""Called as work goes on, with the number of pieces done, their total, and the name of the current piece."""


def quiet(done: int, total: int, what: str) -> None:
    """Ignore a report: the `Progress` that shows nothing.

    Args:
        done: pieces done.
        total: pieces in all.
        what: name of the current piece.
    """


@contextmanager
def progress_bar(console: Console, title: str, *, in_log: bool = False) -> Iterator[Progress]:
    """Show a bar that appears with the first report, names the current piece, and vanishes at the end.

    Args:
        console: where to draw it.
        title: text before the name of the current piece.
        in_log: where there is no terminal, print a line for each percent; else nothing is shown there.

    Yields:
        The callback to report progress with.
    """
    if in_log and not console.is_terminal:
        yield _line_for_each_percent(console, title)
        return
    columns = (TextColumn("{task.description}", markup=False), BarColumn(), TextColumn("{task.percentage:>3.0f}%"))
    with Bar(*columns, TimeRemainingColumn(), console=console, transient=True, disable=not console.is_terminal) as bar:
        task = bar.add_task(title, total=None, visible=False)

        def report(done: int, total: int, what: str) -> None:
            text = f"{title}: {printable(what)}" if what else title
            bar.update(task, completed=done, total=total, description=text, visible=True)

        yield report


def _line_for_each_percent(console: Console, title: str) -> Progress:
    printed = -1

    def report(done: int, total: int, what: str) -> None:
        nonlocal printed
        percent = 100 * done // max(total, 1)
        if percent > printed:
            printed = percent
            console.print(f"{title}: {percent} %, {printable(what)}", markup=False, soft_wrap=True)

    return report
