"""Bytes against accuracy: codes of a bottleneck beside pictures as bytes, JPEG and WebP, and quantised natural cuts.

    python experiments/bottlenecks/compare.py --model FILE.onnx --data cifar10/
    python experiments/bottlenecks/compare.py --model FILE.onnx --data pictures/ --retrained WEBP:5=OTHER.onnx \\
        --small SMALL.onnx

`FILE.bottleneck.onnx` lies beside FILE.onnx. OTHER.onnx is the network trained on pictures of that codec and quality,
SMALL.onnx one for the device alone (`train_network.py` trains both). Every picture goes through the encoding by itself,
sizes are those of whole payloads or files, and times are medians on one thread of this machine. Writes
results/NAME.json and .png.
"""

import argparse
import io
import json
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from PIL import Image
from rich.console import Console
from rich.progress import track
from rich.table import Table

from coinfer.graph.ir import ModelGraph
from coinfer.graph.open_model import open_model
from coinfer.profile.accuracy import wilson
from coinfer.profile.dataset import load_dataset
from coinfer.profile.measure import this_machine
from coinfer.runtime.codec import codec
from coinfer.runtime.codec.symbols import symbol_codec
from coinfer.runtime.executor import Executor
from coinfer.runtime.images import normalise

RESULTS = Path(__file__).resolve().parent / "results"
JPEG = (20, 30, 50, 75, 85, 95)
WEBP = (5, 10, 20, 30, 40, 50, 60, 70, 80, 90)
BATCH = 250
TIMED = 200
ALONE = "small network on the device"


class Way(NamedTuple):
    """One way to send a picture's request."""

    kind: str
    name: str
    sent: str
    """Tensor that crosses the link; the network's input for pictures."""
    answer: str
    encode: Callable[[np.ndarray], bytes]
    decode: Callable[[bytes], np.ndarray]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", type=Path, required=True)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--retrained", action="append", default=[], metavar="CODEC:QUALITY=FILE")
    parser.add_argument("--small", type=Path)
    parser.add_argument("--samples", type=int, default=10_000)
    parser.add_argument("--output", type=Path, default=RESULTS)
    parsed = parser.parse_args()
    graph, data = open_model(parsed.model), load_dataset(parsed.data, "test").take(parsed.samples)
    executor = Executor(graph)
    rows = []
    for way in track(list(ways(graph)), "measuring", transient=True):
        rows.append(measured(graph, executor, way, data.images, data.labels))
    for one in parsed.retrained:
        codec_name, file = one.split("=", 1)
        kind, quality = codec_name.split(":")
        other = open_model(file)
        way = picture_way(other, f"{kind}, network trained on it", kind, int(quality))
        rows.append(measured(other, Executor(other), way, data.images, data.labels))
    if parsed.small:
        rows.append(alone(open_model(parsed.small), data.images, data.labels))
    found = {
        "network": graph.name,
        "pictures": data.kind,
        "samples": len(data.labels),
        "machine": this_machine().model_dump(),
        "whole_ms": rows[0]["server_ms"],
        "rows": rows,
    }
    parsed.output.mkdir(parents=True, exist_ok=True)
    (parsed.output / f"{graph.name}.json").write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")
    show(found)
    plot(found, parsed.output / f"{graph.name}.png")


def ways(graph: ModelGraph) -> Iterator[Way]:
    """Everything that is compared."""
    answer = graph.outputs[-1]
    yield pixels_way(graph)
    for kind, qualities in (("JPEG", JPEG), ("WEBP", WEBP)):
        for quality in qualities:
            yield picture_way(graph, kind, kind, quality)
    for cut in graph.pruned((answer,)).useful_cuts()[1:-1]:
        if len(cut.tensors) == 1 and len(graph.tensors[cut.tensors[0]].shape) == 4:
            for bits in (8, 4):
                name = f"{cut.tensors[0]}, {bits} bits"
                encode = lambda x, bits=bits: codec.encode(x, bits, rate_bps=1e5)  # noqa: E731
                yield Way(f"{bits} bits + zstd", name, cut.tensors[0], answer, encode, codec.decode)
    for code in () if graph.bottleneck is None else graph.bottleneck.codes:
        symbols = symbol_codec(graph, code.tensor)
        assert symbols is not None
        decode = lambda p, symbols=symbols: symbols.decode(p, limit_bytes=1 << 20)  # noqa: E731
        yield Way("bottleneck", code.tensor, code.tensor, code.answers[-1].tensor, symbols.encode, decode)


def pixels_way(graph: ModelGraph) -> Way:
    """The picture as its pixels, without loss."""
    source, answer, image = graph.inputs[0], graph.outputs[-1], graph.image
    assert image is not None
    return Way("bytes", "pixels", source, answer, lambda p: codec.encode_image(p, image, rate_bps=1e5), codec.decode)


def picture_way(graph: ModelGraph, title: str, kind: str, quality: int) -> Way:
    """The picture as a file of a codec."""
    image = graph.image
    assert image is not None
    return Way(
        title,
        f"{kind} {quality}" if title == kind else f"{kind} {quality}, trained on it",
        graph.inputs[0],
        graph.outputs[-1],
        lambda pixels: picture_file(pixels, kind, quality),
        lambda file: normalise(np.asarray(Image.open(io.BytesIO(file)).convert("RGB")), image),
    )


def alone(graph: ModelGraph, images: np.ndarray, labels: np.ndarray) -> dict[str, Any]:
    """Right answers and times of a network that the device has for itself: nothing is sent."""
    row = measured(graph, Executor(graph), pixels_way(graph), images, labels)
    return row | {
        "kind": ALONE,
        "name": f"nothing: {graph.name} on the device",
        "bytes": 0.0,
        "device_ms": row["server_ms"],
        "server_ms": 0.0,
        "encode_ms": 0.0,
        "decode_ms": 0.0,
    }


def picture_file(pixels: np.ndarray, kind: str, quality: int) -> bytes:
    """The smallest file that Pillow makes at a quality."""
    file = io.BytesIO()
    slowest = {"optimize": True} if kind == "JPEG" else {"method": 6}
    Image.fromarray(pixels).save(file, kind, quality=quality, **slowest)
    return file.getvalue()


def measured(graph: ModelGraph, executor: Executor, way: Way, images: np.ndarray, labels: np.ndarray) -> dict[str, Any]:
    """Right answers, sizes and times of one way."""
    assert graph.image is not None
    is_picture, correct, size_bytes = way.sent == graph.inputs[0], 0, 0
    step = BATCH if graph.dynamic_batch else 1
    for i in range(0, len(images), step):
        some = images[i : i + step]
        inputs = {graph.inputs[0]: np.concatenate([normalise(one, graph.image) for one in some])}
        sent = some if is_picture else executor.run(inputs, (way.sent,))[0][way.sent]
        payloads = [way.encode(sent[k] if is_picture else sent[k : k + 1]) for k in range(len(some))]
        size_bytes += sum(map(len, payloads))
        received = np.concatenate([way.decode(payload) for payload in payloads])
        answers = executor.run({way.sent: received}, (way.answer,))[0][way.answer]
        correct += int((answers.argmax(1) == labels[i : i + step]).sum())
    low, high = wilson(correct, len(labels))
    return {
        "kind": way.kind,
        "name": way.name,
        "bytes": size_bytes / len(labels),
        "accuracy": correct / len(labels),
        "interval": [low, high],
        "device_ms": 0.0 if is_picture else median_ms(executor, graph, images, graph.inputs[0], way.sent),
        "server_ms": median_ms(executor, graph, images, way.sent, way.answer),
        **coding_ms(graph, executor, way, images[0]),
    }


def median_ms(executor: Executor, graph: ModelGraph, images: np.ndarray, first: str, last: str) -> float:
    """Of computing a tensor from another, one picture at a time."""
    assert graph.image is not None
    values = {graph.inputs[0]: normalise(images[0], graph.image)}
    given = values if first in values else executor.run(values, (first,))[0]
    return 1e3 * float(np.median([executor.run(given, (last,))[1] for _ in range(TIMED)]))


def coding_ms(graph: ModelGraph, executor: Executor, way: Way, image: np.ndarray) -> dict[str, float]:
    assert graph.image is not None
    inputs = {graph.inputs[0]: normalise(image, graph.image)}
    sent = image if way.sent in inputs else executor.run(inputs, (way.sent,))[0][way.sent]
    times_s = []
    for _ in range(TIMED):
        began_s = time.thread_time()
        payload = way.encode(sent)
        encoded_s = time.thread_time()
        way.decode(payload)
        times_s.append((encoded_s - began_s, time.thread_time() - encoded_s))
    encode_s, decode_s = np.median(times_s, axis=0).tolist()
    return {"encode_ms": 1e3 * encode_s, "decode_ms": 1e3 * decode_s}


def show(found: dict[str, Any]) -> None:
    table = Table(title=f"{found['network']}, {found['pictures']}, whole network {found['whole_ms']:.3f} ms")
    for heading in ("sent", "bytes", "right %", "95 %", "device ms", "of network", "encode ms", "decode ms"):
        table.add_column(heading)
    for row in found["rows"]:
        low, high = row["interval"]
        table.add_row(
            row["name"],
            f"{row['bytes']:.0f}",
            f"{100 * row['accuracy']:.2f}",
            f"{100 * low:.2f} to {100 * high:.2f}",
            f"{row['device_ms']:.3f}",
            f"{row['device_ms'] / found['whole_ms']:.0%}",
            f"{row['encode_ms']:.3f}",
            f"{row['decode_ms']:.3f}",
        )
    Console().print(table)


def plot(found: dict[str, Any], path: Path) -> None:
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot as plt

    figure, axes = plt.subplots(figsize=(8, 5), layout="constrained")
    for i, kind in enumerate(dict.fromkeys(row["kind"] for row in found["rows"])):
        rows = sorted((row for row in found["rows"] if row["kind"] == kind), key=lambda row: row["bytes"])
        shares = np.array([100 * row["accuracy"] for row in rows])
        ends = np.array([[100 * end for end in row["interval"]] for row in rows])
        errors = np.abs(ends - shares[:, None]).T
        if kind == ALONE:
            axes.axhline(shares[0], color="grey", ls=":", label=kind)
            continue
        style = {"marker": "os^vDX*"[i % 7], "ls": "-" if kind in ("JPEG", "WEBP", "bottleneck") else ""}
        axes.errorbar([row["bytes"] for row in rows], shares, errors, label=kind, ms=4, capsize=2, **style)
    axes.set_xscale("log")
    axes.set_xlabel("bytes of a picture's payload")
    axes.set_ylabel("right answers, %")
    axes.legend()
    axes.grid(alpha=0.3)
    figure.savefig(path, dpi=130)


if __name__ == "__main__":
    main()
