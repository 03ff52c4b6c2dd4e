"""How large activations are once encoded, and how long encoding takes."""

import time
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping
from typing import NamedTuple

import numpy as np

from coinfer.graph.ir import ModelGraph
from coinfer.units import bits_of_bytes


class Codec(NamedTuple):
    """How a tensor is sent with some number of bits per element."""

    encode: Callable[[np.ndarray], bytes]
    decode: Callable[[bytes], np.ndarray]


class Payloads(NamedTuple):
    bits: dict[str, dict[int, float]]
    """Mean encoded size by tensor and bits per element."""
    encode_s_per_byte: dict[int, float]
    """By bits per element; per byte of the tensors as they lie in memory. Without the network's inputs."""
    decode_s_per_byte: dict[int, float]


class _Spent(NamedTuple):
    size_bytes: float = 0.0
    encode_s: float = 0.0
    decode_s: float = 0.0


def measure_payloads(
    graph: ModelGraph,
    activations: Iterable[Mapping[str, np.ndarray]],
    codecs: Mapping[int, Codec],
    input_codecs: Mapping[int, Codec],
    clock: Callable[[], float] = time.perf_counter,
) -> Payloads:
    """Encode and decode every tensor of every sample with every codec, each twice: the first time warms up."""
    sizes: dict[str, dict[int, list[int]]] = defaultdict(lambda: defaultdict(list))
    spent: dict[int, _Spent] = defaultdict(_Spent)
    for values in activations:
        for name, value in values.items():
            is_input = name in graph.inputs
            for bits, codec in (input_codecs if is_input else codecs).items():
                payload, encode_s, decode_s = _timed(codec, value, clock)
                sizes[name][bits].append(len(payload))
                if not is_input:
                    s = spent[bits]
                    spent[bits] = _Spent(s.size_bytes + value.nbytes, s.encode_s + encode_s, s.decode_s + decode_s)
    return Payloads(
        {name: {b: bits_of_bytes(float(np.mean(n))) for b, n in by_bits.items()} for name, by_bits in sizes.items()},
        {bits: s.encode_s / s.size_bytes for bits, s in spent.items()},
        {bits: s.decode_s / s.size_bytes for bits, s in spent.items()},
    )


def _timed(codec: Codec, value: np.ndarray, clock: Callable[[], float]) -> tuple[bytes, float, float]:
    payload = codec.encode(value)
    codec.decode(payload)
    start_s = clock()
    payload = codec.encode(value)
    encoded_s = clock()
    codec.decode(payload)
    return payload, encoded_s - start_s, clock() - encoded_s
