"""States of learning on disk: safetensors and JSON, whole or not at all.

A checkpoint is one folder entry `step-N.safetensors`; its JSON lies in the file's own header, so that the two cannot
part. It is written under another name, flushed to the disk and renamed; the last two are kept, so whatever moment a
process is killed at, one good state is there.
"""

from typing import Any

from torch import Tensor


def flattened(prefix: str, value: Any) -> dict[str, Tensor]:
    """The tensors of a (nested) NamedTuple by their path."""
    if not isinstance(value, tuple):
        return {prefix: value}
    found: dict[str, Tensor] = {}
    for name, part in zip(type(value)._fields, value, strict=True):  # type: ignore[attr-defined]
        found |= flattened(f"{prefix}.{name}", part)
    return found


def rebuilt(prefix: str, like: Any, tensors: dict[str, Tensor]) -> Any:
    """A value of the form of `like` from what `flattened` gave."""
    if not isinstance(like, tuple):
        return tensors[prefix].to(like.device)
    names = type(like)._fields  # type: ignore[attr-defined]
    return type(like)(*(rebuilt(f"{prefix}.{name}", part, tensors) for name, part in zip(names, like, strict=True)))
