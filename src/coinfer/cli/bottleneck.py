"""`coinfer bottleneck`: train a small encoder and decoder that make cutting inside a network worth it."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from coinfer.cli.console import check_out, check_resume, console, resumable, setup_pytorch
from coinfer.cli.options import Cutout, Limit, Shape, Shift, TorchDevice, TorchThreads, parse_limits, parse_shapes
from coinfer.errors import UserError
from coinfer.progress import progress_bar
from coinfer.units import BITS_PER_BYTE

if TYPE_CHECKING:
    from coinfer.exit_training.bottleneck.settings import BottleneckEpoch, BottleneckSettings, Place
    from coinfer.graph.bottleneck import Bottleneck
    from coinfer.graph.ir import ModelGraph
    from coinfer.profile.dataset import ImageDataset, Split

app = typer.Typer(help="Bottlenecks: train them.", no_args_is_help=True)

Model = Annotated[str, typer.Argument(help="An ONNX file, or a network of the zoo such as alexnet-exits.")]
Data = Annotated[
    Path, typer.Option(help="Folder of CIFAR-10's binary files, of packed npz copies, or of class sub-folders.")
]


@app.callback()
def bottleneck() -> None:
    """Train a small encoder and decoder for a network, so that little crosses the link."""


@app.command()
def train(
    model: Model,
    data: Data,
    out: Annotated[Path | None, typer.Option(help="Folder of the training; runs/bottleneck-MODEL without it.")] = None,
    source: Annotated[str, typer.Option(help="Tensor that the encoder reads; the network's input without it.")] = "",
    target: Annotated[str, typer.Option(help="Tensor that the decoder replaces; an early small one without it.")] = "",
    search: Annotated[
        int, typer.Option(min=0, max=10_000, help="Epochs for which each of several targets is tried first.")
    ] = 0,
    codes: Annotated[str, typer.Option(help="Channels of the nested codes, rising, with commas.")] = "4,8,16",
    bits: Annotated[int, typer.Option(min=2, max=8, help="Bits of a symbol before entropy coding.")] = 2,
    device_share: Annotated[
        float, typer.Option(min=0.001, max=1, help="Arithmetic up to the code over the whole network's, at most.")
    ] = 0.1,
    epochs: Annotated[int, typer.Option(min=1, max=10_000, help="Times that all pictures are seen.")] = 20,
    batch: Annotated[int, typer.Option(min=2, max=65_536, help="Pictures of a step.")] = 96,
    rate: Annotated[float, typer.Option(min=1e-6, max=10, help="Largest learning rate.")] = 2e-3,
    tail_rate: Annotated[
        float, typer.Option(min=0, max=1, help="Rate of the layers behind the decoder over that; 0 keeps them.")
    ] = 0.1,
    shift: Shift = None,
    cutout: Cutout = 0,
    mixup: Annotated[float, typer.Option(min=0, max=1, help="Share of the pictures that are mixed in pairs.")] = 0.0,
    label_weight: Annotated[
        float, typer.Option(min=0, max=1000, help="Weight of the labels; 0 learns from the network.")
    ] = 0.3,
    size_weight: Annotated[
        float, typer.Option(min=0, max=1000, help="Weight of a code's size, for each kilobit.")
    ] = 0.0,
    seed: Annotated[int, typer.Option(min=0, max=2**31 - 1, help="Of weights, order and changes of pictures.")] = 0,
    resume: Annotated[bool, typer.Option("--resume", help="Go on from the last epoch of the folder.")] = False,
    start: Annotated[
        Path | None,
        typer.Option(help="Folder of an earlier training of the same place and sizes: begin with its weights."),
    ] = None,
    device: TorchDevice = "cpu",
    precision: Annotated[str, typer.Option(help="auto, float32 or bfloat16.")] = "auto",
    threads: TorchThreads = 1,
    shape: Shape = None,
    limit: Limit = None,
) -> None:
    """Train a bottleneck of a network, and count its right answers on the test pictures.

    The network itself stays as it is; of a network with exits, every exit behind the code answers from it. The folder
    holds MODEL.bottleneck.onnx, training.json and a checkpoint.

    Example: [bold]coinfer bottleneck train alexnet-exits --data cifar10/ --epochs 20[/bold]
    """
    setup_pytorch("training", device, threads)
    from coinfer.exit_training.bottleneck import train as learner
    from coinfer.exit_training.bottleneck.settings import BottleneckSettings
    from coinfer.exit_training.settings import PRECISIONS
    from coinfer.graph.open_model import open_model
    from coinfer.runtime.measure_bottleneck import measure_bottleneck, with_words

    if search and target:
        raise UserError(
            f"--search {search} looks for a target, and --target {target!r} names one; leave one of them out"
        )
    if precision not in PRECISIONS:
        raise UserError(f"--precision {precision!r}: expected auto, float32 or bfloat16")
    graph = open_model(model, parse_shapes(shape), limits=parse_limits(limit), bottleneck=False)
    folder = out or Path("runs") / f"bottleneck-{graph.name}"
    checkpoint = folder / learner.CHECKPOINT
    check_out(folder)
    check_resume(folder, resume, checkpoint.exists())
    pictures, tested = _pictures(data, "train"), _pictures(data, "test")
    if tested.images.shape[1:] != pictures.images.shape[1:]:
        sizes = (f"{split.images.shape[1]}x{split.images.shape[2]}" for split in (tested, pictures))
        raise UserError(f"{data}: test pictures are {' and train pictures '.join(sizes)}; scale them to one size")
    settings = BottleneckSettings(
        channels=parse_codes(codes),
        bits=bits,
        device_share=device_share,
        epochs=epochs,
        batch=batch,
        learning_rate=rate,
        tail_rate=tail_rate,
        label_weight=label_weight,
        crop=pictures.images.shape[1] // 8 if shift is None else shift,
        cutout=cutout or 0,
        mixup=mixup,
        rate_weight=size_weight,
        seed=seed,
        device=device,
        precision=precision,
    )
    place = _place(graph, pictures, settings, source, target, search, folder)
    console.print(
        f"{graph.name}: from {place.source} to {place.target}, {len(pictures.labels)} pictures ({pictures.kind})"
    )
    with progress_bar(console, "training", in_log=True) as report, resumable(checkpoint.exists):

        def progress(done: int, total: int, loss: float, before: "BottleneckEpoch | None") -> None:
            held_out = "" if before is None else " ".join(f"{share:.1%}" for share in before.holdout)
            report(done, total, f"loss {loss:.3f}  {held_out}")

        trained = learner.train(
            graph, place, pictures, settings, progress=progress, folder=folder, resume=resume, start=start
        )
    answers, seen = learner.answers_of(trained), pictures.images[trained.rows]
    with progress_bar(console, "measuring") as report:
        worded = with_words(graph, trained.graph, place.source, answers, bits, seen)
        measured = measure_bottleneck(worded, tested, report)
    path = learner.save(measured, trained, pictures.kind, folder)
    assert measured.bottleneck is not None
    _print_codes(measured.bottleneck)
    console.print(
        f"saved {path}; beside {graph.name}.onnx, devices and servers that open this network use it", soft_wrap=True
    )


def _place(
    graph: "ModelGraph",
    pictures: "ImageDataset",
    settings: "BottleneckSettings",
    source: str,
    target: str,
    search: int,
    folder: Path,
) -> "Place":
    """Return where the bottleneck goes, after trying several places if that is asked for and was not done before."""
    from coinfer.exit_training.bottleneck.places import place_for
    from coinfer.exit_training.bottleneck.search import load_places, save_places, try_places

    if not search:
        return place_for(graph, settings, source, target)
    path = folder / "places.json"
    tried = load_places(path, settings, search)
    if tried is None:
        with progress_bar(console, "trying places", in_log=True) as report:
            tried = try_places(graph, pictures, settings, search, source=source, report=report)
        save_places(path, tried, settings, search)
    for place, figures in tried:
        codes = zip(figures.holdout, figures.size_bits, strict=True)
        said = ", ".join(f"{right:.1%} with {bits / BITS_PER_BYTE:.0f} bytes" for right, bits in codes)
        console.print(f"{place.source} to {place.target}: {said}", soft_wrap=True)
    return tried[0].place


def parse_codes(text: str) -> tuple[int, ...]:
    """Return the channels of nested codes.

    Args:
        text: of the option.

    Raises:
        UserError: if they are no rising numbers of at least 1.
    """
    numbers = [part.strip() for part in text.split(",")]
    codes = tuple(int(part) for part in numbers if part.isdecimal())
    if len(codes) < len(numbers) or codes != tuple(sorted(set(codes))) or not 0 < codes[0] <= codes[-1] <= 256:
        raise UserError(f"--codes {text!r}: expected rising numbers of channels, 1 to 256, such as 4,8,16")
    return codes


def _pictures(where: Path, split: "Split") -> "ImageDataset":
    from coinfer.profile.dataset import load_dataset

    with progress_bar(console, f"reading {where}") as progress:
        return load_dataset(where, split, progress)


def _print_codes(bottleneck: "Bottleneck") -> None:
    """Print accuracy and size of each exit from each code, as they were counted through the runtime's codec."""
    for code in bottleneck.codes:
        for answer in code.answers:
            found, name = answer.accuracy, f"{code.tensor}, {answer.output}" if len(code.answers) > 1 else code.tensor
            assert found is not None
            share, plain = found.correct / found.samples, found.plain / found.samples
            console.print(
                f"{name}: {found.size_bytes:.0f} bytes, {share:.2%} of {found.samples} pictures "
                f"({plain:.2%} without a bottleneck)"
            )
