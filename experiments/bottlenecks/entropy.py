"""Bytes and times of ways to code the symbols of a bottleneck: packed, prefix codes, zstd, a range coder.

    python experiments/bottlenecks/entropy.py --model FILE.onnx --data cifar10/

`FILE.bottleneck.onnx` lies beside FILE.onnx, or comes with a shipped network. Every picture is coded by itself.
Dictionary and distributions are made of training pictures; the prefix codes are those of the file. `ideal` rows have no
coder: they are the information of the symbols under those distributions, below which no coder with the same model goes.
The range coder is that of the library `constriction`; its rows are left out if that is not installed. Writes
results/entropy.json, with medians of the times on one thread of this machine.
"""

import argparse
import json
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import zstandard
from rich.console import Console
from rich.table import Table

from coinfer.graph.bottleneck import Code
from coinfer.graph.ir import ModelGraph
from coinfer.graph.open_model import open_model
from coinfer.profile.dataset import load_dataset
from coinfer.profile.measure import this_machine
from coinfer.runtime.codec.symbols import HEADER_BYTES, codec_of, packed, unpacked
from coinfer.runtime.executor import Executor
from coinfer.runtime.images import normalise
from coinfer.units import BITS_PER_BYTE, MILLI

RESULTS = Path(__file__).resolve().parent / "results"
BATCH = 250
TIMED = 200
LEVEL = 19
"""Of zstd; higher ones are not smaller on so few bytes."""
DICTIONARY_BYTES = 16_384


class Coder(NamedTuple):
    """One way to code the symbols of a picture, uint8 [1, channels, height, width]."""

    name: str
    encode: Callable[[np.ndarray], bytes]
    decode: Callable[[bytes], np.ndarray]
    header_bytes: int = 0
    """Of each payload; not counted."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="alexnet-exits")
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--samples", type=int, default=1000, help="test pictures")
    parser.add_argument("--training", type=int, default=4000, help="pictures for dictionary and distributions")
    parser.add_argument("--output", type=Path, default=RESULTS / "entropy.json")
    parsed = parser.parse_args()
    graph = open_model(parsed.model)
    assert graph.bottleneck is not None, f"{graph.name} has no bottleneck beside it"
    seen, test = load_dataset(parsed.data, "train").take(parsed.training), load_dataset(parsed.data, "test")
    test = test.take(parsed.samples)
    codes = graph.bottleneck.codes
    known, new = (symbols_of(graph, images) for images in (seen.images, test.images))
    found = {
        "network": graph.name,
        "pictures": test.kind,
        "samples": len(test.labels),
        "training": len(seen.labels),
        "machine": this_machine().model_dump(),
        "rows": [row for code in codes for row in rows_of(graph, code, known[code.tensor], new[code.tensor])],
    }
    parsed.output.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")
    show(found)


def symbols_of(graph: ModelGraph, images: np.ndarray) -> dict[str, np.ndarray]:
    """Return the symbols of each code for some pictures."""
    assert graph.image is not None
    assert graph.bottleneck is not None
    executor, names = Executor(graph), [code.tensor for code in graph.bottleneck.codes]
    step, parts = BATCH if graph.dynamic_batch else 1, []
    for i in range(0, len(images), step):
        x = np.concatenate([normalise(one, graph.image) for one in images[i : i + step]])
        parts.append(executor.run({graph.inputs[0]: x}, names)[0])
    return {name: np.concatenate([part[name] for part in parts]) for name in names}


def rows_of(graph: ModelGraph, code: Code, known: np.ndarray, new: np.ndarray) -> list[dict[str, Any]]:
    """Return what each way makes of a code's symbols.

    Args:
        graph: the network.
        code: of its bottleneck.
        known: symbols of training pictures.
        new: those of test pictures.
    """
    models = {
        "by group of channels": Rows(
            lambda s: packed(s, code.bits), lambda v, shape: unpacked(v, shape, code.bits), 256
        ),
        "by channel": Rows(channels_of, lambda v, shape: v.reshape(shape), 2**code.bits),
    }
    rows = [measured(coder, new) for coder in coders(graph, code, known, models)]
    rows += [{"coder": f"ideal, {name}", "bytes": ideal_bytes(model, known, new)} for name, model in models.items()]
    return [{"code": code.tensor} | row for row in rows]


class Rows(NamedTuple):
    """Symbols as rows of values, each of which has a distribution of its own."""

    split: Callable[[np.ndarray], np.ndarray]
    """From symbols to uint8 [rows, places]."""
    join: Callable[[np.ndarray, tuple[int, ...]], np.ndarray]
    """From these to symbols of a shape."""
    levels: int
    """Number of values."""

    def shares(self, symbols: np.ndarray) -> list[np.ndarray]:
        """Return how probable each value of each row is, with one more of each than was seen."""
        counts = [np.bincount(row, minlength=self.levels) + 1.0 for row in self.split(symbols)]
        return [one / one.sum() for one in counts]


def channels_of(symbols: np.ndarray) -> np.ndarray:
    """Return [channels, places] of symbols [N, channels, height, width]."""
    return symbols.transpose(1, 0, 2, 3).reshape(symbols.shape[1], -1)


def ideal_bytes(rows: Rows, known: np.ndarray, new: np.ndarray) -> float:
    """Return the mean information of a picture in bytes, under distributions of other pictures."""
    pairs = zip(rows.split(new), rows.shares(known), strict=True)
    return float(sum(-np.log2(shares[row]).sum() for row, shares in pairs)) / BITS_PER_BYTE / len(new)


def coders(graph: ModelGraph, code: Code, known: np.ndarray, models: Mapping[str, Rows]) -> Iterator[Coder]:
    """Yield the ways that are compared for a code."""
    assert graph.bottleneck is not None
    shape, limit_bytes = (1, *known.shape[1:]), known[0].size
    codec = codec_of(code, graph.bottleneck.graph.tensors[code.tensor].shape)

    def pack(symbols: np.ndarray) -> bytes:
        return packed(symbols, code.bits).tobytes()

    def unpack(payload: bytes) -> np.ndarray:
        return unpacked(np.frombuffer(payload, np.uint8).reshape(-1, shape[2] * shape[3]), shape, code.bits)

    yield Coder("packed", pack, unpack)
    yield Coder("prefix codes (used)", codec.encode, lambda p: codec.decode(p, limit_bytes=limit_bytes), HEADER_BYTES)
    yield zstd_coder([pack(known[k : k + 1]) for k in range(len(known))], pack, unpack)
    if find_spec("constriction"):
        yield from (range_coder(f"range coder, {name}", rows, known) for name, rows in models.items())


def zstd_coder(
    samples: Sequence[bytes], pack: Callable[[np.ndarray], bytes], unpack: Callable[[bytes], np.ndarray]
) -> Coder:
    """Return zstd with a dictionary trained on packed symbols, without the bytes of a frame that both sides know."""
    dictionary = zstandard.train_dictionary(DICTIONARY_BYTES, list(samples))
    parameters = zstandard.ZstdCompressionParameters.from_level(
        LEVEL, format=zstandard.FORMAT_ZSTD1_MAGICLESS, write_content_size=0, write_dict_id=0
    )
    compress = zstandard.ZstdCompressor(dict_data=dictionary, compression_params=parameters).compress
    reader = zstandard.ZstdDecompressor(dict_data=dictionary, format=zstandard.FORMAT_ZSTD1_MAGICLESS)
    size_bytes = len(samples[0])
    return Coder(
        f"zstd {LEVEL}, trained dictionary",
        lambda symbols: compress(pack(symbols)),
        lambda payload: unpack(reader.decompress(payload, max_output_size=size_bytes)),
    )


def range_coder(name: str, rows: Rows, known: np.ndarray) -> Coder:
    """Return a range coder with a distribution for each row of values; its payloads are whole words of 32 bits."""
    import constriction  # pyright: ignore[reportMissingImports]

    model, queue = constriction.stream.model, constriction.stream.queue
    models = [model.Categorical(one.astype(np.float32), perfect=False) for one in rows.shares(known)]
    places, shape = rows.split(known[:1]).shape[1], (1, *known.shape[1:])

    def encode(symbols: np.ndarray) -> bytes:
        encoder = queue.RangeEncoder()
        for row, one in zip(rows.split(symbols).astype(np.int32), models, strict=True):
            encoder.encode(row, one)
        return encoder.get_compressed().tobytes()

    def decode(payload: bytes) -> np.ndarray:
        decoder = queue.RangeDecoder(np.frombuffer(payload, np.uint32))
        values = [decoder.decode(one, places) for one in models]
        return rows.join(np.stack(values).astype(np.uint8), shape)

    return Coder(name, encode, decode)


def measured(coder: Coder, symbols: np.ndarray) -> dict[str, Any]:
    """Return the mean bytes and the median times of a way, after a check that it gives the symbols back."""
    sizes, times_s = [], []
    for k in range(len(symbols)):
        one = symbols[k : k + 1]
        began_s = time.thread_time()
        payload = coder.encode(one)
        encoded_s = time.thread_time()
        back = coder.decode(payload)
        times_s.append((encoded_s - began_s, time.thread_time() - encoded_s))
        np.testing.assert_array_equal(back, one)
        sizes.append(len(payload) - coder.header_bytes)
    encode_s, decode_s = np.median(times_s[-TIMED:], axis=0).tolist()
    times = {"encode_ms": encode_s / MILLI, "decode_ms": decode_s / MILLI}
    return {"coder": coder.name, "bytes": float(np.mean(sizes))} | times


def show(found: dict[str, Any]) -> None:
    table = Table(title=f"{found['network']}, {found['samples']} pictures of {found['pictures']}")
    for heading in ("code", "coder", "bytes", "encode ms", "decode ms"):
        table.add_column(heading)
    for row in found["rows"]:
        times = (f"{row[name]:.3f}" if name in row else "" for name in ("encode_ms", "decode_ms"))
        table.add_row(row["code"], row["coder"], f"{row['bytes']:.1f}", *times)
    Console().print(table)


if __name__ == "__main__":
    main()
