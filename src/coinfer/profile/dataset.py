"""Labelled pictures to train and measure with: CIFAR-10 as binary files or packed copies, or folders of classes."""

import io
import zipfile
from itertools import pairwise
from pathlib import Path
from typing import Literal, NamedTuple

import numpy as np
from PIL import Image

from coinfer.errors import UserError
from coinfer.graph.image_input import ImageInput
from coinfer.graph.ir import ModelGraph
from coinfer.progress import Progress, quiet

Split = Literal["train", "test"]

CIFAR_CLASSES = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")
_SIDE = 32
_RECORD_BYTES = 1 + 3 * _SIDE * _SIDE
"""CIFAR-10's binary files: a label, then the planes of red, green and blue (Krizhevsky 2009)."""
EXPECTED = "expected an npz file of labels and images, or a folder of CIFAR-10 files or of class sub-folders"
_SUFFIXES = (".png", ".jpg", ".jpeg", ".bmp", ".webp")


class DataError(UserError):
    """Pictures that cannot be used; the message is one line for a person."""


class ImageDataset(NamedTuple):
    """N pictures of one size, and the class of each."""

    images: np.ndarray
    """uint8 [N, height, width, 3], RGB."""
    labels: np.ndarray
    """int64 [N], below the number of classes."""
    class_names: tuple[str, ...]
    kind: str
    """Name of the data that goes with every accuracy, such as "CIFAR-10, JPEG copy"."""

    def take(self, count: int) -> "ImageDataset":
        """Return the first pictures only.

        Args:
            count: how many; all if there are fewer.
        """
        return self._replace(images=self.images[:count], labels=self.labels[:count])


def misfit(graph: ModelGraph, image: ImageInput, data: ImageDataset) -> tuple[str, bool] | None:
    """Return why a network cannot be trained or measured on pictures; None if it can.

    Args:
        graph: must have one output of [1, classes] for each exit.
        image: how the network takes pictures.
        data: the pictures.

    Returns:
        The reason, and whether it is the number of classes.
    """
    height, width = data.images.shape[1:3]
    if (height, width) != (image.height, image.width):
        return (
            f"pictures are {height}x{width}, {graph.name} takes {image.height}x{image.width}; scale them first",
            False,
        )
    classes = len(data.class_names)
    for output in graph.outputs:
        shape = graph.tensors[output].shape
        if len(shape) != 2 or shape[1] != classes:
            return f"{graph.name}: output {output!r} is {list(shape)}, the pictures have {classes} classes", True
    return None


def load_dataset(source: str | Path, split: Split, progress: Progress = quiet) -> ImageDataset:
    """Return the training or test pictures of a data set.

    Args:
        source: a folder with CIFAR-10's `data_batch_*.bin` and `test_batch.bin`; a folder of `*train*.npz` and
            `*test*.npz`, or one npz file; or a folder with a sub-folder of pictures for each class, under `train` and
            `test` or by itself.
        split: `train` or `test`.
        progress: called as pictures are decoded.

    Raises:
        DataError: if there are no pictures, no labels, or pictures of several sizes.
    """
    source = Path(source)
    if not source.exists():
        raise DataError(f"{source}: no such file or folder; give a folder of CIFAR-10 files or of class sub-folders")
    if source.is_file():
        return _check_dataset(_read_archives([source], split, progress), source)
    binary = sorted(source.glob("data_batch_*.bin" if split == "train" else "test_batch.bin"))
    if binary:
        return _check_dataset(_read_binary(binary, source), source)
    packed = [path for path in sorted(source.glob("*.npz")) if split in path.stem]
    if packed:
        return _check_dataset(_read_archives(packed, split, progress), source)
    pickles = [path.name for path in (*source.glob("data_batch_?"), *source.glob("test_batch"))]
    if pickles:
        raise DataError(
            f"{source / pickles[0]}: this is CIFAR-10 as Python pickles, which can run code and are not read; take the "
            "binary version (data_batch_1.bin ...)"
        )
    folder = source / split if (source / split).is_dir() else source
    return _check_dataset(_read_folders(folder, split, progress), folder)


def _check_dataset(data: ImageDataset, source: Path) -> ImageDataset:
    if len(data.images) != len(data.labels):
        raise DataError(f"{source}: {len(data.images)} pictures but {len(data.labels)} labels; expected one for each")
    if len(data.images) == 0:
        raise DataError(f"{source}: no pictures in it")
    if data.images.dtype != np.uint8 or data.images.ndim != 4 or data.images.shape[-1] != 3:
        shape = f"{data.images.dtype} {list(data.images.shape)}"
        raise DataError(f"{source}: pictures are {shape}; expected uint8 [N, height, width, 3]")
    if data.labels.min() < 0 or data.labels.max() >= len(data.class_names):
        worst = int(data.labels.max() if data.labels.max() >= len(data.class_names) else data.labels.min())
        raise DataError(f"{source}: label {worst} is no class; there are 0 to {len(data.class_names) - 1}")
    return data


def _read_binary(files: list[Path], folder: Path) -> ImageDataset:
    """Return the pictures of CIFAR-10's own files."""
    parts = []
    for file in files:
        raw = np.fromfile(file, np.uint8)
        if len(raw) == 0 or len(raw) % _RECORD_BYTES:
            raise DataError(f"{file}: {len(raw)} bytes are no whole number of pictures of {_RECORD_BYTES} bytes each")
        parts.append(raw.reshape(-1, _RECORD_BYTES))
    records = np.concatenate(parts)
    planes = records[:, 1:].reshape(-1, 3, _SIDE, _SIDE)
    names = folder / "batches.meta.txt"
    classes = tuple(names.read_text(encoding="utf-8").split()) if names.exists() else CIFAR_CLASSES
    images = np.ascontiguousarray(planes.transpose(0, 2, 3, 1))
    return ImageDataset(images, records[:, 0].astype(np.int64), classes, "CIFAR-10, original pixels")


def _read_archives(files: list[Path], split: Split, progress: Progress) -> ImageDataset:
    parts = [_read_archive(file, split, progress) for file in files]
    if len({(part.images.shape[1:], part.kind, part.class_names) for part in parts}) > 1:
        raise DataError(f"{files[0].parent}: {', '.join(file.name for file in files)} hold different kinds of pictures")
    images, labels = (np.concatenate([getattr(part, name) for part in parts]) for name in ("images", "labels"))
    return parts[0]._replace(images=images, labels=labels)


def _read_archive(file: Path, split: Split, progress: Progress) -> ImageDataset:
    """Return the pictures of one npz file.

    It holds `labels`, and `images` or `jpeg` with `offsets`; names may start with `train_` or `test_`.
    """
    try:
        with np.load(file, allow_pickle=False) as archive:
            arrays = {name: archive[name] for name in archive.files}
    except (OSError, ValueError, zipfile.BadZipFile) as error:
        raise DataError(f"{file}: not a readable npz file ({type(error).__name__}); {EXPECTED}") from None
    exact = f"{split}_images" in arrays
    labels = arrays.get(f"{split}_labels" if exact else "labels")
    if labels is None:
        raise DataError(f"{file}: holds no labels for {split}; accuracy needs pictures whose class is known")
    images = arrays[f"{split}_images"] if exact else arrays.get("images")
    if images is None:
        if "jpeg" not in arrays or "offsets" not in arrays:
            raise DataError(f"{file}: holds no pictures for {split}; expected `images`, or `jpeg` and `offsets`")
        images = _decode_jpegs(arrays["jpeg"], arrays["offsets"], file, progress)
    numbers = np.arange(int(labels.max(initial=0)) + 1)
    names = tuple(map(str, arrays.get("class_names", numbers)))
    kind = f"CIFAR-10, {'original pixels' if exact else 'JPEG copy'}" if names == CIFAR_CLASSES else file.stem
    return ImageDataset(images, labels.astype(np.int64), names, kind)


def _decode_jpegs(jpeg: np.ndarray, offsets: np.ndarray, file: Path, progress: Progress) -> np.ndarray:
    data, images = jpeg.tobytes(), list[np.ndarray]()
    for i, (start, end) in enumerate(pairwise(offsets)):
        images.append(_picture(io.BytesIO(data[start:end]), f"{file}: picture {i}"))
        if i % 500 == 0 or i == len(offsets) - 2:
            progress(i + 1, len(offsets) - 1, "pictures")
    return _stack(images, [f"picture {i}" for i in range(len(images))], file)


def _read_folders(where: Path, split: Split, progress: Progress) -> ImageDataset:
    """Return the pictures of a folder with a sub-folder for each class.

    Pictures of the classes alternate, so that the first few show all classes.
    """
    classes = sorted(path for path in where.iterdir() if path.is_dir() and not path.name.startswith("."))
    ranked = [(rank, label, file) for label, one in enumerate(classes) for rank, file in enumerate(_pictures(one))]
    files = [(label, file) for _, label, file in sorted(ranked)]
    if not files:
        loose = _pictures(where)
        problem = "pictures without labels" if loose else f"no {split} pictures in it"
        raise DataError(
            f"{where}: {problem}; expected one sub-folder of pictures for each class, in a folder {split} or by itself"
        )
    images = []
    for i, (_, file) in enumerate(files):
        images.append(_picture(file, str(file)))
        progress(i + 1, len(files), "pictures")
    labels = np.array([label for label, _ in files], np.int64)
    names = tuple(folder.name for folder in classes)
    return ImageDataset(_stack(images, [str(file) for _, file in files], where), labels, names, f"folder {where.name}")


def _pictures(folder: Path) -> list[Path]:
    return sorted(file for file in folder.iterdir() if file.suffix.lower() in _SUFFIXES)


def _picture(file: Path | io.BytesIO, where: str) -> np.ndarray:
    try:
        with Image.open(file) as picture:
            return np.asarray(picture.convert("RGB"))
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        raise DataError(f"{where}: not a readable picture ({type(error).__name__})") from None


def _stack(images: list[np.ndarray], names: list[str], where: Path) -> np.ndarray:
    for image, name in zip(images, names, strict=True):
        if image.shape != images[0].shape:
            sizes = (f"{shape[1]}x{shape[0]}" for shape in (images[0].shape, image.shape))
            raise DataError(
                f"{where}: pictures of several sizes: {' and '.join(sizes)} ({name}); scale them to one size"
            )
    return np.stack(images)
