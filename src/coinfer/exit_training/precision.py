"""What every training on pictures checks first: the network's input, and the number type of its arithmetic."""

from pathlib import Path

import torch

from coinfer.errors import TrainingError
from coinfer.graph.image_input import PER_BYTE, ImageInput
from coinfer.graph.ir import GraphError, ModelGraph
from coinfer.profile.dataset import ImageDataset, misfit

BFLOAT16_FLAGS = ("amx_bf16", "avx512_bf16")
"""Of processors that multiply bfloat16: a training step takes half the time with them."""


def picture_input(graph: ModelGraph, data: ImageDataset) -> ImageInput:
    """Return a network's picture input, after a check that it can be trained on the pictures.

    Args:
        graph: the network.
        data: the pictures.

    Raises:
        GraphError: if the network has no description of its picture input.
        TrainingError: if it takes pictures in another form, or other ones.
    """
    if graph.image is None:
        raise GraphError(f"{graph.name} does not say how it takes pictures; it is trained on pictures")
    if graph.image[4:7] != (PER_BYTE, "nchw", "rgb") or graph.image.dtype != "float32":
        raise TrainingError(f"{graph.name} takes pictures in another form than float32 RGB with the channels first")
    if reason := misfit(graph, graph.image, data):
        raise TrainingError(reason[0])
    return graph.image


def use_bfloat16(precision: str, device: torch.device) -> bool:
    """Return true if convolutions and linear layers are to compute in bfloat16.

    Args:
        precision: `auto`, `float32` or `bfloat16`.
        device: that trains.
    """
    if precision != "auto":
        return precision == "bfloat16"
    if device.type == "cuda":
        return torch.cuda.is_bf16_supported(including_emulation=False)
    cpuinfo = Path("/proc/cpuinfo")
    known = cpuinfo.read_text(encoding="utf-8", errors="replace") if cpuinfo.exists() else ""
    return any(flag in known for flag in BFLOAT16_FLAGS)
