"""Photographs: from files to a network's input."""

from functools import lru_cache
from pathlib import Path

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError

from coinfer.errors import UserError
from coinfer.graph.image_input import ImageInput
from coinfer.resources import PHOTOS

PHOTO_SUFFIXES = (".jpg", ".jpeg", ".png")


class ImageError(UserError):
    """A picture that cannot be used; the message is one line for a person."""


def load_images(folder: str | Path | None = None) -> list[tuple[str, np.ndarray]]:
    """Return all photographs of a folder, sorted by file name, each with its name, as uint8 [height, width, 3] RGB.

    Args:
        folder: holds JPEG or PNG files; None takes the shipped photographs.

    Raises:
        ImageError: if it is no folder, has no pictures, or one of them cannot be read.
    """
    images, unreadable = readable_images(folder)
    if unreadable:
        raise unreadable[0]
    return images


def readable_images(folder: str | Path | None = None) -> tuple[list[tuple[str, np.ndarray]], list[ImageError]]:
    """Return the photographs of a folder as `load_images` does, and one error for each file that cannot be read.

    Args:
        folder: holds JPEG or PNG files; None takes the shipped photographs.

    Raises:
        ImageError: if it is no folder, or has no picture that can be read.
    """
    images, unreadable = list[tuple[str, np.ndarray]](), list[ImageError]()
    for file in image_files(folder):
        try:
            images.append((file.name, load_image(file)))
        except ImageError as error:
            unreadable.append(error)
    if not images:
        raise unreadable[0]
    return images, unreadable


def image_files(folder: str | Path | None = None) -> list[Path]:
    """Return the picture files of a folder, sorted by name.

    Args:
        folder: holds JPEG or PNG files; None takes the shipped photographs.

    Raises:
        ImageError: if it is no folder, or has no pictures.
    """
    where = PHOTOS if folder is None else Path(folder)
    if not where.is_dir():
        raise ImageError(f"{where}: not a folder; give one that holds .jpg or .png pictures")
    files = sorted(file for file in where.iterdir() if file.suffix.lower() in PHOTO_SUFFIXES)
    if not files:
        raise ImageError(f"{where}: no picture in it; expected files that end in {', '.join(PHOTO_SUFFIXES)}")
    return files


def load_image(path: str | Path) -> np.ndarray:
    """Return one picture as uint8 [height, width, 3] RGB, turned upright as its EXIF data say.

    Args:
        path: of a JPEG, PNG or any other file that Pillow reads.

    Raises:
        ImageError: if the file is missing or no picture.
    """
    try:
        with Image.open(path) as picture:
            return np.asarray(ImageOps.exif_transpose(picture).convert("RGB"))
    except FileNotFoundError:
        raise ImageError(f"{path}: no such file") from None
    except (UnidentifiedImageError, OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        raise ImageError(f"{path}: not a readable picture ({type(error).__name__}); expected JPEG or PNG") from None


def class_names() -> list[str]:
    """Return the 1000 ImageNet classes in the order of the networks' outputs."""
    return (PHOTOS / "imagenet_classes.txt").read_text(encoding="utf-8").splitlines()


def to_pixels(picture: Image.Image | np.ndarray, image: ImageInput) -> np.ndarray:
    """Return a picture at the network's size and in its colours, uint8 [height, width, channels].

    An RGB picture of that size stays as it is.

    Args:
        picture: a PIL image, or uint8 [height, width, 3] RGB.
        image: the network's size, colours, and how a picture is fitted into that size.

    Raises:
        ImageError: if an array is no uint8 [height, width, 3] picture.
    """
    if isinstance(picture, np.ndarray):
        check_pixels(picture)
        if picture.shape[:2] == (image.height, image.width):
            return _in_colors(picture, image)
        picture = Image.fromarray(np.ascontiguousarray(picture))
    picture = picture.convert("RGB")
    if picture.size != (image.width, image.height):
        picture = _letterbox(picture, image) if image.fit == "letterbox" else _view(picture, image)
    return _in_colors(np.asarray(picture), image)


def check_pixels(pixels: np.ndarray, channels: int = 3) -> None:
    """Refuse an array that is no uint8 [height, width, channels] picture.

    Args:
        pixels: any array.
        channels: 3, or 1 for gray.

    Raises:
        ImageError: naming what is expected.
    """
    if pixels.dtype != np.uint8 or pixels.ndim != 3 or pixels.shape[2] != channels or 0 in pixels.shape:
        remedy = "convert it to 8-bit RGB with the channels last" if channels == 3 else "convert it to 8-bit gray"
        raise ImageError(
            f"a picture is uint8 [height, width, {channels}], not {pixels.dtype} {list(pixels.shape)}; {remedy}"
        )


def normalise(pixels: np.ndarray, image: ImageInput) -> np.ndarray:
    """Return `(pixel / 255 - unit_mean) / unit_std` in the network's layout and type.

    It is correctly rounded, so that all nodes compute the same bits.

    Args:
        pixels: uint8 [height, width, channels], from `to_pixels`; any height and width.
        image: layout, type and normalisation of the network's input.
    """
    tables = _tables(image.unit_mean, image.unit_std, image.dtype)
    height, width, channels = pixels.shape
    last = image.layout == "nhwc"
    out = np.empty((1, height, width, channels) if last else (1, channels, height, width), image.dtype)
    for channel, table in enumerate(tables):
        if last:
            out[0, :, :, channel] = table[pixels[:, :, channel]]
        else:
            np.take(table, pixels[:, :, channel], out=out[0, channel], mode="clip")
    return out


def preprocess(picture: Image.Image | np.ndarray, image: ImageInput) -> np.ndarray:
    """Return a picture of any size as the network's input.

    Args:
        picture: a PIL image, or uint8 [height, width, 3] RGB.
        image: how the network takes pictures.

    Raises:
        ImageError: if an array is no uint8 [height, width, 3] picture.
    """
    return normalise(to_pixels(picture, image), image)


def pixels_of(tensor: np.ndarray, image: ImageInput) -> np.ndarray:
    """Return the pixels from which an input was made, the inverse of `normalise`.

    Args:
        tensor: of one picture, as `normalise` returned it.
        image: as it was given to `normalise`.
    """
    values = tensor[0].astype(np.float64)
    last = np.moveaxis(values, 0, -1) if image.layout == "nchw" else values
    return np.rint((last * np.array(image.unit_std) + np.array(image.unit_mean)) * 255).astype(np.uint8)


def _in_colors(pixels: np.ndarray, image: ImageInput) -> np.ndarray:
    """Return RGB pixels in the network's colours."""
    if image.colors == "gray":
        return np.asarray(Image.fromarray(np.ascontiguousarray(pixels)).convert("L"))[:, :, None]
    return np.ascontiguousarray(pixels[:, :, ::-1]) if image.colors == "bgr" else pixels


def _view(picture: Image.Image, image: ImageInput) -> Image.Image:
    """Scale what the input shows of the picture to its size."""
    box = image.view(*picture.size)
    return picture.resize((image.width, image.height), Image.Resampling.BILINEAR, box=box, reducing_gap=3.0)


def _letterbox(picture: Image.Image, image: ImageInput) -> Image.Image:
    """Scale all of the picture to fit, and fill the rest with bars."""
    scale = min(image.width / picture.width, image.height / picture.height)
    size = max(round(picture.width * scale), 1), max(round(picture.height * scale), 1)
    canvas = Image.new("RGB", (image.width, image.height), (image.pad,) * 3)
    scaled = picture.resize(size, Image.Resampling.BILINEAR, reducing_gap=3.0)
    canvas.paste(scaled, ((image.width - size[0]) // 2, (image.height - size[1]) // 2))
    return canvas


@lru_cache(maxsize=32)
def _tables(mean: tuple[float, ...], std: tuple[float, ...], dtype: str) -> np.ndarray:
    """Return what each of the 256 pixel values becomes, [channel, 256]."""
    values = (np.arange(256) / 255 - np.array(mean)[:, None]) / np.array(std)[:, None]
    return (np.rint(values) if np.dtype(dtype).kind == "u" else values).astype(dtype)
