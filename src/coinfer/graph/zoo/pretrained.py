"""The networks whose trained weights are shipped with the package."""

from pathlib import Path

from coinfer.graph.ir import GraphError, ModelGraph
from coinfer.graph.onnx.load import load
from coinfer.resources import MODELS


def names() -> tuple[str, ...]:
    """What `load_trained` knows."""
    return tuple(sorted(path.stem for path in MODELS.glob("*.onnx")))


def load_trained(name: str) -> ModelGraph:
    """A trained network; its accuracy table lies beside it.

    Raises:
        GraphError: for an unknown name, listing the known.
    """
    if name not in names():
        raise GraphError(f"no trained network {name!r}; there are {', '.join(names()) or 'none'}")
    return load(MODELS / f"{name}.onnx")


def accuracy_file(name: str) -> Path:
    """Where the accuracy table of a trained network lies."""
    return MODELS / f"{name}.accuracy.json"
