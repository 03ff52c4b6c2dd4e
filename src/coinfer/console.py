"""Where commands print: as wide as the terminal, or 120 columns into a pipe, so that tables keep their words."""

import sys
from collections.abc import Iterator
from contextlib import contextmanager

from rich.console import Console

console = Console(emoji=False, highlight=False, width=None if sys.stdout.isatty() else 120)


@contextmanager
def resumable() -> Iterator[None]:
    """Says how to go on with what is interrupted."""
    try:
        yield
    except KeyboardInterrupt:
        console.print("stopped; the same command with --resume goes on from the last checkpoint")
        raise
