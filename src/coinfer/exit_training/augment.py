"""Random changes of the training pictures, one batch at a time, on the device that holds them."""

import numpy as np
import torch
from torch import Tensor

from coinfer.errors import TrainingError
from coinfer.graph.image_input import ImageInput

DRAWS = 5
"""Random numbers of a picture: shift down, shift right, mirror (0 or 1), centre of the cut-out (down, right)."""


def draw(random: np.random.Generator, count: int, image: ImageInput, crop: int) -> np.ndarray:
    """Return the random numbers [DRAWS, count] int64 that change pictures, for `augment`.

    Args:
        random: the generator to draw from.
        count: number of pictures.
        image: gives height and width.
        crop: largest shift in pixels.
    """
    limits = (2 * crop + 1, 2 * crop + 1, 2, image.height, image.width)
    return np.stack([random.integers(0, limit, count) for limit in limits])


def pad(images: np.ndarray, crop: int) -> np.ndarray:
    """Return pictures with a mirrored border, from which `augment` crops.

    Args:
        images: uint8 [N, H, W, 3].
        crop: width of the border in pixels; 0 returns the pictures themselves.

    Raises:
        TrainingError: if the border is as wide as a picture.
    """
    if crop >= min(images.shape[1:3]):
        raise TrainingError(f"a shift of {crop} pixels leaves nothing of pictures of {min(images.shape[1:3])} pixels")
    return np.pad(images, ((0, 0), (crop, crop), (crop, crop), (0, 0)), mode="reflect") if crop else images


def channel_scale(image: ImageInput, device: torch.device) -> Tensor:
    """Return mean and standard deviation of each channel [2, 3], for `augment` and `normalise`.

    Args:
        image: the network's input.
        device: device of the tensor.
    """
    return torch.tensor((image.mean, image.std), device=device)


def augment(padded: Tensor, rows: Tensor, draws: Tensor, scale: Tensor, crop: int, cutout: int) -> Tensor:
    """Return a batch of randomly changed inputs, float32 [B, 3, H, W] with the channels last in memory.

    The pictures are shifted, half of them are mirrored, and a square is set to the mean (DeVries and Taylor 2017); the
    square may extend over the border.

    Args:
        padded: uint8 [N, H + 2 crop, W + 2 crop, 3], what `pad` returned.
        rows: [B] int64 indices of the pictures.
        draws: [DRAWS, B] int64, what `draw` returned.
        scale: [2, 3] what `channel_scale` returned.
        crop: the same as for `pad` and `draw`.
        cutout: side of the square in pixels; 0 for none.
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


def mix(inputs: Tensor, weights: Tensor) -> Tensor:
    """Return each picture mixed with the one before it in the batch (mixup, Zhang et al. 2018).

    Args:
        inputs: float32 [B, 3, H, W].
        weights: [B] of a picture itself, in [0, 1]; the rest is the other one's.
    """
    own = weights[:, None, None, None]
    return own * inputs + (1 - own) * inputs.roll(1, 0)


def normalise(pixels: Tensor, scale: Tensor) -> Tensor:
    """Return pictures as the network's input, float32 [B, 3, H, W].

    Args:
        pixels: uint8 [B, H, W, 3].
        scale: [2, 3] what `channel_scale` returned.
    """
    return ((pixels / 255 - scale[0]) / scale[1]).permute(0, 3, 1, 2)
