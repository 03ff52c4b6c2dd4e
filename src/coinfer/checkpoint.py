"""Checkpoints of trainings on disk: safetensors with JSON, written completely or not at all.

A checkpoint is one file, `round-N.safetensors`; its JSON record is part of the file's header, so that the two cannot be
separated. The file is written under another name, flushed to the disk and renamed, and the last two files are kept: at
whatever moment a process is killed, the folder holds a complete state. Nothing is pickled.
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
"""Number of checkpoints that stay in a folder."""
_NAME = re.compile(r"round-(\d+)\.safetensors")
_HEADER = "coinfer"
Tree = TypeVar("Tree")
"""A tensor, or a (nested) NamedTuple of tensors."""


class CheckpointError(UserError):
    """A checkpoint that cannot be read or written, or belongs to another training."""


class Checkpoint(NamedTuple):
    """Contents of a checkpoint's file."""

    tensors: dict[str, Tensor]
    """The state by name, on the CPU."""
    record: dict[str, object]
    """JSON object beside the state: which training it belongs to, its curves."""
    path: Path


def write_atomically(path: Path, tensors: Mapping[str, Tensor], header: Mapping[str, str]) -> None:
    """Write a safetensors file so that it is complete or absent, even after a power cut.

    Args:
        path: the file to write or replace; its folder is created if necessary.
        tensors: tensors by name, contiguous and without shared memory.
        header: text for the file's header, by key.

    Raises:
        OSError: if the file cannot be written.
    """
    half = path.with_suffix(".writing")
    path.parent.mkdir(parents=True, exist_ok=True)
    try:
        try:
            save_file(dict(tensors), half, metadata=dict(header))
        except SafetensorError as error:  # safetensors wraps the errors of the operating system, such as a full disk
            raise OSError(None, str(error), str(path)) from None
        _flush(half)
        os.replace(half, path)
    except OSError:
        half.unlink(missing_ok=True)
        raise
    _flush(path.parent)


def save(folder: Path, number: int, tensors: Mapping[str, Tensor], record: Mapping[str, object]) -> Path:
    """Write a checkpoint and remove all but the last two of the folder.

    Args:
        folder: folder of the checkpoints; created if necessary.
        number: number of the round; the greatest is the newest.
        tensors: the state by name, on any device; tensors may share memory.
        record: JSON object to store beside the state.

    Returns:
        The path of the file.

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
    """Return the newest readable checkpoint of a folder, or None if it has no checkpoints.

    Args:
        folder: folder of the checkpoints, which may not exist.

    Raises:
        CheckpointError: if all checkpoints are damaged.
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
    """Return the contents of a checkpoint.

    Args:
        path: a file that `save` wrote.

    Raises:
        CheckpointError: if the file cannot be read or has another format.
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
    """Return the SHA-256 over names, number types, shapes and values, in hexadecimal.

    Args:
        tensors: tensors by name, on any device; their order does not matter.
    """
    hashed = hashlib.sha256()
    for name in sorted(tensors):
        part = tensors[name].detach().cpu().contiguous()
        hashed.update(f"{name} {part.dtype} {list(part.shape)}".encode())
        hashed.update(part.reshape(-1).view(torch.uint8).numpy().tobytes())
    return hashed.hexdigest()


def flatten_tree(prefix: str, tree: object) -> dict[str, Tensor]:
    """Return the tensors of a tree by their path, such as `prefix.field.field`.

    Args:
        prefix: first part of every path.
        tree: a tensor, None, or a (nested) tuple of these, with names or without.
    """
    if isinstance(tree, Tensor):
        return {prefix: tree}
    tensors: dict[str, Tensor] = {}
    for name, part in _parts(tree):
        tensors |= flatten_tree(f"{prefix}.{name}", part)
    return tensors


def unflatten_tree(prefix: str, like: Tree, tensors: Mapping[str, Tensor]) -> Tree:
    """Return the tree that `flatten_tree` flattened.

    Args:
        prefix: first part of every path.
        like: a tree of the same form; it gives the devices, its values are not used.
        tensors: what `flatten_tree` returned; it may hold other tensors too.
    """
    if isinstance(like, Tensor):
        return tensors[prefix].to(like.device)  # pyright: ignore[reportReturnType]
    if like is None:
        return like
    parts = [unflatten_tree(f"{prefix}.{name}", part, tensors) for name, part in _parts(like)]
    return type(like)(*parts) if hasattr(like, "_fields") else tuple(parts)  # pyright: ignore[reportReturnType, reportCallIssue]


def _parts(tree: Any) -> list[tuple[str, Any]]:
    """Return the parts of a tuple with their names, or numbers where it has none; nothing for None."""
    if tree is None:
        return []
    names = getattr(tree, "_fields", map(str, range(len(tree))))
    return list(zip(names, tree, strict=True))


def numbered(folder: Path) -> list[Path]:
    """Return the paths of a folder's checkpoints, oldest first.

    Args:
        folder: folder of the checkpoints, which may not exist.
    """
    matches = [(int(match[1]), path) for path in folder.glob("round-*") if (match := _NAME.fullmatch(path.name))]
    return [path for _, path in sorted(matches)]


def _separate(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return contiguous tensors on the CPU, no two of which share memory."""
    separate, storages = {}, set()
    for name, tensor in tensors.items():
        part = tensor.detach().cpu().contiguous()
        storage = part.untyped_storage()
        if storage.data_ptr() in storages or storage.nbytes() != part.numel() * part.element_size():
            part = part.clone()
        storages.add(part.untyped_storage().data_ptr())
        separate[name] = part
    return separate


def _flush(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
