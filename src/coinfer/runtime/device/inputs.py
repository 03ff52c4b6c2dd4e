"""What people hand to a device becomes the network's inputs."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from coinfer.errors import UserError
from coinfer.graph.ir import ModelGraph
from coinfer.runtime.images import load_image, normalise, to_pixels


class ItemError(UserError):
    """An item that does not fit the network."""


def read_item(graph: ModelGraph, item: Any) -> tuple[dict[str, np.ndarray], np.ndarray | None]:
    """Return the network's inputs by name, and the picture at the network's size if they were made from one.

    Raises:
        UserError: if the item is neither a picture that can be read nor an array.
    """
    if isinstance(item, Mapping):
        if set(item) != set(graph.inputs):
            raise ItemError(f"inputs are named {sorted(map(str, item))}; {graph.name} takes {list(graph.inputs)}")
        return {name: np.asarray(item[name]) for name in graph.inputs}, None
    if isinstance(item, np.ndarray) and not (item.dtype == np.uint8 and item.ndim == 3):
        return {graph.inputs[0]: item}, None
    tensor = graph.tensors[graph.inputs[0]]
    wanted = f"a {tensor.dtype} array of shape {list(tensor.shape)}"
    if graph.image is None:
        raise ItemError(f"{graph.name} does not say how it takes pictures; expected {wanted}")
    if isinstance(item, str | Path):
        item = load_image(item)
    if not isinstance(item, np.ndarray | Image.Image):
        raise ItemError(f"cannot infer from a {type(item).__name__}; expected a picture or {wanted}")
    pixels = to_pixels(item, graph.image)
    return {graph.inputs[0]: normalise(pixels, graph.image.mean, graph.image.std)}, pixels
