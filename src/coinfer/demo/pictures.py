"""What the demo shows the network: photographs, or pictures whose class is known."""

from pathlib import Path
from typing import NamedTuple

import numpy as np

from coinfer.graph.ir import ModelGraph
from coinfer.profile.dataset import DataError, load_labelled
from coinfer.resources import MODELS
from coinfer.runtime.images import load_images

SHIPPED_LABELLED = MODELS / "pictures"
"""Pictures for the shipped networks, a folder for each class."""
MOST = 1000
"""Pictures used; requests go round them."""


class Pictures(NamedTuple):
    """N pictures in the order of the requests."""

    images: list[np.ndarray]
    """uint8 [height, width, 3]."""
    labels: np.ndarray | None
    """[N] index of the class, where known."""
    kind: str
    """What they are, for people."""


def load_pictures(graph: ModelGraph, where: str | None) -> Pictures:
    """Labelled pictures where there are any that fit the network's classes, else those of a folder, else the shipped.

    Raises:
        ImageError, DataError: where there is no picture, or one that cannot be read.
    """
    labelled = where if where is not None else SHIPPED_LABELLED if len(graph.outputs) > 1 else None
    if labelled is not None and Path(labelled).exists() and _may_be_labelled(Path(labelled)):
        found = load_labelled(labelled, "test").take(MOST)
        classes = max(graph.tensors[name].shape[-1] for name in graph.outputs)
        if len(found.class_names) > classes:
            raise DataError(f"{labelled}: {len(found.class_names)} classes; {graph.name} knows {classes}")
        return Pictures(list(found.images), found.labels, f"{len(found.labels)} of {found.kind}")
    images = [picture for _, picture in load_images(where)]
    return Pictures(images, None, f"{len(images)} photographs")


def _may_be_labelled(where: Path) -> bool:
    """Data files, or sub-folders for classes."""
    if where.is_file():
        return True
    return any(path.is_dir() or path.suffix in {".npz", ".bin"} for path in where.iterdir())
