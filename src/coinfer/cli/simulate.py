"""`coinfer simulate`: run policies in a scenario, and compare them."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from coinfer.cli.console import console, setup_pytorch
from coinfer.cli.options import Changes, FrameFile, TorchDevice, TorchThreads, frame_file_changes

if TYPE_CHECKING:
    from coinfer.progress import Progress


def simulate(
    scenario: Annotated[str, typer.Argument(help="A preset of `coinfer scenario list`, or a file.")],
    policy: Annotated[
        list[str] | None,
        typer.Option("--policy", help="A name, or a trained policy (.onnx); repeat. Without it, all baselines."),
    ] = None,
    seeds: Annotated[int, typer.Option(min=1, max=10_000, help="Independent repetitions; intervals need 2.")] = 10,
    episodes: Annotated[int, typer.Option(min=1, max=10_000, help="Episodes of each seed.")] = 4,
    bound: Annotated[
        bool, typer.Option("--bound", help="Also a lower bound of the latency: what is possible.")
    ] = False,
    changes: Changes = None,
    data: FrameFile = None,
    device: TorchDevice = "cpu",
    threads: TorchThreads = 1,
    runs: Annotated[Path, typer.Option(help="Folder for records and plots.")] = Path("runs"),
) -> None:
    """Run policies in a simulated edge, all on the same chance, and compare.

    Times are in milliseconds, energy in millijoules; ± is half of a 95 %
    confidence interval over the seeds; the Jain index tells how even the
    servers' work is, 1 at best.

    Bounds go by names too: slot-descent, slot-optimum (few tasks) and
    slot-milp (slow) know what no policy can, lower-bound also the future.
    docs/simulation.md has all names; an unknown one is answered with those
    that exist.

    Example: [bold]coinfer simulate campus --policy greedy --policy sequential-greedy --seeds 10[/bold]
    """
    setup_pytorch("simulating", device, threads)
    from coinfer.evaluate import report
    from coinfer.evaluate.compare import Settings, compare

    changes = frame_file_changes(data, changes)
    settings = Settings(scenario, tuple(policy or ()), seeds, episodes, bound, tuple(changes or ()), device)
    with _bars() as progress:
        comparison = compare(settings, progress, runs)
    for note in comparison.notes:
        console.print(f"[yellow]note:[/yellow] {note}", soft_wrap=True)
    found, columns = comparison.runs, report.columns_of(comparison.world)
    console.print(*report.split_to_width(report.comparison_table(comparison.title, found, columns), console.width))
    if len(found) > 1:
        console.print()
        differences = report.difference_table(found, comparison.reference, columns)
        console.print(*report.split_to_width(differences, console.width))
    console.print(f"\nrecords and plot: {comparison.folder}", soft_wrap=True)


@contextmanager
def _bars() -> Iterator["Progress"]:
    """Show a bar for each policy that runs."""
    from rich.progress import BarColumn, Progress, TaskID, TextColumn, TimeRemainingColumn

    columns = (TextColumn("{task.description:20s}"), BarColumn(), TextColumn("{task.percentage:3.0f} %"))
    bars = Progress(*columns, TimeRemainingColumn(), console=console, transient=True)
    tasks: dict[str, TaskID] = {}

    def show(done: int, total: int, name: str) -> None:
        if name not in tasks:
            tasks[name] = bars.add_task(name, total=total)
            bars.start()
        bars.update(tasks[name], completed=done)

    try:
        yield show
    finally:
        if tasks:
            bars.stop()
