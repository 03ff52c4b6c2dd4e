"""Networks that are shipped with trained weights."""

from pathlib import Path

from coinfer.graph.bottleneck import SUFFIX, with_bottleneck
from coinfer.graph.ir import GraphError, ModelGraph
from coinfer.graph.onnx.load import load
from coinfer.resources import MODELS


def names() -> tuple[str, ...]:
    """Return the names that `load_pretrained` knows, sorted."""
    return tuple(sorted(path.stem for path in MODELS.glob("*.onnx") if not path.name.endswith(SUFFIX)))


def load_pretrained(name: str) -> ModelGraph:
    """Return a network with its trained weights, and its bottleneck if it has one.

    Args:
        name: one of `names`.

    Raises:
        GraphError: if the name is unknown; the message lists the known ones.
    """
    if name not in names():
        raise GraphError(f"no pretrained network {name!r}; there are {', '.join(names()) or 'none'}")
    graph, bottleneck = load(MODELS / f"{name}.onnx"), MODELS / f"{name}{SUFFIX}"
    return with_bottleneck(graph, bottleneck) if bottleneck.exists() else graph


def accuracy_file(name: str) -> Path:
    """Return the path of the accuracy table of a pretrained network.

    Args:
        name: of a network; for an unknown one the file does not exist.
    """
    return MODELS / f"{name}.accuracy.json"
