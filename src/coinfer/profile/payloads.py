"""How large activations are once encoded, and how long encoding takes."""

import time
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import NamedTuple

import numpy as np

from coinfer.graph.ir import ModelGraph
from coinfer.units import bits_of_bytes


class Codec(NamedTuple):
    """How a tensor is sent with some number of bits per element."""

    encode: Callable[[np.ndarray], bytes]
    decode: Callable[[bytes], np.ndarray]


class Payloads(NamedTuple):
    """Sizes and coding times of tensors."""

    bits: dict[str, dict[int, float]]
    """Mean encoded size by tensor and bits per element."""
    encode_s_per_byte: dict[int, float]
    """Seconds per byte of what the network computes, in memory, by bits per element; empty if nothing of it is sent."""
    decode_s_per_byte: dict[int, float]
    encode_s: dict[str, dict[int, float]]
    """Mean time by tensor and bits per element."""
    decode_s: dict[str, dict[int, float]]


class _CodingTimes(NamedTuple):
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
    """Encode and decode every tensor of every sample with every codec, each twice: the first time warms up.

    Args:
        graph: says which tensors are inputs.
        activations: arrays by tensor name, for each sample.
        codecs: by bits per element, for what the network computes.
        input_codecs: by bits per element, for the network's inputs.
        clock: returns seconds.

    Returns:
        Means over the samples.
    """
    sizes: dict[str, dict[int, list[int]]] = defaultdict(lambda: defaultdict(list))
    coding_times: dict[str, dict[int, list[_CodingTimes]]] = defaultdict(lambda: defaultdict(list))
    for values in activations:
        for name, value in values.items():
            is_input = name in graph.inputs
            for bits, codec in (input_codecs if is_input else codecs).items():
                payload, encode_s, decode_s = _time_codec(codec, value, clock)
                sizes[name][bits].append(len(payload))
                coding_times[name][bits].append(_CodingTimes(value.nbytes, encode_s, decode_s))
    computed = [by_bits for name, by_bits in coding_times.items() if name not in graph.inputs]
    totals = {bits: _total(by_bits[bits] for by_bits in computed) for bits in codecs} if computed else {}
    means = {name: {bits: _mean(times) for bits, times in by_bits.items()} for name, by_bits in coding_times.items()}
    return Payloads(
        {name: {b: bits_of_bytes(float(np.mean(n))) for b, n in by_bits.items()} for name, by_bits in sizes.items()},
        {bits: total.encode_s / total.size_bytes for bits, total in totals.items()},
        {bits: total.decode_s / total.size_bytes for bits, total in totals.items()},
        {name: {bits: one.encode_s for bits, one in by_bits.items()} for name, by_bits in means.items()},
        {name: {bits: one.decode_s for bits, one in by_bits.items()} for name, by_bits in means.items()},
    )


def _total(times: Iterable[Iterable[_CodingTimes]]) -> _CodingTimes:
    return _CodingTimes(*np.sum([one for some in times for one in some], axis=0).tolist())


def _mean(times: Sequence[_CodingTimes]) -> _CodingTimes:
    return _CodingTimes(*np.mean(times, axis=0).tolist())


def _time_codec(codec: Codec, value: np.ndarray, clock: Callable[[], float]) -> tuple[bytes, float, float]:
    payload = codec.encode(value)
    codec.decode(payload)
    start_s = clock()
    payload = codec.encode(value)
    encoded_s = clock()
    codec.decode(payload)
    return payload, encoded_s - start_s, clock() - encoded_s
