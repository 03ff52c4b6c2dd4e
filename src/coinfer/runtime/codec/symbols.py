"""The symbols of a bottleneck to bytes and back: prefix codes (Huffman 1952) that come with the trained network.

The symbols of several channels at one place make one value of at most 8 bits, so that a word of the code also uses what
these channels have in common. Every group of channels has words of its own, made from the training pictures.

A payload, whose shape and words both nodes know from the network, has 9 bytes in front of the words:

    0   magic "CB", version (1 byte), number of pictures (2 bytes, little-endian)
    5   xxh3 of the rest, its low 4 bytes
"""

import struct
from collections.abc import Sequence
from functools import cached_property, lru_cache
from typing import NamedTuple

import numpy as np
import xxhash

from coinfer.graph.bottleneck import Code, word_lengths_of
from coinfer.graph.ir import ModelGraph
from coinfer.runtime.codec.payload import CodecError
from coinfer.units import BITS_PER_BYTE

MAGIC = b"CB"
VERSION = 1
MAX_WORD_BITS = 12
_HEADER = struct.Struct("<2sBHI")
HEADER_BYTES = _HEADER.size
_ENTRY_BITS = 4
_REFILL_BYTES = 8


class _Words(NamedTuple):
    """The words of one group."""

    words: dict[int, str]
    """By value, in zeros and ones."""
    lookup: list[int]
    """By the next `MAX_WORD_BITS` bits: value and length of the word that they begin with; 0 if there is none."""


class SymbolCodec:
    """Encodes and decodes the symbols of one code of a bottleneck; threads may share it.

    Args:
        shape: of the symbols of one picture: 1, channels, height, width.
        bits: of each symbol.
        lengths: of the words, uint8 [groups, 256].
    """

    def __init__(self, shape: Sequence[int], bits: int, lengths: np.ndarray) -> None:
        _, self.channels, self.height, self.width = shape
        self.bits, self._lengths = bits, lengths

    @cached_property
    def _words(self) -> list[_Words]:
        return [_words(lengths) for lengths in self._lengths]

    def encode(self, symbols: np.ndarray) -> bytes:
        """Return symbols as a payload.

        Args:
            symbols: uint8 [N, channels, height, width], each below 2 ** bits.

        Raises:
            CodecError: if they have another shape or type, or a value that has no word.
        """
        shape = (self.channels, self.height, self.width)
        if symbols.dtype != np.uint8 or symbols.ndim != 4 or symbols.shape[1:] != shape or len(symbols) > 0xFFFF:
            raise CodecError(f"symbols are {symbols.dtype} {list(symbols.shape)}, expected uint8 [N, {shape}]")
        values = packed(symbols, self.bits)
        try:
            text = "".join([word for group, row in zip(self._words, values, strict=True)
                            for word in map(group.words.__getitem__, row.tobytes())])  # fmt: skip
        except KeyError:
            raise CodecError("symbols have a value without a word; are they of this bottleneck?") from None
        size_bytes = -(-len(text) // BITS_PER_BYTE)
        body = (int(text, 2) << (BITS_PER_BYTE * size_bytes - len(text))).to_bytes(size_bytes, "big") if text else b""
        digest = xxhash.xxh3_64_intdigest(body) & 0xFFFFFFFF
        return _HEADER.pack(MAGIC, VERSION, len(symbols), digest) + body

    def decode(self, payload: bytes | memoryview, *, limit_bytes: int) -> np.ndarray:
        """Return the symbols of a payload, uint8 [N, channels, height, width].

        Args:
            payload: may come from a hostile sender.
            limit_bytes: largest size of the symbols.

        Raises:
            CodecError: if it is damaged, no such payload, or too large.
        """
        if not is_symbols(payload) or len(payload) < _HEADER.size:
            raise CodecError("payload holds no symbols of a bottleneck; expected them for this tensor")
        _, version, count, digest = _HEADER.unpack_from(payload)
        body = bytes(payload[_HEADER.size :])
        if version != VERSION:
            raise CodecError(f"symbols are of version {version}, this node reads {VERSION}; install the same coinfer")
        if xxhash.xxh3_64_intdigest(body) & 0xFFFFFFFF != digest:
            raise CodecError("payload was damaged on its way (checksum); send it again")
        places = self.height * self.width * count
        if places * self.channels > limit_bytes or places * len(self._lengths) > len(body) * BITS_PER_BYTE:
            raise CodecError(f"payload of {len(body)} bytes announces {count} pictures; that is not possible")
        values = _split(body, [group.lookup for group in self._words], places)
        return unpacked(values, (count, self.channels, self.height, self.width), self.bits)


def codec_of(code: Code, shape: tuple[int, ...]) -> SymbolCodec:
    """Return the codec of a code; the same one every time.

    Args:
        code: of a bottleneck.
        shape: of the symbols of one picture: 1, channels, height, width.
    """
    return _codec(code.lengths, code.bits, shape)


@lru_cache(64)
def _codec(lengths: str, bits: int, shape: tuple[int, ...]) -> SymbolCodec:
    return SymbolCodec(shape, bits, word_lengths_of(lengths))


def symbol_codec(graph: ModelGraph, name: str) -> SymbolCodec | None:
    """Return the codec of a tensor if it holds the symbols of the network's bottleneck, or None.

    Args:
        graph: the network.
        name: of the tensor.
    """
    return symbol_codecs(graph).get(name)


def symbol_codecs(graph: ModelGraph) -> dict[str, SymbolCodec]:
    """Return the codecs of all codes of a network's bottleneck, by the name of the symbols.

    Args:
        graph: the network; without a bottleneck there are none.
    """
    bottleneck = graph.bottleneck
    if bottleneck is None:
        return {}
    return {code.tensor: codec_of(code, bottleneck.graph.tensors[code.tensor].shape) for code in bottleneck.codes}


def is_symbols(payload: bytes | memoryview) -> bool:
    """Return true if a payload says that it holds symbols of a bottleneck.

    Args:
        payload: any bytes.
    """
    return bytes(payload[:2]) == MAGIC


def packed(symbols: np.ndarray, bits: int) -> np.ndarray:
    """Return the values that are encoded, uint8 [groups, places]: symbols of neighbouring channels together.

    Args:
        symbols: uint8 [N, channels, height, width].
        bits: of each symbol.
    """
    together, channels = BITS_PER_BYTE // bits, symbols.shape[1]
    by_channel = symbols.transpose(1, 0, 2, 3).reshape(channels, -1)
    missing = -channels % together
    if missing:
        by_channel = np.concatenate([by_channel, np.zeros((missing, by_channel.shape[1]), np.uint8)])
    places = np.uint8(1) << (bits * np.arange(together, dtype=np.uint8))
    return np.einsum("gcp,c->gp", by_channel.reshape(-1, together, by_channel.shape[1]), places)


def unpacked(values: np.ndarray, shape: tuple[int, int, int, int], bits: int) -> np.ndarray:
    """Return the symbols that `packed` made values of.

    Args:
        values: uint8 [groups, places].
        shape: of the symbols.
        bits: of each symbol.
    """
    count, channels, height, width = shape
    shifts = bits * np.arange(BITS_PER_BYTE // bits, dtype=np.uint8)
    by_channel = ((values[:, None, :] >> shifts[:, None]) & np.uint8((1 << bits) - 1)).reshape(-1, values.shape[1])
    return np.ascontiguousarray(by_channel[:channels].reshape(channels, count, height, width).transpose(1, 0, 2, 3))


def word_lengths(counts: np.ndarray) -> np.ndarray:
    """Return the lengths of the shortest prefix code with words of at most `MAX_WORD_BITS`.

    By package-merge (Larmore and Hirschberg, JACM 1990).

    Args:
        counts: int64 [n], 0 for a value that gets no word; at least two are above 0.

    Returns:
        uint8 [n].
    """
    coins = sorted((int(count), (i,)) for i, count in enumerate(counts) if count > 0)
    packages: list[tuple[int, tuple[int, ...]]] = []
    for _ in range(MAX_WORD_BITS):
        merged = sorted([*coins, *packages], key=lambda coin: coin[0])
        packages = [(a[0] + b[0], a[1] + b[1]) for a, b in zip(merged[::2], merged[1::2], strict=False)]
    members = [i for _, package in packages[: len(coins) - 1] for i in package]
    return np.bincount(members, minlength=len(counts)).astype(np.uint8)


def _words(lengths: np.ndarray) -> _Words:
    """Return the canonical words of some lengths.

    Raises:
        CodecError: if there is no prefix code of these lengths.
    """
    words, lookup = dict[int, str](), [0] * (1 << MAX_WORD_BITS)
    word, last = 0, 0
    for value in sorted(np.flatnonzero(lengths).tolist(), key=lambda v: (lengths[v], v)):
        length = int(lengths[value])
        word = (word + 1 if last else 0) << (length - last)
        last = length
        if length > MAX_WORD_BITS or word >> length:
            raise CodecError("the bottleneck's code words are damaged; train it anew")
        words[value] = f"{word:0{length}b}"
        free = MAX_WORD_BITS - length
        lookup[word << free : (word + 1) << free] = [value << _ENTRY_BITS | length] * (1 << free)
    return _Words(words, lookup)


def _split(body: bytes, lookups: Sequence[list[int]], places: int) -> np.ndarray:
    """Return the values of words one after the other, [groups, places]."""
    padded = body + bytes(_REFILL_BYTES)
    values = bytearray()
    window = held = at = used = 0
    for lookup in lookups:
        for _ in range(places):
            if held < MAX_WORD_BITS:
                fresh = padded[at : at + _REFILL_BYTES]
                window = ((window & ((1 << held) - 1)) << (BITS_PER_BYTE * len(fresh))) | int.from_bytes(fresh, "big")
                held, at = held + BITS_PER_BYTE * len(fresh), at + _REFILL_BYTES
            if held < MAX_WORD_BITS:
                raise CodecError("payload of symbols ends too early")
            entry = lookup[(window >> (held - MAX_WORD_BITS)) & ((1 << MAX_WORD_BITS) - 1)]
            length = entry & ((1 << _ENTRY_BITS) - 1)
            if length == 0:
                raise CodecError("payload of symbols holds a word that does not exist")
            held, used = held - length, used + length
            values.append(entry >> _ENTRY_BITS)
    if not 0 <= len(body) * BITS_PER_BYTE - used < BITS_PER_BYTE:
        raise CodecError("payload of symbols is truncated or padded")
    return np.frombuffer(bytes(values), np.uint8).reshape(len(lookups), places)
