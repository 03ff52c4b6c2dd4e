"""Photographs: from files to a network's input."""

from functools import lru_cache
from pathlib import Path

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError

from coinfer.errors import UserError
from coinfer.graph.ir import ImageInput
from coinfer.resources import PHOTOS

PHOTO_SUFFIXES = (".jpg", ".jpeg", ".png")
CROP_MARGIN = 256 / 224
"""The shorter side is scaled to this many times the input before the centre is cut out, as ImageNet networks expect."""
SMALL_INPUT = 64
"""Networks whose input has at most this side get the picture without margin."""


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
    """Return the centre of a picture at the network's size, uint8 [height, width, 3]; one of that size stays as it is.

    Args:
        picture: a PIL image, or uint8 [height, width, 3] RGB.
        image: the network's size.

    Raises:
        ImageError: if an array is no uint8 [height, width, 3] picture.
    """
    if isinstance(picture, np.ndarray):
        check_pixels(picture)
        if picture.shape[:2] == (image.height, image.width):
            return picture
        picture = Image.fromarray(np.ascontiguousarray(picture))
    picture = picture.convert("RGB")
    if picture.size != (image.width, image.height):
        picture = _centre(picture, image)
    return np.asarray(picture)


def check_pixels(pixels: np.ndarray) -> None:
    """Refuse an array that is no uint8 [height, width, 3] picture.

    Args:
        pixels: any array.

    Raises:
        ImageError: if dtype or shape differ; the message says what they are.
    """
    if pixels.dtype != np.uint8 or pixels.ndim != 3 or pixels.shape[2] != 3 or 0 in pixels.shape:
        raise ImageError(
            f"a picture is uint8 [height, width, 3], not {pixels.dtype} {list(pixels.shape)}; "
            "convert it to 8-bit RGB with the channels last"
        )


def normalise(pixels: np.ndarray, mean: tuple[float, ...], std: tuple[float, ...]) -> np.ndarray:
    """Return `(pixel / 255 - mean) / std` as float32 [1, 3, height, width].

    It is correctly rounded, so that all nodes compute the same bits.

    Args:
        pixels: uint8 [height, width, 3].
        mean: of each of the three channels.
        std: of each of the three channels, above 0.
    """
    tables = _tables(tuple(mean), tuple(std))
    out = np.empty((1, 3, *pixels.shape[:2]), np.float32)
    for channel, table in enumerate(tables):
        np.take(table, pixels[:, :, channel], out=out[0, channel], mode="clip")
    return out


def preprocess(picture: Image.Image | np.ndarray, image: ImageInput) -> np.ndarray:
    """Return a picture of any size as the network's input, float32 [1, 3, height, width].

    Args:
        picture: a PIL image, or uint8 [height, width, 3] RGB.
        image: the network's size and normalisation.

    Raises:
        ImageError: if an array is no uint8 [height, width, 3] picture.
    """
    return normalise(to_pixels(picture, image), image.mean, image.std)


def _centre(picture: Image.Image, image: ImageInput) -> Image.Image:
    """Scale the picture so that it covers the input with its margin, and cut out the middle."""
    margin = 1.0 if max(image.height, image.width) <= SMALL_INPUT else CROP_MARGIN
    scale = margin * max(image.width / picture.width, image.height / picture.height)
    crop_width, crop_height = image.width / scale, image.height / scale
    left, top = (picture.width - crop_width) / 2, (picture.height - crop_height) / 2
    box = (left, top, left + crop_width, top + crop_height)
    return picture.resize((image.width, image.height), Image.Resampling.BILINEAR, box=box, reducing_gap=3.0)


@lru_cache(maxsize=32)
def _tables(mean: tuple[float, ...], std: tuple[float, ...]) -> np.ndarray:
    """Return what each of the 256 pixel values becomes, [channel, 256]."""
    levels = np.arange(256) / 255
    return ((levels - np.array(mean)[:, None]) / np.array(std)[:, None]).astype(np.float32)
