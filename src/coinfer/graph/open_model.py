"""Any network by one word: the name of one that comes with coinfer, or the path of an ONNX file."""

from pathlib import Path

from coinfer.graph.ir import GraphError, ModelGraph
from coinfer.graph.onnx.load import load
from coinfer.graph.onnx.sandbox import try_model
from coinfer.graph.zoo import early_exits, networks, pretrained


def open_model(spec: str | Path) -> ModelGraph:
    """Return a network of the zoo (plain, with exits, or pretrained), or the one in an ONNX file after a first run in a
    sandbox.

    Args:
        spec: name or path; a name of the zoo comes first.

    Raises:
        GraphError: if there is neither, or as `sandbox.try_model` and `onnx.load.load`.
    """
    name = str(spec)
    if name in networks.ZOO:
        return networks.build(name)
    if name in early_exits.EXITS:
        return early_exits.build(name)
    if name in pretrained.names():
        return pretrained.load_pretrained(name)
    if not Path(spec).exists():
        known = ", ".join(sorted({*networks.ZOO, *early_exits.EXITS, *pretrained.names()}))
        raise GraphError(f"no network {name!r}: neither a file nor one of the zoo: {known}")
    try_model(Path(spec))
    return load(spec)
