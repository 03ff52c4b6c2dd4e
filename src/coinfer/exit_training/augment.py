"""Pictures changed at random while training, a batch at a time, on the device where they lie."""

import numpy as np
import torch
from torch import Tensor

from coinfer.graph.ir import ImageInput

DRAWS = 5
"""Random numbers of a picture: shift down, shift right, mirrored, and the middle of what is cut out (down, right)."""


def draw(random: np.random.Generator, count: int, image: ImageInput, crop: int) -> np.ndarray:
    """What is done to so many pictures, int64 [DRAWS, count]."""
    limits = (2 * crop + 1, 2 * crop + 1, 2, image.height, image.width)
    return np.stack([random.integers(0, limit, count) for limit in limits])


def pad(images: np.ndarray, crop: int) -> np.ndarray:
    """Pictures [N, H, W, 3] with a mirrored border, out of which `augment` cuts."""
    return np.pad(images, ((0, 0), (crop, crop), (crop, crop), (0, 0)), mode="reflect") if crop else images


def scale_of(image: ImageInput, device: torch.device) -> Tensor:
    """Mean and standard deviation of each channel [2, 3], for `normalised`."""
    return torch.tensor((image.mean, image.std), device=device)


def augment(padded: Tensor, rows: Tensor, draws: Tensor, scale: Tensor, crop: int, cutout: int) -> Tensor:
    """A batch of inputs, float32 [B, 3, H, W] with the channels last in memory.

    Shifted by some pixels, mirrored half of the time, and a square of `cutout` pixels a side set to the mean
    (DeVries and Taylor 2017); the square may reach over the border.

    Args:
        padded: uint8 [N, H + 2 crop, W + 2 crop, 3], of `pad`.
        rows: [B] which of them.
        draws: [DRAWS, B], of `draw`.
        scale: of `scale_of`.
        crop: as `pad` was given it.
    """
    down, right, mirrored, middle_y, middle_x = draws
    y = torch.arange(padded.shape[1] - 2 * crop, device=padded.device)
    x = torch.arange(padded.shape[2] - 2 * crop, device=padded.device)
    column = torch.where(mirrored[:, None] == 1, x.flip(0), x)
    pixels = padded[rows[:, None, None], (down[:, None] + y)[:, :, None], (right[:, None] + column)[:, None, :]]
    inputs = (pixels / 255 - scale[0]) / scale[1]
    if cutout:
        hole_y = (y - middle_y[:, None] + 0.5).abs() < cutout / 2
        hole_x = (x - middle_x[:, None] + 0.5).abs() < cutout / 2
        inputs = inputs.masked_fill((hole_y[:, :, None] & hole_x[:, None, :])[..., None], 0.0)
    return inputs.permute(0, 3, 1, 2)


def normalised(pixels: Tensor, scale: Tensor) -> Tensor:
    """uint8 [B, H, W, 3] as the network's input [B, 3, H, W]."""
    return ((pixels / 255 - scale[0]) / scale[1]).permute(0, 3, 1, 2)
