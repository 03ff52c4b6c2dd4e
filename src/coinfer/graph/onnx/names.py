"""Names of tensors that are too long to be sent, or are no text, get a short one inside; people see the file's own."""

import hashlib

import onnx

from coinfer.graph.onnx.subgraphs import rename, walk

MAX_BYTES = 200
"""Of a name in UTF-8; messages between nodes carry names of at most 256 bytes."""
_KEPT = 48


def shorten(model: onnx.ModelProto) -> tuple[onnx.ModelProto, dict[str, str]]:
    """Return a model whose tensors have names that can be sent, and the file's own name of each that was renamed.

    Args:
        model: stays as it is; it is returned itself if no name has to change.
    """
    names = (name for graph in walk(model.graph) for node in graph.node for name in node.output)
    ends = (value.name for value in (*model.graph.input, *model.graph.output))
    renamed = {name: _short(name) for name in (*names, *ends) if not _may_stay(name)}
    if not renamed:
        return model, {}
    copy = onnx.ModelProto()
    copy.CopyFrom(model)
    rename(copy.graph, renamed)
    return copy, {new: old for old, new in renamed.items()}


def _may_stay(name: str) -> bool:
    return len(name.encode(errors="replace")) <= MAX_BYTES and (name.isprintable() or not name)


def _short(name: str) -> str:
    start = "".join(c if c.isascii() and c.isprintable() else "_" for c in name[:_KEPT])
    return f"{start}~{hashlib.sha256(name.encode(errors='replace')).hexdigest()[:12]}"
