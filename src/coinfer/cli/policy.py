"""`coinfer policy`: which policies decide for a site."""

import time
from itertools import pairwise
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.table import Table

from coinfer.cli.console import console
from coinfer.cli.options import ControllerAddress, Insecure, Site

app = typer.Typer(help="Policies that decide for a site: push, judge, pin, roll back.", no_args_is_help=True)
DEFAULT = "127.0.0.1:8600"
JUDGE_S = 600.0
File = Annotated[Path, typer.Argument(help="ONNX file with its side-car beside it, as `coinfer train` writes it.")]


def _operator(controller: str, site: Path | None, insecure: bool) -> Any:
    from coinfer.site.operator import Operator

    return Operator(controller or DEFAULT, site, insecure)


@app.command("list")
def list_versions(controller: ControllerAddress = DEFAULT, site: Site = None, insecure: Insecure = False) -> None:
    """Show the versions and what became of them.

    Example: [bold]coinfer policy list --site site/alice[/bold]
    """
    with _operator(controller, site, insecure) as operator:
        state = operator.policy("Policy", {"do": "list"})
    table = Table(box=None, header_style="bold")
    for name in ("version", "scheme", "pushed by", "fingerprint", "standing", "why"):
        table.add_column(name, overflow="fold")
    for one in state["versions"]:
        mark = one["fingerprint"][:12]
        table.add_row(str(one["number"]), one["scheme"], one["by"], mark, one["standing"], one["reason"])
    console.print(table)
    running = f"version {state['running']}" if state["running"] else "no version; sequential greedy decides"
    console.print(f"running: {running}{', pinned' if state['pinned'] else ''}")
    if state["problem"]:
        console.print(f"[yellow]note:[/yellow] {state['problem']}", soft_wrap=True)


@app.command()
def show(
    version: Annotated[int, typer.Argument(help="Number of the version.")],
    controller: ControllerAddress = DEFAULT,
    site: Site = None,
    insecure: Insecure = False,
) -> None:
    """Show one version: what was found of it, and what happened to it.

    Example: [bold]coinfer policy show 3 --site site/alice[/bold]
    """
    with _operator(controller, site, insecure) as operator:
        state = operator.policy("Policy", {"do": "list"})
    found = next((one for one in state["versions"] if one["number"] == version), None)
    if found is None:
        known = ", ".join(str(one["number"]) for one in state["versions"]) or "none"
        raise typer.BadParameter(f"no version {version}; there are: {known}")
    for key in ("number", "scheme", "by", "fingerprint", "standing", "reason", "judged"):
        console.print(f"{key:12s} {found[key]}", soft_wrap=True, markup=False)
    for event in state["history"]:
        words = event["text"].replace(":", " ").replace(",", " ").split()
        if ("version", str(version)) in pairwise(words):
            at = time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(event["at_s"]))
            console.print(f"{at}  {event['text']}", soft_wrap=True, markup=False)


@app.command()
def push(file: File, controller: ControllerAddress = DEFAULT, site: Site = None, insecure: Insecure = False) -> None:
    """Give a policy to the site as a candidate. It is judged, then tried step by step.

    Example: [bold]coinfer policy push runs/cdo-dsac-site/policy.onnx --site site/alice[/bold]
    """
    with _operator(controller, site, insecure) as operator:
        console.print(operator.push(file)["said"], soft_wrap=True, markup=False)


@app.command()
def judge(file: File, controller: ControllerAddress = DEFAULT, site: Site = None, insecure: Insecure = False) -> None:
    """Judge a policy beside the running one, in simulated worlds and by the log; nothing is rolled out.

    Example: [bold]coinfer policy judge learned --site site/alice[/bold]
    """
    from coinfer.site.operator import read_policy

    with _operator(controller, site, insecure) as operator, console.status("judging"):
        found = operator.policy("Policy", {"do": "judge", **read_policy(file)}, JUDGE_S)
    verdict = {True: "no worse than what runs", False: "refused", None: "cannot say"}[found["passed"]]
    console.print(f"{verdict}: {found['reason']}", soft_wrap=True, markup=False)


@app.command()
def pin(
    version: Annotated[int, typer.Argument(min=0, help="Number of the version; 0 for sequential greedy.")],
    controller: ControllerAddress = DEFAULT,
    site: Site = None,
    insecure: Insecure = False,
) -> None:
    """Let a version decide on all servers until you say otherwise; candidates wait.

    Example: [bold]coinfer policy pin 3 --site site/alice[/bold]
    """
    _change(controller, site, insecure, {"do": "pin", "version": version})


@app.command()
def unpin(controller: ControllerAddress = DEFAULT, site: Site = None, insecure: Insecure = False) -> None:
    """Let candidates take the place of the pinned version again.

    Example: [bold]coinfer policy unpin --site site/alice[/bold]
    """
    _change(controller, site, insecure, {"do": "unpin"})


@app.command()
def rollback(controller: ControllerAddress = DEFAULT, site: Site = None, insecure: Insecure = False) -> None:
    """Take the running version back: what ran before it runs again.

    Example: [bold]coinfer policy rollback --site site/alice[/bold]
    """
    _change(controller, site, insecure, {"do": "rollback"})


def _change(controller: str, site: Path | None, insecure: bool, request: dict[str, Any]) -> None:
    with _operator(controller, site, insecure) as operator:
        console.print(operator.policy("ChangePolicy", request)["said"], soft_wrap=True, markup=False)
