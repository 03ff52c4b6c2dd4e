"""Checkpoints of trainings in epochs: one file in the training's folder, which says of what training it is."""

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from coinfer.errors import TrainingError

FORMAT = 1


def resumable(folder: Path, name: str, *, resume: bool) -> Path | None:
    """Return the checkpoint to go on from; None for a training from the start.

    Args:
        folder: of the training.
        name: of the checkpoint's file.
        resume: whether to go on from a checkpoint that is there.

    Raises:
        TrainingError: if there is one and `resume` is false.
    """
    path = folder / name
    if not path.exists():
        return None
    if not resume:
        raise TrainingError(f"{folder}: holds a training already; --resume goes on with it, or choose another folder")
    return path


def fingerprint(path: Path) -> str:
    """Return what tells a checkpoint from others.

    Args:
        path: of the file.

    Raises:
        TrainingError: if there is none.
    """
    try:
        return hashlib.sha256(path.read_bytes()).hexdigest()
    except OSError as error:
        raise TrainingError(f"{path}: no checkpoint to start from ({error.strerror})") from None


def read(
    path: Path, made_of: Mapping[str, object], device: torch.device, *, what: str, remedy: str
) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """Return the JSON header and the tensors of a checkpoint.

    Args:
        path: of the file.
        made_of: what the training is made of, as the header's `made_of` must say it.
        device: of the tensors.
        what: is trained, for messages.
        remedy: end of the messages.

    Raises:
        TrainingError: if the file is damaged or of another training.
    """
    try:
        with safe_open(path, "pt", device=str(device)) as file:
            about = json.loads((file.metadata() or {})["coinfer"])
            state = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    except (OSError, SafetensorError, KeyError, ValueError) as error:
        raise TrainingError(f"{path}: no checkpoint of {what} ({error}); {remedy}") from None
    if about.get("format") != FORMAT:
        raise TrainingError(f"{path}: checkpoint of format {about.get('format')}; this coinfer reads {FORMAT}")
    for key, value in json.loads(json.dumps(made_of)).items():
        theirs = about["made_of"].get(key)
        if theirs != value:
            raise TrainingError(f"{path}: made with {key} {theirs}, now it is {value}; {remedy}")
    return about, state
