"""The options that say how a network takes pictures; `infer`, `watch`, `plan`, `profile` and `accuracy` share them."""

from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from coinfer.cli.option_group import with_group
from coinfer.cli.options import MAX_DIGITS
from coinfer.errors import UserError

if TYPE_CHECKING:
    from coinfer.graph.pictures import PictureSettings

ImageSize = Annotated[
    str, typer.Option(metavar="N|HxW", help="Side of the network's pictures, or height x width; needed if it is free.")
]
Mean = Annotated[str, typer.Option(metavar="A[,B,C]", help="Taken off each channel, after --scale; 0 without.")]
Std = Annotated[str, typer.Option(metavar="A[,B,C]", help="Divides each channel, after --mean; 1 without.")]
Scale = Annotated[float | None, typer.Option(min=0, help="Factor on pixel values, 0 to 255; 1/255 without.")]
LayoutOption = Annotated[Literal["nchw", "nhwc"] | None, typer.Option(help="Order of the axes; by the shape without.")]
ColorsOption = Annotated[Literal["rgb", "bgr", "gray"] | None, typer.Option(help="rgb without; gray for one channel.")]
Letterbox = Annotated[bool, typer.Option("--letterbox", help="Show all of a picture, between bars.")]
Stretch = Annotated[bool, typer.Option("--stretch", help="Show all of a picture, without its proportions.")]

_PARAMETERS: dict[str, tuple[Any, Any]] = {
    "image_size": (ImageSize, ""),
    "mean": (Mean, ""),
    "std": (Std, ""),
    "scale": (Scale, None),
    "layout": (LayoutOption, None),
    "colors": (ColorsOption, None),
    "letterbox": (Letterbox, False),
    "stretch": (Stretch, False),
}


def parse_pictures(
    image_size: str = "",
    mean: str = "",
    std: str = "",
    scale: float | None = None,
    layout: str | None = None,
    colors: str | None = None,
    *,
    letterbox: bool = False,
    stretch: bool = False,
) -> "PictureSettings":
    """Return what the options say about pictures.

    Args:
        image_size: `320`, `320x480` (height x width), or empty.
        mean: numbers separated by commas, or empty.
        std: numbers separated by commas, or empty.
        scale: factor on pixel values, or None.
        layout: `nchw`, `nhwc` or None.
        colors: `rgb`, `bgr`, `gray` or None.
        letterbox: show all of a picture, between bars.
        stretch: show all of a picture, without its proportions.

    Raises:
        UserError: if an option is not understood, or two contradict each other.
    """
    from coinfer.graph.pictures import parse_settings

    if letterbox and stretch:
        raise UserError("--letterbox and --stretch are both given; expected one of them")
    parts = [part.strip() for part in image_size.lower().split("x")]
    sides = [int(part) if part.isdecimal() and len(part) <= MAX_DIGITS else 0 for part in parts]
    if image_size and not (len(sides) in (1, 2) and all(sides)):
        raise UserError(f"--image-size {image_size!r:.40}: expected a side such as 320, or height x width: 320x480")
    said = {
        "size": (sides[0], sides[-1]) if image_size else None,
        "mean": _numbers("--mean", mean),
        "std": _numbers("--std", std),
        "scale": scale,
        "layout": layout,
        "colors": colors,
        "fit": "letterbox" if letterbox else "stretch" if stretch else None,
    }
    return parse_settings({name: value for name, value in said.items() if value is not None}, "picture options")


with_picture_options = with_group("pictures", _PARAMETERS, parse_pictures)
"""Gives a command the options about pictures, which it gets as one argument `pictures`."""


def _numbers(option: str, text: str) -> tuple[float, ...] | None:
    if not text:
        return None
    try:
        return tuple(float(part) for part in text.split(","))
    except ValueError:
        raise UserError(f"{option} {text!r}: expected numbers, separated by commas") from None
