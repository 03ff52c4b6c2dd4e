"""Opens any network by name or path: one that is shipped with coinfer, or an ONNX file."""

from pathlib import Path
from types import MappingProxyType

from coinfer.graph.ir import GraphError, ModelGraph
from coinfer.graph.onnx.axes import Shapes
from coinfer.graph.onnx.load import load
from coinfer.graph.onnx.sandbox import try_model
from coinfer.graph.zoo import early_exits, networks, pretrained


def open_model(spec: str | Path, shapes: Shapes = MappingProxyType({})) -> ModelGraph:
    """Return a network of the zoo (plain, with exits, or pretrained), or the network of an ONNX file.

    A file first runs once in a sandbox (`onnx.sandbox`).

    Args:
        spec: name or path; names of the zoo take precedence over files.
        shapes: sizes of axes that the file leaves free: `{"height": 320}` by name of an axis, `{"images": (1, 3, 320,
            320)}` by name of an input. A number fixes the axis; `"16..512"` keeps it free within this range, `"1.."`
            from 1 on. A batch that is not named stays free.

    Raises:
        GraphError: if there is neither such a name nor such a file, or the file is refused.
    """
    name = str(spec)
    if shapes and (name in networks.ZOO or name in early_exits.EXITS or name in pretrained.names()):
        raise GraphError(f"{name}: a network of the zoo has sizes of its own; --shape is for ONNX files")
    if name in networks.ZOO:
        return networks.build(name)
    if name in early_exits.EXITS:
        return early_exits.build(name)
    if name in pretrained.names():
        return pretrained.load_pretrained(name)
    if not Path(spec).exists():
        known = ", ".join(sorted({*networks.ZOO, *early_exits.EXITS, *pretrained.names()}))
        raise GraphError(f"no network {name!r}: neither a file nor one of the zoo: {known}")
    try_model(Path(spec), shapes)
    return load(spec, shapes)
