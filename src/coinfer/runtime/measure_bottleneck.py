"""The code words of a trained bottleneck, from training pictures, and its accuracy on others, through the codec."""

from collections.abc import Mapping, Sequence

import numpy as np

from coinfer.graph.bottleneck import (
    VALUES,
    Bottleneck,
    BottleneckRecord,
    Code,
    CodeAccuracy,
    CodeAnswer,
    attach,
    encoded_lengths,
    groups_of,
    with_record,
)
from coinfer.graph.ir import ModelGraph
from coinfer.graph.onnx.load import from_proto
from coinfer.profile.dataset import ImageDataset
from coinfer.progress import Progress, quiet
from coinfer.runtime.codec.symbols import codec_of, packed, word_lengths
from coinfer.runtime.executor import Executor
from coinfer.runtime.images import normalise

WORD_PICTURES = 10_000
"""Pictures that the code words are made from, at most."""
_BATCH = 250


def with_words(
    graph: ModelGraph,
    made: ModelGraph,
    source: str,
    answers: Mapping[str, Sequence[CodeAnswer]],
    bits: int,
    images: np.ndarray,
) -> ModelGraph:
    """Return a network with its bottleneck, whose code words suit some pictures.

    Args:
        graph: the untouched network.
        made: the bottleneck's own network, without a record.
        source: tensor of the network that the encoder reads.
        answers: of each code, by name of the symbols, the smallest code first; each is the first channels of the next
            one.
        bits: of each symbol.
        images: uint8 [N, height, width, 3] of the network's size; `WORD_PICTURES` of them count.
    """
    executor, largest, found, step = Executor(made), list(answers)[-1], [], _together(made)
    for i in range(0, len(images[:WORD_PICTURES]), step):
        found.append(executor.run(_inputs(graph, images[i : i + step]), (largest,))[0][largest])
    symbols = np.concatenate(found)
    codes = tuple(
        Code(
            tensor=tensor,
            bits=bits,
            lengths=encoded_lengths(word_table(symbols[:, : made.tensors[tensor].shape[1]], bits)),
            answers=tuple(of_code),
        )
        for tensor, of_code in answers.items()
    )
    return _with_codes(graph, made, source, codes)


def word_table(symbols: np.ndarray, bits: int) -> np.ndarray:
    """Return the lengths of the code words, uint8 [groups, VALUES], that suit some symbols.

    Every value that is possible gets a word.

    Args:
        symbols: uint8 [N, channels, height, width].
        bits: of each symbol.
    """
    channels, together = symbols.shape[1], 8 // bits
    rows = np.zeros((groups_of(channels, bits), VALUES), np.uint8)
    for group, values in enumerate(packed(symbols, bits)):
        possible = 1 << (bits * min(together, channels - group * together))
        rows[group, :possible] = word_lengths(np.bincount(values, minlength=possible) + 1)
    return rows


def measure_bottleneck(graph: ModelGraph, data: ImageDataset, progress: Progress = quiet) -> ModelGraph:
    """Return a network whose bottleneck knows its accuracy, counted through the runtime's codec, picture by picture.

    Args:
        graph: with a bottleneck.
        data: pictures that no training has seen.
        progress: called with pictures done, their total and a word.

    Raises:
        ValueError: if the network has no bottleneck.
    """
    bottleneck = graph.bottleneck
    if bottleneck is None:
        raise ValueError(f"{graph.name} has no bottleneck to measure")
    executor, total, outputs = Executor(graph), len(data.labels), bottleneck.outputs
    counts = np.zeros((len(bottleneck.codes), len(outputs) + 1), np.int64)
    plain, step = np.zeros(len(outputs), np.int64), min(_together(graph), _together(bottleneck.graph))
    for i in range(0, total, step):
        truth, x = data.labels[i : i + step], _inputs(graph, data.images[i : i + step])
        plain += _right(executor, x, outputs, truth)
        symbols, _ = executor.run(x, [code.tensor for code in bottleneck.codes])
        counts += [_count(executor, bottleneck, code, symbols[code.tensor], truth) for code in bottleneck.codes]
        progress(min(i + step, total), total, "pictures")
    codes = tuple(
        _measured(code, data, plain.tolist(), correct, size_bytes)
        for code, (*correct, size_bytes) in zip(bottleneck.codes, counts.tolist(), strict=True)
    )
    return _with_codes(graph, bottleneck.graph, bottleneck.source, codes)


def _measured(code: Code, data: ImageDataset, plain: Sequence[int], correct: Sequence[int], size_bytes: int) -> Code:
    """Return a code whose answers know how often they were right."""
    total = len(data.labels)
    found = [
        CodeAccuracy(dataset=data.kind, samples=total, plain=exact, correct=right, size_bytes=size_bytes / total)
        for exact, right in zip(plain, correct, strict=True)
    ]
    answers = zip(code.answers, found, strict=True)
    return code.model_copy(
        update={"answers": tuple(one.model_copy(update={"accuracy": known}) for one, known in answers)}
    )


def _right(executor: Executor, inputs: dict[str, np.ndarray], outputs: Sequence[str], truth: np.ndarray) -> list[int]:
    """Return how many answers of each output are right."""
    answers, _ = executor.run(inputs, outputs)
    return [int((answers[name].argmax(1) == truth).sum()) for name in outputs]


def _count(executor: Executor, bottleneck: Bottleneck, code: Code, symbols: np.ndarray, truth: np.ndarray) -> list[int]:
    """Return how many answers of each exit are right behind the codec, and the bytes of all payloads."""
    codec = codec_of(code, bottleneck.graph.tensors[code.tensor].shape)
    payloads = [codec.encode(symbols[k : k + 1]) for k in range(len(symbols))]
    received = np.concatenate([codec.decode(payload, limit_bytes=symbols.size) for payload in payloads])
    right = _right(executor, {code.tensor: received}, [answer.tensor for answer in code.answers], truth)
    return [*right, sum(map(len, payloads))]


def _together(graph: ModelGraph) -> int:
    """Return how many pictures a network answers at once."""
    return _BATCH if graph.dynamic_batch else 1


def _inputs(graph: ModelGraph, images: np.ndarray) -> dict[str, np.ndarray]:
    assert graph.image is not None, "bottlenecks are trained on pictures"
    return {graph.inputs[0]: np.concatenate([normalise(one, graph.image) for one in images])}


def _with_codes(graph: ModelGraph, made: ModelGraph, source: str, codes: tuple[Code, ...]) -> ModelGraph:
    record = BottleneckRecord(network=graph.name, fingerprint=graph.fingerprint, source=source, codes=codes)
    name = f"{graph.name}.bottleneck"
    return attach(graph, from_proto(with_record(made.proto, record), name, made.weights), name)
