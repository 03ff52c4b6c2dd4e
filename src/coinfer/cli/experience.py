"""`coinfer experience`: what a site has experienced."""

from pathlib import Path
from typing import Annotated

import typer

from coinfer.cli.console import console
from coinfer.cli.options import ControllerAddress, Insecure, Site

app = typer.Typer(help="The decisions of a site with what came of them.", no_args_is_help=True)


@app.command()
def export(
    out: Annotated[
        Path,
        typer.Argument(help="File to write: .jsonl or .parquet with everything, .csv with a row for each decision."),
    ],
    store: Annotated[Path | None, typer.Option(help="File in which the controller keeps the experience.")] = None,
    controller: ControllerAddress = "",
    site: Site = None,
    insecure: Insecure = False,
) -> None:
    """Write the experience of a site to a file, from the controller's store or from a controller that runs.

    Example: [bold]coinfer experience export log.jsonl --controller 127.0.0.1:8600 --site site/[/bold]
    """
    from coinfer.site.export import write_export
    from coinfer.site.operator import Operator
    from coinfer.site.store import read_experience

    if (store is None) == (not controller):
        raise typer.BadParameter("expected either --store FILE or --controller HOST:PORT")
    if store is not None:
        count = write_export(out, read_experience(store))
    else:
        with Operator(controller, site, insecure) as operator:
            count = write_export(out, operator.experience())
    console.print(f"wrote {count} decisions to {out}")
