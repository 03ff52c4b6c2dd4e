import itertools

import numpy as np
import pytest
from tests.graph.small_graphs import perceptron

from coinfer.graph.onnx.load import from_proto
from coinfer.profile.payloads import Codec, measure_payloads

GRAPH = from_proto(perceptron(), "perceptron")
HALF = Codec(lambda x: x.astype(np.float16).tobytes(), lambda b: np.frombuffer(b, np.float16).astype(np.float32))
BYTE = Codec(lambda x: b"0", lambda b: np.zeros(4))
PLAIN = Codec(lambda x: x.tobytes(), lambda b: np.frombuffer(b, np.float32))


def activations(sizes):
    return ({"x": np.zeros((1, 4), np.float32), "r": np.zeros((1, size), np.float32)} for size in sizes)


def test_sizes_are_means_over_samples_in_bits():
    found = measure_payloads(
        GRAPH, activations([8, 24]), {32: PLAIN, 16: HALF}, {8: Codec(lambda x: b"\0", lambda b: np.zeros(4))}
    )
    assert found.bits == {"x": {8: 8.0}, "r": {32: 32.0 * 16, 16: 16.0 * 16}}


def test_speeds_are_per_byte_in_memory_without_inputs():
    ticks = itertools.count()
    found = measure_payloads(GRAPH, activations([8, 24]), {16: HALF}, {32: PLAIN}, clock=lambda: float(next(ticks)))
    assert found.encode_s_per_byte == {16: pytest.approx(2 / (4 * 32))}
    assert found.decode_s_per_byte == {16: pytest.approx(2 / (4 * 32))}
    assert found.encode_s == found.decode_s == {"r": {16: pytest.approx(1.0)}, "x": {32: pytest.approx(1.0)}}


def test_without_codecs_there_is_nothing_to_say():
    assert measure_payloads(GRAPH, activations([8]), {}, {}) == ({}, {}, {}, {}, {})
