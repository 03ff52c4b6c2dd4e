"""`coinfer controller`: the centre of a site."""

from pathlib import Path
from typing import Annotated

import typer

from coinfer.cli.options import Insecure, Site, Traces, start_traces


def controller(
    site: Site = None,
    host: Annotated[str, typer.Option(help="Name or IP address to listen on; :: and 0.0.0.0 are all.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=0, max=65535, help="For nodes; 0 takes any free port.")] = 8600,
    page_port: Annotated[int, typer.Option(min=-1, max=65535, help="The page for browsers; 0 any, -1 none.")] = 8443,
    store: Annotated[Path | None, typer.Option(help="File of the experience.")] = None,
    store_mib: Annotated[int, typer.Option(min=1, help="Its size; beyond, the oldest decisions are deleted.")] = 1024,
    rollout: Annotated[
        Path | None, typer.Option(help="YAML with thresholds for policies; those of coinfer without.")
    ] = None,
    insecure: Insecure = False,
    traces: Traces = "",
) -> None:
    """Run the controller of a site: it knows which nodes are there, tells all of all, and keeps what they experience.

    Example: [bold]coinfer controller --site site/ --host 0.0.0.0[/bold]
    """
    from coinfer.site.controller.process import ControllerSettings, run_controller

    start_traces(traces, "coinfer-controller")
    pages = None if page_port < 0 else page_port
    settings = ControllerSettings(site, host, port, pages, insecure, store, store_mib << 20, rollout)
    raise typer.Exit(run_controller(settings))
