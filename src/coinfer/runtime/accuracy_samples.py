"""The samples on which accuracy is measured: labelled pictures, a user's own pictures, or arrays."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from coinfer.graph.ir import ModelGraph
from coinfer.profile.accuracy import AccuracyError
from coinfer.profile.dataset import ImageDataset, misfit
from coinfer.runtime.device.input_files import SUFFIXES, read_item_file
from coinfer.runtime.device.inputs import without_pictures
from coinfer.runtime.images import PHOTO_SUFFIXES, load_image, normalise, to_pixels
from coinfer.units import MIB

BATCH = 250
"""Samples in one run of the network at most."""
BATCH_BYTES = 256 * MIB
"""Memory for the tensors of one run."""
_ARRAY_SUFFIXES = tuple(suffix for suffix in SUFFIXES if suffix != ".txt")
"""Of files that are samples wherever they lie; a text may also describe the pictures beside it."""


class Part(NamedTuple):
    """N samples that run together."""

    size: int
    pixels: np.ndarray | None
    """uint8 [N, height, width, channels] as `images.to_pixels` returns them, if the network takes pictures."""
    tensors: Mapping[str, np.ndarray]
    """The other inputs, by name."""
    labels: np.ndarray | None
    """int64 [N], the class of each, if known."""


class SampleSet(NamedTuple):
    """Samples to measure on."""

    parts: Iterable[Part]
    size: int
    description: str
    """Which samples, in words."""
    labelled: bool


def inputs_of(graph: ModelGraph, part: Part) -> dict[str, np.ndarray]:
    """Return the network's inputs for some samples.

    Args:
        graph: the network.
        part: the samples.
    """
    if part.pixels is None or graph.image is None or graph.picture_input is None:
        return dict(part.tensors)
    image = graph.image
    made = np.concatenate([normalise(one, image) for one in part.pixels])
    return {name: made if name == graph.picture_input else part.tensors[name] for name in graph.inputs}


def batch_size(graph: ModelGraph, names: Iterable[str]) -> int:
    """Return how many samples may run together.

    Args:
        graph: one sample at a time if its batch is not free.
        names: of the tensors that are held.
    """
    size_bytes = sum(graph.tensors[name].size_bits // 8 for name in names)
    return max(1, min(BATCH, BATCH_BYTES // max(size_bytes, 1))) if graph.dynamic_batch else 1


def dataset_samples(graph: ModelGraph, data: ImageDataset, batch: int = BATCH) -> SampleSet:
    """Return labelled pictures of one size as samples.

    Args:
        graph: takes pictures of that size, and has one output of [1, classes] for each exit.
        data: the pictures.
        batch: pictures that run together.

    Raises:
        AccuracyError: if the network takes no such pictures, or has other classes.
    """
    if graph.image is None:
        raise AccuracyError(f"{graph.name} does not say how it takes pictures; its accuracy cannot be measured on them")
    if mismatch := misfit(graph, graph.image, data):
        problem, is_about_classes = mismatch
        raise AccuracyError(
            f"{problem}; measure it on the data set that it was trained for" if is_about_classes else problem
        )
    image, total = graph.image, len(data.labels)

    def parts() -> Iterator[Part]:
        for i in range(0, total, batch):
            pixels = np.stack([to_pixels(one, image) for one in data.images[i : i + batch]])
            labels = data.labels[i : i + batch]
            yield Part(len(labels), pixels, {}, labels)

    return SampleSet(parts(), total, f"{data.kind}, {total} test pictures", labelled=True)


def folder_samples(
    graph: ModelGraph, folder: Path, given: Mapping[str, np.ndarray], limit: int = 0, labels: Sequence[str] = ()
) -> SampleSet:
    """Return the pictures or array files of a folder as samples; pictures in sub-folders have the class of these.

    Args:
        graph: the network.
        folder: of pictures, of sub-folders of pictures, or of files .npz, .npy, .txt, .wav.
        given: inputs that all samples share.
        limit: the first so many only; 0 takes all.
        labels: names of the classes, which sub-folders may have; without them sub-folders are counted by name.

    Raises:
        AccuracyError: if there are no samples, or not a sub-folder for each class.
    """
    if not folder.is_dir():
        raise AccuracyError(f"{folder}: no such folder; give one of pictures, of class sub-folders, or of .npz files")
    classes = sorted(path for path in folder.iterdir() if path.is_dir() and not path.name.startswith("."))
    inside = [(label, file) for label, one in enumerate(classes) for file in _files(one, PHOTO_SUFFIXES)]
    if inside:
        numbers = _class_numbers(graph, [path.name for path in classes], labels, folder)
        ranked = sorted((index, label, file) for label, one in enumerate(classes)
                        for index, file in enumerate(_files(one, PHOTO_SUFFIXES)))  # fmt: skip
        chosen = [(numbers[label], file) for _, label, file in ranked][: limit or None]
        kind = f"folder {folder.name}, {len(chosen)} pictures"
        return SampleSet(_file_parts(graph, chosen, given), len(chosen), kind, labelled=True)
    if graph.image is None and _files(folder, PHOTO_SUFFIXES) and not _files(folder, _ARRAY_SUFFIXES):
        raise AccuracyError(without_pictures(graph))
    files = _files(folder, PHOTO_SUFFIXES if graph.image else SUFFIXES) or _files(folder, SUFFIXES)
    if not files:
        expected = ", ".join((*(PHOTO_SUFFIXES if graph.image else ()), *SUFFIXES))
        raise AccuracyError(f"{folder}: no samples in it; expected files that end in {expected}, or class sub-folders")
    chosen = [(None, file) for file in files][: limit or None]
    kind = f"folder {folder.name}, {len(chosen)} samples"
    return SampleSet(_file_parts(graph, chosen, given), len(chosen), kind, labelled=False)


def _file_parts(
    graph: ModelGraph, files: Sequence[tuple[int | None, Path]], given: Mapping[str, np.ndarray]
) -> Iterator[Part]:
    """Yield one sample for each file, read when it is needed."""
    for label, file in files:
        truth = None if label is None else np.array([label])
        if file.suffix.lower() in PHOTO_SUFFIXES:
            assert graph.image is not None, "pictures are taken for networks that take pictures only"
            yield Part(1, to_pixels(load_image(file), graph.image)[None], given, truth)
        else:
            yield Part(1, None, read_item_file(graph, file, given), truth)


def _files(folder: Path, suffixes: Sequence[str]) -> list[Path]:
    return sorted(file for file in folder.iterdir() if file.suffix.lower() in suffixes and file.is_file())


def _class_numbers(graph: ModelGraph, folders: Sequence[str], labels: Sequence[str], where: Path) -> list[int]:
    """Return the number of the class of each sub-folder."""
    if graph.image is None:
        raise AccuracyError(f"{graph.name} does not say how it takes pictures, which {where} holds")
    if set(folders) <= set(labels):
        return [labels.index(name) for name in folders]
    if all(name.isdecimal() for name in folders):
        return [int(name) for name in folders]
    count = graph.tensors[graph.outputs[-1]].shape[1]
    if len(folders) != count:
        raise AccuracyError(
            f"{where}: {len(folders)} sub-folders, {graph.name} knows {count} classes; expected one for each, or "
            "sub-folders with numbers of classes or names among --labels"
        )
    return list(range(count))
