"""`coinfer trainer`: learns from what a site experiences, beside its controller."""

import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from coinfer.cli.console import console, setup_pytorch
from coinfer.cli.options import Cluster, ClusterAddress, ControllerAddress, Insecure, Site, TorchThreads
from coinfer.cli.train import make_player

if TYPE_CHECKING:
    from coinfer.site.operator import Operator


def trainer(
    store: Annotated[Path, typer.Option(help="File in which the controller keeps the experience.")],
    out: Annotated[Path, typer.Option(help="World, checkpoints and policies; one that starts again goes on from it.")],
    controller: ControllerAddress = "127.0.0.1:8600",
    site: Site = None,
    rounds: Annotated[int, typer.Option(min=1, help="Slots that each simulated world plays at first.")] = 600,
    updates: Annotated[int, typer.Option(min=1, help="Updates from the experience between two candidates.")] = 200,
    every_s: Annotated[float, typer.Option(min=1, help="Seconds from one candidate to the next.")] = 300.0,
    candidates: Annotated[int | None, typer.Option(min=1, help="Candidates to push; no end without it.")] = None,
    threads: TorchThreads = 1,
    cluster: Cluster = False,
    address: ClusterAddress = None,
    insecure: Insecure = False,
) -> None:
    """Train CDO-DSAC's agents in a world fitted to the site, then on its experience, and push candidates.

    It runs beside the controller, with the controller's certificate. The controller judges what it pushes.

    Example: [bold]coinfer trainer --site site/ --store site/controller/state/experience.sqlite --out runs/site[/bold]
    """
    setup_pytorch("training", "cpu", threads)
    from coinfer.site.fitting.fit import FitError
    from coinfer.site.operator import Operator
    from coinfer.site.trainer.learn import Trainer, TrainerSettings

    player = make_player("cdo-dsac", address) if cluster or address else None
    settings = TrainerSettings(store, out, rounds, updates)
    learner = Trainer(settings, lambda text: console.print(text, soft_wrap=True), player)
    pushed = 0
    with Operator(controller, site, insecure, "controller") as operator:
        while True:
            began_s = time.monotonic()
            try:
                learned = learner.round()
            except FitError as error:
                console.print(f"waiting: {error}", soft_wrap=True)
            else:
                console.print(f"learned from {learned.steps} steps of the site: {learned.policy}", soft_wrap=True)
                console.print(_push(operator, learned.policy), soft_wrap=True, markup=False)
                pushed += 1
            if pushed == candidates:
                return
            time.sleep(max(began_s + every_s - time.monotonic(), 1.0))


def _push(operator: "Operator", policy: Path) -> str:
    """Return what the controller says to a candidate; the next one may find it there again."""
    from coinfer.site.operator import OperatorError

    try:
        return operator.push(policy)["said"]
    except OperatorError as error:
        return f"not taken: {error}"
