"""`coinfer top`: a site in a terminal."""

import time
from typing import Annotated

import typer
from rich.live import Live

from coinfer.cli.console import console
from coinfer.cli.options import ControllerAddress, Insecure, Site


def top(
    controller: ControllerAddress = "127.0.0.1:8600",
    site: Site = None,
    once: Annotated[bool, typer.Option("--once", help="Print once and end.")] = False,
    interval_s: Annotated[float, typer.Option(min=0.1, help="Seconds between two looks.")] = 1.0,
    insecure: Insecure = False,
) -> None:
    """Show the nodes of a site, their load and what they answer, until Ctrl-C.

    Example: [bold]coinfer top --controller 192.0.2.10:8600 --site site/alice[/bold]
    """
    from coinfer.site.dashboard.terminal import site_table
    from coinfer.site.operator import Operator

    with Operator(controller, site, insecure) as operator:
        if once:
            console.print(site_table(operator.state()))
            return
        first = site_table(operator.state())
        with Live(first, console=console, screen=console.is_terminal, auto_refresh=False) as live:
            while True:
                time.sleep(interval_s)
                live.update(site_table(operator.state()), refresh=True)
