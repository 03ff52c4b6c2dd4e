"""Networks that are shipped with trained weights."""

from pathlib import Path

from coinfer.graph.ir import GraphError, ModelGraph
from coinfer.graph.onnx.load import load
from coinfer.resources import MODELS


def names() -> tuple[str, ...]:
    """Return the names that `load_pretrained` knows, sorted."""
    return tuple(sorted(path.stem for path in MODELS.glob("*.onnx")))


def load_pretrained(name: str) -> ModelGraph:
    """Return a network with its trained weights.

    Args:
        name: one of `names`.

    Raises:
        GraphError: if the name is unknown; the message lists the known ones.
    """
    if name not in names():
        raise GraphError(f"no pretrained network {name!r}; there are {', '.join(names()) or 'none'}")
    return load(MODELS / f"{name}.onnx")


def accuracy_file(name: str) -> Path:
    """Return the path of the accuracy table of a pretrained network.

    Args:
        name: of a network; for an unknown one the file does not exist.
    """
    return MODELS / f"{name}.accuracy.json"
