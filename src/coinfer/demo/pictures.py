"""What the demo shows the network: photographs, or pictures whose class is known."""

from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np

from coinfer.graph.ir import ImageInput, ModelGraph
from coinfer.graph.zoo import pretrained
from coinfer.profile.dataset import CIFAR_CLASSES, DataError, ImageDataset, load_dataset
from coinfer.resources import PHOTOS
from coinfer.runtime.images import ImageError, load_image, readable_images, to_pixels

CLASS_OF_PHOTO = {"cat.jpg": "cat", "dog.jpg": "dog", "hummingbird.jpg": "bird", "kitten.jpg": "cat"}
"""The shipped photographs that show one of CIFAR-10's classes."""
VIEW_SHARES = (1.0, 0.8, 0.6)
"""Each photograph is shown this close: the share of its shorter side that is seen."""
MOST = 1000
"""Pictures used; requests go round them."""


class Pictures(NamedTuple):
    """N pictures in the order of the requests."""

    images: list[np.ndarray]
    """uint8 [height, width, 3]."""
    labels: np.ndarray | None
    """[N] index of the class, if known."""
    kind: str
    """What they are, for people."""
    unreadable: list[ImageError] = []  # noqa: RUF012, nobody changes it
    """Why other pictures are left out."""


def load_pictures(graph: ModelGraph, where: str | None) -> Pictures:
    """Return the labelled pictures or the photographs of a folder, or the shipped ones.

    The shipped trained network for CIFAR-10 is shown views of those shipped photographs that show one of its classes.

    Raises:
        ImageError, DataError: if there is no readable picture, or a class that the network does not know.
    """
    if where is None and graph.name in pretrained.names() and _class_count(graph) == len(CIFAR_CLASSES) and graph.image:
        return _shipped_views(graph.image)
    if where is not None and Path(where).exists() and _may_be_labelled(Path(where)):
        found = load_dataset(where, "test").take(MOST)
        return Pictures(list(found.images), _labels_for(graph, found, where), f"{len(found.labels)} of {found.kind}")
    found, unreadable = readable_images(where)
    return Pictures([picture for _, picture in found], None, f"{len(found)} photographs", unreadable)


def _class_count(graph: ModelGraph) -> int:
    return max(graph.tensors[name].shape[-1] for name in graph.outputs)


def _labels_for(graph: ModelGraph, found: ImageDataset, where: str) -> np.ndarray:
    """Return the network's index of each picture's class: by name if the network may know CIFAR-10's classes."""
    count = _class_count(graph)
    if count == len(CIFAR_CLASSES) and set(found.class_names) <= set(CIFAR_CLASSES):
        return np.array([CIFAR_CLASSES.index(name) for name in found.class_names])[found.labels]
    if len(found.class_names) != count:
        raise DataError(
            f"{where}: {len(found.class_names)} classes, {graph.name} knows {count}; expected a folder for each class, "
            f"or, for a network of ten, folders named like CIFAR-10's classes ({', '.join(CIFAR_CLASSES)})"
        )
    return found.labels


def _shipped_views(image: ImageInput) -> Pictures:
    """Return each labelled photograph whole and closer, each also mirrored, at the network's size."""
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
    """Data files, or sub-folders for classes."""
    if where.is_file():
        return True
    return any(path.is_dir() or path.suffix in {".npz", ".bin"} for path in where.iterdir())
