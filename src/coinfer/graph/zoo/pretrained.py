"""Networks that come with trained weights."""

from pathlib import Path

from coinfer.graph.ir import GraphError, ModelGraph
from coinfer.graph.onnx.load import load
from coinfer.resources import MODELS


def names() -> tuple[str, ...]:
    """Return the names that `load_pretrained` knows."""
    return tuple(sorted(path.stem for path in MODELS.glob("*.onnx")))


def load_pretrained(name: str) -> ModelGraph:
    """Return a network with its trained weights; its accuracy table lies beside it.

    Raises:
        GraphError: if the name is unknown, listing the known.
    """
    if name not in names():
        raise GraphError(f"no pretrained network {name!r}; there are {', '.join(names()) or 'none'}")
    return load(MODELS / f"{name}.onnx")


def accuracy_file(name: str) -> Path:
    """Return the path of the accuracy table of a pretrained network."""
    return MODELS / f"{name}.accuracy.json"
