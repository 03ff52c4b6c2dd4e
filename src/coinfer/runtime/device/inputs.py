"""What users hand to a device becomes the network's inputs."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, cast

import numpy as np
from PIL import Image

from coinfer.errors import UserError
from coinfer.graph.ir import ModelGraph
from coinfer.graph.pictures import hint
from coinfer.runtime.images import load_image, normalise, to_pixels


class ItemError(UserError):
    """An item that does not fit the network."""


def read_item(graph: ModelGraph, item: object) -> tuple[dict[str, np.ndarray], np.ndarray | None]:
    """Return the network's inputs by name, and the picture that one of them was made from, if any.

    Args:
        graph: the network; without image settings it takes no pictures.
        item: a picture (file, PIL image or uint8 [H, W, 3]), an array for the first input, or a mapping of input names
            to arrays, in which a picture may stand for the input that takes it. Types and shapes of arrays are not
            checked here.

    Returns:
        Arrays by input name; and uint8 [height, width, channels] at the network's size, or None without a picture.

    Raises:
        ItemError: if the item is neither a picture nor an array, or input names do not match.
        ImageError: if a picture cannot be read.
    """
    item = _without_torch(item)
    if isinstance(item, Mapping):
        item = {name: _without_torch(value) for name, value in item.items()}
        if set(item) != set(graph.inputs):
            raise ItemError(f"inputs are named {sorted(map(str, item))}; {graph.name} takes {list(graph.inputs)}")
        tensors = {name: np.asarray(item[name]) for name in graph.inputs if not _is_picture(item[name])}
        pictures = [name for name in graph.inputs if name not in tensors]
        if not pictures:
            return tensors, None
        if pictures != [graph.picture_input]:
            raise ItemError(f"input {pictures[0]!r} takes no picture; {_expected(graph, pictures[0])}")
        made, pixels = _read_picture(graph, item[pictures[0]])
        return tensors | made, pixels
    if isinstance(item, np.ndarray) and not _is_picture(item):
        return {graph.inputs[0]: item}, None
    if len(graph.inputs) > 1:
        raise ItemError(f"{graph.name} takes {list(graph.inputs)}; give a mapping of these names")
    return _read_picture(graph, item)


def without_pictures(graph: ModelGraph) -> str:
    """Return why a network that does not say how it takes pictures answers none, and what to do.

    Args:
        graph: that network.
    """
    return f"{graph.name} does not say how it takes pictures; {hint(graph) or _expected(graph, graph.inputs[0])}"


def _read_picture(graph: ModelGraph, item: object) -> tuple[dict[str, np.ndarray], np.ndarray]:
    """Return the input that takes pictures, and the picture at the network's size."""
    if graph.image is None or graph.picture_input is None:
        raise ItemError(without_pictures(graph))
    if isinstance(item, str | Path):
        item = load_image(item)
    if not isinstance(item, np.ndarray | Image.Image):
        expected = _expected(graph, graph.picture_input)
        raise ItemError(f"cannot infer from a {type(item).__name__}; {expected} or a picture")
    pixels = to_pixels(item, graph.image)
    return {graph.picture_input: normalise(pixels, graph.image)}, pixels


def _without_torch(item: object) -> object:
    """Return a tensor of PyTorch, wherever it lies, as an array, and anything else as it is."""
    return cast(Any, item).detach().cpu().numpy() if hasattr(item, "detach") else item


def _is_picture(item: object) -> bool:
    """Return true for what may only be a picture."""
    if isinstance(item, np.ndarray):
        return item.dtype == np.uint8 and item.ndim == 3
    return isinstance(item, str | Path | Image.Image)


def _expected(graph: ModelGraph, name: str) -> str:
    tensor = graph.tensors[name]
    return f"expected a {tensor.dtype} array of shape {list(tensor.shape)}"
