"""How a picture becomes the input of a network: the type, its text in a model's metadata, and what both mean."""

import json
import math
from typing import Literal, NamedTuple

import onnx

IMAGE_KEY = "coinfer.image"
"""Key of the model's metadata that says, in JSON, how a picture becomes its input (`ImageInput`)."""
PER_BYTE = 1 / 255
"""The scale that brings the values of a pixel to 0 to 1."""
GREY = 114
"""Value of the bars of a letterbox, as detectors are trained with."""

Layout = Literal["nchw", "nhwc"]
Colors = Literal["rgb", "bgr", "gray"]
Fit = Literal["crop", "cover", "letterbox", "stretch"]


class ImageInput(NamedTuple):
    """How a picture becomes the network's input: scaled to its size, then `(pixel * scale - mean) / std`."""

    height: int
    width: int
    mean: tuple[float, ...]
    """Of each channel, in the order of `colors`."""
    std: tuple[float, ...]
    """Of each channel, in the order of `colors`; above 0."""
    scale: float = PER_BYTE
    """Factor on the values of a pixel, 0 to 255."""
    layout: Layout = "nchw"
    colors: Colors = "rgb"
    fit: Fit = "crop"
    """`crop` cuts out the middle with the margin that ImageNet networks expect, `cover` without it; `letterbox` keeps
    all of the picture between bars, `stretch` all of it without its proportions."""
    pad: int = GREY
    """Value of a letterbox's bars, 0 to 255."""
    input: str = ""
    """Name of the input that takes the picture; empty for the first."""
    dtype: str = "float32"
    """Type of that input."""

    @property
    def channels(self) -> int:
        """Return the number of channels: 3, or 1 for gray pictures."""
        return 1 if self.colors == "gray" else 3

    @property
    def shape(self) -> tuple[int, ...]:
        """Return the shape of the input of one picture."""
        height, width, channels = self.height, self.width, self.channels
        return (1, channels, height, width) if self.layout == "nchw" else (1, height, width, channels)

    @property
    def unit_mean(self) -> tuple[float, ...]:
        """Return the mean of each channel for pixels of 0 to 1: `(pixel / 255 - unit_mean) / unit_std` is the input."""
        return tuple(value / (255 * self.scale) for value in self.mean)

    @property
    def unit_std(self) -> tuple[float, ...]:
        """Return the deviation of each channel for pixels of 0 to 1."""
        return tuple(value / (255 * self.scale) for value in self.std)

    def view(self, width: int, height: int) -> tuple[float, float, float, float]:
        """Return what the input shows of a picture, as left, top, right and bottom in pixels of the picture.

        A point (x, y) of the input lies at `left + x * (right - left) / self.width` and likewise for y. The view of a
        letterbox reaches beyond the picture.

        Args:
            width: of the picture, in pixels.
            height: of the picture, in pixels.
        """
        if self.fit == "stretch":
            return 0.0, 0.0, float(width), float(height)
        choose = min if self.fit == "letterbox" else max
        scale = self.margin * choose(self.width / width, self.height / height)
        view_width, view_height = self.width / scale, self.height / scale
        left, top = (width - view_width) / 2, (height - view_height) / 2
        return left, top, left + view_width, top + view_height

    @property
    def margin(self) -> float:
        """Return how much larger than the input a picture is scaled before its middle is cut out."""
        return CROP_MARGIN if self.fit == "crop" and max(self.height, self.width) > SMALL_INPUT else 1.0


CROP_MARGIN = 256 / 224
"""The shorter side is scaled to this many times the input before the centre is cut out, as ImageNet networks expect."""
SMALL_INPUT = 64
"""Networks whose input has at most this side get the picture without margin."""


def image_property(image: ImageInput) -> onnx.StringStringEntryProto:
    """Return the metadata entry that says how pictures become a model's input.

    Args:
        image: what is not as usual is written too.
    """
    usual, entry = ImageInput._field_defaults, image._asdict()
    kept = {name: value for name, value in entry.items() if name not in usual or value != usual[name]}
    return onnx.StringStringEntryProto(key=IMAGE_KEY, value=json.dumps(kept))


def problem_of(image: ImageInput) -> str:
    """Return what is wrong with these settings, in words; empty if nothing is.

    Args:
        image: of any origin.
    """
    numbers = (*image.mean, *image.std, image.scale)
    if len(image.mean) != image.channels or len(image.std) != image.channels:
        sizes = f"{len(image.mean)} and {len(image.std)}"
        return f"mean and std have {sizes} values; {image.colors} pictures have {image.channels} channel(s)"
    if not all(map(math.isfinite, numbers)) or min(image.std) <= 0 or image.scale <= 0:
        return "expected a finite mean, and a finite std and scale above 0"
    if not all(math.isfinite(value) for value in (*image.unit_mean, *image.unit_std)):
        return f"scale {image.scale:g} is too small for this mean and std"
    if not 0 <= image.pad <= 255:
        return f"pad is {image.pad}; expected 0 to 255"
    return ""
