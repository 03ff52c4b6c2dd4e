import io
import math
import struct
import threading

import numpy as np
import pytest
import xxhash
import zstandard
from hypothesis import example, given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from PIL import Image

from coinfer.graph.image_input import ImageInput
from coinfer.runtime.codec import codec
from coinfer.runtime.codec.codec import LIMIT_BYTES, PayloadTooLarge, decode, encode, encode_image
from coinfer.runtime.codec.lossless import ZSTD_DECODE_SPEEDUP, compression_pays
from coinfer.runtime.codec.packing import packed_bytes
from coinfer.runtime.codec.payload import DTYPES, MINMAX, RAW, CodecError, payload_bytes, read_header
from coinfer.runtime.images import load_images, preprocess, to_pixels

IMAGENET = ImageInput(224, 224, (0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
SMALL = ImageInput(5, 7, (0.5, 0.4, 0.3), (0.2, 0.3, 0.1))
QUANTISED = (16, 12, 8, 4)
RATES = st.sampled_from([math.inf, 1e9, 1e7, 0.0])
SHAPES = hnp.array_shapes(min_dims=0, max_dims=4, max_side=9)


def finite(dtype: str) -> st.SearchStrategy[np.ndarray]:
    elements = hnp.from_dtype(np.dtype(dtype), allow_nan=False, allow_infinity=False)
    return hnp.arrays(dtype, SHAPES, elements=elements)


def sealed(payload: bytes) -> bytes:
    """The payload with a checksum that is right again, as a hostile sender would make it."""
    return payload[:4] + struct.pack("<Q", xxhash.xxh3_64_intdigest(payload[12:])) + payload[12:]


def patched(payload: bytes, offset: int, form: str, *values: float) -> bytes:
    """The payload with some fields replaced, and sealed."""
    changed = bytearray(payload)
    struct.pack_into("<" + form, changed, offset, *values)
    return sealed(bytes(changed))


def unit(dtype: np.dtype, value: float) -> float:
    """At least the distance between numbers of this type around a value."""
    return float(np.finfo(dtype).eps) * abs(value) + float(np.finfo(dtype).smallest_subnormal)


def activations(size: int) -> np.ndarray:
    return np.maximum(np.random.default_rng(0).standard_normal(size, dtype=np.float32), 0)


@settings(max_examples=100, deadline=None)
@given(
    hnp.arrays(st.sampled_from([*DTYPES, np.dtype(">f4"), np.dtype(">i2")]), hnp.array_shapes(min_dims=0, min_side=0)),
    RATES,
)
def test_32_bits_are_exact_for_every_type_and_every_bit_pattern(x, rate_bps):
    back = decode(encode(x, 32, rate_bps=rate_bps))
    assert back.shape == x.shape
    assert back.dtype == x.dtype.newbyteorder("<")
    assert back.tobytes() == x.astype(back.dtype).tobytes()


def test_nan_payloads_survive():
    words = np.array([0x7FC00001, 0xFFC12345, 0x7F800001, 0x80000000, 0x00000001], np.uint32)
    for bits in (32, *QUANTISED):
        back = decode(encode(words.view(np.float32), bits))
        assert back.view(np.uint32).tolist() == words.tolist()


@settings(max_examples=80, deadline=None)
@given(st.one_of(finite("<f2"), finite("<f4"), finite("<f8")), st.sampled_from(QUANTISED), RATES)
@example(np.array([3.4028235e38, 0.0], np.float32), 8, math.inf)
@example(np.array([-3.4028235e38, 0.0], np.float32), 16, math.inf)
@example(np.array([1e300, -1e300]), 16, math.inf)
@example(np.array([1e6, 1e6 + 0.0625], np.float32), 12, math.inf)
def test_error_is_at_most_half_a_step(x, bits, rate_bps):
    back = decode(encode(x, bits, rate_bps=rate_bps))
    assert back.shape == x.shape
    assert back.dtype == x.dtype
    work = np.float64 if x.dtype == np.float64 else np.float32
    low, high = float(x.min()), float(x.max())
    step = (high / 2 - low / 2) * 2 / (2**bits - 1) if math.isfinite(high - low) else 0.0
    # Scaling rounds by at most 2**bits * eps / 2 steps twice, the result by half a unit of the largest value.
    rounding = 2**bits * 2 * np.finfo(work).eps * step + 2 * unit(x.dtype, max(abs(low), abs(high)))
    assert (np.abs(back.astype(np.longdouble) - x) <= step / 2 + rounding).all()


@settings(max_examples=100, deadline=None)
@given(finite("<f4"), st.sampled_from(QUANTISED))
def test_encoding_again_changes_nothing_more(x, bits):
    once = decode(encode(x, bits))
    twice = decode(encode(once, bits))
    assert np.abs(twice.astype(np.float64) - once).max() <= 2 * unit(x.dtype, np.abs(once).max())


@settings(max_examples=60, deadline=None)
@given(st.integers(1, 70_000), st.sampled_from((32, *QUANTISED)))
def test_sizes_are_exactly_as_announced(elements, bits):
    x = np.linspace(-1, 1, elements + 1, dtype=np.float32)[1:].reshape(1, -1)
    payload = encode(x, bits)
    assert len(payload) == payload_bytes(elements, bits, 2)
    header = read_header(payload)
    assert header.body_bytes == packed_bytes(elements, bits)
    assert (header.bits, header.shape, header.lossless) == (bits, (1, elements), False)


@pytest.mark.parametrize("bits", QUANTISED)
def test_order_and_extremes_are_kept(bits):
    x = np.sort(activations(50_000))
    back = decode(encode(x, bits))
    assert (np.diff(back) >= 0).all()
    assert back[0] == x[0]
    assert back[-1] == pytest.approx(x[-1], rel=1e-6)


@pytest.mark.parametrize("bits", QUANTISED)
def test_constants_and_layouts_decode_right(bits):
    assert decode(encode(np.full((2, 3), -7.25, np.float32), bits)).tolist() == [[-7.25] * 3] * 2
    x = activations(24).reshape(2, 3, 4)
    for view in (x.transpose(2, 0, 1), x[:, ::2], np.asfortranarray(x)):
        assert decode(encode(view, bits)).tolist() == decode(encode(view.copy(), bits)).tolist()


def test_integers_and_non_finite_tensors_are_sent_exactly():
    for x in (np.arange(300), np.array([True, False]), np.array([1.0, np.inf], np.float32)):
        payload = encode(x, 4)
        assert read_header(payload).kind == RAW
        assert decode(payload).tolist() == x.tolist()


def test_half_precision_is_not_blown_up():
    x = activations(100).astype(np.float16)
    assert read_header(encode(x, 16)).kind == RAW
    assert read_header(encode(x, 12)).kind == MINMAX


@pytest.mark.parametrize("rate_bps", [-1.0, math.nan])
def test_rates_that_are_none_are_refused(rate_bps):
    with pytest.raises(CodecError, match="link rate"):
        encode(np.ones(3, np.float32), 8, rate_bps=rate_bps)


@pytest.mark.parametrize(
    ("x", "bits", "text"),
    [
        (np.ones(3, np.float32), 7, "7 bits; expected one of 32, 16, 12, 8, 4"),
        (np.ones(3, np.complex64), 8, "complex64"),
        (np.array(["a"]), 32, "real numbers"),
        (np.array([None]), 32, "object"),
        (np.ones((1,) * 9, np.float32), 8, "9 dimensions"),
    ],
)
def test_what_cannot_be_encoded_is_named(x, bits, text):
    with pytest.raises(CodecError, match=text):
        encode(x, bits)


# The lossless stage


@settings(max_examples=100, deadline=None)
@given(st.floats(1, 1e9), st.floats(0, 2), st.floats(1e6, 1e10), st.floats(1e3, 1e11))
def test_lossless_pays_exactly_where_it_is_sooner(raw_bytes, ratio, speed, rate_bps):
    plain_s = raw_bytes * 8 / rate_bps
    packed_s = raw_bytes * ratio * 8 / rate_bps + raw_bytes / speed + raw_bytes / (speed * ZSTD_DECODE_SPEEDUP)
    if not math.isclose(plain_s, packed_s, rel_tol=1e-9):
        assert compression_pays(raw_bytes, ratio, speed, rate_bps) == (packed_s < plain_s)


def test_lossless_serves_slow_links_only():
    x = activations(300_000)
    slow, fast = encode(x, 8, rate_bps=1e3), encode(x, 8, rate_bps=1e14)
    assert read_header(slow).lossless
    assert not read_header(fast).lossless
    assert len(slow) < 0.8 * len(fast)
    assert decode(slow).tobytes() == decode(fast).tobytes()


def test_noise_is_never_made_longer():
    noise = np.random.default_rng(1).integers(0, 256, 200_000).astype(np.uint8)
    for size in (1, 100, 200_000):
        assert len(encode(noise[:size], 32, rate_bps=0.0)) == len(encode(noise[:size], 32))


# Pictures


@pytest.mark.parametrize("rate_bps", [math.inf, 1e5])
def test_pixels_decode_to_the_very_bits_of_preprocessing(rate_bps):
    for _, photo in load_images():
        payload = encode_image(to_pixels(photo, IMAGENET), IMAGENET, rate_bps=rate_bps)
        assert decode(payload).tobytes() == preprocess(photo, IMAGENET).tobytes()
        assert len(payload) <= 224 * 224 * 3 + 112


def test_normalising_follows_its_formula():
    pixels = np.random.default_rng(0).integers(0, 256, (5, 7, 3)).astype(np.uint8)
    tensor = decode(encode_image(pixels, SMALL))
    for channel in range(3):
        expected = (pixels[:, :, channel] / 255 - SMALL.mean[channel]) / SMALL.std[channel]
        np.testing.assert_allclose(tensor[0, channel], expected, rtol=1e-6)


def test_a_slow_link_gets_a_smaller_jpeg_of_the_same_picture():
    pixels = to_pixels(load_images()[0][1], IMAGENET)
    slow, fast = (encode_image(pixels, IMAGENET, 75, rate_bps=rate) for rate in (1e6, 1e9))
    assert len(slow) < len(fast) - 200
    np.testing.assert_array_equal(decode(slow), decode(fast))


def test_jpeg_is_smaller_and_close():
    _, photo = load_images()[0]
    pixels = to_pixels(photo, IMAGENET)
    exact = encode_image(pixels, IMAGENET)
    sizes = []
    for quality, error in ((95, 3.0), (50, 8.0)):
        payload = encode_image(pixels, IMAGENET, jpeg_quality=quality)
        off = np.abs(decode(payload) - decode(exact)) * 0.226 * 255
        assert off.mean() < error
        sizes.append(len(payload))
    assert sizes[1] < sizes[0] < len(exact) / 2


def test_noise_for_a_slow_link_is_a_jpeg_too():
    pixels = np.random.default_rng(0).integers(0, 256, (299, 299, 3)).astype(np.uint8)
    image = IMAGENET._replace(height=299, width=299)
    slow, fast = (encode_image(pixels, image, 94, rate_bps=rate) for rate in (1e5, 1e9))
    np.testing.assert_array_equal(decode(slow), decode(fast))


def test_pictures_of_another_size_or_kind_are_refused():
    with pytest.raises(CodecError, match="picture is 4x4, the network takes 5x7"):
        encode_image(np.zeros((4, 4, 3), np.uint8), SMALL)
    with pytest.raises(CodecError, match="quality 0"):
        encode_image(np.zeros((5, 7, 3), np.uint8), SMALL, jpeg_quality=0)
    with pytest.raises(CodecError, match="1 channels"):
        encode_image(np.zeros((5, 7, 3), np.uint8), ImageInput(5, 7, (0.5,), (0.2,)))


# Payloads that are damaged or hostile

X = activations(1000).reshape(10, 100)
PLAIN = encode(X, 8)
PACKED = encode(X, 8, rate_bps=0.0)
EXACT = encode(X, 32)
PICTURE = encode_image(np.zeros((5, 7, 3), np.uint8), SMALL)
PHOTO = encode_image(np.zeros((5, 7, 3), np.uint8), SMALL, jpeg_quality=90)
ALL = (PLAIN, PACKED, EXACT, PICTURE, PHOTO)
DIMS = 28
SCALE = DIMS + 2 * 4


@pytest.mark.parametrize("payload", ALL)
def test_every_cut_and_every_flipped_bit_is_noticed(payload):
    for size in range(0, len(payload), max(len(payload) // 60, 1)):
        with pytest.raises(CodecError, match="truncated"):
            decode(payload[:size])
    with pytest.raises(CodecError, match="padded"):
        decode(payload + b"\0")
    for bit in range(0, len(payload) * 8, max(len(payload) * 8 // 300, 1)):
        flipped = bytearray(payload)
        flipped[bit // 8] ^= 1 << bit % 8
        with pytest.raises(CodecError):
            decode(bytes(flipped))


def zstd_frame(size: int) -> bytes:
    return zstandard.ZstdCompressor(level=1).compress(bytes(size))


def with_body(payload: bytes, start: int, body: bytes) -> bytes:
    return patched(payload[:start] + body, 20, "Q", len(body))


def jpeg(width: int, height: int, mode: str = "RGB", **options: bool) -> bytes:
    file = io.BytesIO()
    Image.new(mode, (width, height)).save(file, "JPEG", **options)
    return file.getvalue()


def png() -> bytes:
    file = io.BytesIO()
    Image.new("RGB", (7, 5)).save(file, "PNG")
    return file.getvalue()


def huge_jpeg() -> bytes:
    """A small file that says it is 65535 x 65535."""
    data = bytearray(jpeg(7, 5))
    frame = data.index(b"\xff\xc0")
    data[frame + 5 : frame + 9] = b"\xff\xff\xff\xff"
    return bytes(data)


PLAIN_BODY, EXACT_BODY, PICTURE_BODY = 64, 48, 96
HOSTILE = {
    "magic": (sealed(b"NOPE" + PLAIN[4:]), "not a codec payload"),
    "version": (patched(PLAIN, 12, "B", 9), "version 9"),
    "kind": (patched(PLAIN, 13, "B", 77), "kind 77"),
    "dtype": (patched(PLAIN, 14, "B", 200), "dtype 200"),
    "integer dtype": (patched(PLAIN, 14, "B", 3), "quantised payload says 8 bits of uint16"),
    "bits": (patched(PLAIN, 15, "B", 5), "says 5 bits"),
    "bits of an exact one": (patched(EXACT, 15, "B", 8), "says 8 bits"),
    "dimensions": (patched(PLAIN, 16, "B", 255), "truncated"),
    "lossless": (patched(PLAIN, 18, "B", 2), "lossless 2"),
    "lossless that is none": (patched(PLAIN, 18, "B", 1), "lossless stage is damaged|announces"),
    "shape too large": (patched(PLAIN, DIMS, "2I", 11, 100), "holds 1000 bytes, expected 1100"),
    "shape too small": (patched(PLAIN, DIMS, "2I", 9, 100), "holds 1000 bytes, expected 900"),
    "exact shape": (patched(EXACT, DIMS, "2I", 1, 1), "holds 4000 bytes, expected 4"),
    "nan step": (patched(PLAIN, SCALE, "2d", 0.0, math.nan), "payload scale is no range of float32"),
    "nan offset": (patched(PLAIN, SCALE, "2d", math.nan, 1.0), "no range"),
    "infinite step": (patched(PLAIN, SCALE, "2d", 0.0, math.inf), "no range"),
    "negative step": (patched(PLAIN, SCALE, "2d", 0.0, -1.0), "no range"),
    "step that overflows": (patched(PLAIN, SCALE, "2d", 3e38, 3e36), "no range"),
    "step that float32 lacks": (patched(PLAIN, SCALE, "2d", 0.0, 1e-300), "no range"),
    "untrue truth": (sealed(encode(np.array([True]), 32)[:-1] + b"\7"), "other than 0 and 1"),
    "frame too long": (with_body(PACKED, PLAIN_BODY, zstd_frame(1001)), "announces 1001 bytes, expected 1000"),
    "frame too short": (with_body(PACKED, PLAIN_BODY, zstd_frame(999)), "announces 999"),
    "two frames": (with_body(PACKED, PLAIN_BODY, zstd_frame(1000) * 2), "lossless stage is damaged"),
    "picture shape": (patched(PICTURE, DIMS, "4I", 3, 1, 5, 7), "picture payload is float32"),
    "picture deviation": (patched(PICTURE, DIMS + 16, "2d", 0.5, 0.0), "deviation"),
    "picture mean": (patched(PICTURE, DIMS + 16, "2d", math.nan, 1.0), "mean"),
    "jpeg of another size": (with_body(PHOTO, PICTURE_BODY, jpeg(7, 6)), "RGB 6x7, expected RGB 5x7"),
    "grey jpeg": (with_body(PHOTO, PICTURE_BODY, jpeg(7, 5, "L")), "is L 5x7"),
    "progressive jpeg": (with_body(PHOTO, PICTURE_BODY, jpeg(7, 5, progressive=True)), "not progressive"),
    "huge jpeg": (with_body(PHOTO, PICTURE_BODY, huge_jpeg()), "cannot be read .DecompressionBombError"),
    "half a jpeg": (with_body(PHOTO, PICTURE_BODY, jpeg(7, 5)[:-200]), "cannot be read"),
    "no jpeg": (with_body(PHOTO, PICTURE_BODY, png()), "cannot be read"),
}


@pytest.mark.parametrize(("payload", "text"), HOSTILE.values(), ids=HOSTILE)
def test_hostile_fields_are_refused_in_one_line(payload, text):
    with pytest.raises(CodecError, match=text) as refused:
        decode(payload)
    assert "\n" not in str(refused.value)
    assert not isinstance(refused.value, PayloadTooLarge)


def test_bombs_are_refused_before_they_are_unpacked(monkeypatch):
    bombs = [
        with_body(patched(PACKED, DIMS, "2I", 65536, 65536), PLAIN_BODY, zstd_frame(1 << 20)),
        patched(PLAIN, DIMS, "2I", 2**32 - 1, 2**32 - 1),
        patched(EXACT, DIMS, "2I", 0, 2**32 - 1),
        patched(PICTURE, DIMS, "4I", 1, 3, 60000, 60000),
        patched(PHOTO, DIMS, "4I", 1, 3, 60000, 60000),
    ]
    monkeypatch.setattr(codec, "decompress", lambda *_: pytest.fail("was unpacked"))
    monkeypatch.setattr(codec, "_jpeg_pixels", lambda *_: pytest.fail("was unpacked"))
    for bomb in bombs:
        with pytest.raises(PayloadTooLarge, match="67108864 are allowed"):
            decode(bomb)


def test_the_limit_is_exact():
    assert decode(PLAIN, limit_bytes=4000).nbytes == 4000
    with pytest.raises(PayloadTooLarge, match="4000 bytes, at most 3999"):
        decode(PLAIN, limit_bytes=3999)


@settings(max_examples=100, deadline=None)
@given(st.binary(max_size=200), st.booleans())
def test_random_bytes_are_refused(noise, headed):
    with pytest.raises(CodecError):
        decode(sealed(b"CINF" + noise.ljust(24, b"\0")) if headed else noise)


@settings(max_examples=150, deadline=None)
@given(st.sampled_from(ALL), st.lists(st.tuples(st.integers(0, 4100), st.integers(0, 255)), min_size=1, max_size=6))
def test_mutated_payloads_are_refused_or_give_a_sound_tensor(payload, changes):
    changed = bytearray(payload)
    for position, value in changes:
        changed[12 + position % (len(changed) - 12)] = value
    try:
        tensor = decode(sealed(bytes(changed)))
    except CodecError:
        return
    assert tensor.nbytes <= LIMIT_BYTES
    assert tensor.dtype in DTYPES


def test_threads_do_not_disturb_each_other():
    tensors = [activations(40_000 + 1000 * i) * (i + 1) for i in range(6)]
    expected = [decode(encode(x, 8, rate_bps=0.0)).tobytes() for x in tensors]
    wrong = []

    def work(i: int) -> None:
        for _ in range(20):
            if decode(encode(tensors[i], 8, rate_bps=0.0)).tobytes() != expected[i]:
                wrong.append(i)

    threads = [threading.Thread(target=work, args=(i,)) for i in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert wrong == []


def test_buffers_of_other_kinds_decode_too():
    for payload in (bytearray(PLAIN), memoryview(PLAIN), np.frombuffer(PLAIN, np.uint8)):
        assert decode(payload).tobytes() == decode(PLAIN).tobytes()
    shifted = memoryview(b"\0" + EXACT)[1:]
    assert decode(shifted).flags.aligned
    assert decode(shifted).tobytes() == X.tobytes()
