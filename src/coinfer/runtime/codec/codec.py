"""Tensors and pictures to bytes and back: exact, min-max at 16, 12, 8 or 4 bits, pixels, or JPEG.

`payload` has the layout of the bytes, `packing` the quantised values, `lossless` the last stage.
"""

import io
import math

import numpy as np
from PIL import Image

from coinfer.graph.image_input import ImageInput
from coinfer.runtime.codec import packing
from coinfer.runtime.codec.lossless import compress, decompress
from coinfer.runtime.codec.payload import (
    DTYPES,
    JPEG,
    MAX_DIMS,
    MINMAX,
    PIXELS,
    RAW,
    ROWS,
    CodecError,
    Header,
    build_payload,
    parse_payload,
)
from coinfer.runtime.images import check_pixels, normalise
from coinfer.units import BITS_PER_BYTE, FLOAT32_BITS, MIB, WIRE_BITS, WIRE_BITS_TEXT

LIMIT_BYTES = 64 * MIB
FITTED_BPS_PIXELS = 2e11
"""Link rate times pixels up to which the code words of a JPEG are fitted to it. That saves some 320 bytes of any
picture and takes 1 to 3 ns a pixel on a fast processor (32 to 640 pixels wide, qualities 50 to 90), so it is worth its
time up to 1.5e12 there; the rest is for slower ones."""


class PayloadTooLarge(CodecError):
    """A payload that would take more memory than allowed."""


def encode(x: np.ndarray, bits: int, *, rate_bps: float = math.inf) -> bytes:
    """Return a tensor as a payload, with 32 (exact), 16, 12, 8 or 4 bits per element.

    Some tensors stay exact whatever `bits` says: integers, types that have no more bits anyway, and tensors with NaN or
    infinity or with values too close or too far apart for a scale.

    Args:
        x: any shape of at most `MAX_DIMS` axes; not changed.
        bits: per element, one of `WIRE_BITS`.
        rate_bps: of the link that will carry it; the lossless stage is used only if it shortens the transfer. Infinite
            turns that stage off.

    Raises:
        CodecError: if dtype, dimensions, bits or rate are not allowed.
    """
    x = np.asarray(x, order="C")
    x = x.astype(x.dtype.newbyteorder("<"), copy=False)
    if x.dtype not in DTYPES or x.ndim > MAX_DIMS:
        raise CodecError(f"cannot encode {x.dtype} with {x.ndim} dimensions; expected real numbers, at most {MAX_DIMS}")
    if bits not in WIRE_BITS:
        raise CodecError(f"cannot encode with {bits} bits; expected one of {WIRE_BITS_TEXT}")
    quantisable = bits < min(FLOAT32_BITS, x.dtype.itemsize * BITS_PER_BYTE) and x.dtype.kind == "f" and x.size > 0
    scale = packing.scale_of(x, bits) if quantisable else None
    if scale is None:
        body = x.reshape(-1).view(np.uint8)
        return _payload(Header(RAW, x.dtype, x.dtype.itemsize * BITS_PER_BYTE, x.shape, ()), body, rate_bps)
    if (rows := _encode_rows(x, bits, scale)) is not None:
        return _payload(Header(ROWS, x.dtype, bits, x.shape, ()), rows, rate_bps)
    body = np.empty(packing.packed_bytes(x.size, bits), np.uint8)
    packing.quantise(x.reshape(-1), bits, scale, body)
    return _payload(Header(MINMAX, x.dtype, bits, x.shape, (scale,)), body, rate_bps)


def encode_image(
    pixels: np.ndarray, image: ImageInput, jpeg_quality: int | None = None, *, rate_bps: float = math.inf
) -> bytes:
    """Return a picture as a payload that decodes to the network's float32 input [1, 3, height, width].

    Args:
        pixels: uint8 [height, width, channels], as `images.to_pixels` returns them.
        image: size, mean and deviation of the network's input.
        jpeg_quality: 1 to 95 for a JPEG; without it the pixels travel as they are and the input is bit-identical.
        rate_bps: of the link that will carry it (`encode`); a JPEG is never compressed again, but a small one for a
            slow link is made with code words of its own.

    Raises:
        CodecError: if the picture does not fit the network, or the quality is out of range.
        ImageError: if the pixels are not uint8 [height, width, 3].
    """
    check_pixels(pixels, image.channels)
    if pixels.shape[:2] != (image.height, image.width):
        raise CodecError(
            f"the picture is {pixels.shape[0]}x{pixels.shape[1]}, the network takes {image.height}x{image.width}; "
            "scale it with to_pixels first"
        )
    if not len(image.mean) == len(image.std) == image.channels:
        raise CodecError(
            f"the network takes {len(image.mean)} channels; {image.colors} pictures have {image.channels}, so send its "
            "input as a tensor"
        )
    scales = tuple(zip(image.unit_mean, image.unit_std, strict=True))
    last = image.layout == "nhwc"
    header = Header(PIXELS, np.dtype(image.dtype), 8, image.shape, scales, channels_last=last)
    if jpeg_quality is None:
        return _payload(header, np.ascontiguousarray(pixels).reshape(-1), rate_bps)
    if not 1 <= jpeg_quality <= 95:
        raise CodecError(f"JPEG quality {jpeg_quality} is not between 1 and 95")
    flat = pixels[:, :, 0] if image.channels == 1 else pixels
    fitted = rate_bps * image.height * image.width <= FITTED_BPS_PIXELS
    data = _jpeg_of(Image.fromarray(np.ascontiguousarray(flat)), jpeg_quality, fitted=fitted)
    return _payload(header._replace(kind=JPEG), np.frombuffer(data, np.uint8))


def _jpeg_of(picture: Image.Image, quality: int, *, fitted: bool) -> bytes:
    """Return a JPEG file, with code words of its own if they are to be fitted and Pillow has room for that."""
    file = io.BytesIO()
    try:
        picture.save(file, "JPEG", quality=quality, optimize=fitted)
    except OSError:  # its buffer takes no picture that grows beyond a byte a pixel, such as noise
        if not fitted:
            raise
        return _jpeg_of(picture, quality, fitted=False)
    return file.getvalue()


def decode(payload: bytes, *, limit_bytes: int = LIMIT_BYTES) -> np.ndarray:
    """Return the tensor of a payload; an exact one may be a read-only view of it.

    Args:
        payload: may come from a hostile sender.
        limit_bytes: largest decoded tensor.

    Raises:
        PayloadTooLarge: if it would decode to more than `limit_bytes`; nothing that large is allocated.
        CodecError: if it is damaged, or no payload.
    """
    header, body = parse_payload(memoryview(payload).cast("B"))
    size_bytes = math.prod(max(side, 1) for side in header.shape) * header.dtype.itemsize
    if size_bytes > limit_bytes:
        raise PayloadTooLarge(f"payload decodes to {size_bytes} bytes, at most {limit_bytes} are allowed")
    if header.kind == JPEG:
        return _picture_tensor(_jpeg_pixels(body, header), header)
    raw = decompress(body, header) if header.lossless else body
    if len(raw) != header.raw_bytes:
        raise CodecError(f"payload of shape {list(header.shape)} holds {len(raw)} bytes, expected {header.raw_bytes}")
    values = np.frombuffer(raw, np.uint8)
    if header.kind == PIXELS:
        return _picture_tensor(values.reshape(*_picture_size(header), len(header.scales)), header)
    if header.kind == RAW:
        if header.dtype == np.bool_ and (values > 1).any():
            raise CodecError("payload of truth values holds bytes other than 0 and 1")
        tensor = values.view(header.dtype).reshape(header.shape)
        return tensor if tensor.flags.aligned else tensor.copy()
    out = np.empty(header.elements, header.dtype)
    if header.kind == ROWS:
        return _decode_rows(values, header, out)
    packing.dequantise(values, header.bits, packing.Scale(*header.scales[0]), out)
    return out.reshape(header.shape)


def _encode_rows(x: np.ndarray, bits: int, scale: packing.Scale) -> np.ndarray | None:
    """Return the body with a range for each row, or None if one range for the whole tensor serves as well."""
    rows = packing.rows_of(x.shape)
    if rows < 2:
        return None
    values = x.reshape(rows, -1)
    scales = packing.row_scales(values, bits)
    if scales is None or not packing.rows_pay(scale, scales, values.shape[1]):
        return None
    body = np.empty(scales.nbytes + packing.packed_bytes(x.size, bits), np.uint8)
    body[: scales.nbytes] = np.ascontiguousarray(scales).reshape(-1).view(np.uint8)
    packing.quantise_rows(values, bits, scales, body[scales.nbytes :])
    return body


def _decode_rows(body: np.ndarray, header: Header, out: np.ndarray) -> np.ndarray:
    work = packing.working_dtype(header.dtype)
    scales = body[: header.row_bytes].copy().view(work).reshape(-1, 2)
    if not ((scales[:, 1] >= 0).all() and packing.row_scales_fit(scales, header.bits, header.dtype)):
        raise CodecError(f"payload has rows whose range is none of {header.dtype}")
    packing.dequantise_rows(body[header.row_bytes :], header.bits, scales, out.reshape(len(scales), -1))
    return out.reshape(header.shape)


def _payload(header: Header, raw: np.ndarray, rate_bps: float = math.inf) -> bytes:
    """Return the payload of a body, after the lossless stage if that shortens the transfer."""
    body, lossless = compress(raw.data, rate_bps)
    return build_payload(header._replace(lossless=lossless, body_bytes=len(body)), body)


def _picture_size(header: Header) -> tuple[int, int]:
    """Return height and width of a picture."""
    _, second, third, fourth = header.shape
    return (second, third) if header.channels_last else (third, fourth)


def _picture_tensor(pixels: np.ndarray, header: Header) -> np.ndarray:
    """Return the network's input that a payload of a picture stands for."""
    mean, std = zip(*header.scales, strict=True)
    layout = "nhwc" if header.channels_last else "nchw"
    height, width = _picture_size(header)
    return normalise(pixels, ImageInput(height, width, mean, std, layout=layout, dtype=header.dtype.name))


def _jpeg_pixels(body: memoryview, header: Header) -> np.ndarray:
    """Return a JPEG's pixels; size and kind are checked before a pixel is decoded.

    A progressive file is refused: its many scans would make a small file slow.
    """
    height, width = _picture_size(header)
    mode = "L" if len(header.scales) == 1 else "RGB"
    try:
        with Image.open(io.BytesIO(body), formats=("JPEG",)) as picture:
            if picture.size != (width, height) or picture.mode != mode or "progressive" in picture.info:
                kind = f"{picture.mode} {picture.height}x{picture.width}"
                raise CodecError(f"JPEG payload is {kind}, expected {mode} {height}x{width}, not progressive")
            pixels = np.asarray(picture)
            return pixels[:, :, None] if mode == "L" else pixels
    except CodecError:
        raise
    except Exception as error:  # Pillow's plugins raise many kinds on hostile files
        raise CodecError(f"JPEG payload cannot be read ({type(error).__name__})") from None
