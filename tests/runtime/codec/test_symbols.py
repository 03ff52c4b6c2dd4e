"""Symbols of a bottleneck come back as they were, in nearly as few bits as they hold; damage is noticed."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from coinfer.graph.bottleneck import VALUES, groups_of
from coinfer.runtime.codec.payload import CodecError
from coinfer.runtime.codec.symbols import MAX_WORD_BITS, SymbolCodec, packed, unpacked, word_lengths

LIMIT = 1 << 20


def codec_for(symbols: np.ndarray, bits: int) -> SymbolCodec:
    """A codec with a word for every value of these channels."""
    values, channels, together = packed(symbols, bits), symbols.shape[1], 8 // bits
    lengths = np.zeros((len(values), VALUES), np.uint8)
    for group, row in enumerate(values):
        possible = 1 << (bits * min(together, channels - group * together))
        lengths[group, :possible] = word_lengths(np.bincount(row, minlength=possible) + 1)
    return SymbolCodec((1, *symbols.shape[1:]), bits, lengths)


def draw(seed: int, bits: int, channels: int, pictures: int = 3) -> np.ndarray:
    random = np.random.default_rng(seed)
    shares = random.dirichlet(np.full(2**bits, 0.3))
    return random.choice(2**bits, (pictures, channels, 5, 7), p=shares).astype(np.uint8)


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 10_000), st.integers(1, 8), st.integers(1, 9), st.integers(1, 3))
def test_round_trip(seed, bits, channels, pictures):
    symbols = draw(seed, bits, channels, pictures)
    assert groups_of(channels, bits) == len(packed(symbols, bits))
    np.testing.assert_array_equal(unpacked(packed(symbols, bits), symbols.shape, bits), symbols)
    codec = codec_for(draw(seed + 1, bits, channels), bits)  # also values that it has not seen
    np.testing.assert_array_equal(codec.decode(codec.encode(symbols), limit_bytes=LIMIT), symbols)


@settings(max_examples=25, deadline=None)
@given(st.lists(st.integers(0, 1_000_000), min_size=2, max_size=256).filter(lambda counts: sum(map(bool, counts)) > 1))
def test_lengths_are_a_complete_prefix_code_within_a_bit_of_the_entropy(counts):
    lengths = word_lengths(np.array(counts))
    shares = np.array(counts) / sum(counts)
    known = shares > 0
    assert (lengths > 0).tolist() == known.tolist()
    assert lengths.max() <= MAX_WORD_BITS
    assert (2.0 ** -lengths[known].astype(float)).sum() == 1
    entropy = -(shares[known] * np.log2(shares[known])).sum()
    limit = entropy + 1 if (shares[known] > 2.0 ** (2 - MAX_WORD_BITS)).all() else MAX_WORD_BITS
    assert entropy - 1e-9 <= (shares * lengths).sum() <= max(limit, 1)


def test_short_words_for_what_is_frequent():
    assert word_lengths(np.array([8, 4, 2, 1, 1, 0])).tolist() == [1, 2, 3, 4, 4, 0]
    zeros = np.zeros((60, 4, 8, 8), np.uint8)
    assert len(codec_for(zeros, 2).encode(zeros[:1])) == 9 + 64 // 8


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 10_000), st.integers(0, 30), st.integers(1, 255))
def test_damage_is_noticed(seed, place, flip):
    symbols = draw(seed % 7, 2, 8, 1)
    codec = codec_for(symbols, 2)
    payload = bytearray(codec.encode(symbols))
    payload[place % len(payload)] ^= flip
    with pytest.raises(CodecError):
        codec.decode(bytes(payload), limit_bytes=LIMIT)


@pytest.mark.parametrize(
    ("cut", "problem"),
    [
        (lambda p: p[:5], "holds no symbols"),
        (lambda p: b"CINF" + p[4:], "holds no symbols"),
        (lambda p: p[:2] + b"\x09" + p[3:], "of version 9, this node reads 1"),
        (lambda p: p[:-1], "damaged on its way"),
    ],
)
def test_what_is_no_payload_is_named(cut, problem):
    symbols = draw(0, 2, 8, 1)
    codec = codec_for(symbols, 2)
    with pytest.raises(CodecError, match=problem):
        codec.decode(cut(codec.encode(symbols)), limit_bytes=LIMIT)


def test_a_payload_that_announces_too_much_allocates_nothing():
    symbols = draw(0, 2, 8, 1)
    codec = codec_for(symbols, 2)
    payload = bytearray(codec.encode(symbols))
    payload[3:5] = b"\xff\xff"
    with pytest.raises(CodecError, match="announces 65535 pictures; that is not possible"):
        codec.decode(bytes(payload), limit_bytes=LIMIT)
    with pytest.raises(CodecError, match="that is not possible"):
        codec.decode(codec.encode(symbols), limit_bytes=10)


@pytest.mark.parametrize("symbols", [np.zeros((1, 8, 5, 6), np.uint8), np.zeros((1, 8, 5, 7), np.float32)])
def test_other_tensors_are_refused(symbols):
    with pytest.raises(CodecError, match=r"expected uint8 \[N, \(8, 5, 7\)\]"):
        codec_for(draw(0, 2, 8), 2).encode(symbols)


def test_words_that_are_none_are_refused():
    with pytest.raises(CodecError, match="code words are damaged"):
        SymbolCodec((1, 4, 1, 1), 2, np.ones((1, VALUES), np.uint8)).encode(np.zeros((1, 4, 1, 1), np.uint8))
