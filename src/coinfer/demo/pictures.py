"""The pictures of the demo: photographs, or pictures whose class is known."""

from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np

from coinfer.graph.image_input import ImageInput
from coinfer.graph.ir import ModelGraph
from coinfer.profile.dataset import CIFAR_CLASSES, DataError, ImageDataset, load_dataset
from coinfer.resources import PHOTOS
from coinfer.runtime.classes import labels_of
from coinfer.runtime.images import PHOTO_SUFFIXES, ImageError, load_image, readable_images, to_pixels

CLASS_OF_PHOTO = {"cat.jpg": "cat", "dog.jpg": "dog", "hummingbird.jpg": "bird", "kitten.jpg": "cat"}
"""The shipped photographs that show one of CIFAR-10's classes."""
VIEW_SHARES = (1.0, 0.8, 0.6)
"""Share of a photograph's shorter side that each of its views shows."""
MAX_PICTURES = 1000
"""Labelled pictures that are used at most; requests repeat them in turn."""


class Pictures(NamedTuple):
    """N pictures in the order of the requests."""

    images: list[np.ndarray]
    """uint8 [height, width, 3]."""
    labels: np.ndarray | None
    """[N] index of the class, if known."""
    kind: str
    """Description for people."""
    unreadable: list[ImageError] = []  # noqa: RUF012, nobody changes it
    """Errors of the pictures that are left out."""


def load_pictures(graph: ModelGraph, where: str | None) -> Pictures:
    """Return the pictures that the demo's requests show the network.

    Args:
        graph: a network that takes pictures.
        where: a folder of photographs, or labelled pictures as `profile.dataset` reads them. None takes the shipped
            photographs; the shipped network for CIFAR-10 gets views of those that show one of its classes.

    Raises:
        ImageError: if there is no picture that can be read.
        DataError: if the labelled pictures are damaged, or their classes are not those of the network.
    """
    if where is None and graph.image and labels_of(graph) == tuple(CIFAR_CLASSES):
        return _shipped_views(graph.image)
    if where is not None and Path(where).is_file() and Path(where).suffix.lower() in PHOTO_SUFFIXES:
        raise ImageError(f"{where}: a single picture; give the folder that holds it")
    if where is not None and Path(where).exists() and _may_be_labelled(Path(where)):
        data = load_dataset(where, "test").take(MAX_PICTURES)
        return Pictures(list(data.images), _labels_for(graph, data, where), f"{len(data.labels)} of {data.kind}")
    photos, unreadable = readable_images(where)
    return Pictures([photo for _, photo in photos], None, f"{len(photos)} photographs", unreadable)


def _class_count(graph: ModelGraph) -> int:
    return max(graph.tensors[name].shape[-1] for name in graph.outputs)


def _labels_for(graph: ModelGraph, data: ImageDataset, where: str) -> np.ndarray:
    """Return the network's index of each picture's class: by name if the network may know CIFAR-10's classes."""
    count = _class_count(graph)
    if count == len(CIFAR_CLASSES) and set(data.class_names) <= set(CIFAR_CLASSES):
        return np.array([CIFAR_CLASSES.index(name) for name in data.class_names])[data.labels]
    if len(data.class_names) != count:
        raise DataError(
            f"{where}: {len(data.class_names)} classes, {graph.name} knows {count}; expected a folder for each class, "
            f"or, for a network of ten, folders named like CIFAR-10's classes ({', '.join(CIFAR_CLASSES)})"
        )
    return data.labels


def _shipped_views(image: ImageInput) -> Pictures:
    """Return each labelled photograph whole and closer, both also mirrored, at the network's size."""
    photos = [load_image(PHOTOS / name) for name in CLASS_OF_PHOTO]
    views = zip(*(_views(photo) for photo in photos), strict=True)
    images = [to_pixels(view, image) for of_all_photos in views for view in of_all_photos]
    labels = [CIFAR_CLASSES.index(name) for name in CLASS_OF_PHOTO.values()]
    kind = f"{len(images)} views of {len(photos)} photographs of cats, a dog and a bird: too few to tell an accuracy"
    return Pictures(images, np.array(labels * (len(images) // len(photos))), kind)


def _views(photo: np.ndarray) -> Iterator[np.ndarray]:
    height, width = photo.shape[:2]
    for share in VIEW_SHARES:
        side = int(share * min(height, width))
        top, left = (height - side) // 2, (width - side) // 2
        view = photo[top : top + side, left : left + side]
        yield view
        yield np.ascontiguousarray(view[:, ::-1])


def _may_be_labelled(where: Path) -> bool:
    """Return true for data files, and for folders with such files or sub-folders for classes."""
    if where.is_file():
        return True
    return any(path.is_dir() or path.suffix in {".npz", ".bin"} for path in where.iterdir())
