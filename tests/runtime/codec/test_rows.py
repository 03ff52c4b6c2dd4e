"""Ranges of their own for the rows of a tensor."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from coinfer.runtime.codec import packing
from coinfer.runtime.codec.codec import decode, encode
from coinfer.runtime.codec.payload import MINMAX, ROWS, CodecError, build_payload, read_header


def channels(scales: list[float], side: int = 12, seed: int = 0) -> np.ndarray:
    noise = np.random.default_rng(seed).standard_normal((1, len(scales), side, side))
    return (noise * np.array(scales)[:, None, None]).astype(np.float32)


@pytest.mark.parametrize("bits", packing.QUANTISED_BITS)
def test_small_channels_beside_large_ones_keep_their_values(bits):
    x = channels([100.0, *[1.0] * 31])
    payload = encode(x, bits)
    assert read_header(payload).kind == ROWS
    error = np.abs(decode(payload) - x).max(axis=(0, 2, 3))
    steps = (x.max(axis=(0, 2, 3)) - x.min(axis=(0, 2, 3))) / (2**bits - 1)
    assert (error <= 0.51 * steps + 1e-5 * np.abs(x).max(axis=(0, 2, 3))).all()
    assert len(payload) < x.size * bits / 8 + 8 * 32 + 100


def test_channels_that_are_alike_share_a_range_as_before():
    payload = encode(channels([1.0, 2.0, 3.0, 2.0]), 8)
    assert read_header(payload).kind == MINMAX


def test_rows_too_short_to_pay_for_a_range_share_one():
    assert read_header(encode(channels([100.0, *[1.0] * 31], side=2), 8)).kind == MINMAX


@settings(max_examples=25)
@given(
    hnp.arrays(
        np.float32, st.sampled_from([(1, 3, 5, 7), (2, 2, 3, 3), (1, 4, 33)]), elements={"allow_subnormal": False}
    ),
    st.sampled_from(packing.QUANTISED_BITS),
)
def test_any_rows_pass_within_half_a_step(x, bits):
    rows = x.reshape(packing.rows_of(x.shape), -1)
    scales = packing.row_scales(rows, bits)
    if scales is None:
        return
    packed = np.empty(packing.packed_bytes(x.size, bits), np.uint8)
    packing.quantise_rows(rows, bits, scales, packed)
    out = np.empty_like(rows)
    packing.dequantise_rows(packed, bits, scales, out)
    step = scales[:, 1:].astype(np.float64)
    assert (np.abs(out.astype(np.float64) - rows) <= 0.51 * step + 1e-6 * np.abs(rows).max(1, keepdims=True)).all()


def test_a_hostile_range_is_refused():
    payload = encode(channels([100.0, *[1.0] * 31]), 8)
    header = read_header(payload)
    body = bytearray(payload[-header.body_bytes :])
    for value in (np.nan, np.inf, -1.0):
        body[4:8] = np.float32(value).tobytes()
        with pytest.raises(CodecError, match="rows whose range is none of float32"):
            decode(build_payload(header, bytes(body)))


def test_old_payloads_say_version_1_and_new_ones_version_2():
    assert encode(channels([1.0, 1.0]), 8)[12] == 1
    assert encode(channels([100.0, *[1.0] * 31]), 8)[12] == 2
