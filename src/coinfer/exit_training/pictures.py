"""The training pictures on the device that trains."""

from typing import NamedTuple

import torch
from torch import Tensor

from coinfer.errors import TrainingError
from coinfer.exit_training import augment
from coinfer.exit_training.settings import ExitSettings
from coinfer.profile.dataset import ImageDataset


class Pictures(NamedTuple):
    """A data set on a device; several trainings may share it."""

    padded: Tensor
    """uint8 [N, H + 2 crop, W + 2 crop, 3] pictures with a border."""
    labels: Tensor
    """int64 [N] classes."""

    @staticmethod
    def load(data: ImageDataset, settings: ExitSettings) -> "Pictures":
        """Return a data set on the settings' device, padded for its crops.

        Args:
            data: labelled pictures.
            settings: `device` and `crop` decide.

        Raises:
            TrainingError: if PyTorch has no such device.
        """
        device = open_device(settings.device)
        padded = torch.from_numpy(augment.pad(data.images, settings.crop))
        return Pictures(padded.to(device), torch.from_numpy(data.labels).to(device))


def open_device(name: str) -> torch.device:
    """Return a PyTorch device, with its index.

    Args:
        name: such as `cpu`, `cuda` or `cuda:1`.

    Raises:
        TrainingError: if PyTorch has no such device.
    """
    try:
        return torch.empty(0, device=name).device
    except (RuntimeError, AssertionError) as error:
        raise TrainingError(f"device {name!r}: {str(error).splitlines()[0]}") from None
