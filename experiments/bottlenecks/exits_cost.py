"""What several exits behind one code cost the last one: bottlenecks of the same place, on the same test pictures.

    python experiments/bottlenecks/exits_cost.py --write runs/alexnet-last.onnx
    python experiments/bottlenecks/exits_cost.py --data cifar10/ --codes "exits 2 and 3=FILE" --codes "exit 3=FILE"

The first command writes the network with its last output alone, for a training to compare with. The second counts right
answers of every exit from every code of these files, which may be bottlenecks of either network; symbols go through the
runtime's codec, picture by picture. Differences are in points, of the same pictures, with half of a 95 % interval: of
each exit against the network's own, and at the last exit of the first file against the others. Writes
results/exits-cost.json.
"""

import argparse
import json
import math
from pathlib import Path
from typing import Any

import numpy as np
from rich.progress import track

from coinfer.graph.bottleneck import read_record
from coinfer.graph.ir import ModelGraph
from coinfer.graph.onnx.load import load
from coinfer.graph.open_model import open_model
from coinfer.graph.segment import save_model
from coinfer.profile.accuracy import Z_95
from coinfer.profile.dataset import ImageDataset, load_dataset
from coinfer.runtime.codec.symbols import codec_of
from coinfer.runtime.executor import Executor
from coinfer.runtime.images import normalise

RESULTS = Path(__file__).resolve().parent / "results"
BATCH = 250


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="alexnet-exits")
    parser.add_argument("--write", type=Path, help="write the network with its last output alone, and end")
    parser.add_argument("--data", type=Path)
    parser.add_argument("--codes", action="append", default=[], metavar="NAME=FILE")
    parser.add_argument("--samples", type=int, default=10_000)
    parser.add_argument("--output", type=Path, default=RESULTS / "exits-cost.json")
    parsed = parser.parse_args()
    graph = open_model(parsed.model)
    if parsed.write:
        save_model(graph.pruned(graph.outputs[-1:]), parsed.write)
        return
    data = load_dataset(parsed.data, "test").take(parsed.samples)
    plain = right_by_exit(graph, data)
    files = dict(one.split("=", 1) for one in parsed.codes)
    found = {name: right_by_code(load(file), data) for name, file in files.items()}
    rows = [row for name, right in found.items() for row in rows_of(name, right, plain)]
    record = {
        "network": graph.name,
        "pictures": data.kind,
        "samples": len(data.labels),
        "plain": {output: float(right.mean()) for output, right in plain.items()},
        "bottlenecks": {name: load(file).fingerprint for name, file in files.items()},
        "rows": rows,
        "last_exit": compared(found, graph.outputs[-1]),
    }
    parsed.output.write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")
    for row in (*rows, *record["last_exit"]):
        print(", ".join(f"{key} {value:.4g}" if isinstance(value, float) else str(value) for key, value in row.items()))


def right_by_exit(graph: ModelGraph, data: ImageDataset) -> dict[str, np.ndarray]:
    """Return whether the network's own answers are right, [pictures] by output."""
    executor, parts = Executor(graph), []
    for i in range(0, len(data.labels), BATCH):
        parts.append(executor.run(pictures(graph, data, i), graph.outputs)[0])
    return {name: np.concatenate([part[name].argmax(1) for part in parts]) == data.labels for name in graph.outputs}


def right_by_code(made: ModelGraph, data: ImageDataset) -> dict[tuple[str, str], np.ndarray]:
    """Return whether answers through the codec are right, [pictures] by symbols and output.

    Args:
        made: a bottleneck's own network.
        data: the pictures.
    """
    executor, record, found = Executor(made), read_record(made, made.name), {}
    codecs = [(code, codec_of(code, made.tensors[code.tensor].shape)) for code in record.codes]
    for i in track(range(0, len(data.labels), BATCH), made.name, transient=True):
        truth = data.labels[i : i + BATCH]
        symbols = executor.run(pictures(made, data, i), [code.tensor for code in record.codes])[0]
        for code, codec in codecs:
            sent = symbols[code.tensor]
            payloads = [codec.encode(sent[k : k + 1]) for k in range(len(sent))]
            received = np.concatenate([codec.decode(payload, limit_bytes=sent.size) for payload in payloads])
            answers = executor.run({code.tensor: received}, [one.tensor for one in code.answers])[0]
            for one in code.answers:
                found.setdefault((code.tensor, one.output), []).append(answers[one.tensor].argmax(1) == truth)
            found.setdefault((code.tensor, ""), []).append(np.array([len(payload) for payload in payloads]))
    return {key: np.concatenate(parts) for key, parts in found.items()}


def pictures(graph: ModelGraph, data: ImageDataset, first: int) -> dict[str, np.ndarray]:
    """Return a batch of inputs."""
    assert graph.image is not None
    batch = data.images[first : first + BATCH]
    return {graph.inputs[0]: np.concatenate([normalise(one, graph.image) for one in batch])}


def rows_of(name: str, right: dict[tuple[str, str], np.ndarray], plain: dict[str, np.ndarray]) -> list[dict[str, Any]]:
    """Return accuracy and size of each exit from each code of a bottleneck, beside the exit's own answers."""
    return [
        {
            "codes": name,
            "code": code,
            "exit": output,
            "bytes": float(right[code, ""].mean()),
            "accuracy": float(one.mean()),
            **points(one, plain[output]),
        }
        for (code, output), one in right.items()
        if output
    ]


def compared(found: dict[str, dict[tuple[str, str], np.ndarray]], output: str) -> list[dict[str, Any]]:
    """Return how the first bottleneck differs from each other one at an exit, from each code that both have."""
    first, *others = found
    return [
        {"codes": first, "against": other, "code": code, **points(found[first][code, exit_], found[other][code, exit_])}
        for other in others
        for code, exit_ in found[first]
        if exit_ == output and (code, exit_) in found[other]
    ]


def points(one: np.ndarray, other: np.ndarray) -> dict[str, float]:
    """Return the difference of two shares on the same pictures in points, and half of its 95 % interval."""
    difference = one.astype(float) - other
    half = Z_95 * float(difference.std(ddof=1)) / math.sqrt(len(difference))
    return {"points": 100 * float(difference.mean()), "half_interval": 100 * half}


if __name__ == "__main__":
    main()
