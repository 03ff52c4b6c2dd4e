import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from coinfer.runtime.codec.packing import CHUNK, Scale, dequantise, packed_bytes, quantise, scale_fits, scale_of

SIZES = [1, 2, 3, 17, CHUNK - 1, CHUNK, CHUNK + 1, 2 * CHUNK + 5]


def levels_of(packed: np.ndarray, bits: int, total: int) -> list[int]:
    """The layout read plainly, one element at a time."""
    if bits == 8:
        return packed.tolist()
    nibbles = [int(byte) >> shift & 15 for byte in (packed if bits == 4 else packed[total:]) for shift in (0, 4)]
    if bits == 4:
        return nibbles[:total]
    high = nibbles if bits == 12 else packed[total:].tolist()
    return [int(low) | int(high[i]) << 8 for i, low in enumerate(packed[:total])]


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("bits", [16, 12, 8, 4])
def test_levels_pass_through_the_layout_unchanged(bits, size):
    levels = np.random.default_rng(size).integers(0, 2**bits, size)
    packed = np.full(packed_bytes(size, bits), 0xAA, np.uint8)
    quantise(levels.astype(np.float32), bits, Scale(0.0, 1.0), packed)
    assert levels_of(packed, bits, size) == levels.tolist()
    out = np.empty(size, np.float32)
    dequantise(packed, bits, Scale(0.0, 1.0), out)
    assert out.tolist() == levels.tolist()


@pytest.mark.parametrize(("bits", "sizes"), [(16, (6, 8)), (12, (5, 6)), (8, (3, 4)), (4, (2, 2))])
def test_packed_sizes_have_no_gaps(bits, sizes):
    assert (packed_bytes(3, bits), packed_bytes(4, bits)) == sizes


def test_values_round_to_the_nearest_level():
    packed = np.empty(4, np.uint8)
    quantise(np.array([0.0, 0.49, 0.51, 255.0], np.float32), 8, Scale(0.0, 1.0), packed)
    assert packed.tolist() == [0, 0, 1, 255]


@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64])
@pytest.mark.parametrize("bits", [16, 12, 8, 4])
def test_scale_spans_the_values(bits, dtype):
    scale = scale_of(np.array([3.0, -1.0, 0.5], dtype), bits)
    assert scale is not None
    assert scale.offset == -1.0
    assert scale.offset + scale.step * (2**bits - 1) == pytest.approx(3.0)


@pytest.mark.parametrize(
    "values",
    [
        pytest.param([0.0, np.nan], id="nan"),
        pytest.param([0.0, np.inf], id="infinity"),
        pytest.param([-3e38, 3e38], id="span beyond the type"),
        pytest.param([0.0, 1e-44], id="span of denormals"),
    ],
)
def test_no_scale_where_none_would_be_right(values):
    assert scale_of(np.array(values, np.float32), 8) is None


def test_a_constant_needs_no_step():
    assert scale_of(np.full(5, 2.5, np.float32), 8) == Scale(2.5, 0.0)


@settings(max_examples=100, deadline=None)
@given(st.floats(), st.floats(), st.sampled_from([16, 12, 8, 4]), st.sampled_from([np.float16, np.float32, np.float64]))
def test_a_scale_that_fits_decodes_to_finite_values(offset, step, bits, dtype):
    scale = Scale(offset, step)
    if not (step >= 0 and scale_fits(scale, bits, np.dtype(dtype))):
        return
    out = np.empty(2, dtype)
    packed = np.empty(packed_bytes(2, bits), np.uint8)
    quantise(np.array([0, 2**bits - 1], np.float32), bits, Scale(0.0, 1.0), packed)
    dequantise(packed, bits, scale, out)
    assert np.isfinite(out).all()
