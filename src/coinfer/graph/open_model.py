"""Opens any network by name or path: one that is shipped with coinfer, or an ONNX file."""

from pathlib import Path

from coinfer.graph.ir import GraphError, ModelGraph
from coinfer.graph.onnx.load import load
from coinfer.graph.onnx.sandbox import try_model
from coinfer.graph.zoo import early_exits, networks, pretrained


def open_model(spec: str | Path) -> ModelGraph:
    """Return a network of the zoo (plain, with exits, or pretrained), or the network of an ONNX file.

    A file first runs once in a sandbox (`onnx.sandbox`).

    Args:
        spec: name or path; names of the zoo take precedence over files.

    Raises:
        GraphError: if there is neither such a name nor such a file, or the file is refused.
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
