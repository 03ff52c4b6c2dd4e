"""What users hand to a device becomes the network's inputs."""

from collections.abc import Mapping
from pathlib import Path

import numpy as np
from PIL import Image

from coinfer.errors import UserError
from coinfer.graph.ir import ModelGraph
from coinfer.runtime.images import load_image, normalise, to_pixels


class ItemError(UserError):
    """An item that does not fit the network."""


def read_item(graph: ModelGraph, item: object) -> tuple[dict[str, np.ndarray], np.ndarray | None]:
    """Return the network's inputs by name, and the picture that they were made from, if any.

    Args:
        graph: the network; without image settings it takes no pictures.
        item: a picture (file, PIL image or uint8 [H, W, 3]), an array for the first input, or a mapping of input names
            to arrays. Types and shapes of arrays are not checked here.

    Returns:
        Arrays by input name; and uint8 [height, width, 3] at the network's size, or None if the item is no picture.

    Raises:
        ItemError: if the item is neither a picture nor an array, or input names do not match.
        ImageError: if a picture cannot be read.
    """
    if isinstance(item, Mapping):
        if set(item) != set(graph.inputs):
            raise ItemError(f"inputs are named {sorted(map(str, item))}; {graph.name} takes {list(graph.inputs)}")
        return {name: np.asarray(item[name]) for name in graph.inputs}, None
    if isinstance(item, np.ndarray) and not (item.dtype == np.uint8 and item.ndim == 3):
        return {graph.inputs[0]: item}, None
    tensor = graph.tensors[graph.inputs[0]]
    expected = f"a {tensor.dtype} array of shape {list(tensor.shape)}"
    if graph.image is None:
        raise ItemError(f"{graph.name} does not say how it takes pictures; expected {expected}")
    if isinstance(item, str | Path):
        item = load_image(item)
    if not isinstance(item, np.ndarray | Image.Image):
        raise ItemError(f"cannot infer from a {type(item).__name__}; expected a picture or {expected}")
    pixels = to_pixels(item, graph.image)
    return {graph.inputs[0]: normalise(pixels, graph.image.mean, graph.image.std)}, pixels
