"""`coinfer exits`: branches on a network, trained together, and how often each answers rightly."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.table import Table

from coinfer.cli.console import console, resumable, setup_pytorch
from coinfer.cli.options import Bits, TorchDevice, TorchThreads, parse_bits
from coinfer.errors import UserError
from coinfer.progress import progress_bar

if TYPE_CHECKING:
    from coinfer.graph.ir import ModelGraph
    from coinfer.profile.accuracy import AccuracyTable
    from coinfer.profile.dataset import ImageDataset, Split

app = typer.Typer(help="Early exits: train them, measure their accuracy.", no_args_is_help=True)

Model = Annotated[str, typer.Argument(help="An ONNX file, or a network of the zoo such as resnet32.")]
Data = Annotated[
    Path, typer.Option(help="Folder of CIFAR-10's binary files, of packed npz copies, or of class sub-folders.")
]
_BRANCHES = 2
"""Put on a network that has no exits, where no places are named."""


@app.command()
def train(
    model: Model,
    data: Data,
    out: Annotated[Path | None, typer.Option(help="Folder of the training; runs/exits-MODEL without it.")] = None,
    at: Annotated[
        str, typer.Option(help="Where branches go: names of tensors or numbers of blocks; third parts without it.")
    ] = "",
    no_exits: Annotated[bool, typer.Option("--no-exits", help="Train the last exit only, for comparison.")] = False,
    epochs: Annotated[int, typer.Option(min=1, max=10_000, help="Times that all pictures are seen.")] = 60,
    batch: Annotated[int, typer.Option(min=2, max=65_536, help="Pictures of a step.")] = 128,
    rate: Annotated[float, typer.Option(min=1e-6, max=10, help="Largest learning rate.")] = 0.05,
    weights: Annotated[str, typer.Option(help="Weight of each exit's loss, with commas; equal without it.")] = "",
    patience: Annotated[int, typer.Option(min=1, help="Stop after so many epochs without a better one.")] = 30,
    seed: Annotated[int, typer.Option(min=0, max=2**31 - 1, help="Of weights, order and changes of pictures.")] = 0,
    resume: Annotated[bool, typer.Option("--resume", help="Go on from the last epoch of the folder.")] = False,
    device: TorchDevice = "cpu",
    precision: Annotated[str, typer.Option(help="auto, float32 or bfloat16.")] = "auto",
    threads: TorchThreads = 1,
) -> None:
    """Train all exits of a network together, from new weights.

    A network without exits gets branches. The folder holds MODEL.onnx with all exits, MODEL.safetensors (float16),
    training.json and a checkpoint.

    Example: [bold]coinfer exits train alexnet-cifar-exits --data cifar10/ --epochs 30[/bold]
    """
    setup_pytorch("training", device, threads)
    from coinfer.exit_training import train as learner
    from coinfer.exit_training.settings import ExitSettings
    from coinfer.graph.open_model import open_model

    if precision not in ("auto", "float32", "bfloat16"):
        raise UserError(f"--precision {precision!r}: expected auto, float32 or bfloat16")
    graph, pictures = open_model(model), _pictures(data, "train")
    graph = _plain(graph) if no_exits else _branched(graph, at, len(pictures.class_names))
    folder = out or Path("runs") / f"exits-{graph.name}"
    if resume and not (folder / learner.CHECKPOINT).exists():
        raise UserError(f"{folder}: no checkpoint to resume from; leave out --resume to begin a training there")
    settings = ExitSettings(
        epochs=epochs,
        batch=batch,
        learning_rate=rate,
        weights=_numbers(weights),
        patience=patience,
        seed=seed,
        device=device,
        precision=precision,
    )
    console.print(f"{graph.name}: {len(graph.outputs)} exit(s), {len(pictures.labels)} pictures ({pictures.kind})")
    with progress_bar(console, "training") as report, resumable():

        def progress(done: int, total: int, loss: float, accuracy: Sequence[float]) -> None:
            report(done, total, f"loss {loss:.3f}  {' '.join(f'{share:.1%}' for share in accuracy)}")

        trained = learner.train(graph, pictures, settings, progress=progress, folder=folder, resume=resume)
    best = trained.epochs[trained.best]
    shares = ", ".join(f"{share:.1%}" for share in best.holdout)
    path = learner.save(trained, pictures.kind, folder)
    console.print(f"best epoch {trained.best + 1} of {len(trained.epochs)}: {shares} of the pictures held out")
    console.print(f"saved {path}; measure it with `coinfer exits measure {path} --data {data}`", soft_wrap=True)


@app.command()
def measure(
    model: Model,
    data: Data,
    output: Annotated[Path | None, typer.Option("-o", help="Table to write; MODEL.accuracy.json without it.")] = None,
    bits: Bits = "4,8,12,16,32",
    samples: Annotated[int, typer.Option(min=0, help="Only the first so many pictures; 0 takes all.")] = 0,
    jobs: Annotated[int, typer.Option(min=1, max=256, help="Processes of one thread each.")] = 1,
) -> None:
    """Count the right answers of every exit, cut and number of bits on test pictures, through the codec of the runtime.

    The table also holds cascades: what comes of leaving at the first exit that is sure, for many thresholds.

    Example: [bold]coinfer exits measure runs/exits-resnet32/resnet32-exits.onnx --data cifar10/ --jobs 2[/bold]
    """
    from coinfer.graph.open_model import open_model
    from coinfer.runtime.measure_accuracy import measure_accuracy

    widths = parse_bits(bits)
    graph, pictures = open_model(model), _pictures(data, "test")
    if samples:
        pictures = pictures.take(samples)
    with progress_bar(console, f"measuring {graph.name}") as progress:
        table = measure_accuracy(graph, pictures, widths, jobs, progress)
    console.print(_shown(graph, table, sorted(set(widths) - {32})))
    path = output or Path(f"{graph.name}.accuracy.json")
    table.save(path)
    console.print(f"saved {path}", soft_wrap=True)


def _branched(graph: "ModelGraph", at: str, classes: int) -> "ModelGraph":
    """The network as it is where it has exits, else with branches."""
    from coinfer.graph.zoo.early_exits import with_exits

    if len(graph.outputs) > 1:
        if at:
            raise UserError(f"--at {at!r}: {graph.name} has exits already; leave it out")
        return graph
    places = [part.strip() for part in at.split(",") if part.strip()]
    numbered = [int(place) if place.isdecimal() else place for place in places]
    return with_exits(graph, numbered or _thirds(graph), classes)


def _thirds(graph: "ModelGraph") -> list[str | int]:
    """The ends of the blocks after which about a third and two thirds of the work are done."""
    cuts = graph.useful_cuts()
    inner = [i for i in range(1, len(cuts) - 1) if len(cuts[i].tensors) == 1]
    done = {i: sum(graph.ops[op].work_flop for op in cuts[i].head) / graph.work_flop for i in inner}
    wanted = [(k + 1) / (_BRANCHES + 1) for k in range(_BRANCHES)]
    return sorted({min(inner, key=lambda i: abs(done[i] - share)) for share in wanted})


def _plain(graph: "ModelGraph") -> "ModelGraph":
    from dataclasses import replace

    return replace(graph.pruned(graph.outputs[-1:]), name=f"{graph.name}-plain") if len(graph.outputs) > 1 else graph


def _pictures(where: Path, split: "Split") -> "ImageDataset":
    from coinfer.profile.dataset import load_dataset

    with progress_bar(console, f"reading {where}") as progress:
        return load_dataset(where, split, progress)


def _shown(graph: "ModelGraph", table: "AccuracyTable", widths: Sequence[int]) -> Table:
    """Accuracy in percent: a row for each exit by itself, then one for each of its cuts."""
    shown = Table(title=f"{graph.name}, percent right of {table.dataset}")
    for heading in ("exit", "cut after", "32 bit, exact", *(f"{width} bit" for width in widths)):
        shown.add_column(heading, justify="left" if heading == "cut after" else "right", overflow="fold")
    for exit_, output in enumerate(graph.outputs):
        low, high = table.interval(exit_)
        interval = f"{100 * table.accuracy(exit_):.2f} ({100 * low:.1f} to {100 * high:.1f})"
        shown.add_row(str(exit_ + 1), f"none: {output}", interval, style="bold")
        cuts = dict.fromkeys(row.cut for row in table.rows if row.exit == exit_ and row.cut != graph.inputs)
        for cut in cuts:
            cells = (f"{100 * table.accuracy(exit_, cut, width):.2f}" for width in widths)
            shown.add_row("", ", ".join(cut), "", *cells)
    return shown


def _numbers(text: str) -> tuple[float, ...]:
    try:
        return tuple(float(part) for part in text.split(",") if part.strip())
    except ValueError:
        raise UserError(f"--weights {text!r}: expected numbers, separated by commas") from None
