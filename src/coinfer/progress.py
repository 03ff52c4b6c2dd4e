"""How long work tells how far it is, and the bar that people see."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import BarColumn, TextColumn, TimeRemainingColumn
from rich.progress import Progress as Bar

from coinfer.errors import printable

Progress = Callable[[int, int, str], None]
"""Called as work goes on, with the pieces done, their number, and what is being worked on."""


def quiet(done: int, total: int, what: str) -> None:
    """Show nothing."""


@contextmanager
def progress_bar(console: Console, title: str) -> Iterator[Progress]:
    """Show a bar that appears with the first report, says what is being worked on, and vanishes at the end."""
    columns = (TextColumn("{task.description}", markup=False), BarColumn(), TextColumn("{task.percentage:>3.0f}%"))
    with Bar(*columns, TimeRemainingColumn(), console=console, transient=True) as bar:
        task = bar.add_task(title, total=None, visible=False)

        def report(done: int, total: int, what: str) -> None:
            text = f"{title}: {printable(what)}" if what else title
            bar.update(task, completed=done, total=total, description=text, visible=True)

        yield report
