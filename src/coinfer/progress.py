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
def progress_bar(console: Console, title: str) -> Iterator[Progress]:
    """Show a bar that appears with the first report, names the current piece, and vanishes at the end.

    Nothing is shown where there is no terminal.

    Args:
        console: where to draw it.
        title: text before the name of the current piece.

    Yields:
        The callback to report progress with.
    """
    columns = (TextColumn("{task.description}", markup=False), BarColumn(), TextColumn("{task.percentage:>3.0f}%"))
    with Bar(*columns, TimeRemainingColumn(), console=console, transient=True, disable=not console.is_terminal) as bar:
        task = bar.add_task(title, total=None, visible=False)

        def report(done: int, total: int, what: str) -> None:
            text = f"{title}: {printable(what)}" if what else title
            bar.update(task, completed=done, total=total, description=text, visible=True)

        yield report
