"""`coinfer exits`: train the early exits of a network together, and measure how often each answers correctly."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from coinfer.cli.console import check_out, check_resume, console, resumable, setup_pytorch
from coinfer.cli.options import (
    Bits,
    Cutout,
    Limit,
    Shape,
    Shift,
    TorchDevice,
    TorchThreads,
    parse_bits,
    parse_limits,
    parse_places,
    parse_shapes,
    parse_weights,
)
from coinfer.errors import UserError
from coinfer.progress import progress_bar

if TYPE_CHECKING:
    from coinfer.exit_training.settings import ExitTrainingResult
    from coinfer.profile.dataset import ImageDataset, Split

app = typer.Typer(help="Early exits: train them, measure their accuracy.", no_args_is_help=True)

Model = Annotated[str, typer.Argument(help="An ONNX file, or a network of the zoo such as resnet32.")]
Data = Annotated[
    Path, typer.Option(help="Folder of CIFAR-10's binary files, of packed npz copies, or of class sub-folders.")
]


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
    shift: Shift = None,
    cutout: Cutout = None,
    patience: Annotated[int, typer.Option(min=1, help="Stop after so many epochs without a better one.")] = 30,
    seed: Annotated[int, typer.Option(min=0, max=2**31 - 1, help="Of weights, order and changes of pictures.")] = 0,
    resume: Annotated[bool, typer.Option("--resume", help="Go on from the last epoch of the folder.")] = False,
    device: TorchDevice = "cpu",
    precision: Annotated[str, typer.Option(help="auto, float32 or bfloat16.")] = "auto",
    threads: TorchThreads = 1,
    shape: Shape = None,
    limit: Limit = None,
) -> None:
    """Train all exits of a network together, from new weights.

    A network without exits gets branches. The folder holds MODEL.onnx with all exits, MODEL.safetensors (float16),
    training.json and a checkpoint.

    Example: [bold]coinfer exits train alexnet-cifar-exits --data cifar10/ --epochs 30[/bold]
    """
    setup_pytorch("training", device, threads)
    from coinfer.exit_training import train as learner
    from coinfer.exit_training.branches import branched_network, plain_network
    from coinfer.exit_training.settings import PRECISIONS, ExitSettings
    from coinfer.graph.open_model import open_model

    if precision not in PRECISIONS:
        raise UserError(f"--precision {precision!r}: expected auto, float32 or bfloat16")
    graph, pictures = open_model(model, parse_shapes(shape), limits=parse_limits(limit)), _pictures(data, "train")
    places, classes, side = parse_places(at), len(pictures.class_names), pictures.images.shape[1]
    graph = plain_network(graph) if no_exits else branched_network(graph, places, classes)
    folder = out or Path("runs") / f"exits-{graph.name}"
    checkpoint = folder / learner.CHECKPOINT
    check_out(folder)
    check_resume(folder, resume, checkpoint.exists())
    settings = ExitSettings(
        epochs=epochs,
        batch=batch,
        learning_rate=rate,
        weights=parse_weights(weights),
        patience=patience,
        crop=side // 8 if shift is None else shift,
        cutout=side // 4 if cutout is None else cutout,
        seed=seed,
        device=device,
        precision=precision,
    )
    console.print(f"{graph.name}: {len(graph.outputs)} exit(s), {len(pictures.labels)} pictures ({pictures.kind})")
    with progress_bar(console, "training", in_log=True) as report, resumable(checkpoint.exists):

        def progress(done: int, total: int, loss: float, accuracy: Sequence[float]) -> None:
            report(done, total, f"loss {loss:.3f}  {_percent(accuracy)}")

        trained = learner.train(graph, pictures, settings, progress=progress, folder=folder, resume=resume)
    _print_result(trained, learner.save(trained, pictures.kind, folder), data)


@app.command()
def measure(
    model: Model,
    data: Data,
    output: Annotated[Path | None, typer.Option("-o", help="Table to write; MODEL.accuracy.json without it.")] = None,
    bits: Bits = "4,8,12,16,32",
    samples: Annotated[int, typer.Option(min=0, help="Only the first so many pictures; 0 takes all.")] = 0,
    jobs: Annotated[int, typer.Option(min=1, max=256, help="Processes of one thread each.")] = 1,
    shape: Shape = None,
    limit: Limit = None,
) -> None:
    """Count the right answers of every exit, cut and number of bits on test pictures, through the codec of the runtime.

    The table also holds cascades: what comes of leaving at the first exit that is sure, for many thresholds.

    Example: [bold]coinfer exits measure runs/exits-resnet32/resnet32-exits.onnx --data cifar10/ --jobs 2[/bold]
    """
    from coinfer.cli.reports.accuracy_rows import accuracy_rows
    from coinfer.files import check_writable
    from coinfer.graph.open_model import open_model
    from coinfer.runtime.accuracy_samples import batch_size, dataset_samples
    from coinfer.runtime.measure_accuracy import measure_accuracy, measurement_plan

    graph = open_model(model, parse_shapes(shape), limits=parse_limits(limit))
    path = output or Path(f"{graph.name}.accuracy.json")
    check_writable(path)
    plan, pictures = measurement_plan(graph, parse_bits(bits)), _pictures(data, "test")
    if samples:
        pictures = pictures.take(samples)
    parts = dataset_samples(graph, pictures, batch_size(graph, {name for cut in plan.cuts for name in cut}))
    with progress_bar(console, f"measuring {graph.name}", in_log=True) as progress:
        table = measure_accuracy(graph, parts, plan, jobs, progress)
    console.print(accuracy_rows(graph, table, sorted(plan.bits, reverse=True), plan.exits))
    table.save(path)
    console.print(f"saved {path}", soft_wrap=True)


def _pictures(where: Path, split: "Split") -> "ImageDataset":
    from coinfer.profile.dataset import load_dataset

    with progress_bar(console, f"reading {where}") as progress:
        return load_dataset(where, split, progress)


def _percent(shares: Sequence[float], separator: str = " ") -> str:
    return separator.join(f"{share:.1%}" for share in shares)


def _print_result(trained: "ExitTrainingResult", path: Path, data: Path) -> None:
    accuracy = _percent(trained.epochs[trained.best].holdout, ", ")
    console.print(f"best epoch {trained.best + 1} of {len(trained.epochs)}: {accuracy} of the pictures held out")
    console.print(f"saved {path}; measure it with `coinfer exits measure {path} --data {data}`", soft_wrap=True)
