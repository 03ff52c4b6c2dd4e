"""`coinfer train`: train a scheme in a scenario, compare it with baselines, and export its policy."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from coinfer.cli.console import check_out, check_resume, console, resumable, setup_pytorch
from coinfer.cli.options import (
    Changes,
    Cluster,
    ClusterAddress,
    FrameFile,
    TorchDevice,
    TorchThreads,
    frame_file_changes,
)
from coinfer.errors import UserError

if TYPE_CHECKING:
    from coinfer.evaluate.simulate import Run
    from coinfer.rl.core.loop import Loop
    from coinfer.rl.core.training import Progress
    from coinfer.rl.distributed.ray_workers import Job, RayWorkerGroup
    from coinfer.rl.distributed.worker_group import Recovery
    from coinfer.scenario.world import World

FIGURES = {
    "reward": "return {:.3g}",
    "latency_s": "{:.3g} s",
    "in_time": "success {:.1%}",
    "temperature": "temperature {:.2g}",
}
"""Figures that the bar shows if a scheme has them; means over the worlds in which it explores."""


def train(
    scheme: Annotated[str, typer.Argument(help="cdo-dsac, sac-d, ...; `coinfer train list` shows all.")],
    scenario: Annotated[
        str | None, typer.Option(help="A preset of `coinfer scenario list`, or a file; the scheme's own without it.")
    ] = None,
    preset: Annotated[str, typer.Option(help="Settings of the learner: quick, or paper.")] = "quick",
    seeds: Annotated[int, typer.Option(min=1, max=1000, help="Learners, trained side by side.")] = 1,
    seed: Annotated[int, typer.Option(min=0, max=2**31 - 1, help="Of the first learner.")] = 0,
    steps: Annotated[
        int | None,
        typer.Option(min=1, help="Slots that each learner decides; schedules span them. The preset's without it."),
    ] = None,
    changes: Changes = None,
    data: FrameFile = None,
    out: Annotated[Path | None, typer.Option(help="Folder of the training; runs/SCHEME-SCENARIO without it.")] = None,
    resume: Annotated[bool, typer.Option("--resume", help="Go on from the last checkpoint of the folder.")] = False,
    device: TorchDevice = "cpu",
    threads: TorchThreads = 1,
    cluster: Cluster = False,
    address: ClusterAddress = None,
) -> None:
    """Train a scheme, compare it with baselines, and export its policy.

    The folder holds checkpoints, learning curves (curves.json, TensorBoard) and policy.onnx with policy.json, which
    `coinfer simulate --policy` and `coinfer infer --policy` take. A training that was stopped at any moment and is
    resumed ends exactly as if it had not been.

    Example: [bold]coinfer train sac-d --seeds 10[/bold]
    """
    setup_pytorch("training", device, threads)
    from coinfer import checkpoint
    from coinfer.rl import registry
    from coinfer.rl.core.training import TrainSettings
    from coinfer.rl.export import export_and_compare
    from coinfer.scenario.compile import open_world
    from coinfer.scenario.load import parse_changes

    if scheme == "list":
        _print_schemes()
        return
    name = scenario or registry.scheme(scheme).scenario
    folder = out or Path("runs") / f"{scheme}-{Path(name).stem}"
    check_out(folder)
    changes = frame_file_changes(data, changes)
    settings = TrainSettings(name, tuple(changes or ()), seeds, seed, steps, preset, device)

    def has_checkpoint() -> bool:
        return bool(checkpoint.numbered(folder / "checkpoints"))

    check_resume(folder, resume, has_checkpoint())
    distributed = {"make_player": make_player(scheme, address)} if cluster or address else {}
    with resumable(has_checkpoint), training_progress(scheme) as progress:
        trained = registry.trainer(scheme)(settings, progress=progress, folder=folder, resume=resume, **distributed)
    compiled = open_world(name, parse_changes(changes or ()))
    runs = export_and_compare(trained, compiled, folder, status=console.status)
    _print_comparison(f"{scheme} (best of {seeds} by reward on held-out worlds)", runs, compiled.world)
    console.print(f"\npolicy: {folder / 'policy.onnx'}; curves and records: {folder}", soft_wrap=True)


def _print_schemes() -> None:
    from coinfer.rl import registry

    for name, scheme in registry.SCHEMES.items():
        console.print(f"{name:14s} {scheme.description}")


def _print_comparison(who: str, runs: "Sequence[Run]", world: "World") -> None:
    """Print the measures of a policy and of baselines in a world, side by side."""
    from coinfer.evaluate import report

    measures = ("mean_s", "p95_s", "in_time", "throughput", "accuracy", "timely_accuracy", "energy_j")
    measures += ("rate_bps", "normalised", "queue_bits", "longest_bits", "queue_growth", "sends")
    known = report.columns_of(world)
    columns = {"reward": report.REWARD, **{measure: known[measure] for measure in measures if measure in known}}
    title = f"{who} beside baselines, {runs[0].tasks:,} {'frames' if 'rate_bps' in runs[0].measures else 'tasks'}"
    console.print(*report.split_to_width(report.comparison_table(title, runs, columns), console.width))


def make_player(
    scheme: str, address: str | None
) -> "Callable[[Job], AbstractContextManager[Callable[[Loop[Any]], None]]]":
    """Return what puts the agents or workers of a scheme on a cluster.

    Args:
        scheme: its name.
        address: of the cluster's head; None for one on this machine alone.

    Raises:
        UserError: if the scheme has neither.
    """
    from coinfer.rl import registry
    from coinfer.rl.distributed.ray_workers import cluster_player

    if not registry.scheme(scheme).distributable:
        names = ", ".join(name for name, one in registry.SCHEMES.items() if one.distributable)
        raise UserError(f"{scheme} has no agents or workers to put on a cluster; schemes that have: {names}")

    def on_start(workers: "RayWorkerGroup") -> None:
        nodes = len({placement.node for placement in workers.worker_placements()})
        count = len(workers.names)
        console.print(f"{count} process{'es' * (count > 1)} on {nodes} node{'s' * (nodes > 1)} of the cluster")

    def show_recovery(recovery: "Recovery") -> None:
        about = f"{recovery.who} was lost and replaced within {recovery.took_s:.1f} s"
        console.print(f"{about}; {recovery.age_s:.1f} s of training were played again")

    return lambda job: cluster_player(job, address, on_recovery=show_recovery, on_start=on_start)


@contextmanager
def training_progress(scheme: str) -> Iterator["Progress"]:
    """Show a bar with the share that is done, figures, speed and the time that is left.

    Args:
        scheme: begins the bar.

    Yields:
        A function that takes each report of the training.
    """
    from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

    from coinfer.rl.core.training import Report

    columns = (TextColumn("{task.description}"), BarColumn(20), TextColumn("{task.percentage:3.0f} %"))
    with Progress(*columns, TimeRemainingColumn(), TextColumn("{task.fields[figures]}"), console=console) as bar:
        task = bar.add_task(scheme, total=None, figures="")

        def show(report: Report) -> None:
            parts = [text.format(report.figures[name]) for name, text in FIGURES.items() if name in report.figures]
            speed = [f"{report.decisions / report.took_s:,.0f} slots/s"] if report.decisions else []
            bar.update(task, total=report.rounds, completed=report.round, figures=", ".join(parts + speed))

        try:
            yield show
        except UserError:
            bar.update(task, visible=False)  # nothing was trained
            raise
