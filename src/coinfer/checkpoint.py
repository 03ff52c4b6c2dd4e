"""States of learning on disk: safetensors and JSON, whole or not at all.

A checkpoint is one file, `round-N.safetensors`; its JSON lies in the file's own header, so that the two cannot part. It
is written under another name, flushed to the disk and renamed, and the last two stay: whatever the moment a process is
killed at, a whole state is there. Nothing is pickled.
"""

import hashlib
import json
import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from coinfer.errors import UserError

FORMAT = 1
KEEP = 2
"""Checkpoints that stay in a folder."""
_NAME = re.compile(r"round-(\d+)\.safetensors")
_HEADER = "coinfer"
Tree = TypeVar("Tree")
"""A tensor, or a (nested) NamedTuple of tensors."""


class CheckpointError(UserError):
    """A checkpoint that is missing, cannot be read, or is of another training."""


class Checkpoint(NamedTuple):
    """What a file holds."""

    tensors: dict[str, Tensor]
    record: dict[str, Any]
    """The file's JSON: of which training it is, its curves."""
    path: Path


def write_atomically(path: Path, tensors: Mapping[str, Tensor], header: Mapping[str, str]) -> None:
    """Write a file that is there wholly or not at all, also after a power cut; makes its folder.

    Raises:
        OSError: if it cannot be written.
    """
    half = path.with_suffix(".writing")
    path.parent.mkdir(parents=True, exist_ok=True)
    save_file(dict(tensors), half, metadata=dict(header))
    _flush(half)
    os.replace(half, path)
    _flush(path.parent)


def save(folder: Path, number: int, tensors: Mapping[str, Tensor], record: Mapping[str, Any]) -> Path:
    """Write a checkpoint, remove those before the last two, and return its path.

    Args:
        number: of the round; a greater one is newer.
        record: JSON.

    Raises:
        CheckpointError: if the folder cannot be written.
    """
    path = folder / f"round-{number}.safetensors"
    header = {_HEADER: json.dumps({"format": FORMAT, **record}, allow_nan=True)}
    try:
        write_atomically(path, _separate(tensors), header)
        for old in numbered(folder)[:-KEEP]:
            old.unlink(missing_ok=True)
    except OSError as error:
        raise CheckpointError(f"{path}: cannot be written: {error.strerror or error}") from None
    return path


def load_latest(folder: Path) -> Checkpoint | None:
    """Return the newest checkpoint that can be read, or None if there never was one.

    Raises:
        CheckpointError: if there are only damaged ones.
    """
    damage = None
    for path in reversed(numbered(folder)):
        try:
            return load(path)
        except CheckpointError as error:
            damage = damage or error
    if damage is not None:
        raise damage
    return None


def load(path: Path) -> Checkpoint:
    """Read a checkpoint.

    Raises:
        CheckpointError: if it cannot be read or is of another format.
    """
    try:
        with safe_open(path, framework="pt") as file:
            record = json.loads((file.metadata() or {}).get(_HEADER, "{}"))
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    except (OSError, SafetensorError, json.JSONDecodeError) as error:
        raise CheckpointError(f"{path}: not a readable checkpoint: {error}; delete it to use an older one") from None
    if record.get("format") != FORMAT:
        raise CheckpointError(f"{path}: a checkpoint of format {record.get('format')}, expected {FORMAT}")
    return Checkpoint(tensors, record, path)


def digest(tensors: Mapping[str, Tensor]) -> str:
    """Return the SHA-256 over names, types, shapes and values, hexadecimal."""
    whole = hashlib.sha256()
    for name in sorted(tensors):
        part = tensors[name].detach().cpu().contiguous()
        whole.update(f"{name} {part.dtype} {list(part.shape)}".encode())
        whole.update(part.reshape(-1).view(torch.uint8).numpy().tobytes())
    return whole.hexdigest()


def flatten_tree(prefix: str, tree: Any) -> dict[str, Tensor]:
    """Return the tensors of a (nested) NamedTuple by their path."""
    if not isinstance(tree, tuple):
        return {prefix: tree}
    found: dict[str, Tensor] = {}
    for name, part in tree._asdict().items():  # type: ignore[attr-defined]
        found |= flatten_tree(f"{prefix}.{name}", part)
    return found


def unflatten_tree(prefix: str, like: Tree, tensors: Mapping[str, Tensor]) -> Tree:
    """Return a tree of the form of `like`, on its device, from what `flatten_tree` returned."""
    if isinstance(like, Tensor):
        return tensors[prefix].to(like.device)  # pyright: ignore[reportReturnType]
    named = like._asdict().items()  # type: ignore[attr-defined]
    return type(like)(*(unflatten_tree(f"{prefix}.{name}", part, tensors) for name, part in named))


def numbered(folder: Path) -> list[Path]:
    """Return the folder's checkpoints, oldest first."""
    matches = [(int(match[1]), path) for path in folder.glob("round-*") if (match := _NAME.fullmatch(path.name))]
    return [path for _, path in sorted(matches)]


def _separate(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Contiguous, on the CPU, no two sharing memory."""
    found, seen = {}, set()
    for name, tensor in tensors.items():
        part = tensor.detach().cpu().contiguous()
        storage = part.untyped_storage()
        if storage.data_ptr() in seen or storage.nbytes() != part.numel() * part.element_size():
            part = part.clone()
        seen.add(part.untyped_storage().data_ptr())
        found[name] = part
    return found


def _flush(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
