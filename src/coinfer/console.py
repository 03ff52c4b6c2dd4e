"""Where commands print: as wide as the terminal, or 120 columns into a pipe, so that tables keep their words."""

import sys

from rich.console import Console

console = Console(emoji=False, highlight=False, width=None if sys.stdout.isatty() else 120)
